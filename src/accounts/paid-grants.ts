import type { Account, Config } from '../config/config.ts'
import type { GrantTerms } from '../metering/recurring-grant.ts'
import { recurringId } from './grant-book.ts'
import type { StoredKeyDirectory } from './key-directory.ts'

type Directory = Pick<StoredKeyDirectory, 'accountOf' | 'grantBooks' | 'config'>

/**
 * The limit that a bucket of an account's events extends, where the bucket is a grant that has been paid for: one that was bought, or any of a prepaid limit. null:
 * it is none. Grants that are over count too, and those of the accounts above, which the account's calls may have drawn.
 */
export function paidLimitOf(directory: Directory, account: Account): (bucket: string) => string | null {
  const chain = chainOf(directory, account)
  const prepaid = prepaidLimits(directory.config, chain)
  const found = new Map<string, string | null>()
  return (bucket) => {
    let limit = found.get(bucket)
    if (limit === undefined) {
      const grant = grantOf(directory, chain, bucket)
      limit = grant !== undefined && (grant.source === 'purchase' || prepaid.has(grant.limit)) ? grant.limit : null
      found.set(bucket, limit)
    }
    return limit
  }
}

function chainOf(directory: Directory, account: Account): readonly Account[] {
  const chain: Account[] = []
  for (let each: Account | undefined = account; each !== undefined && !chain.includes(each); each = each.parent === null ? undefined : directory.accountOf(each.parent)) chain.push(each)
  return chain
}

function prepaidLimits({ plans, addOns }: Config, chain: readonly Account[]): ReadonlySet<string> {
  return new Set([...plans.values(), ...addOns.values(), ...chain].flatMap(({ limits }) => limits.filter(({ prepaid }) => prepaid === true).map(({ name }) => name)))
}

/** Of the store, else of the account, else of what is sold: whatever plan it was on, and whatever it had bought. */
function grantOf({ grantBooks, config }: Directory, chain: readonly Account[], bucket: string): Pick<GrantTerms, 'limit' | 'source'> | undefined {
  for (const { id } of chain) {
    const stored = grantBooks.of(id)?.stored.get(bucket)
    if (stored !== undefined) return stored
  }
  const said = recurringId(bucket)
  const named = (grants: readonly GrantTerms[] | undefined): GrantTerms | undefined => grants?.find(({ id }) => id === said)
  const [addOn = '', inside] = said.split('/')
  if (inside !== undefined) return config.addOns.get(addOn)?.grants?.find(({ id }) => id === inside)
  for (const { grants } of [...chain, ...config.plans.values()]) {
    const grant = named(grants)
    if (grant !== undefined) return grant
  }
  return undefined
}
