import type { Clock } from '../clock.ts'
import { announcements, nextAnnouncementMs } from '../metering/subscription.ts'
import type { Announcement, Subscription } from '../metering/subscription.ts'
import type { Random } from '../random.ts'
import type { Records } from '../stores/store.ts'
import { recordKinds } from './account-records.ts'
import type { StoredKeyDirectory } from './key-directory.ts'

const dayMs = 86_400_000
const lookEveryMs = 60_000
/** What was due while no gateway ran is announced late, up to here. */
const lateMs = 31 * dayMs
/** What was announced is remembered for so long. */
const keptMs = 400 * dayMs
const perTurn = 500

export interface AnnouncerParts {
  readonly records: Records
  readonly directory: StoredKeyDirectory
  readonly clock: Clock
  readonly random: Random
  tell(announcement: AnnouncedEnd): void
  /** A look that did not come to its end; there will be others. */
  failed(error: unknown): void
}

export interface AnnouncedEnd extends Announcement {
  readonly account: string
}

/**
 * Announces that trials, subscriptions and graces end: 30, 7 and 1 days ahead and at the end, each once over all replicas, for whoever writes its record first is the
 * one who tells. A record whose teller died at that moment is told by nobody; it can still be read.
 */
export class Announcer {
  readonly #records: Records
  readonly #directory: StoredKeyDirectory
  readonly #clock: Clock
  readonly #random: Random
  readonly #tell: (announcement: AnnouncedEnd) => void
  readonly #failed: (error: unknown) => void
  /** When a subscription has something to announce again; undefined: it has not been looked at. */
  readonly #nextMs = new WeakMap<Subscription, number>()
  #looking = false
  #stop: (() => void) | undefined

  constructor(parts: AnnouncerParts) {
    const { records, directory, clock, random, tell, failed } = parts
    this.#records = records
    this.#directory = directory
    this.#clock = clock
    this.#random = random
    this.#tell = tell
    this.#failed = failed
  }

  start(): void {
    const look = (): void => { this.look().catch(this.#failed) }
    this.#stop ??= this.#clock.every(lookEveryMs, look)
    look()
  }

  close(): void {
    this.#stop?.()
    this.#stop = undefined
  }

  /** Tells all that is due. Rejects with StoreUnavailable; what is due then is told at the next look. */
  async look(): Promise<void> {
    if (this.#looking) return
    this.#looking = true
    try {
      await this.#lookAtAll()
    } finally {
      this.#looking = false
    }
  }

  async #lookAtAll(): Promise<void> {
    const nowMs = this.#clock.nowMs()
    let looked = 0
    for (const [account, subscription] of this.#subscriptions()) {
      if ((this.#nextMs.get(subscription) ?? 0) > nowMs) continue
      for (const due of latest(announcements(subscription, nowMs - lateMs, nowMs + 1))) await this.#announce({ ...due, account }, nowMs)
      this.#nextMs.set(subscription, nextAnnouncementMs(subscription, nowMs) ?? Infinity)
      looked += 1
      if (looked % perTurn === 0) await this.#clock.sleep(0)
    }
  }

  *#subscriptions(): Iterable<readonly [string, Subscription]> {
    for (const { id, subscription } of this.#directory.config.accounts.values()) if (subscription !== null) yield [id, subscription]
    for (const [id, { subscription }] of this.#directory.storedSubscriptions) if (this.#directory.subscriptionOf(id) === subscription) yield [id, subscription]
  }

  async #announce(announcement: AnnouncedEnd, nowMs: number): Promise<void> {
    const { account, what, daysAhead, endsMs } = announcement
    const id = `${account}/${what}/${new Date(endsMs).toISOString()}/${daysAhead}`
    if (await this.#records.get(recordKinds.announcement, id) !== undefined) return
    // A swap for what is there already succeeds: only what differs between replicas tells who was first.
    const record = { account, what, days_ahead: daysAhead, ends_ms: endsMs, at_ms: nowMs, by: Buffer.from(this.#random.bytes(8)).toString('hex') }
    if (!await this.#records.swap(recordKinds.announcement, id, undefined, record)) return
    this.#tell(announcement)
    await this.#forget(nowMs)
  }

  async #forget(nowMs: number): Promise<void> {
    for (const { id, value } of await this.#records.list(recordKinds.announcement)) {
      if (typeof value['at_ms'] === 'number' && value['at_ms'] < nowMs - keptMs) await this.#records.delete(recordKinds.announcement, id)
    }
  }
}

/** Of what is due of one end, only the last word: who hears that one day is left need not hear of thirty. */
function latest(due: readonly Announcement[]): readonly Announcement[] {
  return due.filter(({ what, endsMs, atMs }) => !due.some((other) => other.what === what && other.endsMs === endsMs && other.atMs > atMs))
}
