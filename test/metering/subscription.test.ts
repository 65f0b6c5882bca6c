import fc from 'fast-check'
import t from 'tap'
import { civilDayMs, type TermLength } from '../../src/metering/calendar.ts'
import {
  type Subscription, announcements, isServed, lastServedMs, nextAnnouncementMs, subscriptionAt, subscriptionOf, usageTermAt,
} from '../../src/metering/subscription.ts'
import { readTable } from './table.ts'

const dayMs = 86_400_000
const iso = (ms: number): string => new Date(ms).toISOString()

/** `start=2027-01-01 term=month …` → a subscription, or why it cannot be. */
function made(kind: string, fields: string): Subscription | string {
  const words = new Map(fields.split(/\s+/).map((word) => word.split('=') as [string, string]))
  const zone = words.get('zone') ?? 'UTC'
  const at = (text: string | undefined): number | null => (text === undefined || text === '-' ? null : text.length === 10 ? civilDayMs(zone, text) : Date.parse(text))
  const [from, to] = words.get('suspended')?.split('..') ?? []
  const term = words.get('term')
  return subscriptionOf({
    kind: kind as Subscription['kind'], startMs: at(words.get('start'))!, trialEndMs: at(words.get('trial_end')), endMs: at(words.get('end')),
    graceMs: Number((words.get('grace') ?? '0d').slice(0, -1)) * dayMs, renewal: (words.get('renewal') ?? null) as 'auto' | 'none' | null,
    term: term === undefined ? null : { unit: term as TermLength['unit'], count: 1 }, timeZone: zone,
    suspended: from === undefined ? null : { fromMs: at(from)!, untilMs: at(to) }, seats: null, plans: [], addOns: [], where: 'table',
  })
}

function sound(kind: string, fields: string): Subscription {
  const subscription = made(kind, fields)
  if (typeof subscription === 'string') throw new Error(`${kind} ${fields}: ${subscription}`)
  return subscription
}

const instant = (text: string): string | null => (text === '-' ? null : iso(Date.parse(text)))
const shown = (ms: number | null): string | null => (ms === null ? null : iso(ms))

t.test('a subscription is at every instant what subscription.txt says', async (t) => {
  for (const { line, left: [kind, fields, at], right: [state, since, until, term] } of readTable('subscription.txt')) {
    const found = subscriptionAt(sound(kind!, fields!), Date.parse(at!))
    const [start, end] = term === '-' ? [] : term!.split('..')
    t.same(
      { state: found.state, since: shown(found.sinceMs), until: shown(found.untilMs), term: found.term === null ? null : [shown(found.term.startMs), shown(found.term.endMs)] },
      { state, since: instant(since!), until: instant(until!), term: start === undefined ? null : [instant(start), instant(end!)] }, `line ${line}`)
  }
})

t.test('a subscription that contradicts itself is refused with a sentence', async (t) => {
  for (const { line, left: [kind, fields], right: [sentence] } of readTable('subscription-wrong.txt')) {
    const found = made(kind!, fields!)
    t.ok(typeof found === 'string' && found.startsWith(sentence!), `line ${line}: ${typeof found === 'string' ? found : 'it is accepted'}`)
  }
})

t.test('what ends is announced when announcement.txt says', async (t) => {
  for (const { line, left: [kind, fields], right } of readTable('announcement.txt')) {
    const subscription = sound(kind!, fields!)
    const found = announcements(subscription, subscription.startMs, (lastServedMs(subscription) ?? subscription.startMs) + 365 * dayMs)
    const wanted = right.filter((cell) => cell !== '-').map((cell) => {
      const [what, days, at] = cell.split(' ')
      return { what, days: Number(days), at: iso(Date.parse(at!)) }
    })
    t.same(found.map(({ what, daysAhead, atMs }) => ({ what, days: daysAhead, at: iso(atMs) })), wanted, `line ${line}`)
  }
})

