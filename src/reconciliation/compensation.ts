import { hash } from 'node:crypto'
import type { Clock } from '../clock.ts'
import type { Metrics } from '../metrics.ts'
import { attemptKind, Attempts, safeMs } from '../sinks/attempts.ts'
import { quarantineKind, type Quarantined } from '../sinks/quarantine.ts'
import { DeliveryFailed, type MeterRecord, type Sink, type SinkContract, type SinkRecord } from '../sinks/sink.ts'
import type { Records } from '../stores/store.ts'
import { textOf } from './amount.ts'

/** Documents: records that were sent to put a receiver's books right, one each, by sink and record. */
export const compensationKind = 'compensation'

export interface Compensation {
  /** The document's. */
  readonly id: string
  readonly sink: string
  /** Id of the record that is put right. */
  readonly of: string
  readonly record: SinkRecord
  readonly atMs: number
  /** False: it may have been sent. */
  readonly done: boolean
}

/** What would put a difference right. `send`: a record; `drop`: a quarantined record that was booked after all is forgotten. */
export type Remedy = { readonly is: 'send'; readonly of: string; readonly record: SinkRecord; readonly held: Quarantined | null } | { readonly is: 'drop'; readonly record: SinkRecord; readonly held: Quarantined }

/** null: there is none, because … */
export type Proposal = Remedy | { readonly is: 'none'; readonly because: string }

const ID_MAX = 100
const DAY_MS = 86_400_000
/** A receiver that only queues may not show for so long what it has taken: until then nothing is sent under another id. */
const SETTLING_MS = 3_600_000

export interface Wrong {
  readonly record: SinkRecord
  /** When its event was settled: it was sent then or later. */
  readonly settledMs: number
  /** What the receiver has too much of it, less than zero: too little. */
  readonly excess: bigint
  /** What was to put it right before, in order. */
  readonly before: readonly Compensation[]
  /** What was sent once comes again with the same id, which cannot do harm as long as the receiver knows that. */
  readonly same: boolean
}

export function proposalOf({ record, settledMs, excess, before, same }: Wrong, contract: SinkContract, nowMs: number): Proposal {
  const { oldestMs, corrections, acknowledges } = contract
  if (oldestMs !== null && nowMs - record.timeMs > oldestMs) return { is: 'none', because: `the receiver takes nothing that is older than ${Math.round(oldestMs / DAY_MS)} days` }
  if (record.is === 'event') return excess < 0n ? { is: 'send', of: record.id, record, held: null } : { is: 'none', because: 'an event cannot be taken back; whoever reads there counts each id once' }
  if (excess > 0n && corrections === 'none') return { is: 'none', because: 'the receiver takes nothing back' }
  if (same && excess < 0n && nowMs - settledMs < safeMs(contract)) return { is: 'send', of: record.id, record, held: null }
  if (acknowledges !== 'durable' && nowMs - settledMs < SETTLING_MS) return { is: 'none', because: 'the receiver may not show yet what it has taken within the last hour; ask again later' }
  const value = textOf(-excess)
  // One that was written down, and maybe sent, and is not there: the very same, not another.
  const unfinished = before.find((one) => !one.done && one.record.is === 'meter' && one.record.value === value)
  return { is: 'send', of: record.id, record: unfinished?.record ?? { ...record, id: correctedId(record.id, before.length + 1), value }, held: null }
}

/** `<id>:r1`, within what every receiver takes. */
export function correctedId(id: string, number: number): string {
  const end = `:r${number}`
  return id.length + end.length <= ID_MAX ? `${id}${end}` : `${hash('sha256', id).slice(0, 32)}${end}`
}

/** A record of its own for a sum whose id nobody knows any more: one for each window. */
export function sumRecord(like: Omit<MeterRecord, 'is' | 'id' | 'value'>, windowMs: number): MeterRecord {
  const start = `${like.code}:${like.customer}`
  const end = `${new Date(windowMs).toISOString().slice(0, 16)}Z:reconciled`
  const id = start.length + end.length < ID_MAX - 4 && /^[!-~]+$/.test(start) ? `${start}:${end}` : `${hash('sha256', start).slice(0, 32)}:${end}`
  return { is: 'meter', id, ...like, value: '0' }
}

