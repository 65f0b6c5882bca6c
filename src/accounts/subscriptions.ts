import type { Clock } from '../clock.ts'
import type { PlanChange, Proration } from '../metering/plan-change.ts'
import { lengthsAfter } from '../metering/calendar.ts'
import { announcements, isServed, lastServedMs, subscriptionAt, subscriptionOf } from '../metering/subscription.ts'
import type { Announcement, Subscription, SubscriptionStanding } from '../metering/subscription.ts'
import type { Records } from '../stores/store.ts'
import { ChangeRefused, mustBeChangeId } from './account-changes.ts'
import type { AccountChanges } from './account-changes.ts'
import { recordKinds, toStoredSubscription, toSubscriptionDocument } from './account-records.ts'
import type { StoredSubscription } from './account-records.ts'
import { planChangesOf } from './acting-account.ts'
import type { StoredKeyDirectory } from './key-directory.ts'
import { LATEST_MS, toldInstant } from './latest-instant.ts'

type Writable<T> = { -readonly [K in keyof T]?: T[K] }

/** What to change; what is absent stays as it is, null takes away. */
export interface SubscriptionWishes extends Writable<Pick<Subscription, 'kind' | 'startMs' | 'trialEndMs' | 'endMs' | 'graceMs' | 'term' | 'timeZone' | 'suspended' | 'seats' | 'addOns'>> {
  renewal?: 'auto' | 'none'
  /** From `fromMs` on (null: now) it is on this plan. */
  plan?: { readonly name: string; readonly fromMs: number | null; readonly proration: Proration | null }
}

/** Which state of things the operator has seen, and what he calls his change. */
export interface Intent {
  readonly who: string
  /** The revision that is to be changed; 0: there must be none yet. undefined: whatever there is. */
  readonly revision: number | undefined
  /** The same id again changes nothing more, and is answered alike. */
  readonly changeId: string | undefined
}

export interface SubscriptionOverview {
  readonly account: string
  readonly subscription: Subscription
  /** null: it stands in the file. */
  readonly revision: number | null
  /** A subscription of the file stands in front of this one of the store. */
  readonly hidden: boolean
  readonly standing: SubscriptionStanding
  /** The plans that the account was, is and will be on. */
  readonly plans: readonly PlanChange[]
  /** What will be announced next. */
  readonly next: Announcement | null
}

const changesKept = 50
const tries = 5

/** All subscriptions, of the file and of the store. */
export function listSubscriptions(directory: StoredKeyDirectory, nowMs: number): SubscriptionOverview[] {
  const configured = [...directory.accounts.values()].flatMap(({ id, subscription }) => (subscription === null ? [] : [overview(directory, id, subscription, null, nowMs)]))
  const stored = [...directory.storedSubscriptions].map(([id, { subscription, revision }]) => overview(directory, id, subscription, revision, nowMs))
  return [...configured, ...stored].sort((a, b) => (a.account < b.account ? -1 : a.account > b.account ? 1 : 0) || Number(a.hidden) - Number(b.hidden))
}

/** The one in force; undefined: the account has none. */
export function findSubscription(directory: StoredKeyDirectory, accountId: string, nowMs: number): SubscriptionOverview | undefined {
  return listSubscriptions(directory, nowMs).find(({ account, hidden }) => account === accountId && !hidden)
}

function overview(directory: StoredKeyDirectory, account: string, subscription: Subscription, revision: number | null, nowMs: number): SubscriptionOverview {
  const configured = directory.accounts.get(account)
  return {
    account, subscription, revision, hidden: revision !== null && configured !== undefined && configured.subscription !== null, standing: subscriptionAt(subscription, nowMs),
    plans: configured === undefined ? subscription.plans : planChangesOf(configured, subscription, directory.config.plans),
    next: announcements(subscription, nowMs, Infinity)[0] ?? null,
  }
}

/** Subscriptions that operators make and change at run time. Those of the file are changed there; accounts are suspended with AccountChanges, wherever they stand. */
export class SubscriptionChanges {
  readonly #records: Records
  readonly #directory: StoredKeyDirectory
  readonly #audit: Pick<AccountChanges, 'note'>
  readonly #clock: Clock

  constructor(records: Records, directory: StoredKeyDirectory, audit: Pick<AccountChanges, 'note'>, clock: Clock) {
    this.#records = records
    this.#directory = directory
    this.#audit = audit
    this.#clock = clock
  }

