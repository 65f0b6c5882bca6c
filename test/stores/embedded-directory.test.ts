// test: timeout 120 s
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import { layoutOf } from '../../src/stores/embedded/directory.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { embeddedIn, LogLines, newDir, Worker } from './embedded-fixture.ts'
import { check, newId, reserveOf, settleOf } from './sample-moves.ts'

const tokens = check('tokens', null, 100)

t.test('G19: a second process is refused and told who has the directory; when that one is killed, the directory is free', async (t) => {
  const dir = newDir(t)
  const first = new Worker(dir, 'hold')
  await first.line('open')
  const second = new Worker(dir, 'hold')
  const refused = await second.line('refused')
  t.match(refused, `is in use by process ${first.child.pid} (admin address http://127.0.0.1:9999`)
  await second.exited
  await t.rejects(embeddedIn(dir), { name: 'DirectoryRefused', message: /is in use by process/ })
  await first.kill()
  const store = await embeddedIn(dir)
  t.match(JSON.parse(readFileSync(layoutOf(dir).holder, 'utf8')), { pid: process.pid })
  await t.rejects(embeddedIn(dir), { name: 'DirectoryRefused', message: new RegExp(`process ${process.pid} `) }, 'nor twice in one process')
  t.match(await store.reserve(reserveOf(newId(Date.now()), Date.now(), 'acme', [tokens])), { outcome: 'admitted' }, 'which disturbs the first one not at all')
  await store.close()
  t.notOk(existsSync(layoutOf(dir).holder))
})

t.test('a lock file left by a dead process is in nobody\'s way, even if its pid lives again', async (t) => {
  const dir = newDir(t)
  await (await embeddedIn(dir)).close()
  writeFileSync(layoutOf(dir).holder, JSON.stringify({ pid: process.pid, adminAddress: null, sinceMs: 1 }))
  await (await embeddedIn(dir)).close()
  t.pass('opened')
})

for (const how of ['deleted', 'moved away'] as const) {
  t.test(`E11: a data directory ${how} while running: nothing is admitted, it is told, and nothing is created in its place`, async (t) => {
    const dir = newDir(t)
    const log = new LogLines()
    const store = await embeddedIn(dir, { log })
    const id = newId(Date.now())
    await store.reserve(reserveOf(id, Date.now(), 'acme', [tokens]))
    if (how === 'deleted') rmSync(dir, { recursive: true })
    else renameSync(dir, `${dir}-elsewhere`)
    await waitFor('the store to notice without being asked', () => !store.status().admitting, { deadlineMs: 5000 })
    t.match(store.status().reason, /journal\.db is gone: the data directory was deleted or moved/)
    await t.rejects(store.settle(settleOf(id, Date.now(), 'acme', [tokens], [1])), StoreUnavailable)
    await waitFor('it to be told', () => /error the store admits nothing/.test(log.text))
    t.notOk(existsSync(dir), 'not recreated')
    if (how === 'moved away') {
      renameSync(`${dir}-elsewhere`, dir)
      await waitFor('the store to find it again', () => store.status().admitting, { deadlineMs: 15_000 })
      t.match(await store.settle(settleOf(id, Date.now(), 'acme', [tokens], [1])), { outcome: 'settled' })
    }
    await store.close()
  })
}

t.test('E11: a directory deleted between two moves: the next move is not acknowledged', async (t) => {
  const dir = newDir(t)
  const store = await embeddedIn(dir)
  rmSync(dir, { recursive: true })
  await t.rejects(store.reserve(reserveOf(newId(Date.now()), Date.now(), 'acme', [tokens])), StoreUnavailable)
  await store.close()
})

t.test('E13: the directory and its files are for their owner only', async (t) => {
  const dir = newDir(t)
  const store = await embeddedIn(dir)
  await store.reserve(reserveOf(newId(Date.now()), Date.now(), 'acme', [tokens]))
  t.equal(statSync(dir).mode & 0o777, 0o700)
  for (const name of readdirSync(dir)) t.equal(statSync(join(dir, name)).mode & 0o077, 0, name)
  await store.close()
  for (const name of readdirSync(dir)) t.equal(statSync(join(dir, name)).mode & 0o077, 0, name)

  chmodSync(layoutOf(dir).journal, 0o644)
  await (await embeddedIn(dir)).close()
  t.equal(statSync(layoutOf(dir).journal).mode & 0o777, 0o600, 'closed again')
})

t.test('E13: a directory that everyone can write, or that is none, is refused with what to do', async (t) => {
  const dir = newDir(t)
  mkdirSync(dir)
  chmodSync(dir, 0o777)
  await t.rejects(embeddedIn(dir), { name: 'DirectoryRefused', message: `chmod o-w ${dir}` })
  const file = newDir(t)
  writeFileSync(file, '')
  await t.rejects(embeddedIn(file), { name: 'DirectoryRefused', message: /is not a directory/ })
})

t.test('E13: a linked directory is one directory, by whichever name', async (t) => {
  const dir = newDir(t)
  const link = join(tmpDir(t), 'link')
  const store = await embeddedIn(dir)
  symlinkSync(dir, link)
  await t.rejects(embeddedIn(link), { name: 'DirectoryRefused', message: `the data directory ${realpathSync(dir)} is in use` })
  await store.close()
  await (await embeddedIn(link)).close()
  t.ok(existsSync(layoutOf(dir).journal))
})

t.test('E10: every file that is renamed into place is made certain by a sync of its directory', async (t) => {
  t.equal(spawnSync('strace', ['-V']).status, 0, 'strace is installed (Debian: apt-get install strace)')
  const dir = newDir(t)
  const trace = join(tmpDir(t), 'trace')
  const worker = new Worker(dir, 'open-and-close', { wrapper: ['strace', '-f', '-y', '-qq', '-o', trace, '-e', 'trace=rename,renameat,renameat2,fsync'] })
  await worker.exited
  const calls = readFileSync(trace, 'utf8').split('\n').filter((line) => line.includes(basename(join(dir, '..'))))
  for (const file of ['journal.db', 'snapshot-']) {
    const renamed = calls.findIndex((line) => line.includes('rename') && line.includes(`data/${file}`))
    t.ok(renamed > 0, `${file} is renamed into place`)
    t.ok(calls.slice(0, renamed).some((line) => line.includes('fsync') && line.includes(`data/${file}`)), 'after it was synced itself')
    t.ok(calls.slice(renamed).some((line) => /fsync\(\d+<[^>]*\/data>/.test(line)), 'and its directory after that')
  }
})
