// faults.md W7: no regular expression can be made to work for long by what callers, upstreams or browsers send.

import { globSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('..', import.meta.url))
/** More than any header, path or name may be long. */
const chars = 20_000
/** A search that grows with the square of its input takes a second here; one that grows with it, well under a millisecond. */
const allowedMs = 40

const literal = /(?<=(?:^|[=(,:!&|?[{;]|=>|return)\s*)\/(?![*/])((?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+)\/([dgimsuvy]*)(?=[\s.,;)\]}]|$)/gm

function expressionsIn(text: string): RegExp[] {
  const code = text.replace(/^\s*(\/\/|\*|\/\*).*$/gm, '').replace(/\s\/\/ .*$/gm, '')
  return [...code.matchAll(literal)].map(([, source = '', flags]) => new RegExp(source, flags))
}

/** What begins like a match and never becomes one, in every way that a repetition could be split. */
function attacks(expression: RegExp): string[] {
  const words = expression.source.replace(/\\[a-zA-Z]|[\^$()?:|[\]{}*+.\\]/g, '\n').split('\n').filter((word) => /^[\w"'<>=:/ -]{2,}$/.test(word))
  const units = ['a', 'A', '0', ' ', '\t', '\n', '.', '_', '-', '"', '\\', '%2', '/', '=', ',', ';', ':', '{', '[', 'a,', '0.', 'a=', ...words.slice(0, 3)]
  const starts = ['', ...words.slice(0, 3), '"', '0', 'a']
  return units.flatMap((unit) => starts.flatMap((start) => ['', '\0'].map((end) => start + unit.repeat(Math.ceil(chars / unit.length)).slice(0, chars) + end)))
}

function slowest(expression: RegExp): { ms: number; attack: string } {
  let worst = { ms: 0, attack: '' }
  const inTime = performance.now() + 20_000
  for (const attack of attacks(expression)) {
    expression.lastIndex = 0
    let ms = Infinity
    // The least of three: the machine has other work.
    for (let i = 0; i < 3 && ms > allowedMs; i++) {
      const { user } = process.cpuUsage()
      expression.test(attack)
      ms = Math.min(ms, (process.cpuUsage().user - user) / 1_000)
    }
    if (ms > worst.ms) worst = { ms, attack }
    if (worst.ms > allowedMs || performance.now() > inTime) return worst
  }
  return worst
}

t.setTimeout(110_000)
t.test('W7: every regular expression on the way of a request takes time in proportion to its input', async (t) => {
  // What only the operator writes, config and command lines, is bounded and read once.
  const files = globSync('src/**/*.ts', { cwd: root }).filter((file) => !/^src\/(config|cli|demo|main)/.test(file))
  let count = 0
  for (const file of files) {
    for (const expression of expressionsIn(readFileSync(`${root}/${file}`, 'utf8'))) {
      const { ms, attack } = slowest(expression)
      count += 1
      if (ms > allowedMs) t.fail(`${file}: ${expression} took ${Math.round(ms)} ms for ${JSON.stringify(attack.slice(0, 20))}… of ${attack.length} characters`)
    }
  }
  t.ok(count > 80, `${count} expressions in ${files.length} files`)
})

t.test('the test can fail', async (t) => {
  t.ok(slowest(/[a-z]+;$/).ms > allowedMs)
  t.same(expressionsIn('const a = /a\\/b/g // no /c/\nf(/[/]/)\nx = 1 / 2 / 3'), [/a\/b/g, /[/]/])
})
