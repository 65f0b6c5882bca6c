// Where a gateway answers, out of files that have mistakes: told, or not known. Nothing is guessed.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { placeDespiteMistakes } from '../../src/cli/gateway-place.ts'
import type { LoadOptions } from '../../src/config/load.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'

const bad = 'plans: { free: { limits: [{ name: rpm, limit: ${LIM}, window: 1m }] } }\n'

/** `kind dir-or-url host:port` */
function placeIn(files: Readonly<Record<string, string>>, more: Partial<LoadOptions> = {}): string {
  const dir = tmpDir(t)
  mkdirSync(join(dir, 'parts'))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text, { mode: 0o600 })
  const place = placeDespiteMistakes({ file: join(dir, 'tallygate.yaml'), env: {}, hostName: 'here', ...more })
  if (place === undefined) return 'unknown'
  const { store, adminListen } = place
  return `${store.kind} ${store.kind === 'embedded' ? store.dir : store.kind === 'redis' ? store.url : '-'} ${adminListen === null ? '-' : `${adminListen.host}:${adminListen.port}`}`
}

const main = (text: string, more: Partial<LoadOptions> = {}): string => placeIn({ 'tallygate.yaml': text }, more)

t.test('store and address are read where they stand, whatever else is wrong', (t) => {
  t.equal(main(bad), 'embedded ./data 127.0.0.1:8081', 'as ever where neither is given')
  t.equal(main(`${bad}store: embedded:/var/lib/books\nadmin: { listen: "0.0.0.0:9", tokens: 12 }\n`), 'embedded /var/lib/books 0.0.0.0:9')
  t.equal(main(`store:\n  # the books\n  url: "redis://:pw@db:6379/2"\n  deadline: soon\n${bad}admin:\n  tokens: [\n  ]\n  listen: 127.0.0.1:7\n`), 'redis redis://:pw@db:6379/2 127.0.0.1:7')
  t.equal(main(`store:\nadmin:\n${bad}`), 'embedded ./data 127.0.0.1:8081', 'sections that say nothing')
  t.equal(main(`"store": "memory:"\n${bad}\tx\n`), 'memory - 127.0.0.1:8081')
  t.end()
})

t.test('the environment is put in and wins, and nothing else of it is judged', (t) => {
  const text = `store: "\${BOOKS}"\nadmin: { listen: "127.0.0.1:\${PORT:-5}" }\n${bad}`
  t.equal(main(text, { env: { BOOKS: 'embedded:./there', TALLYGATE_ADMIN_TOKEN: 'short', TALLYGATE_LISTEN: 'x' } }), 'embedded ./there 127.0.0.1:5')
  t.equal(main(text, { env: { BOOKS: 'memory:' }, adminListen: '127.0.0.1:6' }), 'memory - 127.0.0.1:6')
  t.equal(main(text, { env: { BOOKS: 'memory:', PORT: '4' } }), 'memory - 127.0.0.1:4')
  t.equal(main(text), 'unknown', 'it is not set')
  t.end()
})

t.test('included files are looked at, too', (t) => {
  const text = `include: [parts/*.yaml]\n${bad}`
  t.equal(placeIn({ 'tallygate.yaml': text, 'parts/a.yaml': `keys: {{\n`, 'parts/b.yaml': `include:\n- more/c.yaml\n`, 'parts/c.yaml': 'keys: []\n' }), 'unknown', 'one is not there, and may have told it')
  t.equal(placeIn({ 'tallygate.yaml': `store: embedded:./x\n${text}`, 'parts/b.yaml': 'include: more/c.yaml\n' }), 'embedded ./x -', 'one is not there, and need not be')
  t.equal(placeIn({ 'tallygate.yaml': text, 'parts/a.yaml': `keys: {{\n`, 'parts/b.yaml': `include:\n- ../c.yaml\n`, 'c.yaml': 'store: "memory:"\ninclude: tallygate.yaml\n' }), 'memory - 127.0.0.1:8081')
  t.equal(placeIn({ 'tallygate.yaml': text, 'parts/a.yaml': 'store: "${file:where}"\n', 'parts/where': 'embedded:./beside\n' }), 'embedded ./beside 127.0.0.1:8081')
  t.equal(placeIn({ 'tallygate.yaml': `store: "memory:"\n${text}`, 'parts/a.yaml': 'store: "memory:"\n' }), 'unknown', 'twice')
  t.equal(main(`include: "\${DIR}/x.yaml"\n${bad}`), 'unknown')
  t.equal(main(`include: /dev/zero\n${bad}`), 'unknown')
  t.end()
})

t.test('what cannot be told is not guessed', (t) => {
  const cases = {
    'a store that is none': 'store: redis:/db\n', 'a misspelt one': 'store: { urll: "memory:" }\n', 'twice': 'store: "memory:"\nstore: embedded:./x\n', 'a merged one': 'x-a: &a { url: "memory:" }\nstore: { <<: *a }\n',
    'an alias': 'x-a: &a "memory:"\nstore: *a\n', 'a list': 'store: ["memory:"]\n', 'no end': 'store: "redis://db\n', 'out of line': ' store: "memory:"\n', 'in the middle': 'server: {}\n store: "memory:"\n', 'in brackets': '{ "store": "memory:",\n',
    'an address that is none, where it is needed': 'store: "memory:"\nadmin: { listen: 12345678 }\n', 'a list of addresses': 'store: "memory:"\nadmin: { listen: [a] }\n',
  }
  for (const [name, text] of Object.entries(cases)) t.equal(main(`${text}${bad}`), 'unknown', name)
  t.equal(main(`admin: { listen: nonsense }\n${bad}`), 'embedded ./data -', 'an embedded store needs no address')
  t.equal(placeIn({}), 'unknown', 'no file')
  t.end()
})
