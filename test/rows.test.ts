// The table in README.md is true: every row is there, and every test that it names exists and mentions its row.

import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('..', import.meta.url))

const numbered = (letter: string, last: number): string[] => Array.from({ length: last }, (_, i) => `${letter}${i + 1}`)
const expected = [
  ...numbered('I', 9), ...numbered('G', 20), ...numbered('E', 14), ...numbered('C', 20), ...numbered('U', 33), ...numbered('K', 13), ...numbered('H', 28), ...numbered('L', 19), ...numbered('A', 13), ...numbered('B', 15),
  ...numbered('R', 27), 'F2', 'F3', 'F4', 'F5', 'D3', 'D4', 'D5', 'D6', 'D7', ...numbered('N', 12), '4.6', ...numbered('W', 8), '4.8',
]

interface Row { readonly id: string; readonly tests: readonly string[]; readonly note: string }

function rowsOf(text: string): Row[] {
  return [...text.matchAll(/^\| ([A-Z]\d+|\d\.\d) \| (.+?) \| (.+) \|$/gm)].map(([, id = '', , cell = '']) => ({
    id, tests: [...cell.matchAll(/`(test\/[^`]+\.test\.ts)`/g)].map(([, file = '']) => file), note: cell,
  }))
}

/** Every flaw as one sentence. */
function flawsOf(rows: readonly Row[], sourceOf: (file: string) => string | null): string[] {
  const flaws = expected.filter((id) => rows.filter((row) => row.id === id).length !== 1).map((id) => `${id} has to have exactly one row`)
  for (const { id, tests, note } of rows) {
    if (!expected.includes(id)) flaws.push(`${id} is no row that is known`)
    if (tests.length === 0 && !/^(not yet|does not apply)[^:]*: .{10,}/.test(note)) flaws.push(`${id} names no test and gives no reason`)
    for (const file of tests) {
      const source = sourceOf(file)
      if (source === null) flaws.push(`${id}: ${file} does not exist`)
      else if (!new RegExp(`(?<![\\w.])${id.replace('.', '\\.')}(?![\\w.])`).test(source)) flaws.push(`${id}: ${file} does not mention it`)
    }
  }
  return flaws
}

t.test('every row of the catalogue has its test, or the reason why not', async (t) => {
  const rows = rowsOf(readFileSync(`${root}test/README.md`, 'utf8'))
  t.same(flawsOf(rows, (file) => (existsSync(`${root}${file}`) ? readFileSync(`${root}${file}`, 'utf8') : null)), [])
  const tested = rows.filter(({ tests }) => tests.length > 0).length
  t.comment(`${rows.length} rows: ${tested} with a test, ${rows.length - tested} with a reason`)
})

t.test('the test can fail', async (t) => {
  const row = (id: string, cell: string): string[] => flawsOf(rowsOf(`| ${id} | x | ${cell} |`), (file) => (file === 'test/a.test.ts' ? 'covers G1 and 4.6' : null)).filter((flaw) => !/exactly one row/.test(flaw))
  t.same(row('G1', '`test/a.test.ts`'), [])
  t.same(row('4.6', '`test/a.test.ts` (and more)'), [])
  t.same(row('G9', 'not yet: there are no replicas'), [])
  t.match(row('G10', '`test/a.test.ts`'), [/does not mention/])
  t.match(row('G1', '`test/b.test.ts`'), [/does not exist/])
  t.match(row('G1', 'not yet'), [/no reason/])
  t.match(row('Z1', '`test/a.test.ts`'), [/no row that is known/, /does not mention/])
  t.equal(flawsOf([], () => null).length, expected.length)
})
