import { accountPrincipal } from '../accounts/account-principal.ts'
import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import { accountScopeId } from '../metering/entitlement.ts'
import type { Paces } from '../metering/forecast.ts'
import { quotaForecasts } from '../metering/limit-forecast.ts'
import { draftStanding } from '../metering/reservation.ts'
import type { Draft } from '../metering/reservation.ts'
import type { Store } from '../stores/store.ts'

export interface ForecastParts {
  readonly directory: StoredKeyDirectory
  readonly store: Pick<Store, 'balances'>
  readonly paces: Paces
}

const together = 256

/** When the first limit of each account itself is used up at its present rate, ms since 1970, for those of whom that is before its period ends. Rejects with StoreUnavailable. */
export async function accountForecasts({ directory, store, paces }: ForecastParts, accounts: readonly string[], nowMs: number): Promise<ReadonlyMap<string, number>> {
  const found = new Map<string, number>()
  for (let at = 0; at < accounts.length; at += together) {
    await Promise.all(accounts.slice(at, at + together).map(async (id) => {
      const principal = accountPrincipal(directory, id, nowMs)
      if (principal === undefined) return
      // A parent's limits are the parent's, and a key's the key's.
      const own = ownOf(draftStanding(principal, directory.config.plans, nowMs), accountScopeId(id))
      if (own.checks.length === 0) return
      const balances = await store.balances(principal.home, own.checks)
      const soonest = quotaForecasts(own, balances, paces, nowMs).reduce<number>((soon, each) => Math.min(soon, each ?? Infinity), Infinity)
      if (soonest !== Infinity) found.set(id, soonest)
    }))
  }
  return found
}

function ownOf(draft: Draft, scopeId: string): Draft {
  const kept = draft.checks.map((_check, index) => index).filter((index) => draft.appliedByCheck[index]?.every(({ scope }) => scope.id === scopeId) === true)
  return { ...draft, checks: kept.map((index) => draft.checks[index]!), appliedByCheck: kept.map((index) => draft.appliedByCheck[index]!) }
}
