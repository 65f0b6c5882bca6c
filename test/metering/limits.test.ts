import fc from 'fast-check'
import t from 'tap'
import { exchangeId } from '../../src/metering/id.ts'
import { Ledger } from '../../src/metering/ledger.ts'
import { kindOf, limitKinds } from '../../src/metering/limits/index.ts'
import { counterBase, encoded } from '../../src/metering/limits/counter.ts'
import type { AppliedLimit, Limit } from '../../src/metering/limits/limit.ts'
import { roomIsSlow, waitText, windowName, windowPhrase } from '../../src/metering/limits/window.ts'
import { limitOf, windowOf } from './people.ts'
import { readTable } from './table.ts'

const skeleton = {
  source: 'tallygate/test', account: 'acme', key: 'acme-dev', plan: 'free', plan_version: 1, labels: {}, provider: 'openai', endpoint: 'chat.completions',
  model: null, upstream: 'model', stream: false, caller: { request_id: null, user: null, session: null, tags: {} },
}
const body = { ...skeleton, attempt: 1, status: 200, end: 'complete' as const, usage_source: 'upstream' as const, settled_at: '2026-11-22T10:00:00.000Z' }
const hourMs = 3_600_000

/** One limit over a ledger of its own. */
class Table {
  readonly applied: AppliedLimit
  readonly ledger = new Ledger({ forgetAfterMs: 100 * 24 * hourMs })
  readonly held = new Map<string, { id: string; atMs: number }>()
  checkpoint = 0
  #serial = 0
  constructor(limit: Limit, zone: string, anchor: string) {
    this.applied = { limit, scope: { id: 'account:acme', calendar: { timeZone: zone, anchor } }, selector: '' }
  }
  check(amount: number, atMs: number, nowMs: number = atMs) {
    return kindOf(this.applied.limit.window).check(this.applied, { fixed: amount, perUnit: 0 }, atMs, nowMs, true)
  }
  reserve(name: string, amount: number, atMs: number) {
    const id = exchangeId(atMs, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, this.#serial >> 8, this.#serial & 255))
    this.#serial++
    const { answer } = this.ledger.reserve({ id, nowMs: atMs, home: 'acme', checks: [this.check(amount, atMs)], uMin: 0, uMax: 0, deadlineMs: atMs + hourMs, skeleton })
    if (answer.outcome === 'admitted') this.held.set(name, { id, atMs })
    return answer
  }
  settle(name: string, amount: number, nowMs: number) {
    const { id, atMs } = this.held.get(name)!
    const { limit } = this.applied
    const used = limit.window.kind === 'in_flight' ? 0 : amount
    return this.ledger.settle({ id, nowMs, home: 'acme', checks: [this.check(0, atMs)], amounts: [used], usage: {}, event: body }).answer
  }
  extend(name: string, amount: number, nowMs: number) {
    const { id, atMs } = this.held.get(name)!
    const checks = [this.check(amount, atMs, nowMs)]
    return this.ledger.extend({ id, nowMs, home: 'acme', checkpoint: ++this.checkpoint, deadlineMs: nowMs + hourMs, counted: null, checks }).answer
  }
  fitsAtMs(amount: number, nowMs: number): number | null {
    const balance = this.ledger.balances([this.check(0, nowMs)])[0]!
    const total = this.check(0, nowMs).ceilings[0]!.buckets.reduce((sum, bucket) => sum + (bucket.ceiling ?? Infinity), 0)
    return kindOf(this.applied.limit.window).fitsAtMs(this.applied, nowMs, balance.usedBySlot ?? [balance.used], total, amount)
  }
}

const instant = (text: string): number => Date.parse(text.includes('T') ? text : `2026-11-22T${text}Z`)
const left = (room: number | null): string => (room === null ? 'unlimited' : String(room))

t.test('limits admit, refuse and recover as limits.txt says', async (t) => {
  let zone = 'UTC'
  let anchor = '2026-01-01'
  let table = new Table(limitOf('none requests - day'), zone, anchor)
  for (const { line, text, left: [when, what], right } of readTable('limits.txt')) {
    const [word, ...words] = text.split(/\s+/)
    if (word === 'account') [zone, anchor] = words as [string, string]
    else if (word === 'limit') table = new Table(limitOf(words.join(' ')), zone, anchor)
    else {
      const nowMs = instant(when!)
      const [move, ...rest] = what!.split(/\s+/)
      const amount = Number(rest.at(-1))
      const name = rest.length > 1 ? rest[0]! : 'used'
      let found: string[]
      if (move === 'settle') {
        const answer = table.settle(name, amount, nowMs)
        found = 'balances' in answer ? [answer.outcome, left(answer.balances[0]!.room)] : [answer.outcome]
      } else if (move === 'extend') {
        found = [table.extend(name, amount, nowMs).outcome]
      } else {
        const answer = table.reserve(name, amount, nowMs)
        if (answer.outcome === 'admitted') {
          found = ['admitted', left(answer.balances[0]!.room)]
          if (move === 'use') table.settle(name, amount, nowMs)
        } else if (answer.outcome === 'denied' && answer.refusals[0]!.why === 'held') {
          found = ['held']
        } else {
          const fits = table.fitsAtMs(amount, nowMs)
          found = ['refused', fits === null ? 'never' : new Date(fits).toISOString()]
        }
      }
      const expected = right.map((cell) => (/^\d+:|T/.test(cell) ? new Date(instant(cell)).toISOString() : cell))
      t.same(found, expected, `line ${line}: ${text}`)
    }
  }
})

t.test('in no real interval of a sliding window is more than its limit admitted', async (t) => {
  const windows = [1, 7, 11, 12, 13, 1_000, 1_001, 60_000].map((ms) => ({ ms }))
  const steps = fc.array(fc.tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 1, max: 60 })), { minLength: 5, maxLength: 80 })
  fc.assert(fc.property(fc.constantFrom(...windows), fc.integer({ min: 0, max: 10_000_000 }), steps, ({ ms }, offset, calls) => {
    const limit: Limit = { ...limitOf('tpm total_tokens 100 1m'), window: { kind: 'sliding', ms } }
    const table = new Table(limit, 'UTC', '2026-01-01')
    let nowMs = 1_790_000_000_000 + offset
    const admitted: { atMs: number; amount: number }[] = []
    for (const [pause, amount] of calls) {
      nowMs += Math.round((pause * ms) / 60)
      if (table.reserve('call', amount, nowMs).outcome !== 'admitted') continue
      table.settle('call', amount, nowMs)
      admitted.push({ atMs: nowMs, amount })
    }
    // The fullest interval begins at a call: [t, t + W).
    return admitted.every(({ atMs }) => admitted.filter((one) => one.atMs >= atMs && one.atMs < atMs + ms).reduce((sum, one) => sum + one.amount, 0) <= 100)
  }), { numRuns: 300 })
  t.pass('300 random runs')
})

