import type { AccountGrants } from '../metering/grant.ts'
import { grantsInForce } from './grant-book.ts'
import type { StoredKeyDirectory } from './key-directory.ts'
import type { Principal } from './principal.ts'

/** An account as if one of its keys called that has nothing of its own; undefined: it is gone, or has no plan. Its key has no name. */
export function accountPrincipal(directory: StoredKeyDirectory, accountId: string, atMs: number): Principal | undefined {
  const { chain, plan, given } = directory.actingChainOf(accountId, atMs)
  const [account] = chain
  const root = chain.at(-1)
  if (account === undefined || root === undefined || plan === undefined) return undefined
  const grants = new Map<string, AccountGrants>()
  for (const [index, { id }] of chain.entries()) {
    const ofFiles = given[index]
    const inForce = ofFiles === undefined ? undefined : grantsInForce(ofFiles, directory.grantBooks.of(id), atMs)
    if (inForce !== undefined) grants.set(id, inForce)
  }
  return { keyId: '', account, chain, home: root.id, plan, keyLimits: [], keyEntitlements: {}, ...(grants.size === 0 ? {} : { grants }), labels: account.labels, endUserFrom: null }
}
