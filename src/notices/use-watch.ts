import { accountPrincipal } from '../accounts/account-principal.ts'
import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import type { Principal } from '../accounts/principal.ts'
import type { Clock } from '../clock.ts'
import type { NotificationsConfig } from '../config/config.ts'
import type { Log } from '../log.ts'
import { someLimit } from '../metering/entitlement.ts'
import type { StandingOf } from '../metering/entitlement.ts'
import type { Check, Balance } from '../metering/check.ts'
import { toWholeSecond } from '../metering/event.ts'
import { isWorthTelling, paceWith } from '../metering/forecast.ts'
import type { Grant } from '../metering/grant.ts'
import { grantEndsMs, isEffective } from '../metering/grant.ts'
import { counterBase, grantLook, Memo } from '../metering/limits/counter.ts'
import type { AppliedLimit } from '../metering/limits/limit.ts'
import { usagePeriodAt } from '../metering/limits/usage-period.ts'
import type { UsagePeriod } from '../metering/limits/usage-period.ts'
import { isMoney } from '../metering/limits/window.ts'
import { meterName, meterScale } from '../metering/meter.ts'
import { forecastOf } from '../metering/limit-forecast.ts'
import { quotaItems } from '../metering/quota.ts'
import type { QuotaItem } from '../metering/quota.ts'
import { draftStanding } from '../metering/reservation.ts'
import type { Draft } from '../metering/reservation.ts'
import type { Telling } from '../sinks/mapping.ts'
import type { DeliveryReport, Sink, SinkRecord } from '../sinks/sink.ts'
import { StoreUnavailable } from '../stores/store.ts'
import type { Store } from '../stores/store.ts'
import { noticeId } from './notice.ts'
import type { Notice } from './notice.ts'
import type { NoticeBook } from './notice-book.ts'
import type { StoredPaces } from './paces.ts'
import { touchedBy } from './touched.ts'
import type { Touched } from './touched.ts'
import { isToldOf, toldOf } from './watched-limits.ts'

export interface UseWatchParts {
  readonly store: Pick<Store, 'balances'>
  readonly directory: StoredKeyDirectory
  readonly book: Pick<NoticeBook, 'tell'>
  readonly paces: Pick<StoredPaces, 'paceOf' | 'put'>
  readonly config: NotificationsConfig
  /** Names this gateway in notices. */
  readonly instance: string
  readonly clock: Clock
  readonly log: Log
}

/** Its name among the consumers of the outbox: no sink can have it. */
export const WATCH_NAME = '@notices'

const batchMax = 1_000
/** It looks at whole events, again as often as it is given them, and there is no end to its patience. */
export const WATCHING: Telling = {
  type: 'notices', takes: 'events',
  contract: {
    verified: true, readsBack: false, batchMax, bytesMax: null, ratePerSecond: null, dedupWindowMs: 'forever', dedupKey: 'what is told', duplicateSignal: 'silent', failureUnit: 'batch',
    oldestMs: null, newestMs: null, timePrecision: 'millisecond', values: 'decimal', acknowledges: 'durable', corrections: 'negative', serialBy: 'none', inFlightMax: 1,
  },
}

/** Events of so long are looked at together: an account's thousand calls are one look. */
const gatherMs = 1_000
/** The store was away for so long: events are not held back any longer, and their keys looked at when it is there again. */
const patienceMs = 60_000
const owedMax = 10_000
const ofMax = 1_000
/** A period that ended longer ago is not told of any more; what was told of it is kept for longer. */
const lateMs = 7 * 86_400_000
const keptMs = 90 * 86_400_000
/** Of periods of a day or less: there are many of them. */
const keptBrieflyMs = 14 * 86_400_000
const dayMs = 86_400_000
const toldMemo = 100_000
const homesTogether = 64

/** One limit, or one grant, as it is to be looked at. */
interface Look {
  readonly check: Check
  readonly principal: Principal
  readonly draft: Draft
  readonly applied: AppliedLimit
  /** As the usage page would show it. */
  item(balance: Balance): QuotaItem | undefined
  readonly period: UsagePeriod
  readonly grant: Grant | null
  readonly of: StandingOf | null
}

/**
 * Watches how far limits are used, as a consumer of the outbox: what settled events were counted against is looked at with the balances of the usage page, and each
 * threshold that is passed becomes a notice, whose id is the limit, the period and the threshold. So it is told once, however often and by however many it is found.
 */