t.test('the promised instant is true: it fits then, and not a millisecond earlier', async (t) => {
  const steps = fc.array(fc.tuple(fc.integer({ min: 0, max: 30 }), fc.integer({ min: 1, max: 60 })), { minLength: 3, maxLength: 30 })
  const window = fc.constantFrom('1m', '7ms', '1000ms', '1h', 'fixed:1m', 'fixed:7s', 'minute', 'day')
  fc.assert(fc.property(window, steps, fc.integer({ min: 1, max: 100 }), (name, calls, wanted) => {
    const limit = limitOf(`tpm total_tokens 100 ${name}`)
    const table = new Table(limit, 'Europe/Berlin', '2026-01-01')
    const lengthMs = kindOf(limit.window).lengthMs(table.applied, 1_790_000_000_000) ?? 0
    let nowMs = 1_790_000_000_000
    for (const [pause, amount] of calls) {
      nowMs += Math.round((pause * lengthMs) / 60)
      if (table.reserve('call', amount, nowMs).outcome === 'admitted') table.settle('call', amount, nowMs)
    }
    const fits = table.fitsAtMs(wanted, nowMs)
    if (fits === null || fits < nowMs) return false
    const early = fits === nowMs || table.reserve('early', wanted, fits - 1).outcome === 'denied'
    return early && table.reserve('due', wanted, fits).outcome === 'admitted'
  }), { numRuns: 300 })
  t.pass('300 random runs')
})

t.test('a call that grows late is checked against every window that contains its admission', async (t) => {
  const table = new Table(limitOf('tpm total_tokens 100 1m'), 'UTC', '2026-01-01')
  const atMs = instant('10:00:00.000')
  const first = table.check(1, atMs)
  const slot = (name: string): number => Number(name.split('|').at(-1))
  const newest = slot(first.slots.at(-1)!)
  for (const [nowMs, slots] of [[atMs, 13], [atMs + 4_999, 13], [atMs + 5_000, 14], [atMs + 60_000, 25], [atMs + hourMs, 25], [atMs - hourMs, 13]] as const) {
    const check = table.check(1, atMs, nowMs)
    t.equal(check.slots.length, slots, `${nowMs - atMs} ms later: ${slots} slots`)
    t.equal(check.slots[check.at], first.slots[12], 'it is booked where it was admitted')
    t.equal(check.span, 13)
    t.same(check.slots.map(slot), Array.from({ length: slots }, (_, index) => newest - 12 + index), 'neighbours, oldest first')
    t.same(check.slots.slice(0, 13), first.slots)
  }
})

