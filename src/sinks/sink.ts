import type { Clock } from '../clock.ts'
import type { Random } from '../random.ts'
import type { UsageEvent } from '../metering/event.ts'
import type { BuiltinMeter } from '../metering/meter.ts'

/**
 * A kind of receiver. Batching, backing off, bisecting, burying, quarantining and measuring are in `deliver.ts`; what to count is in `mapping.ts`;
 * a sink only speaks to its receiver, and says by its contract what that one does about duplicates, time and batches.
 */
export interface SinkKind {
  /** As `type:` in the configuration. */
  readonly type: string
  readonly contract: SinkContract
  /** Where settings decide what the receiver does: its contract under these, with every default filled in. Absent: `contract`, whatever they are. */
  contractOf?(settings: Readonly<Record<string, unknown>>): SinkContract
  /** What it takes: whole usage events, or records of single meters. */
  readonly takes: 'events' | 'records'
  /**
   * Its settings beside `name`, `type`, `filter` and, where it takes records, `meters`, `customers`, `unmapped` and `rollup`. Where one of them is a `url`, there is
   * also the boolean `private`: loopback and private addresses are meant.
   */
  readonly settings: Readonly<Record<string, SettingField>>
  /** Who pays, where neither the sink's `customers` nor a label says it: the account's own id, or, with `none`, nobody. Absent: the account. */
  readonly customerDefault?: 'account' | 'none'
  /** Of a sink that takes records: what is told when the configuration does not say. Codes and properties as the receiver's own templates have them. */
  readonly meters?: readonly MeterMapping[]
  /** Clients of receivers are imported here and not before. `settings` are checked, with every default filled in. */
  open(name: string, settings: Readonly<Record<string, unknown>>, around: SinkSurroundings): Promise<Sink>
}

export interface SettingField {
  /** `secret` is never shown; `duration` and `size` are read as ms and bytes. */
  readonly is: 'text' | 'path' | 'url' | 'secret' | 'secrets' | 'duration' | 'size' | 'integer' | 'boolean' | 'choice' | 'texts' | 'map'
  /** Absent: it has to be there. */
  readonly otherwise?: unknown
  /** Of an integer. */
  readonly min?: number
  readonly max?: number
  /** Of a text: why the receiver would not take it, as the rest of a sentence; null: it would. */
  whyNot?(text: string): string | null
  /** Of a choice. */
  readonly among?: readonly string[]
  readonly about: string
}

export interface SinkSurroundings {
  readonly clock: Clock
  readonly random: Random
  readonly stdout: NodeJS.WritableStream
  /** Of the configuration; part of ids where a receiver shares one space of ids among its customers. */
  readonly instance: string
}

/** What is known of a receiver: from its documentation or its code, see docs/sinks.md. */
export interface SinkContract {
  /** false: its contract has not been confirmed; the sink is experimental and says so. */
  readonly verified: boolean
  /** Its books can be asked: it has a `readBack`. */
  readonly readsBack: boolean
  /** Records of one request at most. */
  readonly batchMax: number
  /** Bytes of one request's body at most; null: not stated. */
  readonly bytesMax: number | null
  /** Requests a second at most, kept by the loop; null: not stated. */
  readonly ratePerSecond: number | null
  /** How long a receiver knows an id again, ms; `forever`; 0: it does not. An ambiguous delivery older than this is not sent again blindly. */
  readonly dedupWindowMs: number | 'forever'
  /** What makes two records one: in the receiver's own words. */
  readonly dedupKey: string
  /** How it answers an id that it knows. */
  readonly duplicateSignal: 'silent' | 'status' | 'per_record' | 'none'
  /** What one bad record takes with it: the batch, what follows it, or itself; `async`: it is accepted, and refused later. */
  readonly failureUnit: 'batch' | 'prefix' | 'record' | 'async'
  /** Records older or newer than this are refused by it, ms; null: no bound. */
  readonly oldestMs: number | null
  readonly newestMs: number | null
  /** What it keeps of an instant. */
  readonly timePrecision: 'second' | 'millisecond'
  readonly values: 'integer' | 'number' | 'decimal'
  /** What an accepting answer means. */
  readonly acknowledges: 'durable' | 'queued' | 'validated'
  /** How usage is taken back: a record with a negative value, an amendment by id within a time, or not at all. */
  readonly corrections: 'negative' | 'none'
  /** Records with the same key are never on the way at the same time. */
  readonly serialBy: 'none' | 'customer_and_meter'
  /** Requests on the way at the same time at most; absent: 4. 1 keeps all records in order. */
  readonly inFlightMax?: number
}