export class UseWatch implements Sink {
  readonly #parts: UseWatchParts
  /** Ids that are known to be told. */
  readonly #told = new Memo<string, true>(toldMemo)
  /** Keys whose home could not be asked. */
  readonly #owed = new Map<string, Touched>()
  #failingSinceMs: number | null = null

  constructor(parts: UseWatchParts) {
    this.#parts = parts
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    const { clock } = this.#parts
    // A full batch has others behind it.
    if (batch.length < batchMax) await pause(clock, gatherMs, signal)
    const touched = touchedBy(batch.flatMap((record) => (record.is === 'event' ? [record.event] : [])))
    const owed = [...this.#owed.values()]
    try {
      await this.#lookAt([...touched, ...owed])
      this.#failingSinceMs = null
      for (const { key } of owed) this.#owed.delete(key)
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error
      const nowMs = clock.monotonicMs()
      this.#failingSinceMs ??= nowMs
      if (nowMs - this.#failingSinceMs < patienceMs || this.#owed.size + touched.length > owedMax) throw error
      for (const one of touched) {
        const before = this.#owed.get(one.key)
        this.#owed.set(one.key, before === undefined ? one : { ...one, instants: [...new Set([...before.instants, ...one.instants])], of: [...before.of, ...one.of].slice(0, ofMax) })
      }
    }
    return { accepted: batch.map(({ id }) => id), refused: [] }
  }

  async close(): Promise<void> {
    // Nothing is open.
  }

  /** Rejects with StoreUnavailable, after having looked at all that could be. */
  async #lookAt(touched: readonly Touched[]): Promise<void> {
    const homes = new Map<string, Map<string, Look>>()
    for (const one of touched) for (const look of this.#looksOf(one)) {
      let looks = homes.get(look.principal.home)
      if (looks === undefined) homes.set(look.principal.home, looks = new Map())
      looks.set(nameOf(look), look)
    }
    const all = [...homes]
    const failures: unknown[] = []
    for (let at = 0; at < all.length; at += homesTogether) {
      const results = await Promise.allSettled(all.slice(at, at + homesTogether).map(([home, looks]) => this.#lookAtHome(home, [...looks.values()])))
      for (const result of results) if (result.status === 'rejected') failures.push(result.reason)
    }
    // A mistake of ours in one account must not stop the others, nor hold events back for ever.
    for (const failure of failures) if (!(failure instanceof StoreUnavailable)) this.#parts.log.error({ error: failure instanceof Error ? failure.message : 'unknown' }, 'what an account has used could not be looked at')
    const away = failures.find((failure) => failure instanceof StoreUnavailable)
    if (away !== undefined) throw away
  }

  async #lookAtHome(home: string, looks: readonly Look[]): Promise<void> {
    const balances = await this.#parts.store.balances(home, looks.map(({ check }) => check))
    for (const [index, look] of looks.entries()) {
      const balance = balances[index]
      if (balance !== undefined) await this.#weigh(look, balance)
    }
  }

  // === What to look at ===

  *#looksOf({ key, account, instants, of }: Touched): Iterable<Look> {
    const { directory, config } = this.#parts
    const { plans } = directory.config
    for (const atMs of instants) {
      // A key that is gone was counted against its account all the same.
      const principal = directory.principalOf(key, atMs) ?? accountPrincipal(directory, account, atMs)
      if (principal === undefined || !someLimit(principal, plans, (limit) => isToldOf(limit, config))) continue
      yield* this.#looksAt(principal, draftStanding(principal, plans, atMs), null)
      if (!someLimit(principal, plans, (limit) => (limit.each !== null || limit.per === 'end_user') && isToldOf(limit, config))) continue
      for (const each of of) yield* this.#looksAt(principal, draftStanding(principal, plans, atMs, each), each)
    }
  }

  *#looksAt(principal: Principal, draft: Draft, of: StandingOf | null): Iterable<Look> {
    for (const [index, check] of draft.checks.entries()) {
      for (const applied of draft.appliedByCheck[index] ?? []) {
        const { limit } = applied
        if (of !== null && limit.each === null && limit.per !== 'end_user') continue
        const { thresholds, forecast } = toldOf(limit, this.#parts.config)
        if (limit.ceiling === null || (thresholds.length === 0 && !forecast)) continue
        const period = usagePeriodAt(applied, draft.admittedMs)
        const item = (balance: Balance): QuotaItem | undefined => {
          const one: Draft = { ...draft, checks: [check], appliedByCheck: [[applied]] }
          return quotaItems(one, [balance], draft.admittedMs)[0]
        }
        const look = { principal, draft, applied, item, period, of }
        yield { ...look, check, grant: null }
        for (const grant of applied.grants ?? []) {
          // What was carried over is part of the allowance to whoever has it.
          if (grant.source !== 'rollover' && isEffective(grant, draft.admittedMs)) yield { ...look, check: grantLook(grant), grant }
        }
      }
    }
  }

  // === What it comes to ===

  async #weigh(look: Look, balance: Balance): Promise<void> {
    const { applied: { limit, grants }, period, grant } = look
    const nowMs = this.#parts.clock.nowMs()
    if (period.endMs !== null && period.endMs < nowMs - lateMs) return
    const { thresholds, forecast } = toldOf(limit, this.#parts.config)
    const ceiling = grant === null ? (limit.ceiling ?? 0) + (grants === undefined ? 0 : balance.granted ?? 0) : grant.amount
    if (ceiling === 0) return
    for (const threshold of thresholds) {
      // Credit that is bought again and again has no period whose halves would mean anything: its grants are told of one by one, and all of it when it is used up.
      if (grant === null && isCredit(look) && threshold < 100) continue
      if (hasReached(balance.used, ceiling, threshold)) await this.#tell(look, balance, ceiling, threshold, nowMs)
    }
    if (grant === null && forecast && (period.endMs === null || nowMs < period.endMs)) await this.#foresee(look, balance, nowMs)
  }

  async #tell(look: Look, balance: Balance, ceiling: number, threshold: number, nowMs: number): Promise<void> {
    const { grant } = look
    const id = grant === null ? noticeId('threshold', [...identityOf(look), threshold]) : noticeId('threshold', ['grant', grant.account, grant.id, threshold])
    if (this.#told.get(id) === true) return
    const percent = Math.floor(balance.used / ceiling * 10_000) / 100
    const facts = grant === null ? this.#factsOf(look, balance) : this.#factsOfGrant(look, grant, balance)
    if (facts === undefined) return
    const what = grant === null ? `'${look.applied.limit.name}'` : `the grant '${grant.id}' of '${grant.limit}'`
    const text = `${facts.account} has reached ${threshold}% of ${what}${facts.data['per'] === 'key' ? ` with the key '${look.principal.keyId}'` : ''}: ${numbers(facts.data['used'])} of ${numbers(facts.data['ceiling'])} ${facts.unit} are used`
    const forgetMs = grant === null ? forgottenFrom(look.period) : later(grantEndsMs(grant), keptMs)
    await this.#write({ id, type: 'threshold', account: facts.account, atMs: nowMs, source: this.#source, text, data: { threshold, percent, ...facts.data }, forgetMs })
  }

  async #foresee(look: Look, balance: Balance, nowMs: number): Promise<void> {
    const { applied } = look
    const { paces } = this.#parts
    const foreseen = forecastOf(applied, balance, paces, nowMs)
    if (foreseen === undefined) return
    const { standing, period, exhaustsMs } = foreseen
    const counters = counterBase(applied)
    const next = paceWith(paces.paceOf(counters), period, balance.used, nowMs)
    if (next !== undefined) await paces.put(counters, next)
    if (exhaustsMs === null || !isWorthTelling({ ...standing, endMs: period.endMs, exhaustsMs }, nowMs)) return
    const id = noticeId('forecast', identityOf(look))
    if (this.#told.get(id) === true) return
    const facts = this.#factsOf(look, balance)
    if (facts === undefined) return
    const at = toWholeSecond(exhaustsMs)
    const text = `${facts.account} will have used up '${applied.limit.name}' at ${at} if it goes on like this${period.endMs === null ? '' : `; it begins anew at ${toWholeSecond(period.endMs)}`}`
    await this.#write({
      id, type: 'forecast', account: facts.account, atMs: nowMs, source: this.#source, text,
      data: { exhausts_at: at, percent: Math.floor(standing.used / standing.ceiling * 10_000) / 100, ...facts.data }, forgetMs: forgottenFrom(period),
    })
  }

  async #write(notice: Notice): Promise<void> {
    await this.#parts.book.tell(notice)
    this.#told.set(notice.id, true)
  }

  get #source(): string {
    return `tallygate/${this.#parts.instance}`
  }

  /** In the words of the usage page. */
  #factsOf({ principal, applied: { limit }, draft, period, item, of }: Look, balance: Balance): { account: string; unit: string; data: Notice['data'] } | undefined {
    const shown = item(balance)
    if (shown === undefined) return undefined
    // A parent's limit is `<account>/<name>` to whoever calls; here it is the parent's own.
    const account = limit.per === 'account' && shown.name !== limit.name ? shown.name.slice(0, -(limit.name.length + 1)) : principal.account.id
    return {
      account, unit: isMoney(limit) ? draft.entitlement.currency ?? shown.unit : shown.unit,
      data: {
        limit: limit.name, meter: shown.meter, window: shown.window, per: limit.per, ...(limit.per === 'account' ? {} : { key: principal.keyId }),
        ...(limit.per === 'end_user' ? { end_user: of?.endUser ?? null } : {}), ...(limit.each === null ? {} : { model: of?.model ?? null }),
        used: shown.used, ceiling: shown.limit, remaining: shown.remaining, ...(isMoney(limit) && draft.entitlement.currency !== null ? { currency: draft.entitlement.currency } : {}),
        ...(limit.mode === 'shadow' ? { mode: limit.mode } : {}), plan: principal.plan.name,
        period_start: period.startMs === null || !period.empties ? null : new Date(period.startMs).toISOString(), period_end: period.endMs === null || !period.empties ? null : new Date(period.endMs).toISOString(),
      },
    }
  }

  #factsOfGrant({ applied: { limit }, draft }: Look, grant: Grant, { used }: Balance): { account: string; unit: string; data: Notice['data'] } {
    const scale = meterScale(limit.meter)
    const { currency } = draft.entitlement
    const left = Math.max(0, grant.amount - used) / scale
    return {
      account: grant.account, unit: isMoney(limit) ? currency ?? 'currency' : meterName(limit.meter),
      data: {
        grant: grant.id, limit: grant.limit, meter: meterName(limit.meter), used: used / scale, ceiling: grant.amount / scale, remaining: left, ...(isMoney(limit) && currency !== null ? { currency } : {}),
        expires_at: grant.expiresMs === null ? null : new Date(grant.expiresMs).toISOString(),
      },
    }
  }
}

