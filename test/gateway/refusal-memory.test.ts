import t from 'tap'
import type { Config } from '../../src/config/config.ts'
import { RefusalMemory } from '../../src/gateway/refusal-memory.ts'
import type { Check } from '../../src/metering/check.ts'

const config = {} as Config
const check = (more: Partial<Check['ceilings'][number]['buckets'][number]>[] = [], ceiling = 10): Check => ({
  slots: ['account:acme|requests||month|1'], at: 0, span: 1, endsMs: null, fixed: 1, perUnit: 0, clampable: false,
  ceilings: [{ limit: 'monthly', refuses: true, visible: true, buckets: [{ name: 'monthly', ceiling, counter: null }, ...more.map((each) => ({ name: 'g', ceiling: 5, counter: 'grant|acme|g', ...each }))] }],
})
const denied = { outcome: 'denied', refusals: [{ check: 0, limit: 'monthly', why: 'used_up' }], balances: [{ used: 10, reserved: 0, room: 0 }] } as const

t.test('a refusal is remembered for what the ceilings hold: a raised limit, a new grant, and a smaller one ask the store again', async (t) => {
  const memory = new RefusalMemory()
  memory.remember(config, [check()], 0, 0, denied, 0)
  t.equal(memory.recall(config, [check()], 0, 0, 1), denied, 'the very same is refused without a store call')
  t.equal(memory.recall(config, [check([], 11)], 0, 0, 1), null, 'raised')
  t.equal(memory.recall(config, [check([{}])], 0, 0, 1), null, 'given')
  memory.remember(config, [check([{}])], 0, 0, denied, 0)
  t.equal(memory.recall(config, [check([{}])], 0, 0, 1), denied)
  t.equal(memory.recall(config, [check([{ counter: 'grant|acme|h' }])], 0, 0, 1), null, 'another one of the same amount')
  t.equal(memory.recall(config, [check([{ ceiling: 4 }])], 0, 0, 1), null)
  t.equal(memory.recall(config, [check()], 0, 0, 1_000), null, 'and only for a moment')
})
