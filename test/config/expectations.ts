import { readFileSync } from 'node:fs'
import { loadConfig } from '../../src/config/load.ts'
import type { LoadResult } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'

export const marker = '# ---- expected'

/** The environment that a file asks for, in lines such as `# env NAME=value`. */
function environmentOf(text: string): Record<string, string> {
  return Object.fromEntries([...text.matchAll(/^# env (\w+)=(.*)$/gm)].map((match) => [match[1] ?? '', match[2] ?? '']))
}

export function loadFile(file: string): LoadResult {
  return loadConfig({ file, env: environmentOf(readFileSync(file, 'utf8')), hostName: 'test-host' })
}

/** Every problem, with the directory taken off, so that the sentences do not depend on where the checkout is. */
export function problemTexts(result: LoadResult, directory: string): readonly string[] {
  return result.problems.map((problem) => toText(problem).replaceAll(directory, ''))
}

/** The sentences written below the marker, one in a line. */
export function expectedOf(text: string): readonly string[] {
  const at = text.indexOf(`${marker}\n`)
  return at < 0 ? [] : text.slice(at + marker.length + 1).trimEnd().split('\n').map((line) => line.replace(/^# ?/, ''))
}

/** As JSON that people can read and compare: maps as objects with a null prototype's worth of keys, directories taken off, no digest. */
export function goldenOf(result: LoadResult, directory: string): unknown {
  const text = JSON.stringify({ ...result.config, version: undefined, warnings: result.warnings.map(toText) }, (_, value: unknown) => value instanceof Map ? entriesOf(value) : value)
  return JSON.parse(text.replaceAll(directory, ''))
}

/** A list of pairs keeps the order and every name, `__proto__` too. */
function entriesOf(map: ReadonlyMap<unknown, unknown>): unknown {
  return [...map.values()].every((value) => typeof value === 'object' && value !== null && ('name' in value || 'id' in value)) ? [...map.values()] : [...map]
}
