import { readFileSync, readdirSync } from 'node:fs'
import t from 'tap'
import { expectedOf, goldenOf, loadFile, problemTexts } from './expectations.ts'

const good = new URL('./good/', import.meta.url).pathname
const bad = new URL('./bad/', import.meta.url).pathname

function filesIn(directory: string): readonly string[] {
  return readdirSync(directory).filter((name) => name.endsWith('.yaml') && !name.startsWith('.')).sort()
}

t.test('a good file gives exactly the config that is written beside it', async (t) => {
  t.ok(filesIn(good).length >= 7)
  for (const name of filesIn(good)) {
    const result = loadFile(good + name)
    t.strictSame(problemTexts(result, good), [], `${name} has no problem`)
    t.strictSame(goldenOf(result, good), JSON.parse(readFileSync(good + name.replace('.yaml', '.json'), 'utf8')), name)
  }
})

t.test('4.8, K9, K10, K11: a bad file gives no config, and exactly the sentences that are written at its end', async (t) => {
  t.ok(filesIn(bad).length >= 180)
  for (const name of filesIn(bad)) {
    const expected = expectedOf(readFileSync(bad + name, 'utf8'))
    t.ok(expected.length > 0, `${name} says what is expected`)
    const result = loadFile(bad + name)
    t.equal(result.config, null, `${name} gives no config`)
    t.strictSame(problemTexts(result, bad), expected, name)
  }
})

t.test('a typo in a limit is never free inference: any letter of a good limit changed, or any key of it lost, is refused or counts the same thing', async (t) => {
  const { loadConfig } = await import('../../src/config/load.ts')
  const keys = ['name', 'meter', 'limit', 'window', 'mode', 'per', 'kind', 'for', 'models', 'overdraft']
  const line = '{ name: rpm, meter: requests, limit: 20, window: 1m, mode: enforce, per: account, kind: sliding, for: { models: [m] }, overdraft: none }'
  for (const key of keys) {
    for (let at = 0; at < key.length; at++) {
      const typo = key.slice(0, at) + (key[at] === 'x' ? 'y' : 'x') + key.slice(at + 1)
      const lost = key.slice(0, at) + key.slice(at + 1)
      for (const word of [typo, lost]) {
        const text = `plans:\n  free:\n    limits:\n      - ${line.replace(`${key}:`, `${word}:`)}\n`
        const { config, problems } = loadConfig({ file: 'typo.yaml', text, env: {}, hostName: 'h' })
        t.ok(config === null && problems.some((problem) => problem.path.endsWith(word) || problem.sentence.includes('nothing')), `${key} written as ${word}`)
      }
    }
  }
})
