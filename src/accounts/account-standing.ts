import { toInstant, toWholeSecond } from '../metering/event.ts'
import type { Paces } from '../metering/forecast.ts'
import { grantEndsMs } from '../metering/grant.ts'
import { grantLook } from '../metering/limits/counter.ts'
import type { AppliedLimit } from '../metering/limits/limit.ts'
import { quotaForecasts } from '../metering/limit-forecast.ts'
import { meterName, meterScale } from '../metering/meter.ts'
import { limitNameOf, quotaItems } from '../metering/quota.ts'
import { draftStanding } from '../metering/reservation.ts'
import type { Store } from '../stores/store.ts'
import { accountPrincipal } from './account-principal.ts'
import type { StoredKeyDirectory } from './key-directory.ts'
import { LATEST_SECOND_MS } from './latest-instant.ts'

export interface StandingParts {
  readonly directory: StoredKeyDirectory
  readonly store: Pick<Store, 'balances'>
  readonly paces: Paces
}

/** In the units of the limits' meters; instants are RFC 3339. */
export interface AccountStanding {
  readonly as_of: string
  readonly limits: readonly LimitStanding[]
  /** Those that have not ended. */
  readonly grants: readonly { readonly id: string; readonly limit: string; readonly meter: string; readonly amount: number; readonly used: number; readonly remaining: number; readonly effective_at: string | null; readonly expires_at: string | null; readonly source: string }[]
}

export interface LimitStanding {
  /** A parent's is `<account>/<name>`. */
  readonly name: string
  readonly meter: string
  /** null: concurrency. */
  readonly window: string | null
  readonly per: string
  /** null: unlimited. */
  readonly limit: number | null
  readonly used: number
  readonly reserved: number
  readonly remaining: number | null
  /** null: never. */
  readonly resets_at: string | null
  /** When it will be used up, where that is before it begins anew. */
  readonly forecast_at: string | null
  readonly mode: string
  /** False: callers are not told of it. */
  readonly visible: boolean
}

/** How an account stands against every limit that its keys share; null: there is no such account, or it has no plan. Rejects with StoreUnavailable. */
export async function accountStanding({ directory, store, paces }: StandingParts, id: string, nowMs: number): Promise<AccountStanding | null> {
  const principal = accountPrincipal(directory, id, nowMs)
  if (principal === undefined) return null
  const whole = draftStanding(principal, directory.config.plans, nowMs)
  // What each key has for itself is not the account's.
  const kept = whole.checks.map((_check, index) => index).filter((index) => whole.appliedByCheck[index]?.every(({ limit }) => limit.per !== 'key') === true)
  const draft = { ...whole, checks: kept.map((index) => whole.checks[index]!), appliedByCheck: kept.map((index) => whole.appliedByCheck[index]!) }
  const granted = draft.appliedByCheck.flat().flatMap((applied) => (applied.grants ?? []).filter((grant) => (grantEndsMs(grant) ?? Infinity) > nowMs).map((grant) => ({ applied, grant })))
  const looks = [...draft.checks, ...granted.map(({ grant }) => grantLook(grant))]
  const balances = looks.length === 0 ? [] : await store.balances(principal.home, looks)
  const forecasts = quotaForecasts(draft, balances, paces, nowMs)
  const modes = modesOf(draft.appliedByCheck)
  return {
    as_of: toInstant(nowMs),
    limits: quotaItems(draft, balances, nowMs).map((item, index) => ({
      name: item.name, meter: item.meter, window: item.window, per: item.per, limit: item.limit, used: item.used, reserved: item.reserved, remaining: item.remaining,
      resets_at: wholeSecond(item.resetsAtMs), forecast_at: wholeSecond(forecasts[index] ?? null), mode: modes[index] ?? 'enforce', visible: item.visible,
    })),
    grants: granted.map(({ applied, grant }, index) => {
      const scale = meterScale(applied.limit.meter)
      const used = balances[draft.checks.length + index]?.used ?? 0
      return {
        id: grant.id, limit: limitNameOf(draft, applied), meter: meterName(applied.limit.meter), amount: grant.amount / scale, used: used / scale, remaining: Math.max(0, grant.amount - used) / scale,
        effective_at: grant.effectiveMs === 0 ? null : toWholeSecond(grant.effectiveMs), expires_at: wholeSecond(grant.expiresMs), source: grant.source,
      }
    }),
  }
}

/** In the order of `quotaItems`. */
function modesOf(appliedByCheck: readonly (readonly AppliedLimit[])[]): string[] {
  return appliedByCheck.flatMap((applied) => applied.map(({ limit }) => limit.mode))
}

function wholeSecond(ms: number | null): string | null {
  return ms === null ? null : toWholeSecond(Math.min(ms, LATEST_SECOND_MS))
}
