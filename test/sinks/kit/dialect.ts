import type { IncomingHttpHeaders } from 'node:http'
import type { SinkKind } from '../../../src/sinks/sink.ts'
import type { Books, Received } from './books.ts'

/** A request as a fake has read it. */
export interface Call {
  readonly method: string
  /** Without the query. */
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  /** The body as text; of a compressed one what was compressed. */
  readonly text: string
  readonly nowMs: number
  /** Of this fake, without a slash at its end. */
  readonly url: string
}

export interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body: string
}

/** Why a receiver takes nothing of a request. */
export type Why = 'unauthorized' | 'busy' | 'broken' | 'too_many' | 'too_large' | 'concurrent'

/** What became of a record. `left`: good itself, but not booked because of another; `duplicate`: known already. */
export type Fate = { readonly received: Received; readonly fate: 'booked' | 'duplicate' | 'left' } | { readonly received: Received; readonly fate: 'refused'; readonly reason: string }

/**
 * What is particular to a receiver: its words. What it does (booking once by key and window, limits, bounds of time, what a bad record takes with
 * it) follows from its contract and is in `http-fake.ts`.
 */
export interface Dialect {
  /** In test names; a kind with several modes has a dialect for each. */
  readonly name: string
  readonly kind: SinkKind
  /** As `open` of the kind gets them, every default filled in. `right: false`: with a credential that the fake does not know. */
  settings(url: string, right: boolean): Readonly<Record<string, unknown>>
  /** Absent: anybody may write. */
  authorized?(call: Call): boolean
  /**
   * `silent`: answered as if new; `refused`: answered as a bad record (which the sink has to understand), and treated as one; `overwrites`: the later copy
   * stands.
   */
  readonly duplicates: 'silent' | 'refused' | 'overwrites'
  /** True: an accepting answer has no body that could be checked, so that an empty one cannot be told from it. */
  readonly mute?: true
  /** The records of a delivery; an answer when the request is not one (a wrong path, a body that cannot be read). */
  read(call: Call): readonly Received[] | Answer
  /** To a delivery. When one was refused, `fates` says what was taken all the same. */
  answer(fates: readonly Fate[], call: Call): Answer
  refusal(why: Why, call: Call): Answer
  /** Paths of what is no delivery though it is no GET: sessions, searches. They meet no faults. */
  readonly aside?: RegExp
  /** To what is no delivery: every GET, and `aside`. Null: nothing is there. */
  ask?(call: Call, books: Books): Answer | null
}

/** Put into every sentence of a fake: it must not come out of a sink's errors. */
export const canary = 'words-of-the-receiver'

export function json(status: number, body: unknown, headers: Readonly<Record<string, string>> = {}): Answer {
  return { status, headers: { 'content-type': 'application/json; charset=utf-8', ...headers }, body: JSON.stringify(body) }
}
