import { settledMs } from '../archive/archive.ts'
import type { Clock } from '../clock.ts'
import type { SinkConfig } from '../config/config.ts'
import type { UsageEvent } from '../metering/event.ts'
import { toUsageEvent } from '../metering/event.ts'
import type { Metrics } from '../metrics.ts'
import { rulesIn } from '../sinks/deliver.ts'
import { kindOf } from '../sinks/index.ts'
import { quarantined, type Quarantined } from '../sinks/quarantine.ts'
import { DeliveryFailed, type ReadBack, type Sink, type SinkKind } from '../sinks/sink.ts'
import { everyDead, type Outbox, type Position, type Records } from '../stores/store.ts'
import { slackOf, textOf, unitsOf } from './amount.ts'
import { applyRemedies, compensations, proposalOf, sumRecord, type Compensation, type Outcome, type Proposal, type Remedy } from './compensation.ts'
import { credits, type Credit } from './credits.ts'
import { explained, type Piece } from './explain.ts'
import type { Period } from './period.ts'
import { tellingOf, type Telling } from './telling.ts'
import { amountsOf, creditedAmounts, type Amount } from './told.ts'

export interface ReconcileParts {
  readonly outbox: Outbox
  readonly records: Records
  /** All events that were settled since an instant. */
  readonly history: { read(sinceMs: number): AsyncIterable<UsageEvent> }
  /** Events that were settled before that may be gone; 0: none are. */
  keptSinceMs(): Promise<number>
  readonly clock: Clock
  readonly metrics: Metrics
}

export interface ReconcileAsked extends Period {
  /** Of this account only, with those that share its customer; null: of all. */
  readonly account: string | null
  /** Every record is looked up, also where totals agree. */
  readonly each: boolean
}

/**
 * `late`: not delivered yet. `refused` by the receiver, at once or afterwards; `outside` the time that it takes; `buried` without having been sent. `quarantined`:
 * sent, and whether it was booked was not known. `missing`: delivered, and not there. `doubled`: there more than once. `unexplained`: none of these.
 */
export type Why = 'late' | 'refused' | 'outside' | 'buried' | 'quarantined' | 'missing' | 'doubled' | 'unexplained'

export interface Difference {
  readonly why: Why
  /** null: it is about several, or none that is known. */
  readonly record: string | null
  readonly event: string | null
  readonly account: string | null
  readonly customer: string | null
  readonly code: string
  readonly fromMs: number
  /** Of one record the same as `fromMs`. */
  readonly untilMs: number
  readonly records: number
  /** What the receiver has more than we settled; less than zero: fewer. Exact decimal text. */
  readonly amount: string
  readonly reason: string
  readonly proposal: Proposal
  /** null: it was not asked for. */
  readonly outcome: Outcome | null
}

export interface Row {
  readonly accounts: readonly string[]
  /** null: nobody has said who the account is there. */
  readonly customer: string | null
  readonly code: string
  readonly records: number
  /** Settled, whatever became of it; exact decimal texts. */
  readonly ours: string
  /** null: the receiver cannot be asked. */
  readonly theirs: string | null
  /** `theirs` - `ours`, and what it is made of. `refused` has those that were buried and those outside the receiver's time, too. */
  readonly difference: string | null
  readonly late: string
  readonly refused: string
  readonly quarantined: string
  readonly missing: string
  readonly doubled: string
  readonly unexplained: string
}

export interface Reconciliation {
  readonly sink: string
  readonly type: string
  readonly fromMs: number
  readonly untilMs: number
  /** How the receiver was asked. */
  readonly asked: 'totals' | 'records' | 'totals and records' | 'nothing'
  readonly rows: readonly Row[]
  readonly differences: readonly Difference[]
  /** Events that were left out because their accounts have no customer there. */
  readonly unmapped: number
  /** Differences that our books do not explain and that were not put right: missing, doubled, unexplained. */
  readonly unexplained: number
  /** What has to be known to understand it, in sentences. */
  readonly notes: readonly string[]
}

/** Documents of the store: what a sink has missed. */
const gapKind = 'gap'
const PAGE = 1_000
const MINUTE_MS = 60_000
const HOUR_MS = 3_600_000
/** So many that are not delivered yet are known one by one; of more, all that were settled since the oldest count as such. */
const WAITING_MAX = 200_000
/** Where so few records were settled, each is looked up in any case. */
const EACH_MAX = 5_000
/** Minutes of all meters that are remembered while events are read. */
const MINUTES_MAX = 300_000
/** Where so few minutes have records, and single ones cannot be looked up, each minute is asked for. */
const FINE_MAX = 300
/** Records of one question. */
const FIND_PAGE = 100
/** Where so few are in question, they are looked up instead of halving the time further. */
const FIND_LEAF = 200
const ASKING = 4
/** Questions about one meter of one customer. */
const ASKED_MAX = 500
const LISTED_MAX = 1_000
/** An event is in the outbox within this time of its instant. */
const APPENDED_MS = 2_000
const ASK_MS = 60_000
const ASK_TRIES = 4
const ASK_AGAIN_MS = 500
/** Comparisons that are begun again because an event was taken back meanwhile. */
const AGAIN_MAX = 3
/** Meters of customers that one note names. */
const NAMED_MAX = 10

interface Group extends Period {
  readonly code: string
  readonly customer: string | null
  readonly accounts: Set<string>
  records: number
  ours: bigint
  /** Surely delivered. */
  firm: bigint
  late: bigint
  refused: bigint
  held: bigint
  missing: bigint
  doubled: bigint
  theirs: bigint | null
  /** Firm ones, by minute; null: they were too many to remember. */
  minutes: Map<number, Minute> | null
  /** Where records are looked at one by one. */
  spans: readonly Span[]
  lateFirst: { count: number; fromMs: number; untilMs: number } | null
  /** It was told under other settings: its records would not be found, and only totals say something of it. */
  readonly before: boolean
}

interface Minute {
  units: bigint
  count: number
  /** The first event of it: a sum has this time. */
  timeMs: number
}

interface Span extends Period {
  /** What the receiver has more than was surely delivered; null: it has told no total. */
  readonly difference: bigint | null
  /** Minutes, or hours, that have records: the only one, or none; null: several. */
  readonly minute: { readonly startMs: number; readonly timeMs: number } | 'none' | null
}

