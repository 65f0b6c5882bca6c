import { featuresOf, quantitiesOf, textOf, type EventData } from '../invoices/billed.ts'
import type { AdmissionBound, StreamEnd, UsageEvent } from '../metering/event.ts'
import type { Quantities } from '../metering/meter.ts'

/** A call as its event tells of it, or the correction of one. */
export interface RecordedCall {
  /** The event's. */
  readonly id: string
  /** The exchange's; of a correction, that of the call it corrects. */
  readonly exchange: string
  readonly correction: boolean
  readonly time: string
  readonly admittedMs: number
  readonly settledMs: number
  readonly account: string
  readonly key: string
  readonly plan: string
  /** False: no dialect reads it. */
  readonly known: boolean
  readonly endpoint: string
  readonly model: string | null
  readonly streamed: boolean
  readonly features: readonly string[]
  readonly ordinary: readonly string[]
  readonly user: string | null
  /** Of a trusted key's header. */
  readonly endUser: string | null
  readonly end: StreamEnd
  /** It counted as a request, and nothing was given for it. */
  readonly failed: boolean
  /** Without what it cost. A correction's are differences. */
  readonly usage: Quantities
  readonly bound: AdmissionBound
  /** The event is of a release that did not tell its bound: it is guessed from what was used. */
  readonly guessed: boolean
  /** The output bound per choice that it was let have; null: none. */
  readonly granted: number | null
  readonly data: EventData
}

/** null: it is no usage event, or lacks what every one has. */
export function toRecordedCall({ id, time, data }: Pick<UsageEvent, 'id' | 'time' | 'data'>): RecordedCall | null {
  const admittedMs = Date.parse(time)
  const settledMs = Date.parse(textOf(data, 'settled_at') ?? '')
  const account = textOf(data, 'account')
  const key = textOf(data, 'key')
  const endpoint = textOf(data, 'endpoint')
  if (Number.isNaN(admittedMs) || Number.isNaN(settledMs) || account === null || key === null || endpoint === null) return null
  const corrects = textOf(data, 'corrects')
  const usage = quantitiesOf(data)
  const caller = (data['caller'] ?? none) as EventData
  const known = data['provider'] !== 'http'
  const lowered = boundReport.exec(textOf(data, 'output_bound') ?? '')
  const told = data['bound'] as AdmissionBound | undefined
  const bound = told ?? guessedBound(usage, known, lowered)
  return {
    id, exchange: corrects ?? id, correction: corrects !== null, time, admittedMs, settledMs: Math.max(admittedMs, settledMs), account, key, plan: textOf(data, 'plan') ?? '', known, endpoint,
    model: textOf(data, 'model'), streamed: data['stream'] === true, features: featuresOf(data), ordinary: ordinaryOf(data), user: textOf(caller, 'user'), endUser: textOf(caller, 'end_user'),
    end: (textOf(data, 'end') ?? 'complete') as StreamEnd,
    failed: Number(data['status'] ?? 0) >= 400 && usage.bytes_in === undefined && usage.input_tokens === undefined,
    usage, bound, guessed: told === undefined, granted: lowered === null ? bound.output ?? null : Number(lowered[1]), data,
  }
}

/** What a plan may deny: events tell of streaming apart. */
function ordinaryOf(data: EventData): readonly string[] {
  const uses = data['uses']
  return [...(data['stream'] === true ? ['streaming'] : []), ...(Array.isArray(uses) ? uses.filter((each) => typeof each === 'string') : [])]
}

const none: EventData = {}
const boundReport = /^(\d+);asked=(\d+)$/

/** The least that its admission can have been computed from. */
function guessedBound(usage: Quantities, known: boolean, lowered: RegExpExecArray | null): AdmissionBound {
  const bytes = usage.bytes_in ?? 0
  if (!known) return { bytes }
  const output = lowered === null ? usage.output_tokens : Number(lowered[2])
  return { bytes, input: usage.input_tokens ?? 0, ...(output === undefined ? {} : { output, asked: output }), ...(usage.images === undefined && usage.audio_seconds === undefined ? {} : { media: true as const }) }
}
