// A gateway that is killed while its store is away has billed everything that it let end.
// test: timeout 120 s
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { Settler } from '../../src/gateway/settler.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { openSpool } from '../../src/spool/spool.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { check } from '../stores/sample-moves.ts'

const KILLS = 8

t.setTimeout(120_000)

t.test('SIGKILL with settlements in the spool, again and again: each one that was acknowledged is booked once by the next run', async (t) => {
  const dir = tmpDir(t)
  const acknowledged: string[] = []
  for (let kill = 0; kill < KILLS; kill++) {
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', fileURLToPath(new URL('spool-child.ts', import.meta.url)), dir], { stdio: ['ignore', 'pipe', 'inherit'] })
    let out = ''
    child.stdout.on('data', (chunk: Buffer) => { out += chunk.toString() })
    await waitFor('the child to work', () => out.includes('S '), { deadlineMs: 20_000 })
    // One left it, the next takes it over.
    if (kill > 0) t.not(/^open (\d+)/.exec(out)?.[1], '0')
    await sleep(Math.random() * 150)
    child.kill('SIGKILL')
    await once(child, 'close')
    acknowledged.push(...out.split('\n').slice(0, -1).filter((line) => line.startsWith('S ')).map((line) => line.slice(2)))
  }
  const store = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  const log = new LogLines()
  const spool = await openSpool({ dir, clock: systemClock, log })
  const waiting = spool.count
  t.ok(waiting >= acknowledged.length)
  const settler = new Settler({ store, spool, clock: systemClock, random: systemRandom, log, metrics: new Metrics(), settleMs: 2_000, queueMax: 10_000 })
  await waitFor('all of it to be booked', () => spool.count === 0, { deadlineMs: 20_000 })
  const ids: string[] = []
  for (let page = await store.outbox.scan(null, 500); page.length > 0; page = await store.outbox.scan(page.at(-1)!.position, 500)) ids.push(...page.map(({ record }) => record.id))
  t.equal(new Set(ids).size, ids.length, 'none twice')
  const booked = new Set(ids)
  t.same(acknowledged.filter((id) => !booked.has(id)), [], `${acknowledged.length} acknowledged, ${waiting} in the spool`)
  t.match(await store.balances('acme', [check('tokens', null, 0)]), [{ used: 7 * ids.length }])
  t.same(log.lines.filter(({ level }) => level === 'error'), [])
  settler.close()
  await spool.close()
  await store.close()
})
