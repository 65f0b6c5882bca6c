import { execFile } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Store } from '../../src/stores/store.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { embeddedIn } from '../stores/embedded-fixture.ts'
import { check, newId, reserveOf, settleOf } from '../stores/sample-moves.ts'

const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))

function tallygate(dir: string, ...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, ['--disable-warning=ExperimentalWarning', main, ...args, '--config', join(dir, 'tallygate.yaml')], { cwd: dir, timeout: 30_000 },
      (error, out, err) => resolve({ code: typeof error?.code === 'number' ? error.code : error === null ? 0 : 1, out, err }))
  })
}

async function exchange(store: Store): Promise<void> {
  const nowMs = Date.now()
  const id = newId(nowMs)
  const checks = [check('tokens', null, 5)]
  await store.reserve(reserveOf(id, nowMs, 'acme', checks))
  await store.settle(settleOf(id, nowMs, 'acme', checks, [5]))
}

t.test('a damaged store is refused with what to do, and `store repair` writes a copy that opens', { timeout: 60_000 }, async (t) => {
  const dir = tmpDir(t)
  writeFileSync(join(dir, 'tallygate.yaml'), 'server: { listen: "127.0.0.1:0" }\nadmin: { listen: "127.0.0.1:0" }\nstore: "embedded:./data"\n')
  const store = await embeddedIn(join(dir, 'data'))
  for (let i = 0; i < 4; i++) await exchange(store)
  await store.close()
  const db = new DatabaseSync(join(dir, 'data/journal.db'))
  db.exec(`UPDATE journal SET outbox = '[{}]' WHERE seq = 4; PRAGMA wal_checkpoint(TRUNCATE)`)
  db.close()

  const refused = await tallygate(dir, 'serve')
  t.equal(refused.code, 1)
  t.match(refused.err, /journal\.db: row 4 fails its checksum.*tallygate store repair/s)
  t.notMatch(refused.err, /\n\s+at /, 'no stack trace')

  const before = readFileSync(join(dir, 'data/journal.db'))
  const repaired = await tallygate(dir, 'store', 'repair', '--json')
  t.equal(repaired.code, 0, repaired.err)
  const report = JSON.parse(repaired.out) as { copy: string; rowsKept: number; rowsLost: number[] }
  t.teardown(() => rmSync(report.copy, { recursive: true, force: true }))
  t.same(report.rowsLost, [4])
  t.ok(existsSync(join(report.copy, 'report.txt')))
  t.same(readFileSync(join(dir, 'data/journal.db')), before, 'the damaged one is as it was')
  await (await embeddedIn(report.copy)).close()
  t.match((await tallygate(dir, 'store', 'repair')).out, /rows kept, 1 lost[\s\S]*Nothing was changed/)
})

t.test('a restored old backup is refused with what to do, and starts once its loss is accepted', { timeout: 60_000 }, async (t) => {
  const dir = tmpDir(t)
  writeFileSync(join(dir, 'tallygate.yaml'), 'server: { listen: "127.0.0.1:0" }\nadmin: { listen: "127.0.0.1:0" }\nstore: "embedded:./data"\nupstreams: { m: { url: "http://127.0.0.1:9" } }\n')
  const store = await embeddedIn(join(dir, 'data'))
  await exchange(store)
  await store.close()
  const old = readFileSync(join(dir, 'data/journal.db'))
  const again = await embeddedIn(join(dir, 'data'))
  for (let i = 0; i < 3; i++) await exchange(again)
  await again.close()
  writeFileSync(join(dir, 'data/journal.db'), old)

  const refused = await tallygate(dir, 'serve')
  t.equal(refused.code, 1)
  t.match(refused.err, /--accept-loss/)
  const child = execFile(process.execPath, ['--disable-warning=ExperimentalWarning', main, 'serve', '--accept-loss', '--config', join(dir, 'tallygate.yaml')], { cwd: dir })
  t.teardown(() => child.kill('SIGKILL'))
  let said = ''
  child.stdout?.on('data', (data: string) => { said += data })
  for (let i = 0; i < 400 && !said.includes('Tallygate is ready'); i++) await new Promise((resolve) => setTimeout(resolve, 50))
  t.match(said, /Tallygate is ready/)
  t.match(said, /accepted explicitly/)
})