/** Nothing but grants, for ever: prepaid credit. */
function isCredit({ applied: { limit, grants } }: Look): boolean {
  return limit.window.kind === 'lifetime' && limit.ceiling === 0 && grants !== undefined
}

/** What makes a notice of a limit the same: whose counter, which limit, which period. A key's own limit over its account's counter is its own. */
function identityOf(look: Look): readonly (string | number)[] {
  const { applied, principal, period, draft } = look
  const own = principal.keyLimits.some((limit) => limit === applied.limit) ? principal.keyId : ''
  // Credit that is used up may be bought again, and used up again.
  const newest = isCredit(look) ? applied.grants?.filter((grant) => isEffective(grant, draft.admittedMs)).sort((a, b) => b.createdMs - a.createdMs || (a.id < b.id ? -1 : 1))[0] : undefined
  return [counterBase(applied), applied.limit.name, own, period.startMs ?? 0, ...(newest === undefined ? [] : [newest.id])]
}

/** Looks of several keys at one counter, through one limit, are one look. */
function nameOf(look: Look): string {
  return look.grant === null ? JSON.stringify([look.check.slots[look.check.at], ...identityOf(look)]) : JSON.stringify(['grant', look.grant.account, look.grant.id])
}

/** Exact, whatever the amounts. */
function hasReached(used: number, ceiling: number, percent: number): boolean {
  return BigInt(Math.max(0, used)) * 10_000n >= BigInt(ceiling) * BigInt(Math.round(percent * 100))
}

function forgottenFrom({ startMs, endMs }: UsagePeriod): number | null {
  return later(endMs, startMs !== null && endMs !== null && endMs - startMs <= dayMs + dayMs / 12 ? keptBrieflyMs : keptMs)
}

function later(atMs: number | null, byMs: number): number | null {
  return atMs === null ? null : atMs + byMs
}

function numbers(value: unknown): string {
  return typeof value === 'number' ? value.toLocaleString('en-US', { maximumFractionDigits: 9 }) : '?'
}

/** Until the time is over, or there is no time any more. */
function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      cancel()
      signal.removeEventListener('abort', done)
      resolve()
    }
    const cancel = clock.after(ms, done, { unref: true })
    signal.addEventListener('abort', done, { once: true })
    if (signal.aborted) done()
  })
}