type Standing = { readonly is: 'firm' } | { readonly is: 'late' } | { readonly is: 'refused' | 'outside' | 'buried'; readonly reason: string } | { readonly is: 'quarantined'; readonly held: Quarantined }

interface Case {
  readonly amount: Amount
  readonly standing: Standing
  readonly settledMs: number
  /** It was settled when the books had been looked at already: no difference, but maybe in the receiver's total. */
  readonly fresh: boolean
}

interface Came {
  readonly one: Case
  readonly units: bigint
}

type Found = ReadonlyMap<string, { readonly copies: number; readonly value: string | null; readonly refused: string | null }>

/**
 * Our settled amounts beside what the receiver says, for every customer and meter. Nothing is held up for it: what may be on its way meanwhile counts as open, not as a difference.
 * Where the receiver tells totals, those are compared, and where they differ the time is halved until few records are left; these are looked up by their ids, or, where it
 * cannot do that, the difference is taken apart by its amount. Where it tells no totals, every record is looked up.
 */
export async function reconcile(config: SinkConfig, sink: Sink, asked: ReconcileAsked, parts: ReconcileParts): Promise<Reconciliation> {
  const keptMs = await parts.keptSinceMs()
  if (keptMs <= asked.fromMs) return await compared(config, sink, asked, parts, [])
  const fromMs = Math.min(asked.untilMs, Math.ceil(keptMs / HOUR_MS) * HOUR_MS)
  const note = `events from before ${new Date(fromMs).toISOString()} are no longer in the store, and there is no archive: the comparison begins then`
  return await compared(config, sink, { ...asked, fromMs }, parts, [note])
}

async function compared(config: SinkConfig, sink: Sink, asked: ReconcileAsked, parts: ReconcileParts, notes: readonly string[]): Promise<Reconciliation> {
  const taken = async (): Promise<string> => JSON.stringify([...(await credits(parts.records, config.name)).values()].map(({ eventId, done }) => [eventId, done]))
  for (let tries = 1; ; tries++) {
    const before = await taken()
    const result = await new Comparison(config, sink, asked, parts, notes).run()
    // What was taken back while totals were told would be taken for what was lost.
    if (tries >= AGAIN_MAX || await taken() === before) return result
  }
}

/** Reconciles, sends what puts the receiver's books right, and says for each difference what came of it. `note` is called before a record leaves. */
export async function reconcileAndApply(config: SinkConfig, sink: Sink, asked: ReconcileAsked, parts: ReconcileParts, note: (difference: Difference) => Promise<void>): Promise<Reconciliation> {
  const result = await reconcile(config, sink, asked, parts)
  const remedies: Remedy[] = []
  for (const difference of result.differences) {
    if (difference.proposal.is === 'none') continue
    await note(difference)
    remedies.push(difference.proposal)
  }
  const outcomes = await applyRemedies({ ...parts, name: config.name, contract: kindOf(config).contract, sink }, remedies)
  const differences = result.differences.map((difference) => ({ ...difference, outcome: difference.proposal.is === 'none' ? null : outcomes.get(difference.proposal.record.id) ?? null }))
  return { ...result, differences, unexplained: countOf(differences) }
}

function countOf(differences: readonly Difference[]): number {
  return differences.filter(({ why, outcome }) => (why === 'missing' || why === 'doubled' || why === 'unexplained') && outcome !== 'sent' && outcome !== 'dropped').length
}

class Comparison {
  readonly #config: SinkConfig
  readonly #kind: SinkKind
  readonly #readBack: ReadBack
  readonly #asked: ReconcileAsked
  readonly #parts: ReconcileParts
  readonly #groups = new Map<string, Group>()
  readonly #differences: Difference[] = []
  readonly #notes: string[]
  readonly #waiting = new Set<string>()
  /** What was settled since then may be on its way. */
  #openSinceMs = Infinity
  readonly #dead = new Map<string, { readonly rules: readonly string[] | null; readonly reason: string }>()
  readonly #held = new Map<string, Quarantined>()
  /** By the id of the record that was put right. */
  readonly #amends = new Map<string, Compensation[]>()
  /** Events that were taken back, and what took them back. */
  readonly #credited = new Set<string>()
  #credits: ReadonlyMap<string, Credit> = new Map()
  #telling: Telling | null = null
  #remembered = 0
  /** Differences of too many records to take them apart. */
  #cut = 0
  #unmapped = 0
  #unlisted = 0
  #startMs = 0
  #used = new Set<'totals' | 'records'>()

  constructor(config: SinkConfig, sink: Sink, asked: ReconcileAsked, parts: ReconcileParts, notes: readonly string[]) {
    this.#notes = [...notes]
    this.#config = config
    this.#kind = kindOf(config)
    this.#readBack = sink.readBack ?? {}
    this.#asked = asked
    this.#parts = parts
  }

