import type { Principal } from '../accounts/principal.ts'
import type { Config } from '../config/config.ts'
import type { Entitlement } from '../metering/entitlement.ts'
import type { Bound } from '../metering/estimate.ts'
import type { AdmissionBound, EventSkeleton, StreamEnd, UsageSource } from '../metering/event.ts'
import type { Quantities } from '../metering/meter.ts'
import type { Balance } from '../metering/check.ts'
import type { Draft } from '../metering/reservation.ts'
import type { RequestFacts } from '../providers/provider.ts'
import type { Trace } from '../telemetry/telemetry.ts'
import type { Answer } from './answer.ts'
import type { KeyOwner } from './authenticate.ts'
import type { Downstream } from './downstream.ts'
import type { Living } from './lease.ts'
import type { Listed } from './roster.ts'
import type { Seat } from './seats.ts'
import type { Destination, Route } from './route.ts'

/** One request and its answer, with everything that is known of it. Every field is set here, in the order in which it becomes known. */
export class Exchange implements Listed {
  readonly d: Downstream
  readonly config: Config
  readonly id: string
  /** The instant of admission: it chose the windows and is the event's time. */
  readonly admittedMs: number
  /** Of the monotonic clock. */
  readonly startedMs: number

  route: Route | null = null
  principal: Principal | null = null
  /** Whose key it is that was refused: of nobody who may call, and so no principal. */
  owner: KeyOwner | null = null
  body: Uint8Array = nothing
  facts: RequestFacts | null = null
  destination: Destination | null = null

  /** A trusted key's claim; null: none. */
  endUser: string | null = null
  entitlement: Entitlement | null = null
  /** null: the endpoint counts toward nothing. */
  draft: Draft | null = null
  bound: Bound | null = null
  computedFrom: AdmissionBound | null = null
  /** True from the moment the store may hold something for it, until that was settled or voided. */
  holding = false
  /** The plan serves it although the store is away: it is settled without ever having been held. */
  unheld = false
  /** The output bound that is held, the one the upstream is told, and whether that has to be written. */
  granted = 0
  outputBound = 0
  writesBound = false
  /** `812;asked=4096` when it was lowered below what was asked. */
  loweredBound: string | null = null
  /** The standing that headers tell, from the reservation until the settlement replaces it. */
  balances: readonly Balance[] | null = null
  checkpoint = 0
  /** What keeps its reservation alive. */
  living: Living | null = null
  /** That it runs on. */
  readonly seats: Seat[] = []

  skeleton: EventSkeleton | null = null
  answer: Answer | null = null
  attempt = 1
  /** Body bytes that the caller was sent. */
  bytesOut = 0
  /** When the upstream was first turned to, of the monotonic clock; null: it was not. */
  forwardedMs: number | null = null
  /** Of all attempts. */
  upstreamMs = 0
  firstByteMs: number | null = null
  /** What the upstream said; 0: nothing. */
  upstreamStatus = 0
  /** How long the caller took to send its body, and how long the plan let the call wait for capacity: neither is our doing. */
  readingMs = 0
  waitedMs = 0
  /** Where it belongs to in a distributed trace; null: nobody wants to know. */
  trace: Trace | null = null
  upstreamRequestId: string | null = null

  /** What the one log line tells. */
  status = 0
  end: StreamEnd | 'refused' | 'error' = 'error'
  source: UsageSource | null = null
  usage: Quantities = {}
  modelServed: string | null = null
  failure: string | null = null
  /** The shadow limits that would have refused it. */
  shadowed: readonly string[] = []

  place = -1

  constructor(d: Downstream, config: Config, id: string, admittedMs: number, startedMs: number) {
    this.d = d
    this.config = config
    this.id = id
    this.admittedMs = admittedMs
    this.startedMs = startedMs
  }
}

const nothing = new Uint8Array(0)

/** Whose call it is, by their ids, whether it may be made or not; null: nobody knows. */
export function ownerOf({ principal, owner }: Pick<Exchange, 'principal' | 'owner'>): KeyOwner | null {
  return principal === null ? owner : { account: principal.account.id, key: principal.keyId }
}

/** What steps after admission may rely on. */
export interface Admitted {
  readonly route: Route
  readonly principal: Principal
  readonly facts: RequestFacts
  readonly destination: Destination
  readonly entitlement: Entitlement
}

/** The exchange's facts once it was admitted; a bug if it was not. */
export function admitted(x: Exchange): Admitted {
  const { route, principal, facts, destination, entitlement } = x
  if (route === null || principal === null || facts === null || destination === null || entitlement === null) throw new Error('the exchange was not admitted')
  // Asked many times for each call: it is the exchange itself, seen as what it has become.
  return x as Admitted
}
