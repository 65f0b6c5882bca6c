import t from 'tap'
import { LiveFeed } from '../../src/analytics/live-feed.ts'
import { RefusalTally } from '../../src/analytics/refusal-tally.ts'
import type { RefusedCall } from '../../src/analytics/refusal-tally.ts'
import { Traffic } from '../../src/analytics/traffic.ts'
import { systemClock } from '../../src/clock.ts'
import { startMs } from './rollups.ts'

const call: RefusedCall = { id: 'x', atMs: startMs, account: 'acme', key: 'k', limit: 'rpm', reason: 'rate_limited', model: 'small', ceiling: 5, used: 5, remaining: 0, resetsAt: null }

t.test('a flood of refusals is a row of the tally, however many there are, and none is lost', async (t) => {
  const tally = new RefusalTally()
  for (let i = 0; i < 100_000; i++) tally.note({ ...call, id: String(i), atMs: startMs + Math.floor(i / 100) })
  const { counts } = tally.take()
  t.ok(counts.length <= 3, `${counts.length} rows are written`)
  t.equal(counts.reduce((sum, { refused }) => sum + refused, 0), 100_000)
  t.same(tally.take().counts, [], 'each once')
})

t.test('W5: names that callers make up become no more rows than are bounded, and whose they are stays told apart', async (t) => {
  const tally = new RefusalTally()
  for (let i = 0; i < 50_000; i++) tally.note({ ...call, account: i % 2 === 0 ? 'acme' : 'other-one', model: `made-up-${i}` })
  const { counts } = tally.take()
  t.ok(counts.length < 5_100)
  const of = (account: string): number => counts.filter(({ dimensions }) => dimensions.account === account).reduce((sum, { refused }) => sum + refused, 0)
  t.same([of('acme'), of('other-one')], [25_000, 25_000])
  for (let i = 0; i < 50_000; i++) tally.note({ ...call, account: `account-${i}`, model: `made-up-${i}` })
  const flood = tally.take().counts
  t.ok(flood.length <= 10_001, 'whoever they are')
  t.equal(flood.reduce((sum, { refused }) => sum + refused, 0), 50_000)
})

t.test('one account\'s flood pushes nobody else\'s refusals out of sight', async (t) => {
  const tally = new RefusalTally()
  for (let second = 0; second < 4_000; second++) {
    if (second === 1_000) tally.note({ ...call, account: 'quiet', id: 'quiet', atMs: startMs + second * 1_000 })
    for (let i = 0; i < 20; i++) tally.note({ ...call, id: `${second}-${i}`, atMs: startMs + second * 1_000 })
  }
  t.same(tally.samples({ account: 'quiet' }, 10).map(({ id }) => id), ['quiet'])
  const shown = tally.samples({}, 5_000)
  t.ok(shown.length <= 2_000)
  t.match(shown[0]?.id, /^3999-/, 'the latest first')
  t.same(tally.samples({ limit: 'none such' }, 10), [])
})

t.test('what workers have seen is put together with what this process has', async (t) => {
  const feed = new LiveFeed(systemClock)
  feed.start()
  const patience = setTimeout(() => undefined, 5_000)
  t.teardown(() => {
    clearTimeout(patience)
    feed.close()
  })
  const one = new Traffic()
  const other = new Traffic()
  one.open = () => ({ open: 3, streams: 1 })
  other.open = () => ({ open: 4, streams: 4 })
  for (let i = 0; i < 10; i++) one.ended({ failed: i === 0, tokens: 100, costNanos: 5, currency: 'USD' })
  other.ended({ failed: false, tokens: 7, costNanos: 3, currency: 'EUR' })
  other.refused('rate_limited', call)
  other.refused('not_found', null)
  const reports = [one.take(), other.take()]
  t.same(reports.map(({ counts }) => counts.length), [0, 1])
  feed.add('worker 1', reports[0]!)
  feed.add('worker 2', reports[1]!)
  t.ok(await feed.next(() => false))
  const { requestsPerSecond, tokensPerSecond, failedPerSecond, refusedPerSecond, costPerSecond, open, streams, refusals } = feed.figures
  t.same([requestsPerSecond, tokensPerSecond, failedPerSecond, refusedPerSecond], [11, 1_007, 1, 2])
  t.same([open, streams], [7, 5])
  t.same([...costPerSecond], [['USD', 50], ['EUR', 3]])
  t.same([...refusals], [['rate_limited', 1], ['not_found', 1]])
  t.equal(await feed.next(() => true), false, 'nobody waits for him who is gone')
})