  async run(): Promise<Reconciliation> {
    await this.#learn()
    await this.#survey()
    const groups = [...this.#groups.values()].filter(({ accounts }) => this.#asked.account === null || accounts.has(this.#asked.account))
    await this.#compare(groups.filter(({ before }) => !before))
    const apart = new Set(await this.#compareBefore(groups.filter(({ before }) => before)))
    const whole = groups.filter((group) => !apart.has(group))
    await this.#look(whole)
    const rows = [...Map.groupBy(whole, (group) => keyOf(group)).values()].map((parts) => this.#rowOf(parts)).sort((a, b) => compareTexts(a.accounts.join(), b.accounts.join()) || compareTexts(a.code, b.code))
    if (this.#cut > 0) this.#notes.push(`${this.#cut === 1 ? 'a difference was' : `${this.#cut} differences were`} not taken apart: too many records of one time may make it`)
    if (this.#unlisted > 0) this.#notes.push(`${this.#unlisted} more differences are in the sums, but not in the list`)
    return {
      sink: this.#config.name, type: this.#config.type, fromMs: this.#asked.fromMs, untilMs: this.#asked.untilMs, asked: this.#used.size === 2 ? 'totals and records' : [...this.#used][0] ?? 'nothing', rows,
      differences: this.#differences, unmapped: this.#unmapped, unexplained: countOf(this.#differences), notes: this.#notes,
    }
  }

  get #rollup(): 'minute' | 'hour' | null {
    return this.#config.mapping?.rollup ?? null
  }

  // --- What our books say ---

  /** Before anything is asked: what is on its way now must not be taken for what was lost. */
  async #learn(): Promise<void> {
    const { outbox, records, clock } = this.#parts
    const { name } = this.#config
    this.#startMs = clock.nowMs()
    if (this.#readBack.total !== undefined || this.#readBack.find !== undefined) this.#telling = await tellingOf(records, this.#config, this.#startMs)
    this.#credits = await credits(records, name)
    this.#openSinceMs = this.#startMs - APPENDED_MS
    const { count, oldestMs } = await outbox.lag(name)
    if (oldestMs !== null && (outbox.waiting === undefined || count > WAITING_MAX)) this.#openSinceMs = Math.min(this.#openSinceMs, oldestMs)
    else if (oldestMs !== null) await this.#learnWaiting()
    for await (const page of everyDead(outbox, name)) {
      for (const { record, reason } of page) this.#dead.set(toUsageEvent(record).id, { rules: rulesIn(reason), reason: reason.replace(/^of \[.*?\]: /, '') })
    }
    for (const held of await quarantined(records, name)) for (const record of held.records) this.#held.set(record.id, held)
    for (const amend of await compensations(records, name)) if (amend.of !== amend.record.id) this.#amends.set(amend.of, [...this.#amends.get(amend.of) ?? [], amend])
    const gap = Number((await records.get(gapKind, name))?.['events'] ?? 0)
    if (gap > 0) this.#notes.push(`${gap} events were removed before this sink had them: it was not configured then`)
    if (this.#rollup !== null && (this.#asked.fromMs % this.#step !== 0 || this.#asked.untilMs % this.#step !== 0)) this.#notes.push(`the sink is told sums of an ${this.#rollup}: at the ends of this time they may be cut`)
  }

  async #learnWaiting(): Promise<void> {
    const { outbox } = this.#parts
    for (let after: Position | null = null; ;) {
      const entries: readonly { readonly position: Position; readonly record: Parameters<typeof toUsageEvent>[0] }[] = await outbox.waiting?.(this.#config.name, after, PAGE) ?? []
      for (const { record } of entries) this.#waiting.add(toUsageEvent(record).id)
      const last = entries.at(-1)
      if (last === undefined) return
      if (this.#waiting.size > 2 * WAITING_MAX) {
        this.#openSinceMs = 0
        return
      }
      after = last.position
    }
  }

  async *#cases(): AsyncGenerator<Case> {
    const { fromMs, untilMs } = this.#asked
    for await (const event of this.#parts.history.read(fromMs)) {
      const timeMs = Date.parse(event.time)
      if (timeMs < fromMs || timeMs >= untilMs) continue
      const amounts = amountsOf(event, this.#kind, this.#config.mapping)
      if (amounts === null) this.#unmapped += 1
      const atMs = settledMs(event)
      for (const amount of amounts ?? []) yield { amount, settledMs: atMs, standing: this.#standingOf(amount, atMs), fresh: atMs > this.#startMs }
      const credit = this.#credits.get(event.id)
      if (credit === undefined) continue
      for (const amount of creditedAmounts(event, credit.records, this.#kind, this.#config.mapping)) {
        this.#credited.add(event.id).add(amount.eventId)
        yield { amount, settledMs: credit.atMs, standing: { is: credit.done ? 'firm' : 'late' }, fresh: false }
      }
    }
  }

  #standingOf({ record, eventId, rule, tellable }: Amount, atMs: number): Standing {
    const held = this.#held.get(record.id)
    if (held !== undefined) return { is: 'quarantined', held }
    const dead = this.#dead.get(eventId)
    if (dead !== undefined && (dead.rules === null || dead.rules.includes(rule))) return { is: whyDead(dead.reason), reason: dead.reason }
    if (this.#waiting.has(eventId) || atMs >= this.#openSinceMs) return { is: 'late' }
    return tellable ? { is: 'firm' } : { is: 'buried', reason: 'the present settings of the sink do not permit to tell it' }
  }

  #groupOf({ code, customer, account, timeMs }: Pick<Amount, 'code' | 'customer' | 'account' | 'timeMs'>): Group {
    const sinceMs = this.#sinceMs(code, customer)
    const before = timeMs < sinceMs
    const key = JSON.stringify([customer ?? [account], code, before])
    let group = this.#groups.get(key)
    if (group === undefined) {
      const { fromMs, untilMs } = this.#asked
      group = {
        fromMs: before ? fromMs : Math.max(fromMs, sinceMs), untilMs: before ? Math.min(untilMs, sinceMs) : untilMs, before, code, customer, accounts: new Set(), records: 0, ours: 0n, firm: 0n, late: 0n, refused: 0n, held: 0n, missing: 0n, doubled: 0n, theirs: null, minutes: new Map(), spans: [], lateFirst: null,
      }
      this.#groups.set(key, group)
    }
    group.accounts.add(account)
    return group
  }

  /** Since when its records are told as they are now, by admission: what was settled before was admitted before. */
  #sinceMs(code: string, customer: string | null): number {
    const { records = 0 } = this.#telling?.sinceMs(code, customer) ?? {}
    return Math.ceil(records / this.#step) * this.#step
  }

  async #survey(): Promise<void> {
    for await (const { amount, standing, fresh } of this.#cases()) {
      if (fresh) continue
      const group = this.#groupOf(amount)
      group.records += 1
      group.ours += amount.units
      if (standing.is === 'firm') {
        group.firm += amount.units
        this.#remember(group, amount)
      } else if (standing.is === 'late') {
        group.late -= amount.units
        const { count = 0, fromMs = Infinity, untilMs = -Infinity } = group.lateFirst ?? {}
        group.lateFirst = { count: count + 1, fromMs: Math.min(fromMs, amount.timeMs), untilMs: Math.max(untilMs, amount.timeMs) }
      } else if (standing.is === 'quarantined') group.held -= amount.units
      else {
        group.refused -= amount.units
        this.#list(group, { why: standing.is, amount, excess: -amount.units, reason: standing.reason, proposal: { is: 'none', because: 'mend what it was refused for, then `events dead --retry`' } })
      }
    }
    if (this.#rollup !== null) this.#surveySums()
    const taken = [...this.#credits.values()].filter(({ eventId }) => this.#credited.has(eventId))
    const open = taken.filter(({ done }) => !done).length
    if (taken.length > 0) this.#notes.push(`credited: ${taken.length === 1 ? '1 event was' : `${taken.length} events were`} taken back; that is taken off what is ours`)
    if (open > 0) this.#notes.push(`${open} of what was taken back ${open === 1 ? 'has' : 'have'} had no answer, and count${open === 1 ? 's' : ''} as late: \`events credit\` once more`)
  }

  /** Sums in quarantine are made of events that count as delivered otherwise. */
  #surveySums(): void {
    const { fromMs, untilMs } = this.#asked
    for (const held of new Set(this.#held.values())) {
      for (const record of held.records) {
        if (record.is !== 'meter' || record.timeMs < fromMs || record.timeMs >= untilMs) continue
        const group = this.#groupOf(record)
        const units = unitsOf(record.value)
        group.firm -= units
        group.held -= units
        this.#remember(group, { timeMs: record.timeMs, units: -units })
      }
    }
  }

  get #step(): number {
    return this.#rollup === 'hour' ? HOUR_MS : MINUTE_MS
  }

  #remember({ minutes }: Group, { timeMs, units }: Pick<Amount, 'timeMs' | 'units'>): void {
    if (minutes === null) return
    const minute = Math.floor(timeMs / this.#step) * this.#step
    const before = minutes.get(minute)
    if (before !== undefined) {
      before.units += units
      before.count += 1
      before.timeMs = Math.min(before.timeMs, timeMs)
      return
    }
    minutes.set(minute, { units, count: 1, timeMs })
    this.#remembered += 1
    if (this.#remembered <= MINUTES_MAX) return
    // Too much to remember for all of them: of those that differ it is gathered again.
    for (const group of this.#groups.values()) group.minutes = null
    this.#remembered = 0
  }

  // --- What the receiver says ---

  async #compare(groups: readonly Group[]): Promise<void> {
    const { find } = this.#readBack
    const records = groups.reduce((sum, group) => sum + group.records, 0)
    const single = find !== undefined && this.#rollup === null
    const each = single && (this.#asked.each || records <= EACH_MAX)
    const known = groups.filter(({ customer }) => customer !== null)
    await inParallel(known, async (group) => {
      const { fromMs, untilMs } = group
      group.theirs = await this.#totalOf(group, group)
      if (group.theirs !== null) this.#used.add('totals')
      const difference = group.theirs === null ? null : group.theirs - group.firm
      if (single && (each || difference === null)) group.spans = [{ fromMs, untilMs, difference, minute: null }]
    })
    const differing = known.filter((group) => group.theirs !== null && group.spans.length === 0 && !this.#agrees(group, group.theirs - group.firm))
    if (differing.some(({ minutes }) => minutes === null)) await this.#gatherMinutes(differing)
    const minutes = known.reduce((sum, group) => sum + (group.minutes?.size ?? Infinity), 0)
    const fine = !single && minutes <= FINE_MAX ? known.filter(({ theirs }) => theirs !== null) : []
    await inParallel([...new Set([...differing, ...fine])], async (group) => { group.spans = await this.#narrow(group, single, fine.includes(group)) })
  }

  async #totalOf({ code, customer }: Group, { fromMs, untilMs }: Period): Promise<bigint | null> {
    const { total } = this.#readBack
    const told = total === undefined ? null : await this.#ask((signal) => total({ code, customer: customer ?? '', fromMs, untilMs }, signal))
    return told === null ? null : unitsOf(told)
  }

  /** What was told under other settings, by totals alone. Gives what cannot be compared so: nothing is said of it, and above all nothing sent. */
  async #compareBefore(groups: readonly Group[]): Promise<readonly Group[]> {
    const apart: Group[] = []
    await inParallel(groups.filter(({ customer }) => customer !== null), async (group) => {
      group.theirs = await this.#totalOf(group, group)
      if (group.theirs === null) {
        apart.push(group)
        return
      }
      this.#used.add('totals')
      const excess = group.theirs - group.firm
      if (this.#agrees(group, excess)) return
      const { totals = 0 } = this.#telling?.sinceMs(group.code, group.customer) ?? {}
      if (totals > group.fromMs) {
        apart.push(group)
        return
      }
      if (mayBeLate(group, excess)) {
        group.late += excess
        return
      }
      this.#push(group, {
        why: 'unexplained', record: null, event: null, account: [...group.accounts].join(','), fromMs: group.fromMs, untilMs: group.untilMs, records: 0, amount: textOf(excess),
        reason: excess > 0n ? 'its total of this time is too high' : 'its total of this time is too low', proposal: { is: 'none', because: 'it was settled under other settings: which records they are is not known' },
      })
    })
    for (const [untilMs, same] of Map.groupBy(apart, (group) => group.untilMs)) {
      const named = same.slice(0, NAMED_MAX).map(({ accounts, code, ours }) => `${[...accounts].join(',')} ${code} (${textOf(ours)})`)
      const more = same.length > named.length ? ` and ${same.length - named.length} more` : ''
      this.#notes.push(`settled under other settings until ${new Date(untilMs).toISOString()}; not compared: ${named.join(', ')}${more}`)
    }
    return apart
  }

  async #gatherMinutes(groups: readonly Group[]): Promise<void> {
    for (const group of groups) group.minutes = new Map()
    const unmapped = this.#unmapped
    for await (const { amount, standing } of this.#cases()) if (standing.is === 'firm') this.#remember(this.#groupOf(amount), amount)
    this.#unmapped = unmapped
  }

  #agrees(group: Group, difference: bigint): boolean {
    const slack = slackOf(group.ours, this.#kind.contract.values)
    return difference <= slack && -difference <= slack
  }

  /** Where within the time the difference is: halves it as long as that is told. `fine`: also where sums agree, because two differences may. */
  async #narrow(group: Group, single: boolean, fine: boolean): Promise<readonly Span[]> {
    const minutes = [...group.minutes ?? []].sort(([a], [b]) => a - b)
    const spans: Span[] = []
    let asked = 0
    const visit = async (from: number, to: number, fromMs: number, untilMs: number, theirs: bigint): Promise<void> => {
      const part = minutes.slice(from, to)
      const difference = theirs - part.reduce((sum, [, { units }]) => sum + units, 0n)
      const count = part.reduce((sum, [, each]) => sum + each.count, 0)
      if (this.#agrees(group, difference) && (!fine || part.length < 2)) return
      const [only] = part
      if (only !== undefined && part.length === 1 && this.#rollup !== null) {
        spans.push(...await this.#inWindow(group, { fromMs, untilMs, difference, minute: { startMs: only[0], timeMs: only[1].timeMs } }, only[1].units))
        return
      }
      const minute = only === undefined ? 'none' : null
      if (part.length < 2 || (single && count <= FIND_LEAF) || asked >= ASKED_MAX) {
        spans.push({ fromMs, untilMs, difference, minute })
        return
      }
      const middle = from + Math.ceil(part.length / 2)
      const atMs = minutes[middle]?.[0] ?? untilMs
      asked += 1
      const left = await this.#totalOf(group, { fromMs, untilMs: atMs })
      if (left === null) {
        spans.push({ fromMs, untilMs, difference, minute })
        return
      }
      await visit(from, middle, fromMs, atMs, left)
      await visit(middle, to, atMs, untilMs, theirs - left)
    }
    await visit(0, minutes.length, group.fromMs, group.untilMs, group.theirs ?? 0n)
    return spans
  }

  /** The only window of a span that has a sum: what is wrong in it, and what is wrong around it. */
  async #inWindow(group: Group, span: Span & { readonly difference: bigint; readonly minute: { readonly startMs: number; readonly timeMs: number } }, units: bigint): Promise<readonly Span[]> {
    const fromMs = Math.max(span.fromMs, span.minute.startMs)
    const untilMs = Math.min(span.untilMs, span.minute.startMs + this.#step)
    if (fromMs === span.fromMs && untilMs === span.untilMs) return [span]
    const theirs = await this.#totalOf(group, { fromMs, untilMs })
    if (theirs === null) return [span]
    const difference = theirs - units
    const around = span.difference - difference
    return [
      ...(this.#agrees(group, difference) ? [] : [{ fromMs, untilMs, difference, minute: span.minute }]),
      ...(this.#agrees(group, around) ? [] : [{ fromMs: span.fromMs, untilMs: span.untilMs, difference: around, minute: 'none' as const }]),
    ]
  }

  /** A receiver that is busy, or gone for a moment, is asked again. */
  async #ask<T>(question: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { clock } = this.#parts
    for (let tries = 1; ; tries++) {
      const end = new AbortController()
      const cancel = clock.after(ASK_MS, () => end.abort(new Error('the receiver took too long')), { unref: true })
      try {
        return await question(end.signal)
      } catch (error) {
        const again = error instanceof DeliveryFailed && (error.kind === 'busy' || error.kind === 'unknown')
        if (!again || tries >= ASK_TRIES) throw error
        await clock.sleep(Math.max(ASK_AGAIN_MS * 2 ** tries, error.retryAfterMs ?? 0))
      } finally {
        cancel()
      }
    }
  }

  // --- Records one by one ---

  async #look(groups: readonly Group[]): Promise<void> {
    const { find } = this.#readBack
    const single = find !== undefined && this.#rollup === null
    const chosen = new Set(groups)
    const summed = groups.filter(({ theirs, spans }) => theirs === null && spans.length > 0)
    for (const group of summed) group.theirs = 0n
    const counted = new Set(summed)
    const cases = new Map<Span, Case[]>()
    const left = new Map<Span, bigint | null>()
    /** Not known by their ids, which may have been others. */
    const lost = new Map<Span, { units: bigint; count: number }>()
    /** Looked up and found to be right, of spans that have a total and few records. */
    const right = new Map<Span, Case[]>()
    /** Looked up and found, of those that may have come after the total was told. */
    const came = new Map<Span, Came[]>()
    for (const { spans } of groups) for (const span of spans) left.set(span, span.difference)
    const held: { readonly group: Group; readonly one: Case }[] = []
    const flush = async (group: Group, span: Span): Promise<void> => {
      const page = cases.get(span) ?? []
      cases.set(span, [])
      if (page.length === 0) return
      const found = await this.#find(group, page)
      for (const one of page) {
        const { missing } = group
        const booked = this.#judge(group, one, found, span.difference !== null)
        // What was surely told by these ids is missing, whatever else its total has too much.
        if (group.missing !== missing && one.settledMs < (this.#telling?.notedMs ?? Infinity)) {
          const { units = 0n, count = 0 } = lost.get(span) ?? {}
          lost.set(span, { units: units + group.missing - missing, count: count + 1 })
        }
        if (counted.has(group)) group.theirs = (group.theirs ?? 0n) + booked
        const before = left.get(span) ?? null
        if (before === null) continue
        left.set(span, before - (one.standing.is === 'firm' ? booked - one.amount.units : booked))
        if (booked === one.amount.units && (one.fresh || one.standing.is === 'late')) came.set(span, [...came.get(span) ?? [], { one, units: booked }])
        const alike = right.get(span) ?? []
        if (one.standing.is !== 'firm' || booked !== one.amount.units || alike.length > EACH_MAX) continue
        alike.push(one)
        right.set(span, alike)
      }
    }
    const unmapped = this.#unmapped
    if (groups.some(({ spans, held: units }) => spans.length > 0 || units !== 0n)) {
      for await (const one of this.#cases()) {
        const group = this.#groupOf(one.amount)
        if (!chosen.has(group) || (one.fresh && counted.has(group))) continue
        const span = group.spans.find(({ fromMs, untilMs }) => one.amount.timeMs >= fromMs && one.amount.timeMs < untilMs)
        if (span === undefined) {
          if (one.standing.is === 'quarantined') held.push({ group, one })
          continue
        }
        if (this.#rollup !== null) continue
        const page = cases.get(span) ?? []
        page.push(one)
        cases.set(span, page)
        if (single && page.length >= FIND_PAGE) await flush(group, span)
      }
    }
    this.#unmapped = unmapped
    for (const group of groups) {
      for (const span of group.spans) {
        if (single) {
          await flush(group, span)
          const rest = left.get(span) ?? null
          const unknown = lost.get(span)
          if (rest === null || this.#agrees(group, rest)) continue
          if (unknown !== undefined && this.#agrees(group, rest + unknown.units)) {
            this.#leaveOut(group, span, unknown)
            continue
          }
          // It names each once, and has counted one of them twice.
          if (await this.#cameAfter(group, rest, came.get(span) ?? [])) continue
          if (await this.#explain(group, { ...span, difference: rest }, right.get(span) ?? []) > 0n && unknown !== undefined) this.#sendNone(group, span)
        } else if (this.#rollup !== null) this.#explainSums(group, span)
        else await this.#explain(group, span, cases.get(span) ?? [])
      }
    }
    // Totals agree without them: they have not been booked.
    for (const { group, one } of held) this.#judge(group, one, group.theirs === null || (group.before && !this.#agrees(group, group.theirs - group.firm)) ? null : new Map())
    for (const group of groups) {
      if (this.#rollup !== null) this.#listSums(group)
      if (group.late !== 0n || (group.lateFirst?.count ?? 0) > 0) this.#listLate(group)
    }
  }

  /** True: what the total lacks was booked between the total and the look at single records. It counts as on its way. */
  async #cameAfter(group: Group, lacking: bigint, came: readonly Came[]): Promise<boolean> {
    const { booked, rest } = await explained(lacking + came.reduce((sum, { units }) => sum + units, 0n), [], came.map((each) => ({ of: each, units: each.units })), () => this.#turn())
    if (rest !== 0n) return false
    const told = new Set(booked)
    for (const each of came) {
      if (told.has(each)) continue
      if (each.one.fresh) {
        if (group.theirs !== null) group.theirs += each.units
        continue
      }
      group.late -= each.units
      if (group.lateFirst !== null) group.lateFirst = { ...group.lateFirst, count: group.lateFirst.count + 1 }
    }
    return true
  }

  /** Its total has their amounts: they were told, in a way that is not ours any more. */
  #leaveOut(group: Group, span: Span, { units, count }: { readonly units: bigint; readonly count: number }): void {
    group.missing -= units
    let listed = 0
    for (let at = this.#differences.length - 1; at >= 0; at--) {
      if (!isLost(this.#differences[at], group, span)) continue
      this.#differences.splice(at, 1)
      listed += 1
    }
    if (this.#asked.account === null || group.accounts.has(this.#asked.account)) this.#unlisted -= count - listed
    this.#notes.push(`${count} ${count === 1 ? 'record' : 'records'} of ${[...group.accounts].join(',')} ${group.code} (${textOf(-units)}) ${count === 1 ? 'is' : 'are'} not known there by ${count === 1 ? 'its id' : 'their ids'}, but its total has the amount`)
  }

  /** Whatever its total has more may be what is not known by its id. */
  #sendNone(group: Group, span: Span): void {
    for (const [at, difference] of this.#differences.entries()) {
      if (isLost(difference, group, span)) this.#differences[at] = { ...difference, proposal: { is: 'none', because: 'its total has more than our records: it may be there under another id' } }
    }
  }

  /** Lets whatever else this process does go on. */
  #turn(): Promise<void> {
    const { clock } = this.#parts
    return new Promise((resolve) => {
      if (clock.afterTurn === undefined) queueMicrotask(resolve)
      else clock.afterTurn(resolve)
    })
  }

  async #find(group: Group, page: readonly Case[]): Promise<Found> {
    const { find } = this.#readBack
    this.#used.add('records')
    const times = page.map(({ amount }) => amount.timeMs)
    // Some receivers keep whole seconds.
    const fromMs = Math.floor(Math.min(...times) / 1_000) * 1_000
    const untilMs = Math.floor(Math.max(...times) / 1_000) * 1_000 + 1_000
    const ids = page.flatMap(({ amount: { record } }) => [record.id, ...(this.#amends.get(record.id) ?? []).map((amend) => amend.record.id)])
    const asked = { code: group.code, customer: group.customer ?? '', fromMs, untilMs }
    return await this.#ask(async (signal) => await find?.(ids, asked, signal) ?? new Map())
  }

  /** What the receiver has booked of it, with what that says. `found` null: it has not been asked. `summed`: it has told a total, too. */
  #judge(group: Group, one: Case, found: Found | null, summed = false): bigint {
    const { amount, standing } = one
    const { units, record } = amount
    const there = found?.get(record.id)
    const amends = this.#amends.get(record.id) ?? []
    let booked = bookedOf(there, units)
    // Some name a record once, however often they have counted it: what was taken back is a copy that is not named, as long as the total does not say otherwise.
    if (summed && there?.copies === 1) for (const { record: amend } of amends) if (amend.is === 'meter' && amend.value.startsWith('-') && found?.has(amend.id) === true) booked -= unitsOf(amend.value)
    for (const amend of amends) booked += bookedOf(found?.get(amend.record.id), amend.record.is === 'meter' ? unitsOf(amend.record.value) : units)
    const excess = booked - units
    if (one.fresh) {
      if (group.theirs !== null) group.theirs -= booked
      return booked
    }
    if (standing.is === 'quarantined') {
      if (excess === 0n) {
        group.held += units
        this.#list(group, { why: 'quarantined', amount, excess, reason: 'it was booked', proposal: { is: 'drop', record, held: standing.held } })
        return booked
      }
      if (booked === 0n) {
        const proposal: Proposal = found === null ? { is: 'none', because: 'the receiver cannot be asked; `events quarantined --send` or `--drop`' } : this.#resend(one, standing.held)
        this.#list(group, { why: 'quarantined', amount, excess, reason: found === null ? standing.held.reason : `it was not booked: ${standing.held.reason}`, proposal })
        return booked
      }
    } else if (standing.is === 'late') {
      if (booked === 0n) return booked
      // It has been delivered meanwhile, or its answer was lost: it comes once more, and will be known there.
      group.late += units
      if (group.lateFirst !== null) group.lateFirst = { ...group.lateFirst, count: group.lateFirst.count - 1 }
      if (excess === 0n) return booked
    } else if (standing.is !== 'firm') {
      if (booked === 0n) return booked
      group.refused += units
      this.#listBooked(record.id, standing.is)
      if (excess === 0n) return booked
    } else if (excess === 0n) return booked
    if (standing.is === 'quarantined') group.held += units
    this.#listWrong(group, one, excess, there)
    return booked
  }

  /** What is dead, and was booked all the same: it makes no difference. */
  #listBooked(record: string, why: Why): void {
    const at = this.#differences.findIndex((difference) => difference.record === record && difference.why === why)
    const listed = this.#differences[at]
    if (listed !== undefined) this.#differences[at] = { ...listed, amount: '0', reason: `booked all the same: ${listed.reason}`, proposal: { is: 'none', because: 'it is there' } }
  }

  /** Sent as it was, where the receiver takes it still; its id is unknown there. */
  #resend({ amount: { record }, settledMs: atMs }: Case, held: Quarantined): Proposal {
    const proposal = proposalOf({ record, settledMs: atMs, excess: -1n, before: [], same: true }, { ...this.#kind.contract, dedupWindowMs: 'forever' }, this.#startMs)
    return proposal.is === 'send' ? { ...proposal, held } : proposal
  }

  #listWrong(group: Group, one: Case, excess: bigint, there: { readonly copies: number; readonly value: string | null; readonly refused: string | null } | undefined): void {
    const { amount, settledMs: atMs } = one
    const amends = this.#amends.get(amount.record.id) ?? []
    if (there?.refused !== null && there?.refused !== undefined && excess < 0n) {
      group.refused += excess
      this.#list(group, { why: 'refused', amount, excess, reason: `accepted, and refused afterwards: ${there.refused}`, proposal: { is: 'none', because: 'mend what it was refused for there' } })
      return
    }
    const changed = there !== undefined && there.copies === 1 && there.value !== null && unitsOf(there.value) !== amount.units && amends.length === 0
    const proposal = proposalOf({ record: amount.record, settledMs: atMs, excess, before: amends, same: amends.length === 0 && there === undefined }, this.#kind.contract, this.#startMs)
    if (changed) this.#list(group, { why: 'unexplained', amount, excess, reason: `its value there is ${there.value ?? ''}`, proposal: { is: 'none', because: 'what changed it has to be found out first' } })
    else if (excess < 0n) {
      group.missing += excess
      this.#list(group, { why: 'missing', amount, excess, reason: amends.length > 0 ? 'delivered again, and not there' : 'delivered, and not there', proposal })
    } else {
      group.doubled += excess
      this.#list(group, { why: 'doubled', amount, excess, reason: there === undefined ? 'there more than once' : `there ${there.copies} times`, proposal })
    }
  }

  /** A receiver that tells totals alone: which of the records of a minute explain what it has more or less. Gives what they do not. */
  async #explain(group: Group, span: Span, all: readonly Case[]): Promise<bigint> {
    // Each of those is the other's opposite: a total says nothing of them.
    const cases = all.filter(({ amount }) => !this.#credited.has(amount.eventId) || this.#credits.get(amount.eventId.replace(/\.credit$/, ''))?.done !== true)
    const piece = (one: Case): Piece<Case> => ({ of: one, units: one.amount.units })
    const firm = cases.filter(({ standing }) => standing.is === 'firm').map(piece)
    const open = cases.filter(({ standing }) => standing.is === 'late' || standing.is === 'quarantined').map(piece)
    const { booked, missing, doubled, rest, guess, cut } = await explained(span.difference ?? 0n, firm, open, () => this.#turn())
    if (cut) this.#cut += 1
    const there = new Set(booked)
    for (const { of: one } of open) this.#judge(group, one, there.has(one) ? new Map([[one.amount.record.id, { copies: 1, value: null, refused: null }]]) : new Map())
    const about = guess ? ', or others of the same amount' : ''
    const wrong = (one: Case, excess: bigint, why: 'missing' | 'doubled'): void => {
      const { amount, settledMs: atMs } = one
      const before = this.#amends.get(amount.record.id) ?? []
      group[why] += excess
      // Where it is a guess, the same id might be one that is there: then nothing would come of it.
      const proposal = proposalOf({ record: amount.record, settledMs: atMs, excess, before, same: before.length === 0 && !guess }, this.#kind.contract, this.#startMs)
      this.#list(group, { why, amount, excess, reason: why === 'missing' ? `its total lacks this amount${about}` : `its total has this amount twice${about}`, proposal })
    }
    for (const one of missing) wrong(one, -one.amount.units, 'missing')
    for (const one of doubled) wrong(one, one.amount.units, 'doubled')
    this.#listRest(group, span, rest)
    return this.#agrees(group, rest) ? 0n : rest
  }

  /** Sums of a window are told apart by nothing but the window. */
  #explainSums(group: Group, span: Span): void {
    const { fromMs, untilMs, difference, minute } = span
    const excess = difference ?? 0n
    const [account = ''] = group.accounts
    const why = excess < 0n ? 'missing' : 'doubled'
    // A sum that is just being delivered: its events are still in the outbox.
    if (mayBeLate(group, excess)) {
      group.late += excess
      return
    }
    if (minute === 'none') {
      this.#listRest(group, span, excess)
      return
    }
    group[why] += excess
    const proposal = this.#sumProposal(group, span, account)
    this.#push(group, { why, record: null, event: null, fromMs, untilMs, records: 1, amount: textOf(excess), reason: why === 'missing' ? 'its total of this time is too low' : 'its total of this time is too high', proposal, account })
  }

  /** It has to be a sum as the receiver got them: at their time, with their properties. */
  #sumProposal({ code, customer }: Group, { minute, difference }: Span, account: string): Proposal {
    if (minute === null || minute === 'none') return { is: 'none', because: `in which ${this.#rollup ?? 'minute'} it is could not be found out` }
    const [rule, ...others] = this.#config.mapping?.meters?.filter((each) => each.code === code) ?? []
    if (rule === undefined || others.length > 0) return { is: 'none', because: 'several meters have this code: of which it is cannot be told' }
    if (Object.keys(rule.copied).length > 0) return { is: 'none', because: 'its properties are copied from events: which it had cannot be told' }
    const record = sumRecord({ code, customer: customer ?? '', account, timeMs: minute.timeMs, valueProperty: rule.valueProperty, properties: { ...rule.fixed } }, minute.startMs)
    const before = this.#amends.get(record.id) ?? []
    return proposalOf({ record, settledMs: minute.startMs + this.#step, excess: difference ?? 0n, before, same: false }, this.#kind.contract, this.#startMs)
  }

  // --- Telling it ---

  #list(group: Group, { why, amount, excess, reason, proposal }: { why: Why; amount: Amount; excess: bigint; reason: string; proposal: Proposal }): void {
    const { record, eventId, account, timeMs } = amount
    this.#push(group, { why, record: record.id, event: eventId, account, fromMs: timeMs, untilMs: timeMs, records: 1, amount: textOf(excess), reason, proposal })
  }

  #push(group: Group, difference: Omit<Difference, 'customer' | 'code' | 'outcome'>): void {
    if (this.#asked.account !== null && !group.accounts.has(this.#asked.account)) return
    if (this.#differences.length >= LISTED_MAX) this.#unlisted += 1
    else this.#differences.push({ ...difference, customer: group.customer, code: group.code, outcome: null })
  }

  /** What is left when every record has been looked at: it is none of ours, or one of them is not what it was. */
  #listRest(group: Group, { fromMs, untilMs }: Span, rest: bigint | null): void {
    if (rest === null || this.#agrees(group, rest)) return
    this.#push(group, {
      why: 'unexplained', record: null, event: null, account: [...group.accounts].join(','), fromMs, untilMs, records: 0, amount: textOf(rest),
      reason: rest > 0n ? 'more than our records: somebody else reports under this meter, or a record has another value there' : 'less than our records, which it has all',
      proposal: { is: 'none', because: 'what it is has to be found out first' },
    })
  }

  #listSums(group: Group): void {
    for (const held of new Set(this.#held.values())) {
      for (const record of held.records) {
        if (record.is !== 'meter' || record.code !== group.code || record.customer !== group.customer || record.timeMs < group.fromMs || record.timeMs >= group.untilMs) continue
        const proposal: Proposal = group.theirs === null || group.before || held.why === 'refused' ? { is: 'none', because: '`events quarantined --send` or `--drop`' } : { is: 'send', of: record.id, record, held }
        this.#push(group, { why: 'quarantined', record: record.id, event: null, account: record.account, fromMs: record.timeMs, untilMs: record.timeMs, records: 1, amount: `-${record.value}`, reason: held.reason, proposal })
      }
    }
  }

  #listLate(group: Group): void {
    const { count, fromMs, untilMs } = group.lateFirst ?? { count: 0, fromMs: 0, untilMs: 0 }
    if (count === 0) return
    this.#push(group, {
      why: 'late', record: null, event: null, account: [...group.accounts].join(','), fromMs, untilMs, records: count, amount: textOf(group.late), reason: 'not delivered yet: in the outbox',
      proposal: { is: 'none', because: 'it will be delivered' },
    })
  }

  /** Of what was told under other settings, where that could be compared, and of the rest. */
  #rowOf(groups: readonly Group[]): Row {
    const sum = (part: (group: Group) => bigint): bigint => groups.reduce((all, group) => all + part(group), 0n)
    const known = groups.every(({ theirs }) => theirs !== null)
    const rest = sum((group) => {
      const { theirs, ours, late, refused, held, missing, doubled } = group
      const left = theirs === null ? 0n : theirs - ours - late - refused - held - missing - doubled
      return this.#agrees(group, left) ? 0n : left
    })
    const theirs = sum((group) => group.theirs ?? 0n)
    const ours = sum((group) => group.ours)
    return {
      accounts: [...new Set(groups.flatMap(({ accounts }) => [...accounts]))].sort(), customer: groups[0]?.customer ?? null, code: groups[0]?.code ?? '',
      records: groups.reduce((all, { records }) => all + records, 0), ours: textOf(ours), theirs: known ? textOf(theirs) : null, difference: known ? textOf(theirs - ours) : null,
      late: textOf(sum(({ late }) => late)), refused: textOf(sum(({ refused }) => refused)), quarantined: textOf(sum(({ held }) => held)),
      missing: textOf(sum(({ missing }) => missing)), doubled: textOf(sum(({ doubled }) => doubled)), unexplained: textOf(rest),
    }
  }
}

/** The same of what was told under other settings. */
function keyOf({ code, customer, accounts }: Group): string {
  return JSON.stringify([customer ?? [...accounts], code])
}

/** What is on its way may have been booked meanwhile. */
function mayBeLate({ late }: Group, excess: bigint): boolean {
  return excess > 0n ? excess <= -late : excess >= -late
}

/** A single record that is not there. */
function isLost(difference: Difference | undefined, { code, customer }: Group, { fromMs, untilMs }: Span): boolean {
  return difference?.why === 'missing' && difference.record !== null && difference.code === code && difference.customer === customer && difference.fromMs >= fromMs && difference.fromMs < untilMs
}

function bookedOf(there: { readonly copies: number; readonly value: string | null; readonly refused: string | null } | undefined, units: bigint): bigint {
  if (there === undefined || there.refused !== null) return 0n
  return BigInt(there.copies) * (there.value === null ? units : unitsOf(there.value))
}

/** Reasons are the receiver's codes, and sentences of our own. */
function whyDead(reason: string): 'refused' | 'outside' | 'buried' {
  if (/older than the receiver takes|further ahead of ours|timestamp_(?:too_far|in_future)|too_(?:old|new)\b/.test(reason)) return 'outside'
  return /has no customer there|takes nothing back/.test(reason) ? 'buried' : 'refused'
}

function compareTexts(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

async function inParallel<T>(list: readonly T[], task: (one: T) => Promise<void>): Promise<void> {
  const left = [...list]
  await Promise.all(Array.from({ length: ASKING }, async () => {
    for (let one = left.shift(); one !== undefined; one = left.shift()) await task(one)
  }))
}
