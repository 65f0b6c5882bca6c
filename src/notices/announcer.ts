import { recordKinds } from '../accounts/account-records.ts'
import { listGrants, toBreakage } from '../accounts/grants.ts'
import type { Breakage, GrantOverview } from '../accounts/grants.ts'
import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import type { Clock } from '../clock.ts'
import { grantLook } from '../metering/limits/counter.ts'
import type { Limit } from '../metering/limits/limit.ts'
import { METERS, meterScale } from '../metering/meter.ts'
import type { BuiltinMeter } from '../metering/meter.ts'
import { announcements, nextAnnouncementMs } from '../metering/subscription.ts'
import type { Announcement, Subscription } from '../metering/subscription.ts'
import type { Store } from '../stores/store.ts'
import { noticeId } from './notice.ts'
import type { NoticeBook } from './notice-book.ts'

const dayMs = 86_400_000
const lookEveryMs = 60_000
/** There may be many grants, and days are what counts for them. */
const grantsEveryMs = 600_000
/** What was due while no gateway ran is announced late, up to here. */
const lateMs = 31 * dayMs
/** And what expired unused, up to here. */
const breakageLateMs = 7 * dayMs
/** What was announced is remembered for so long after it was due. */
const keptMs = 400 * dayMs
const keptBreakageMs = 90 * dayMs
const perTurn = 500
const grantDaysAhead: readonly number[] = [7, 1]

export interface AnnouncerParts {
  readonly store: Pick<Store, 'records' | 'balances'>
  readonly directory: StoredKeyDirectory
  readonly book: Pick<NoticeBook, 'tell'>
  /** Names this gateway in notices. */
  instance(): string
  readonly clock: Clock
  /** A look that did not come to its end; there will be others. */
  failed(error: unknown): void
}

/**
 * Tells what only the time brings: that trials, subscriptions and graces end (30, 7 and 1 days ahead and at the end), that grants expire with something left (7 and 1
 * days ahead), and what they had left when they did. Each once over all replicas; whoever looks first tells it.
 */
export class Announcer {
  readonly #parts: AnnouncerParts
  /** When a subscription has something to announce again; undefined: it has not been looked at. */
  readonly #nextMs = new WeakMap<Subscription, number>()
  readonly #broken = new Map<string, Breakage>()
  #grantsLookedMs = -Infinity
  #looking = false
  #stop: (() => void) | undefined
  #unwatch: (() => void) | undefined

  constructor(parts: AnnouncerParts) {
    this.#parts = parts
  }

  start(): void {
    const look = (): void => { this.look().catch(this.#parts.failed) }
    this.#stop ??= this.#parts.clock.every(lookEveryMs, look)
    look()
  }

  close(): void {
    this.#stop?.()
    this.#stop = undefined
    this.#unwatch?.()
    this.#unwatch = undefined
  }

  /** Tells all that is due. Rejects with StoreUnavailable; what is due then is told at the next look. */
  async look(): Promise<void> {
    if (this.#looking) return
    this.#looking = true
    try {
      const nowMs = this.#parts.clock.nowMs()
      await this.#lookAtSubscriptions(nowMs)
      if (nowMs - this.#grantsLookedMs >= grantsEveryMs) {
        await this.#lookAtGrants(nowMs)
        this.#grantsLookedMs = nowMs
      }
      await this.#lookAtBreakage(nowMs)
    } finally {
      this.#looking = false
    }
  }

  // === Subscriptions ===

  async #lookAtSubscriptions(nowMs: number): Promise<void> {
    let looked = 0
    for (const [account, subscription] of this.#subscriptions()) {
      if ((this.#nextMs.get(subscription) ?? 0) > nowMs) continue
      for (const due of latest(announcements(subscription, nowMs - lateMs, nowMs + 1))) await this.#announce(account, due, nowMs)
      this.#nextMs.set(subscription, nextAnnouncementMs(subscription, nowMs) ?? Infinity)
      looked += 1
      if (looked % perTurn === 0) await this.#parts.clock.sleep(0)
    }
  }

  *#subscriptions(): Iterable<readonly [string, Subscription]> {
    const { directory } = this.#parts
    for (const { id, subscription } of directory.accounts.values()) if (subscription !== null) yield [id, subscription]
    for (const [id, { subscription }] of directory.storedSubscriptions) if (directory.subscriptionOf(id) === subscription) yield [id, subscription]
  }

  async #announce(account: string, { what, daysAhead, endsMs }: Announcement, nowMs: number): Promise<void> {
    const endsAt = new Date(endsMs).toISOString()
    await this.#parts.book.tell({
      id: noticeId('subscription', [account, what, endsAt, daysAhead]), type: 'subscription', account, atMs: nowMs, source: this.#source,
      text: daysAhead === 0 ? `the ${what} of ${account} has ended` : `the ${what} of ${account} ends at ${endsAt}, in ${days(daysAhead)}`,
      data: { what, days_ahead: daysAhead, ends_at: endsAt }, forgetMs: endsMs + keptMs,
    })
  }

