import { readFileSync, readdirSync } from 'node:fs'
import t from 'tap'
import { Ledger, type Effect } from '../../src/metering/ledger.ts'
import type { Bucket, Ceiling, Check } from '../../src/metering/check.ts'
import type { EventBody, OutboxRecord } from '../../src/metering/event.ts'

/**
 * Runs the tables in `ledger/`: each section is a fresh ledger, each line a move and what it must answer. See ledger/README.md for the words.
 * After every section the journal is replayed and the snapshot restored: both must give the very same books.
 */
const folder = new URL('./ledger/', import.meta.url)
const FORGET_AFTER_MS = 3_600_000
/** Ids are named for reading; the one that is `old` was admitted long before it is forgotten. */
const timeOf = (id: string): number => (id.startsWith('old') ? -10 * FORGET_AFTER_MS : 0)
const options = { forgetAfterMs: FORGET_AFTER_MS, timeOf }

interface Rule { readonly name: string; readonly ceilings: Ceiling[]; readonly slots: number; readonly clamp: boolean; readonly periods: boolean }
interface Amount { readonly fixed: number; readonly perUnit: number }

class World {
  readonly rules = new Map<string, Rule>()
  readonly ledger = new Ledger(options)
  readonly effects: Effect[] = []
  readonly records: OutboxRecord[] = []
  nowMs = 0
  slot = 0

  /** The checks of the named rules, in the order of the rules; `amounts` of the line. */
  checks(amounts: Map<string, Amount>): Check[] {
    return [...amounts].map(([name, amount]) => {
      const rule = this.rules.get(name)
      if (rule === undefined) throw new Error(`no check named ${name}`)
      if (rule.periods) {
        const of = (period: number): string => `${name}#${period}`
        const ceilings = rule.ceilings.map((ceiling, i) => ({
          ...ceiling,
          buckets: ceiling.buckets.map((bucket) => (bucket.counter === null || bucket.endsMs !== undefined ? bucket : { ...bucket, counter: `${of(this.slot)}/${bucket.name}` })),
          ...(i === 0 ? { beyond: `${of(this.slot)}/beyond` } : {}),
        }))
        return {
          slots: [of(this.slot)], at: 0, span: 1, endsMs: null, ceilings, alongside: [of(this.slot - 1), of(this.slot + 1)],
          fixed: amount.fixed, perUnit: amount.perUnit, clampable: rule.clamp,
        }
      }
      const slots = rule.slots === 1 ? [name] : Array.from({ length: rule.slots }, (_, i) => `${name}@${this.slot - rule.slots + 1 + i}`)
      return { slots, at: slots.length - 1, span: slots.length, endsMs: null, ceilings: rule.ceilings, fixed: amount.fixed, perUnit: amount.perUnit, clampable: rule.clamp }
    })
  }
}

function addRule(world: World, words: string[]): void {
  const name = words[0]!
  let at = 1
  const number = (): number => Number(words[at++]!.replaceAll('_', ''))
  const bucketsFrom = (limit: string): Bucket[] => {
    const buckets: Bucket[] = [{ name: limit, ceiling: words[at] === 'unlimited' ? (at++, null) : number(), counter: null }]
    while (words[at] === 'then') {
      at++
      const bucket = words[at++]!
      const ceiling = words[at] === 'unlimited' ? (at++, null) : number()
      const grant = words[at] === 'grant'
      if (grant) at++
      buckets.push({ name: bucket, ceiling, counter: grant ? `grant/${bucket}` : `${name}/${bucket}`, ...(grant ? { endsMs: null } : {}) })
    }
    return buckets
  }
  const old = world.rules.get(name)
  const ceilings: Ceiling[] = [{ limit: name, buckets: bucketsFrom(name), refuses: true, visible: true }]
  let slots = old?.slots ?? 1
  let clamp = old?.clamp ?? false
  let periods = old?.periods ?? false
  while (at < words.length) {
    const word = words[at++]!
    if (word === 'slots') slots = number()
    else if (word === 'clamps') clamp = true
    else if (word === 'periods') periods = true
    else if (word === 'shadow') ceilings[0] = { ...ceilings[0]!, refuses: false }
    else if (word === 'also') {
      const limit = words[at++]!
      const buckets = bucketsFrom(limit)
      const refuses = words[at] !== 'shadow'
      if (!refuses) at++
      ceilings.push({ limit, buckets, refuses, visible: true })
    } else throw new Error(`unknown word ${word} in a check`)
  }
  world.rules.set(name, { name, ceilings, slots, clamp, periods })
}

