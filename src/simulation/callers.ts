import { ownAccount } from '../accounts/key-directory.ts'
import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import type { Inactive, Principal } from '../accounts/principal.ts'
import type { Account, Plan } from '../config/config.ts'
import { Memo } from '../metering/limits/counter.ts'
import type { RecordedCall } from './recorded-call.ts'

/** Who a recorded call was of, with the terms that the candidate gives him at that instant. */
export type Caller =
  | { readonly outcome: 'found'; readonly principal: Principal; /** The key is gone, or was another account's: its own limits are not known. */ readonly keyGone: boolean }
  | Inactive
  /** Neither its account nor its plan is there any more. */
  | { readonly outcome: 'gone' }

interface Remembered {
  readonly caller: Caller
  readonly fromMs: number
  readonly untilMs: number
}

/** Looks callers up in a directory over the candidate's terms. Revoked and suspended ones are still found: at the time of the call they were let in. */
export class Callers {
  readonly #directory: StoredKeyDirectory
  readonly #plans: ReadonlyMap<string, Plan>
  /** Of those whose key is gone. */
  readonly #known = new Memo<string, Remembered>(10_000)

  constructor(directory: StoredKeyDirectory, plans: ReadonlyMap<string, Plan>) {
    this.#directory = directory
    this.#plans = plans
  }

  of(call: RecordedCall): Caller {
    const found = this.#directory.lookUp(call.key, call.admittedMs)
    if (found.outcome === 'inactive') return found
    if (found.outcome === 'found' && found.principal.account.id === call.account) return { outcome: 'found', principal: found.principal, keyGone: false }
    const name = JSON.stringify([call.account, call.key, call.plan])
    const known = this.#known.get(name)
    if (known !== undefined && known.fromMs <= call.admittedMs && call.admittedMs < known.untilMs) return known.caller
    const fresh = this.#withoutKey(call)
    this.#known.set(name, fresh)
    return fresh.caller
  }

  #withoutKey({ account, key, plan, admittedMs }: RecordedCall): Remembered {
    const { chain, plan: own, fromMs, untilMs } = this.#directory.actingChainOf(account, admittedMs)
    const root = chain.at(-1)
    if (chain[0] !== undefined && root !== undefined && own !== undefined) return { caller: { outcome: 'found', principal: principalOf(key, chain, own), keyGone: true }, fromMs, untilMs }
    // A key that was its own account: it is known by the plan that it had.
    const had = this.#directory.accountOf(account) === undefined ? this.#plans.get(plan) : undefined
    const caller: Caller = had === undefined ? { outcome: 'gone' } : { outcome: 'found', principal: principalOf(key, [ownAccount(account, plan)], had), keyGone: true }
    return { caller, fromMs: -Infinity, untilMs: Infinity }
  }
}

function principalOf(keyId: string, chain: readonly Account[], plan: Plan): Principal {
  const [account] = chain as readonly [Account, ...Account[]]
  return Object.freeze({
    keyId, account, chain: Object.freeze(chain), home: (chain.at(-1) ?? account).id, plan, keyLimits: [], keyEntitlements: {}, labels: Object.freeze({ ...account.labels }), endUserFrom: null,
  })
}