export async function compensations(records: Records, sink: string): Promise<readonly Compensation[]> {
  return (await records.list(compensationKind)).map(({ id, value }) => ({ ...value, id }) as Compensation).filter((one) => one.sink === sink)
}

interface SendingParts {
  readonly name: string
  readonly contract: SinkContract
  readonly sink: Sink
  readonly records: Records
  readonly clock: Clock
  readonly metrics: Metrics
}

export type Outcome = 'sent' | 'dropped' | { readonly failed: string }

const triesMax = 8
const firstWaitMs = 200
const lastWaitMs = 10_000

/**
 * Sends what is to be sent, each record written down before, so that another run sends the very same and nothing twice; then forgets what was in quarantine.
 * Gives the outcomes by the record's id.
 */
export async function applyRemedies(parts: SendingParts, remedies: readonly Remedy[]): Promise<ReadonlyMap<string, Outcome>> {
  const { name, records, clock } = parts
  const outcomes = new Map<string, Outcome>()
  const markedAs = `${name} reconcile`
  const attempts = new Attempts({ ...parts, markedAs })
  await attempts.load()
  const chosen = new Map<string, Compensation>()
  for (const remedy of remedies) {
    if (remedy.is === 'drop') continue
    const id = `${name} ${remedy.record.id}`
    const before = await records.get(compensationKind, id)
    // What was written down first is what is sent, however the question was put this time.
    const one = before === undefined ? { sink: name, of: remedy.of, record: remedy.record, atMs: clock.nowMs(), done: false } : { ...before as unknown as Compensation, done: false }
    if (!await records.swap(compensationKind, id, before, { ...one })) outcomes.set(remedy.record.id, { failed: 'somebody else is at it' })
    else chosen.set(remedy.record.id, { ...one, id })
  }
  const items = [...chosen.values()].map((one) => ({ one, item: attempts.item(one.record, '', one.record.id, Infinity) }))
  // Their marks are kept: it is not known whether they were booked, and nobody asks for them now.
  const others = (await compensations(records, name)).filter((one) => !one.done && !chosen.has(one.record.id)).map((one) => attempts.item(one.record, '', one.record.id, Infinity))
  const never = new AbortController().signal
  let failure: Error | null = null
  for (let tries = 0; tries < triesMax && items.some(({ item }) => item.state === 'waiting'); tries++) {
    if (tries > 0) await clock.sleep(Math.min(lastWaitMs, Math.max(firstWaitMs * 2 ** tries, failure instanceof DeliveryFailed ? failure.retryAfterMs ?? 0 : 0)))
    failure = await attempts.send(items.map(({ item }) => item), { stop: never, abort: never }, others)
  }
  for (const { one: { id, ...document }, item } of items) {
    const { record } = document
    if (item.state === 'accepted') {
      await records.put(compensationKind, id, { ...document, done: true })
      outcomes.set(record.id, 'sent')
    } else outcomes.set(record.id, { failed: item.reason ?? failure?.message ?? 'it has not been answered' })
  }
  // What was answered may come again at any time.
  if (others.length === 0 && items.every(({ item }) => item.state === 'accepted')) await records.delete(attemptKind, markedAs)
  for (const remedy of remedies) {
    if (remedy.held === null || (remedy.is === 'send' && outcomes.get(remedy.record.id) !== 'sent')) continue
    await forget(records, remedy.held, remedy.record)
    if (remedy.is === 'drop') outcomes.set(remedy.record.id, 'dropped')
  }
  return outcomes
}

/** One record of what is in quarantine; of the others of its event nothing has been found out by that. */
async function forget(records: Records, held: Quarantined, record: SinkRecord): Promise<void> {
  const now = await records.get(quarantineKind, held.id) as unknown as Quarantined | undefined
  const left = now?.records.filter(({ id }) => id !== record.id) ?? []
  if (left.length === 0) await records.delete(quarantineKind, held.id)
  else await records.put(quarantineKind, held.id, { ...now, records: left })
}
