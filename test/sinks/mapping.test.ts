import t from 'tap'
import { toldQuantity } from '../../src/config/weighted-meter.ts'
import { creditOf, decimalText, recordId, recordsOf, rollUp, windowEnd, type Telling } from '../../src/sinks/mapping.ts'
import type { SinkRecord } from '../../src/sinks/sink.ts'
import { mappingOf, usageEvent } from './sample-events.ts'
import { easyContract } from './some-kind.ts'

const atMs = Date.parse('2026-11-22T10:07:30.250Z')
const kind: Telling = { type: 'some', takes: 'records', contract: easyContract }
const strict: Telling = { type: 'stripe', takes: 'records', contract: { ...easyContract, corrections: 'none' }, customerDefault: 'none' }
const values = (records: readonly SinkRecord[]): string[] => records.map((record) => (record.is === 'meter' ? `${record.code} ${record.value}` : 'event'))

t.test('a quantity is exact: sums, differences, weights, seconds and money, and what is zero is left out', async (t) => {
  const usage = { requests: 1, input_tokens: 1_000, cached_input_tokens: 300, output_tokens: 7, total_tokens: 1_007, compute_seconds: 1_234, audio_seconds: 61_001, cost: 1_234_500_001, images: 0 }
  const event = usageEvent(1, atMs, usage)
  const table: readonly (readonly [string, string | null])[] = [
    ['input_tokens', '1000'], ['input_tokens - cached_input_tokens', '700'], ['cached_input_tokens - input_tokens', '-700'], ['input_tokens + 4 * output_tokens', '1028'],
    ['0.25 * output_tokens', '1.75'], ['0.000001 * input_tokens', '0.001'], ['compute_seconds', '1.234'], ['1000 * compute_seconds', '1234'], ['audio_seconds', '61.001'],
    ['cost', '1.234500001'], ['1000000000 * cost', '1234500001'], ['100 * cost', '123.4500001'], ['cost - 0.2 * cost', '0.9876000008'], ['images', null], ['reasoning_tokens', null],
    ['input_tokens - input_tokens', null], ['requests', '1'], ['requests + images', '1'],
  ]
  for (const [quantity, expected] of table) {
    const problem = 'problem' in toldQuantity(quantity)
    if (problem) t.equal(expected, null, `${quantity} counts nothing`)
    else t.strictSame(values(recordsOf(event, kind, mappingOf([{ code: 'm', quantity }])).records), expected === null ? [] : [`m ${expected}`], quantity)
  }
  t.equal(decimalText(-5n, 1_000), '-0.005')
  t.equal(decimalText(-123_456_789_012_345_678_901n, 1_000_000_000), '-123456789012.345678901', 'beyond what a number holds')
})

t.test('every mistake in a quantity is said', async (t) => {
  for (const [quantity, sentence] of [
    ['input_tokens -', /a term is missing beside -/], ['- input_tokens', /a term is missing beside -/], ['input_tokens / 2', /more than a sum/], ['tokens', /cannot be part of a sum/],
    ['concurrency', /cannot be part of a sum/], ['0.0000000000001 * cost', /too large or too fine/],
  ] as const) {
    const read = toldQuantity(quantity)
    t.match('problem' in read ? read.problem : 'no problem', sentence, quantity)
  }
})

t.test('a record carries the event\'s id and time, who pays, and properties from the event and fixed ones', async (t) => {
  const event = usageEvent(2, atMs, { input_tokens: 5, output_tokens: 6 }, { body: { labels: { team: 'blue' }, model: 'gpt', model_served: 'gpt-2026', caller: { request_id: null, user: 'u1', session: null, tags: { job: 'x' } } } })
  const { records } = recordsOf(event, kind, mappingOf([
    { code: 'tokens', quantity: 'input_tokens', valueProperty: 'n', copied: { model: 'model_served', team: 'labels.team', none: 'labels.other', who: 'caller.user', job: 'caller.tags.job', plan: 'plan', stream: 'stream' }, fixed: { type: 'input' } },
    { code: 'tokens', quantity: 'output_tokens', fixed: { type: 'output' } },
  ]))
  t.strictSame(records, [
    {
      is: 'meter', id: `${event.id}:tokens:input`, timeMs: atMs, code: 'tokens', customer: 'acme', account: 'acme', value: '5', valueProperty: 'n',
      properties: { model: 'gpt-2026', team: 'blue', who: 'u1', job: 'x', plan: 'pro', stream: 'false', type: 'input' },
    },
    { is: 'meter', id: `${event.id}:tokens:output`, timeMs: atMs, code: 'tokens', customer: 'acme', account: 'acme', value: '6', valueProperty: 'value', properties: { type: 'output' } },
  ])
  t.strictSame(recordsOf(event, kind, mappingOf([{ code: 'x', quantity: 'requests' }])).records, [], 'what was not measured is not told')
})

