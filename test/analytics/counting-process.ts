import { openLocalRollups } from '../../src/analytics/local-rollups.ts'
import { Projector, ROLLUPS } from '../../src/analytics/projector.ts'
import { RedisRollups } from '../../src/analytics/redis-rollups.ts'
import type { Rollups } from '../../src/analytics/rollups.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Outbox, Store } from '../../src/stores/store.ts'
import { embeddedIn } from '../stores/embedded-fixture.ts'
import { openTestStore } from '../stores/redis-fixture.ts'
import { check, eventBody, newId, settleOf } from '../stores/sample-moves.ts'

/**
 * A process that settles and counts, and is killed with SIGKILL at a step: `step` is the name of a method of the outbox or of the roll-ups, `when` before it is called,
 * in it, or after it is done, `nth` the how manyth time. `rebuild`: the roll-ups are made again meanwhile.
 */
export interface Counting {
  readonly url: string | null
  readonly dir: string
  readonly step: string | null
  readonly when: 'before' | 'in' | 'after'
  readonly nth: number
  readonly rebuild: boolean
}

export const kept = { minute: 1e12, hour: 1e12, day: 1e12, month: 1e12 }

const noTeardown = { teardown: () => undefined }

export async function openCounted(url: string | null, dir: string): Promise<{ store: Store; rollups: Rollups; nowMs: () => number }> {
  if (url === null) return { store: await embeddedIn(`${dir}/data`), rollups: await openLocalRollups(`${dir}/analytics.db`), nowMs: () => systemClock.nowMs() }
  const store = await openTestStore(noTeardown, url, { prefix: 'killed' })
  return { store, rollups: new RedisRollups({ ...store.shared, kept: () => kept }), nowMs: () => store.nowMs() }
}

function die(): never {
  process.kill(process.pid, 'SIGKILL')
  throw new Error('killed')
}

async function main({ url, dir, step, when, nth, rebuild }: Counting): Promise<void> {
  const { store, rollups, nowMs } = await openCounted(url, dir)
  let seen = 0
  const deadly = <Target extends object>(target: Target): Target => new Proxy(target, {
    get(_target, name) {
      const method = Reflect.get(target, name) as unknown
      if (typeof method !== 'function') return method
      return (...args: unknown[]): unknown => {
        const isNow = name === step && ++seen === nth
        if (isNow && when === 'before') die()
        const answer = Reflect.apply(method, target, args) as unknown
        if (!isNow) return answer
        if (when === 'in') setTimeout(die, Math.random() * 4)
        return when === 'after' ? Promise.resolve(answer).then(() => die()) : answer
      }
    },
  })
  await store.outbox.setConsumers([ROLLUPS])
  const clock = withTime(systemClock, nowMs)
  const projector = new Projector({
    outbox: deadly<Outbox>(store.outbox), rollups: async () => deadly(rollups), clock, holder: `process ${process.pid}`, kept: () => kept, archive: () => null,
    holdEvents: () => 200_000, holds: () => undefined, tell: () => undefined, failed: () => undefined,
  })
  projector.start()
  if (rebuild) void projector.rebuild().catch(() => undefined)
  process.stdout.write('started\n')
  for (let i = 0; ; i++) {
    const atMs = clock.nowMs()
    const account = `acct-${i % 7}`
    const usage = { requests: 1, total_tokens: 1 + i % 11, input_tokens: i % 11, output_tokens: 1, cost: 7 }
    await store.settle({ ...settleOf(newId(atMs), atMs, account, [check(`${account} tokens`, null, 1)], [5]), usage, event: { ...eventBody, account, currency: 'USD', settled_at: new Date(atMs).toISOString() } })
    await systemClock.sleep(2)
  }
}

const [, , asked] = process.argv
if (import.meta.main && asked !== undefined) await main(JSON.parse(asked) as Counting)