/** What a sink is handed. Frozen when first made: every attempt carries the same id, time and value. */
export type SinkRecord = EventRecord | MeterRecord

export interface EventRecord {
  readonly is: 'event'
  /** The event's. */
  readonly id: string
  /** Of admission. */
  readonly timeMs: number
  readonly event: UsageEvent
}

/** One quantity of one event, or of a sealed window. */
export interface MeterRecord {
  readonly is: 'meter'
  /** `<event id>:<code>`, or `<code>:<customer>:<window start>:<number>` of a window; 100 printable ASCII characters at most. */
  readonly id: string
  readonly timeMs: number
  /** The receiver's name of the meter. */
  readonly code: string
  /** The receiver's id of who pays. */
  readonly customer: string
  readonly account: string
  /** Exact decimal text; a whole number where the contract's `values` is `integer`. Negative for what is taken back. */
  readonly value: string
  /** The property that holds the value, where the receiver has it among the properties. */
  readonly valueProperty: string
  readonly properties: Readonly<Record<string, string>>
}

/** Which quantity of events becomes which meter of the receiver. */
export interface MeterMapping {
  /** Several with one code have to differ in what is fixed. */
  readonly code: string
  /** A meter or a sum of meters, as limits have them: `input_tokens - cached_input_tokens`, `cost`. */
  readonly quantity: string
  readonly valueProperty?: string
  /** Fields of the event's data, by the name that the receiver knows: `{ model: model_served }`. */
  readonly copied?: Readonly<Record<string, string>>
  /** The same on every record: `{ type: input }`. */
  readonly fixed?: Readonly<Record<string, string>>
}

/** A mapping that has been read: the quantity is Σ coefficient × small units of the meter, divided by `scale`. */
export interface MeterRule {
  /** What ids of its records end with: the code, and where several rules have that, their fixed properties too. */
  readonly name: string
  readonly code: string
  readonly terms: readonly { readonly meter: BuiltinMeter; readonly coefficient: number }[]
  readonly scale: number
  readonly valueProperty: string
  readonly copied: Readonly<Record<string, string>>
  readonly fixed: Readonly<Record<string, string>>
}

export interface Sink {
  /** Resolves with what the receiver said; throws DeliveryFailed, or any other error when the outcome is unknown. */
  deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport>
  /** For `reconcile`; absent: the receiver cannot be asked. */
  readonly readBack?: ReadBack
  close(): Promise<void>
}

/** Records that are in none of the lists have an unknown outcome: they are sent again with the same ids. */
export interface DeliveryReport {
  /** Taken now, or known already. */
  readonly accepted: readonly string[]
  /** Refused for good: buried with the reason. */
  readonly refused: readonly { readonly id: string; readonly reason: string }[]
  /** Known not to have been booked; to be sent again. */
  readonly later?: readonly string[]
  /** How many of those accepted it has said that it knew already; absent: it does not say. */
  readonly duplicates?: number
}

export interface ReadBack {
  /** What the receiver has booked, exact decimal text; null: it cannot say. `fromMs` is included, `untilMs` is not. */
  total?(asked: { readonly code: string; readonly customer: string; readonly fromMs: number; readonly untilMs: number }, signal: AbortSignal): Promise<string | null>
  /** Which of the ids it knows, how often, and why it has refused one after it had been accepted. Ids that are absent are unknown to it. */
  find?(ids: readonly string[], asked: { readonly code: string; readonly customer: string; readonly fromMs: number; readonly untilMs: number }, signal: AbortSignal): Promise<ReadonlyMap<string, { readonly copies: number; readonly value: string | null; readonly refused: string | null }>>
}

/** A whole event as a record. */
export function eventRecord(event: UsageEvent): EventRecord {
  return { is: 'event', id: event.id, timeMs: Date.parse(event.time), event }
}

/** The receiver took nothing of the batch, and how that is to be understood. Messages hold no words of the receiver beyond codes. */
export class DeliveryFailed extends Error {
  override name = 'DeliveryFailed'
  /**
   * `unauthorized`: the loop pauses and alarms; `busy`: later, not before `retryAfterMs`; `refused`: something in the batch is bad, it is bisected, and a
   * single record is buried; `too_large`: it is halved; `unknown`: it may have been booked.
   */
  readonly kind: 'unauthorized' | 'busy' | 'refused' | 'too_large' | 'unknown'
  readonly retryAfterMs: number | null
  constructor(kind: DeliveryFailed['kind'], message: string, retryAfterMs: number | null = null) {
    super(message)
    this.kind = kind
    this.retryAfterMs = retryAfterMs
  }
}
