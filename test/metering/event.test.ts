import fc from 'fast-check'
import t from 'tap'
import { type EventBody, type EventSkeleton, type OutboxRecord, type UsageEvent, timeOfId, toUsageEvent } from '../../src/metering/event.ts'
import { exchangeId, isExchangeId } from '../../src/metering/id.ts'
import type { Quantities } from '../../src/metering/meter.ts'
import type { Draw } from '../../src/metering/moves.ts'
import { readTable } from './table.ts'

const admittedMs = Date.UTC(2025, 10, 22, 10, 0, 0, 123)
const id = exchangeId(admittedMs, new Uint8Array(10))

const skeleton: EventSkeleton = {
  source: 'tallygate/gw-1', account: 'acme', key: 'acme-dev', plan: 'free', plan_version: 3, labels: { team: 'red' }, provider: 'openai', endpoint: 'chat.completions',
  model: 'llama-3.1-8b', upstream: 'model', stream: true, caller: { request_id: 'req-from-caller', user: 'u_17', session: null, tags: {} },
}
const ended = { attempt: 1, status: 200, end: 'complete', usage_source: 'upstream', settled_at: '2025-11-22T10:00:02.053Z' } as const
const details = { model_served: 'llama-3.1-8b-instruct', upstream_request_id: 'up-1', service_tier: 'default', time_to_first_token_ms: 212, output_bound: '812;asked=4096' }

function recordOf(words: readonly string[]): OutboxRecord {
  const pairs = (prefix: string): [string, number][] => words.filter((word) => word.startsWith(prefix) && word.includes('=')).map((word) => word.slice(prefix.length).split('='))
    .filter(([name]) => !name!.includes(':') && name !== 'correction').map(([name, value]) => [name!, Number(value)])
  const draws = (prefix: string): Draw[] => pairs(prefix).map(([bucket, amount]) => ({ bucket, amount }))
  const kind = words[0] as OutboxRecord['kind']
  const used: EventSkeleton = words.includes('tools') ? { ...skeleton, features: ['hosted_tools'] } : skeleton
  const known: EventSkeleton = words.includes('priced') ? { ...used, currency: 'USD', price_version: '2026-11-01' }
    : words.includes('yen') ? { ...used, currency: 'JPY', price_version: '2026-11-01', money_scale: 6 } : used
  const told: EventSkeleton = words.includes('bounded') ? { ...known, bound: { bytes: 3321, input: 900, output: 4096, asked: 4096 } } : known
  const body: EventBody | EventSkeleton = kind === 'expired' ? told : words.includes('brief') ? { ...told, model: null, ...ended } : { ...told, ...ended, ...details }
  return {
    kind, id, correction: Number(words.find((word) => word.startsWith('correction='))?.slice('correction='.length) ?? 0), atMs: Date.UTC(2025, 10, 22, 10, 0, 30), body,
    usage: Object.fromEntries(pairs('')) as Quantities, booked: kind === 'late' ? Object.fromEntries(pairs('booked:')) as Quantities : null,
    drawn: draws('drawn:'), overruns: draws('overrun:'),
  }
}

t.test('events are what event.txt says', async (t) => {
  let event: UsageEvent | undefined
  for (const { line, text, left: [what], right } of readTable('event.txt')) {
    const [word, ...words] = what!.split(/\s+/)
    if (word === 'event') {
      const record = recordOf(words)
      event = toUsageEvent(record)
      t.same(toUsageEvent(structuredClone(record)), event, 'read again, it is the same')
      continue
    }
    const fields = { ...event, ...event!.data } as Record<string, unknown>
    if (word === 'only') t.equal(Object.keys(event!.data).sort().join(','), right[0], `line ${line}`)
    else t.equal(JSON.stringify(fields[word!]) ?? '-', right[0], `line ${line}: ${text}`)
  }
})

t.test('an expired exchange and its corrections add up to what was used', async (t) => {
  const quantities = fc.dictionary(fc.constantFrom('input_tokens', 'output_tokens', 'total_tokens', 'bytes_out'), fc.integer({ min: 0, max: 1_000_000 }))
  fc.assert(fc.property(fc.array(quantities, { minLength: 2, maxLength: 5 }), (steps) => {
    const sums: Record<string, number> = {}
    steps.forEach((usage, index) => {
      const record: OutboxRecord = {
        kind: index === 0 ? 'expired' : 'late', id, correction: index, atMs: admittedMs, body: skeleton, usage, booked: index === 0 ? null : steps[index - 1]!, drawn: [], overruns: [],
      }
      for (const [name, value] of Object.entries(toUsageEvent(record).data)) if (typeof value === 'number' && name in { input_tokens: 1, output_tokens: 1, total_tokens: 1, bytes_out: 1 }) sums[name] = (sums[name] ?? 0) + value
    })
    const last = steps.at(-1)! as Record<string, number>
    return Object.entries(sums).every(([name, sum]) => sum === (last[name] ?? 0))
  }))
  t.pass('100 random histories')
})

t.test('an id is a UUIDv7 that begins with the instant of admission, and sorts by it', async (t) => {
  const instant = fc.integer({ min: 0, max: 2 ** 48 - 1 })
  const bytes = fc.uint8Array({ minLength: 10, maxLength: 10 })
  fc.assert(fc.property(instant, bytes, instant, bytes, (one, chance, other, more) => {
    const first = exchangeId(one, chance)
    const second = exchangeId(other, more)
    return isExchangeId(first) && timeOfId(first) === one && timeOfId(`${first}.late2`) === one && (one >= other || first < second)
  }), { numRuns: 1_000 })
  const bits = new Set<string>()
  for (let index = 0; index < 10; index++) for (let bit = 0; bit < 8; bit++) bits.add(exchangeId(0, new Uint8Array(10).with(index, 1 << bit)))
  t.equal(bits.size, 74 + 1, '74 bits of chance, and the six fixed bits change nothing')
  t.ok(Number.isNaN(timeOfId('soon')))
  for (const [nowMs, chance] of [[-1, 10], [2 ** 48, 10], [0, 9]] as const) t.throws(() => exchangeId(nowMs, new Uint8Array(chance)), { name: 'AssertionFailed' })
})
