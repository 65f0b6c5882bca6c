import type { SinkContract, SinkKind } from '../../../src/sinks/sink.ts'
import type { Books, Received } from './books.ts'
import type { Fault, Rates } from './faults.ts'

/** A receiver that is not the real one, and keeps books as the real one would. */
export interface Fake {
  /** Without a slash at its end; `host:port` where the receiver speaks no HTTP. */
  readonly url: string
  readonly books: Books
  /** Requests that were read whole, deliveries and others. */
  readonly requests: number
  /** As `open` of the kind gets them. */
  settings(right?: boolean): Readonly<Record<string, unknown>>
  /** From now on, by chance that the seed repeats. */
  faults(seed: number, rates: Rates): void
  /** The next requests that deliver meet these. */
  next(...faults: readonly Fault[]): void
  /** Which good-looking records it refuses, and with which reason: at once, or after it has accepted them where its contract says `async`. */
  judge: (received: Received) => string | null
  /** How long `slow` takes, ms. */
  slowMs: number
  /** For `busy`, seconds. */
  retryAfterSeconds: number
  stop(): Promise<void>
}

export interface FakeOptions {
  /** By which windows and bounds of time go; the machine's clock unless told. */
  readonly nowMs?: () => number
  /** 0: any free one. */
  readonly port?: number
}

/** A kind of receiver that a fake can be started of; what the conformance suite runs over. */
export interface Subject {
  readonly name: string
  readonly kind: SinkKind
  readonly contract: SinkContract
  /** Those that this fake can do and this receiver can meet. */
  readonly faults: readonly Fault[]
  /** It asks for a credential. */
  readonly locked: boolean
  start(options?: FakeOptions): Promise<Fake>
}