  // === Grants ===

  async #lookAtGrants(nowMs: number): Promise<void> {
    const due = listGrants(this.#parts.directory, null, nowMs).filter(({ state, expiresMs }) => state === 'active' && expiresMs !== null && expiresMs <= nowMs + Math.max(...grantDaysAhead) * dayMs)
    for (const [index, grant] of due.entries()) {
      const daysAhead = grantDaysAhead.findLast((each) => (grant.expiresMs ?? Infinity) <= nowMs + each * dayMs)
      // A grant that lasts no longer than the notice is announced later.
      if (daysAhead !== undefined && grant.extends !== null && (grant.expiresMs ?? 0) - grant.effectiveMs > daysAhead * dayMs) await this.#announceGrant(grant, grant.extends, daysAhead, nowMs)
      if (index % perTurn === 0) await this.#parts.clock.sleep(0)
    }
  }

  async #announceGrant(grant: GrantOverview, limit: Limit, daysAhead: number, nowMs: number): Promise<void> {
    const { store, directory, book } = this.#parts
    const [balance] = await store.balances(directory.actingChainOf(grant.account, nowMs).chain.at(-1)?.id ?? grant.account, [grantLook(grant)])
    const left = grant.amount - (balance?.used ?? 0)
    if (left <= 0) return
    const scale = meterScale(limit.meter)
    const expiresAt = new Date(grant.expiresMs ?? 0).toISOString()
    await book.tell({
      id: noticeId('grant_expiring', [grant.account, grant.id, expiresAt, daysAhead]), type: 'grant_expiring', account: grant.account, atMs: nowMs, source: this.#source,
      text: `the grant '${grant.id}' of ${grant.account} expires at ${expiresAt}, within ${days(daysAhead)}: ${left / scale} of ${grant.amount / scale} are left`,
      data: { grant: grant.id, limit: grant.limit, meter: grant.meter, days_ahead: daysAhead, expires_at: expiresAt, ceiling: grant.amount / scale, remaining: left / scale },
      forgetMs: (grant.expiresMs ?? nowMs) + keptMs,
    })
  }

  // === What expired unused ===

  async #lookAtBreakage(nowMs: number): Promise<void> {
    const { records } = this.#parts.store
    if (this.#unwatch === undefined) {
      const take = (id: string, value: Readonly<Record<string, unknown>> | undefined): void => {
        if (value !== undefined) this.#broken.set(id, toBreakage(id, value))
      }
      // Watched first: what comes between the two is then seen twice rather than never.
      const unwatch = records.watch(recordKinds.breakage, take)
      try {
        for (const { id, value } of await records.list(recordKinds.breakage)) take(id, value)
      } catch (error) {
        unwatch()
        throw error
      }
      this.#unwatch = unwatch
    }
    for (const [id, breakage] of this.#broken) {
      if (breakage.atMs >= nowMs - breakageLateMs && breakage.left > 0) await this.#announceBreakage(breakage, nowMs)
      this.#broken.delete(id)
    }
  }

  async #announceBreakage({ account, grant, limit, meter, amount, left, expiredMs, atMs }: Breakage, nowMs: number): Promise<void> {
    const unit = this.#scaleOf(meter)
    const expiredAt = new Date(expiredMs).toISOString()
    await this.#parts.book.tell({
      id: noticeId('breakage', [account, grant, expiredAt]), type: 'breakage', account, atMs: nowMs, source: this.#source,
      text: `the grant '${grant}' of ${account} expired at ${expiredAt} with ${left / unit} of ${amount / unit} left`,
      data: { grant, limit, meter, expired_at: expiredAt, ceiling: amount / unit, remaining: left / unit }, forgetMs: atMs + keptBreakageMs,
    })
  }

  get #source(): string {
    return `tallygate/${this.#parts.instance()}`
  }

  /** Small units in one that people see; 1 where the meter is gone. */
  #scaleOf(meter: string): number {
    const { meters, moneyScale } = this.#parts.directory.config
    if (meter === 'cost') return 10 ** moneyScale
    return meters.get(meter)?.scale ?? (Object.hasOwn(METERS, meter) ? METERS[meter as BuiltinMeter].scale : 1)
  }
}

function days(count: number): string {
  return count === 1 ? '1 day' : `${count} days`
}

/** Of what is due of one end, only the last word: who hears that one day is left need not hear of thirty. */
function latest(due: readonly Announcement[]): readonly Announcement[] {
  return due.filter(({ what, endsMs, atMs }) => !due.some((other) => other.what === what && other.endsMs === endsMs && other.atMs > atMs))
}