function parseAmounts(words: string[]): { amounts: Map<string, Amount>; rest: Map<string, string> } {
  const amounts = new Map<string, Amount>()
  const rest = new Map<string, string>()
  if (words.at(-1) === 'seat') rest.set('seat', '')
  for (let i = 0; i + 1 < words.length; i += 2) {
    const [name, value] = [words[i]!, words[i + 1]!]
    if (['u', 'point', 'until', 'usage'].includes(name)) { rest.set(name, value); continue }
    const parts = /^(\d+)?(?:\+?(\d+)u)?$/.exec(value)
    if (parts === null) throw new Error(`cannot read the amount ${value} of ${name}`)
    amounts.set(name, { fixed: Number(parts[1] ?? 0), perUnit: Number(parts[2] ?? 0) })
  }
  return { amounts, rest }
}

const event = (id: string): EventBody => ({
  source: 'test', account: 'a', key: 'k', plan: 'p', plan_version: 1, labels: {}, provider: 'openai', endpoint: 'chat.completions', model: id, upstream: 'u',
  stream: false, caller: { request_id: null, user: null, session: null, tags: {} }, attempt: 1, status: 200, end: 'complete', usage_source: 'upstream',
  settled_at: '2026-11-22T10:00:00.000Z',
})

/** Makes the move and says its outcome in the words of the tables. */
function move(world: World, verb: string, words: string[]): { said: string; checks: Check[] } {
  const id = words[0]!
  const split = words.indexOf('counted')
  const before = split < 0 ? words.slice(1) : words.slice(1, split)
  const { amounts, rest } = parseAmounts(before)
  const counted = split < 0 ? null : parseAmounts(words.slice(split + 1)).amounts
  const checks = world.checks(amounts)
  const fixed = [...amounts.values()].map((amount) => amount.fixed)
  const base = { id, home: 'a', nowMs: world.nowMs }
  const usage = { output_tokens: Number(rest.get('usage') ?? fixed[0] ?? 0) }
  const kept = <A extends { outcome: string }>(step: { answer: A; effect: Effect | null; record: OutboxRecord | null }): A => {
    if (step.effect !== null) world.effects.push(structuredClone(step.effect))
    if (step.record !== null) world.records.push(step.record)
    return step.answer
  }
  const eventOf = (before: number): string => {
    const record = world.records[before]
    if (record === undefined) return ''
    const id = record.correction === 0 ? record.id : `${record.id}.late${record.correction === 1 ? '' : record.correction}`
    const amount = (record.usage.output_tokens ?? 0) - (record.booked?.output_tokens ?? 0)
    return ` event ${record.kind} ${id} ${amount}`
  }
  const count = world.records.length
  const list = (word: string, draws: readonly { bucket: string; amount: number }[]): string => draws.map((d) => ` ${word} ${d.bucket} ${d.amount}`).join('')
  switch (verb) {
    case 'reserve': {
      const [min, max] = (rest.get('u') ?? '0..0').split('..').map(Number)
      const a = kept(world.ledger.reserve({ ...base, checks, uMin: min!, uMax: max!, deadlineMs: world.nowMs + 15_000, skeleton: rest.has('seat') ? { ...event(id), seat: true } : event(id) }))
      if (a.outcome === 'admitted') return { said: `admitted${rest.has('u') ? ` u ${a.u}` : ''}${a.shadowed.map((s) => ` shadow ${s}`).join('')}`, checks }
      if (a.outcome === 'denied') return { said: `denied${a.refusals.map((r) => ` by ${r.limit} (${r.why})`).join('')}`, checks }
      return { said: a.outcome, checks }
    }
    case 'extend': {
      // Counted amounts stand in the order of the reservation's checks.
      const usageCounted = counted === null ? null : { amounts: [...counted.values()].map((c) => c.fixed), usage: { output_tokens: [...counted.values()][0]!.fixed } }
      const a = kept(world.ledger.extend({
        ...base, checkpoint: Number(rest.get('point') ?? 1), deadlineMs: Number(rest.get('until') ?? 0) * 1000 || world.nowMs + 15_000, counted: usageCounted,
        checks: checks.length === 0 ? null : checks,
      }))
      return { said: a.outcome === 'denied' ? `denied${a.refusals.map((r) => ` by ${r.limit} (${r.why})`).join('')}` : a.outcome, checks }
    }
    case 'settle': {
      const a = kept(world.ledger.settle({ ...base, checks, amounts: fixed, usage, event: event(id) }))
      if ('drawn' in a) return { said: `${a.outcome}${list('drawn', a.drawn)}${list('overrun', a.overruns)}${eventOf(count)}`, checks }
      return { said: a.outcome, checks }
    }
    case 'void': return { said: kept(world.ledger.void(base)).outcome, checks }
    case 'expire': {
      const a = kept(world.ledger.expire({ ...base, checkpoint: rest.get('point') === 'any' ? null : Number(rest.get('point') ?? 0) }))
      const record = world.records[count]
      return { said: `${a.outcome}${record === undefined ? '' : list('drawn', record.drawn)}${eventOf(count)}`, checks }
    }
    default: throw new Error(`unknown move ${verb}`)
  }
}