t.test('who pays: the sink\'s own list, then the account\'s label, then its id where the receiver permits it, else nobody', async (t) => {
  const tokens = [{ code: 'm', quantity: 'input_tokens' }]
  const event = usageEvent(3, atMs, { input_tokens: 5 }, { body: { labels: { stripe_customer: 'cus_label' } } })
  const plain = usageEvent(4, atMs, { input_tokens: 5 }, { body: { labels: {} } })
  const customerOf = (...asked: Parameters<typeof recordsOf>): unknown => recordsOf(...asked).records.map((record) => (record.is === 'meter' ? record.customer : null))
  t.strictSame(customerOf(event, strict, mappingOf(tokens, { customers: { acme: 'cus_list' } })), ['cus_list'])
  t.strictSame(customerOf(event, strict, mappingOf(tokens)), ['cus_label'])
  t.strictSame(customerOf(event, kind, mappingOf(tokens)), ['acme'], 'the label of another kind of sink says nothing')
  t.match(recordsOf(plain, strict, mappingOf(tokens)), { records: [], refused: [{ rule: '', reason: 'its account has no customer there' }], unmapped: true })
  t.match(recordsOf(plain, strict, mappingOf(tokens, { unmapped: 'skip' })), { records: [], refused: [], unmapped: true })
  t.match(recordsOf(usageEvent(5, atMs, { input_tokens: 0 }), strict, mappingOf(tokens)), { records: [], refused: [], unmapped: false }, 'nobody is missed where nothing was used')
})

t.test('filters choose events by account, plan and model, for whole events too', async (t) => {
  const event = usageEvent(6, atMs, { input_tokens: 5 }, { body: { account: 'acme-eu', plan: 'pro', model: 'gpt-4o' } })
  const nameless = usageEvent(7, atMs, { input_tokens: 5 }, { body: { model: null } })
  for (const [filter, passes] of [
    [{ accounts: ['acme*'] }, true], [{ accounts: ['other'] }, false], [{ plans: ['free', 'pro'] }, true], [{ plans: ['free'] }, false], [{ models: ['gpt-*'] }, true], [{ models: ['claude-*'] }, false],
    [{ accounts: ['acme*'], models: ['claude-*'] }, false],
  ] as const) {
    const all = { accounts: null, plans: null, models: null, ...filter }
    t.equal(recordsOf(event, kind, mappingOf([{ code: 'm', quantity: 'input_tokens' }], { filter: all })).records.length, passes ? 1 : 0, JSON.stringify(filter))
    t.equal(recordsOf(event, kind, { ...mappingOf([]), filter: all, meters: null }).records.length, passes ? 1 : 0, 'whole')
  }
  t.equal(recordsOf(nameless, kind, { ...mappingOf([]), filter: { accounts: null, plans: null, models: ['*'] }, meters: null }).records.length, 0, 'a call without a model has none that could match')
})

t.test('a late correction is told with its sign; where nothing can be taken back, only what is negative is refused, with its reason', async (t) => {
  const late = usageEvent(8, atMs, { requests: 1, input_tokens: 10, output_tokens: 50, cost: 1_000_000 }, { kind: 'late', booked: { requests: 1, input_tokens: 100, output_tokens: 0, cost: 5_000_000 }, correction: 1 })
  const meters = mappingOf([{ code: 'in', quantity: 'input_tokens' }, { code: 'out', quantity: 'output_tokens' }, { code: 'money', quantity: 'cost' }, { code: 'calls', quantity: 'requests' }], { customers: { acme: 'cus_1' } })
  const told = recordsOf(late, kind, meters)
  t.strictSame(values(told.records), ['in -90', 'out 50', 'money -0.004'])
  t.strictSame(told.records.map(({ id }) => id), ['in', 'out', 'money'].map((code) => `${late.id}:${code}`))
  t.match(late.id, /\.late$/)
  const strictly = recordsOf(late, strict, meters)
  t.strictSame(values(strictly.records), ['out 50'])
  t.strictSame(strictly.refused, [{ rule: 'in', reason: 'in is -90, and the receiver takes nothing back' }, { rule: 'money', reason: 'money is -0.004, and the receiver takes nothing back' }])
})

t.test('ids have 100 printable characters at most; a name that is no id is hashed', async (t) => {
  const event = usageEvent(9, atMs, { input_tokens: 1 })
  const long = 'c'.repeat(80)
  t.equal(recordId(event.id, 'llm_input_tokens'), `${event.id}:llm_input_tokens`)
  for (const name of [long, 'with space', 'ümlaut']) {
    const id = recordId(event.id, name)
    t.match(id, new RegExp(`^${event.id}:[0-9a-f]{32}$`), name)
    t.equal(id, recordId(event.id, name), 'always the same')
  }
  t.ok(recordId(`${event.id}.late12`, long).length <= 100)
  t.not(recordId(event.id, `${long}x`), recordId(event.id, long))
})

