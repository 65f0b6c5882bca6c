import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Script } from './link.ts'

const folder = join(import.meta.dirname, 'lua')

/** A script out of files, one behind the other. `flags`: what the server has to allow it, see Redis' "Script flags". */
export function loadScript(name: string, files: readonly string[], flags: readonly string[] = []): Script {
  const first = flags.length === 0 ? '#!lua' : `#!lua flags=${flags.join(',')}`
  const source = [first, ...files.map((file) => readFileSync(join(folder, file), 'utf8'))].join('\n')
  return { name, source, sha1: createHash('sha1').update(source).digest('hex') }
}

/** reserve, extend: refused by the server when memory is short. */
export const admitScript = loadScript('admit', ['books.lua', 'admit.lua'])
/** settle, void, expire: what ends must end, also when memory is short. */
export const finishScript = loadScript('finish', ['books.lua', 'finish.lua'], ['allow-oom'])