t.test('whatever they are called, two counters never share a name', async (t) => {
  const odd = fc.oneof(
    fc.string({ unit: 'binary' }), fc.string(), fc.string({ minLength: 200, maxLength: 200 }),
    fc.constantFrom('', 'a', 'a|b', 'a:b', 'a/b', '%', '%7c', '{a}', 'a b', 'ä', '\ud800', '\udfff', '\ufffd', '%ud800', '*', "'", '=', '&', ',', 'é', 'e\u0301', 'A'),
  )
  fc.assert(fc.property(odd, odd, (one, other) => (one === other) === (encoded(one) === encoded(other))), { numRuns: 3_000 })
  fc.assert(fc.property(odd, (text) => /^[A-Za-z0-9._~%-]*$/.test(encoded(text))), { numRuns: 3_000 })
  t.pass('3,000 random pairs')

  const calendar = { timeZone: 'UTC', anchor: '2026-01-01' }
  const limits = [
    'a requests 1 1m', 'a requests 1 fixed:1m', 'a requests 1 minute', 'a requests 1 2m', 'a requests 1 day', 'a requests 1 1d', 'a requests 1 fixed:1d',
    'a requests 1 billing_period', 'a requests 1 month', 'a requests 1 lifetime', 'a total_tokens 1 1m', 'a requests:requests*1 1 1m', 'a weighted:requests*1 1 1m',
  ].map(limitOf)
  const scopes = ['account:acme', 'key:acme', 'end_user:acme', 'end_user:acme/', 'account:acme%7Crequests']
  const selectors = ['', 'each=a', 'models=a', 'endpoints=a', 'models=a&each=a']
  const names = scopes.flatMap((id) => selectors.flatMap((selector) => limits.map((limit) => counterBase({ limit, scope: { id, calendar }, selector }))))
  t.equal(new Set(names).size, names.length, `${names.length} identities, as many names`)
})

t.test('a limit keeps its counter when it is renamed, raised, shown or watched', async (t) => {
  const at = instant('10:00:00.000')
  const names = ['tpm total_tokens 40k 1m', 'other total_tokens 90k 1m', 'tpm total_tokens - 1m', 'tpm total_tokens 1 1m shadow hidden']
    .map((text) => new Table(limitOf(text), 'UTC', '2026-01-01').check(1, at).slots.join(' '))
  t.equal(new Set(names).size, 1)
})

t.test('exactly one kind handles each window, and says the same of it', async (t) => {
  // window | kind | as configured | in a sentence | does its room come back slowly?
  const rows: [string, string, string | null, string, boolean][] = [
    ['1m', 'sliding_window', '1m', 'per minute', false], ['90s', 'sliding_window', '90s', 'per 90 seconds', false], ['5h', 'sliding_window', '5h', 'per 5 hours', false],
    ['1d', 'sliding_window', '1d', 'per day', true], ['500ms', 'sliding_window', '500ms', 'per 500 milliseconds', false],
    ['fixed:1h', 'fixed_window', '1h', 'per hour', false], ['fixed:7d', 'fixed_window', '7d', 'per 7 days', true],
    ['minute', 'fixed_window', 'minute', 'per minute', false], ['hour', 'fixed_window', 'hour', 'per hour', false],
    ['day', 'allowance', 'day', 'per day', true], ['week', 'allowance', 'week', 'per week', true], ['month', 'allowance', 'month', 'per month', true],
    ['billing_period', 'allowance', 'billing_period', 'per billing period', true], ['lifetime', 'allowance', 'lifetime', 'in total', true],
    ['in_flight', 'concurrency', null, 'at once', false],
  ]
  for (const [text, kind, name, phrase, slow] of rows) {
    const window = windowOf(text)
    t.same(limitKinds.filter((one) => one.handles(window)).map((one) => one.name), [kind], text)
    t.equal(windowName(window), name)
    t.equal(windowPhrase(window), phrase)
    t.equal(roomIsSlow({ ...limitOf('a requests 1 1m'), window }), slow)
    const applied: AppliedLimit = { limit: { ...limitOf('a requests 1 1m'), window }, scope: { id: 'account:a', calendar: { timeZone: 'UTC', anchor: '2026-01-01' } }, selector: '' }
    for (const clamp of [true, false]) t.equal(kindOf(window).check(applied, { fixed: 1, perUnit: 1 }, 0, 0, clamp).clampable, clamp && slow, `${text}: clamped only where the plan clamps`)
  }
  t.ok(roomIsSlow(limitOf('a cost 1$ 1m')), 'money, whatever the window')
})

t.test('a wait is never said to be shorter than it is', async (t) => {
  for (const [ms, text] of [[1, '1s'], [999, '1s'], [1_000, '1s'], [1_001, '2s'], [59_000, '59s'], [59_001, '1m0s'], [360_000, '6m0s'], [3_599_999, '1h0m'], [12_000_001, '3h21m'], [187_200_000, '2d4h']] as const) {
    t.equal(waitText(ms), text, `${ms} ms`)
  }
})