  /** Makes a subscription, or changes the one there is. A new one is a `term` that starts now, unless it says otherwise. */
  set(account: string, wishes: SubscriptionWishes, intent: Intent): Promise<StoredSubscription> {
    return this.#change(account, 'subscription.set', intent, (known) => {
      const nowMs = this.#clock.nowMs()
      const { plan, ...fields } = wishes
      const base: Subscription = known ?? { ...blank, startMs: nowMs, timeZone: this.#directory.accounts.get(account)?.calendar.timeZone ?? 'UTC' }
      // An end that followed from the old fields must not stand in the way of new ones.
      const freed = fields.renewal === 'auto' || fields.kind !== undefined ? { endMs: null } : {}
      const kind = fields.kind ?? base.kind
      const endMs = fields.endMs !== undefined ? fields.endMs : 'endMs' in freed ? null : base.endMs
      const renewal = kind === 'perpetual' ? null : fields.renewal ?? (known === null || fields.kind !== undefined ? null : endMs === null ? base.renewal : 'none')
      for (const name of wishes.addOns ?? []) {
        if (!this.#directory.config.addOns.has(name)) throw new ChangeRefused('not_found', `there is no add-on "${name}"`)
      }
      // What the new kind does not have is not carried over.
      const shed = fields.kind === 'trial' ? { term: null } : fields.kind === 'perpetual' ? { graceMs: 0 } : {}
      return refusing(subscriptionOf({ ...base, ...shed, ...fields, endMs, renewal, plans: this.#withPlan(base.plans, plan, nowMs), where: 'store' }))
    })
  }

  /** One term more. Of one that has ended: from that end on, while its grace runs. */
  renew(account: string, intent: Intent): Promise<StoredSubscription> {
    return this.#change(account, 'subscription.renew', intent, (known) => {
      if (known === null) throw new ChangeRefused('not_found', `the account "${account}" has no subscription in the store`)
      const { kind, endMs, term, timeZone, startMs, trialEndMs } = known
      if (kind !== 'term') throw new ChangeRefused('conflict', `a ${kind} subscription is not renewed; set kind: term with a term`)
      if (endMs === null) throw new ChangeRefused('conflict', 'it renews by itself')
      if (term === null) throw new ChangeRefused('conflict', 'it has no term to be renewed by; set a term, or a later end')
      const lastMs = lastServedMs(known) ?? endMs
      if (this.#clock.nowMs() >= lastMs) throw new ChangeRefused('conflict', `it is over since ${toldInstant(lastMs)}: set a new start and end`)
      return { ...known, endMs: nextBoundary(trialEndMs ?? startMs, timeZone, term, endMs) }
    })
  }

  /** It ends at `endMs`; null: with the term that runs. */
  cancel(account: string, endMs: number | null, intent: Intent): Promise<StoredSubscription> {
    return this.#change(account, 'subscription.cancel', intent, (known) => {
      if (known === null) throw new ChangeRefused('not_found', `the account "${account}" has no subscription in the store`)
      const standing = subscriptionAt(known, this.#clock.nowMs())
      if (!isServed(standing.state) && standing.state !== 'suspended') throw new ChangeRefused('conflict', `it is ${standing.state === 'pending' ? 'not begun yet; remove it' : 'over already'}`)
      const until = endMs ?? standing.term?.endMs ?? null
      if (until === null) throw new ChangeRefused('conflict', 'it has no term that would end; say when it is to end')
      if (known.kind === 'trial' || (known.trialEndMs !== null && until <= known.trialEndMs)) {
        return refusing(subscriptionOf({ ...known, kind: 'trial', trialEndMs: until, endMs: null, term: null, renewal: null }))
      }
      return refusing(subscriptionOf({ ...known, kind: 'term', endMs: until, renewal: null }))
    })
  }

  /** The account is then without one, and served. Gives whether there was one. */
  async remove(account: string, intent: Intent): Promise<boolean> {
    this.#mustBeOurs(account)
    const document = await this.#records.get(recordKinds.subscription, account)
    if (document === undefined) return false
    this.#mustMatch(toStoredSubscription(document), intent, account)
    await this.#audit.note(intent.who, 'subscription.remove', account, {})
    await this.#records.delete(recordKinds.subscription, account)
    return true
  }

  async #change(account: string, action: string, intent: Intent, next: (known: Subscription | null) => Subscription): Promise<StoredSubscription> {
    const { changeId, who } = intent
    mustBeChangeId(changeId)
    this.#mustBeOurs(account)
    for (let attempt = 0; attempt < tries; attempt++) {
      const document = await this.#records.get(recordKinds.subscription, account)
      const known = document === undefined ? undefined : toStoredSubscription(document)
      const done = known?.changes.find(({ id }) => id === changeId)
      if (known !== undefined && done !== undefined) {
        if (done.action !== action) throw new ChangeRefused('conflict', `the change "${done.id}" was another one (${done.action}); give each change an id of its own`)
        return known
      }
      this.#mustMatch(known, intent, account)
      const subscription = refusing(endingInTime(next(known?.subscription ?? null)))
      if (known !== undefined && changeId === undefined && sameSubscription(known.subscription, subscription)) return known
      const revision = (known?.revision ?? 0) + 1
      const atMs = this.#clock.nowMs()
      const change = { id: changeId ?? `${action}-${revision}`, action, revision, at_ms: atMs, by: who }
      const made: StoredSubscription = { subscription, revision, changes: [...(known?.changes ?? []), change].slice(-changesKept) }
      const written = toSubscriptionDocument(made)
      const { changes: _changes, ...details } = written
      await this.#audit.note(who, action, account, { ...details, ...(changeId === undefined ? {} : { change: changeId }) })
      if (await this.#records.swap(recordKinds.subscription, account, document, written)) return made
      await this.#audit.note(who, `${action}_refused`, account, { revision, reason: 'changed at the same time elsewhere' })
    }
    throw new ChangeRefused('conflict', `the subscription of "${account}" is being changed elsewhere all the time; try again`)
  }

  #mustBeOurs(account: string): void {
    const configured = this.#directory.accounts.get(account)
    if (configured !== undefined && configured.subscription !== null) {
      throw new ChangeRefused('conflict', `the subscription of "${account}" stands in ${configured.subscription.where}: it is changed there; \`accounts suspend\` works all the same`)
    }
    const known = configured !== undefined || this.#directory.isOwnAccount(account) || this.#directory.storedSubscriptions.has(account)
    if (!known) throw new ChangeRefused('not_found', `there is no account "${account}"`)
  }