const arbitrary = fc.record({
  kind: fc.constantFrom<Subscription['kind']>('perpetual', 'term', 'trial'),
  startMs: fc.integer({ min: Date.UTC(2026, 0, 1), max: Date.UTC(2028, 0, 1) }),
  trialDays: fc.option(fc.integer({ min: 1, max: 60 })), endDays: fc.option(fc.integer({ min: 1, max: 900 })), graceDays: fc.integer({ min: 0, max: 40 }),
  renewal: fc.constantFrom('auto' as const, 'none' as const, null),
  term: fc.option(fc.record({ unit: fc.constantFrom<TermLength['unit']>('day', 'month', 'year'), count: fc.integer({ min: 1, max: 20 }) })),
  timeZone: fc.constantFrom('UTC', 'Europe/Berlin', 'Australia/Lord_Howe', 'Asia/Kathmandu'),
  suspension: fc.option(fc.record({ fromDays: fc.integer({ min: -50, max: 500 }), days: fc.option(fc.integer({ min: 1, max: 300 })) })),
}).map(({ trialDays, endDays, graceDays, suspension, ...rest }) => {
  const trialEndMs = trialDays === null ? null : rest.startMs + trialDays * dayMs
  const fromMs = rest.startMs + (suspension?.fromDays ?? 0) * dayMs
  return subscriptionOf({
    ...rest, trialEndMs, endMs: endDays === null ? null : (trialEndMs ?? rest.startMs) + endDays * dayMs, graceMs: graceDays * dayMs, seats: null, plans: [], addOns: [], where: 'drawn',
    suspended: suspension === null ? null : { fromMs, untilMs: suspension.days === null ? null : fromMs + suspension.days * dayMs },
  })
}).filter((made): made is Subscription => typeof made !== 'string')

t.test('states follow each other without gap or overlap, from ever to ever', async (t) => {
  fc.assert(fc.property(arbitrary, fc.integer({ min: -100, max: 1_500 }), (subscription, days) => {
    const atMs = subscription.startMs + days * dayMs
    const standing = subscriptionAt(subscription, atMs)
    if (standing.sinceMs !== null) {
      if (standing.sinceMs > atMs) return false
      const before = subscriptionAt(subscription, standing.sinceMs - 1)
      if (before.untilMs !== standing.sinceMs || before.state === standing.state) return false
    }
    if (standing.untilMs !== null) {
      if (standing.untilMs <= atMs) return false
      const after = subscriptionAt(subscription, standing.untilMs)
      if (after.sinceMs !== standing.untilMs || after.state === standing.state) return false
    }
    // Nobody is served before the start, nor after the last instant.
    const lastMs = lastServedMs(subscription)
    return !isServed(standing.state) || (atMs >= subscription.startMs && (lastMs === null || atMs < lastMs))
  }), { numRuns: 1_000 })
  t.pass('1000 subscriptions')
})

t.test('usage terms tile from the start on, and after the last one nothing begins anew', async (t) => {
  fc.assert(fc.property(arbitrary, fc.integer({ min: 0, max: 1_500 }), (subscription, days) => {
    const atMs = subscription.startMs + days * dayMs
    const term = usageTermAt(subscription, atMs)
    if (term.startMs > atMs) return false
    if (term.startMs > subscription.startMs && usageTermAt(subscription, term.startMs - 1).endMs !== term.startMs) return false
    if (usageTermAt(subscription, term.startMs).startMs !== term.startMs) return false
    if (term.endMs === null) return usageTermAt(subscription, atMs + 5_000 * dayMs).startMs === term.startMs
    return atMs < term.endMs && usageTermAt(subscription, term.endMs).startMs === term.endMs && usageTermAt(subscription, term.endMs - 1).startMs === term.startMs
  }), { numRuns: 500 })
  t.pass('500 subscriptions')
})

t.test('the announcements of two spans that meet are those of both together, and the next one is the first of them', async (t) => {
  fc.assert(fc.property(arbitrary, fc.integer({ min: 0, max: 1_000 }), fc.integer({ min: 0, max: 500 }), (subscription, days, more) => {
    const middleMs = subscription.startMs + days * dayMs
    const endMs = middleMs + more * dayMs
    const whole = announcements(subscription, subscription.startMs, endMs)
    const parts = [...announcements(subscription, subscription.startMs, middleMs), ...announcements(subscription, middleMs, endMs)]
    const next = nextAnnouncementMs(subscription, middleMs)
    return JSON.stringify(whole) === JSON.stringify(parts) && next === (announcements(subscription, middleMs + 1, Infinity)[0]?.atMs ?? null)
  }), { numRuns: 500 })
  t.pass('500 subscriptions')
})