t.test('a credit note is the event with every quantity negative, an id of its own and a reference', async (t) => {
  const event = usageEvent(10, atMs, { requests: 1, input_tokens: 10, compute_seconds: 1_500, audio_seconds: 2_500, cost: 1_000_000_000 })
  const note = creditOf(event)
  t.match(note, { id: `${event.id}.credit`, time: event.time, data: { corrects: event.id, requests: -1, input_tokens: -10, compute_ms: -1_500, audio_seconds: -2.5, cost: '-1.00', status: 200 } })
  const told = mappingOf([{ code: 'in', quantity: 'input_tokens' }, { code: 's', quantity: 'compute_seconds' }, { code: 'a', quantity: 'audio_seconds' }, { code: 'c', quantity: 'cost' }])
  t.strictSame(values(recordsOf(note, kind, told).records), ['in -10', 's -1.5', 'a -2.5', 'c -1'])
  t.equal(creditOf(note).data['cost'], event.data['cost'])
})

t.test('sums: by customer, window of admission, billing period, plan and properties; ids are those of the chunk; nothing is told of a sum of nothing', async (t) => {
  const mapping = mappingOf([{ code: 'in', quantity: 'input_tokens', copied: { model: 'model' } }, { code: 'calls', quantity: 'requests' }])
  const minute = Date.parse('2026-11-22T10:07:00Z')
  const events = [
    usageEvent(1, minute + 1_000, { input_tokens: 1, requests: 1 }),
    usageEvent(2, minute + 500, { input_tokens: 2, requests: 1 }),
    usageEvent(3, minute + 59_999, { input_tokens: 4, requests: 1 }, { body: { model: 'other' } }),
    usageEvent(4, minute + 60_000, { input_tokens: 8, requests: 1 }),
    usageEvent(5, minute + 2_000, { input_tokens: 16, requests: 1 }, { body: { plan: 'free' } }),
    usageEvent(6, minute + 3_000, { input_tokens: 32, requests: 1 }, { body: { plan_version: 2 } }),
    usageEvent(7, minute + 4_000, { input_tokens: 64, requests: 1 }, { body: { account: 'globex' } }),
    usageEvent(8, minute + 30_000, { input_tokens: 128, requests: 1 }),
    usageEvent(9, minute + 4_500, { input_tokens: -64, requests: 0 }, { body: { account: 'globex' } }),
  ]
  const { records, mapped } = rollUp(events, kind, mapping, { size: 'minute', chunk: 'c1', periodOf: (_account, ms) => (ms < minute + 30_000 ? 'before' : 'after') })
  t.strictSame(records.map(({ code, customer, timeMs, value, properties }) => [code, customer, timeMs - minute, value, properties['model'] ?? '']), [
    ['in', 'acme', 500, '3', 'small'], ['calls', 'acme', 500, '2', ''], ['in', 'acme', 59_999, '4', 'other'], ['calls', 'acme', 30_000, '2', ''], ['in', 'acme', 60_000, '8', 'small'], ['calls', 'acme', 60_000, '1', ''],
    ['in', 'acme', 2_000, '16', 'small'], ['calls', 'acme', 2_000, '1', ''], ['in', 'acme', 3_000, '32', 'small'], ['calls', 'acme', 3_000, '1', ''], ['calls', 'globex', 4_000, '1', ''], ['in', 'acme', 30_000, '128', 'small'],
  ], 'globex used 64 and had 64 taken back')
  t.equal(records[0]?.id, 'in:acme:2026-11-22T10:07Z:c1.0')
  t.equal(new Set(records.map(({ id }) => id)).size, records.length)
  t.equal(mapped.length, events.length)
  t.strictSame(mapped.flatMap(({ refused }) => refused), [])
  const total = (code: string): number => records.filter((record) => record.code === code).reduce((sum, { value }) => sum + Number(value), 0)
  t.strictSame([total('in'), total('calls')], [191, 8], 'nothing is lost, nothing is doubled')
  const long = rollUp([usageEvent(1, minute, { input_tokens: 1 })], kind, { ...mapping, customers: { acme: 'x'.repeat(90) } }, { size: 'hour', chunk: 'mb3x9k2f', periodOf: () => '' }).records[0]
  t.match(long?.id, /^[0-9a-f]{32}:2026-11-22T10:00Z:mb3x9k2f\.0$/)
  t.equal(windowEnd('hour', minute), Date.parse('2026-11-22T11:00:00Z'))
})

t.test('an event whose account nobody knows is told apart from the sums', async (t) => {
  const mapping = mappingOf([{ code: 'in', quantity: 'input_tokens' }], { customers: { acme: 'cus_1' } })
  const events = [usageEvent(1, atMs, { input_tokens: 1 }), usageEvent(2, atMs, { input_tokens: 2 }, { body: { account: 'unknown' } })]
  const { records, mapped } = rollUp(events, strict, mapping, { size: 'minute', chunk: 'c', periodOf: () => '' })
  t.strictSame(values(records), ['in 1'])
  t.match(mapped, [{ refused: [] }, { refused: [{ reason: 'its account has no customer there' }], unmapped: true }])
})