  #mustMatch(known: StoredSubscription | undefined, { revision }: Intent, account: string): void {
    const found = known?.revision ?? 0
    if (revision === undefined || revision === found) return
    throw new ChangeRefused('conflict', found === 0 ? `there is no subscription of "${account}" in the store` : `the subscription of "${account}" is at revision ${found}, not ${revision}: somebody has changed it; look again`)
  }

  /** A change of plan for later stands in place of what was planned from then on; what has been stays. */
  #withPlan(plans: readonly PlanChange[], wish: SubscriptionWishes['plan'], nowMs: number): readonly PlanChange[] {
    if (wish === undefined) return plans
    const plan = this.#directory.config.plans.get(wish.name)
    if (plan === undefined) throw new ChangeRefused('not_found', `there is no plan "${wish.name}"`)
    const fromMs = wish.fromMs ?? nowMs
    const before = plans.filter((change) => change.fromMs < fromMs)
    const last = before.at(-1)
    // Said again, it changes nothing.
    if (wish.fromMs === null && last?.plan === plan.name && last.version === plan.version && before.length === plans.length) return plans
    return [...before, { plan: plan.name, version: plan.version, fromMs, proration: wish.proration ?? plan.proration }]
  }
}

const blank: Subscription = Object.freeze({
  kind: 'term', startMs: 0, trialEndMs: null, endMs: null, graceMs: 0, renewal: 'none', term: null, timeZone: 'UTC', suspended: null, seats: null, plans: [], addOns: [], where: 'store',
})

/** Terms are counted from the first one, so that a day that was clamped comes back. */
function nextBoundary(baseMs: number, timeZone: string, term: NonNullable<Subscription['term']>, endMs: number): number {
  for (let nth = 1; ; nth++) {
    const atMs = lengthsAfter(baseMs, timeZone, term, nth)
    if (atMs > endMs) return atMs
  }
}

function refusing(made: Subscription | string): Subscription {
  if (typeof made === 'string') throw new ChangeRefused('invalid', `the subscription cannot be so: ${made}`)
  return made
}

/** A sentence when an instant of it could not be told. */
function endingInTime(made: Subscription): Subscription | string {
  const { startMs, trialEndMs, endMs, term, timeZone, suspended, plans } = made
  // One that renews has no end, but terms that have.
  const firstEndMs = term === null || endMs !== null ? null : lengthsAfter(trialEndMs ?? startMs, timeZone, term, 1)
  const instants = [startMs, firstEndMs, lastServedMs(made), suspended?.fromMs, suspended?.untilMs, plans.at(-1)?.fromMs]
  return Math.max(...instants.map((each) => each ?? 0)) > LATEST_MS ? 'it would reach beyond the year 9999' : made
}

function sameSubscription(one: Subscription, other: Subscription): boolean {
  const text = (subscription: Subscription): string => JSON.stringify(toSubscriptionDocument({ subscription, revision: 0, changes: [] }))
  return text(one) === text(other)
}