for (const file of readdirSync(folder).filter((name) => name.endsWith('.txt')).sort()) {
  t.test(file, async (t) => {
    const sections = readFileSync(new URL(file, folder), 'utf8').split(/^== /m).slice(1)
    for (const section of sections) {
      const [title, ...lines] = section.split('\n')
      await t.test(title!.trim(), async (t) => {
        const world = new World()
        for (const raw of lines) {
          const line = raw.replace(/#.*$/, '').trim()
          if (line === '') continue
          const [left, right] = line.split('->').map((part) => part.trim())
          const [verb, ...words] = left!.split(/\s+/)
          if (verb === 'check') { addRule(world, words); continue }
          if (verb === 'time') { world.nowMs = Number(words[0]) * 1000; continue }
          if (verb === 'slot') { world.slot = Number(words[0]); continue }
          if (verb === 'forget') {
            const effect = world.ledger.forget(world.nowMs)
            if (effect !== null) world.effects.push(effect)
            continue
          }
          if (verb === 'due') {
            t.equal(world.ledger.due(world.nowMs).map((d) => d.id).join(' ') || 'none', right, line)
            continue
          }
          if (verb === 'left' || verb === 'used' || verb === 'reserved') {
            const checks = world.checks(new Map(words.map((name) => [name, { fixed: 0, perUnit: 0 }])))
            const balances = world.ledger.balances(checks)
            const said = balances.map((b) => (verb === 'left' ? b.room ?? 'unlimited' : verb === 'used' ? b.used : b.reserved)).join(' ')
            t.equal(said, right, line)
            continue
          }
          const [expected, after] = (right ?? '').split('|').map((part) => part.trim().replace(/\s+/g, ' '))
          const { said } = move(world, verb!, words)
          t.equal(said, expected, line)
          if (after === undefined) continue
          const names = after.split(',').map((part) => part.trim().split(' '))
          for (const [name, left] of names) {
            const balance = world.ledger.balances(world.checks(new Map([[name!, { fixed: 0, perUnit: 0 }]])))[0]!
            t.equal(String(balance.room ?? 'unlimited'), left, `${line}: ${name} left`)
          }
        }
        const books = [...world.ledger.dump()].sort()
        const replayed = new Ledger(options)
        for (const effect of world.effects) replayed.apply(JSON.parse(JSON.stringify(effect)) as Effect)
        t.same([...replayed.dump()].sort(), books, 'the journal replayed gives the same books')
        t.same([...Ledger.restore(books, options).dump()].sort(), books, 'the snapshot restored gives the same books')
      })
    }
  })
}
