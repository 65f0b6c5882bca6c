import { listAccounts } from '../accounts/account-overview.ts'
import type { AccountOverview } from '../accounts/account-overview.ts'
import { bucketOf, nextBucket } from '../analytics/rollups.ts'
import type { UsageRow } from '../analytics/rollups.ts'
import { toWholeSecond } from '../metering/event.ts'
import { decimalOfNanos } from '../metering/price.ts'
import { StoreUnavailable } from '../stores/store.ts'
import type { AdminParts, Asked } from './route.ts'

const bySize = ['requests', 'total_tokens', 'cost', 'refused'] as const
type Size = (typeof bySize)[number]
export const accountSorts = ['id', 'plan', 'keys', 'forecast', ...bySize] as const
type AccountSort = (typeof accountSorts)[number]

const sizeOverMs = 30 * 86_400_000

/** A part of the accounts, searched and sorted; without a limit all of them. */
export async function accountPage(query: Asked['query'], parts: AdminParts): Promise<unknown> {
  const { directory, clock, forecasts, standing } = parts
  const nowMs = clock.nowMs()
  const limit = query['limit']
  const all = listAccounts(directory, nowMs).filter((account) => wanted(account, query, parts))
  const sort = (typeof query['sort'] === 'string' ? query['sort'] : 'id') as AccountSort
  const falling = query['order'] === undefined ? isSize(sort) || sort === 'keys' : query['order'] === 'desc'
  const offset = typeof query['offset'] === 'number' ? query['offset'] : 0
  const isPage = typeof limit === 'number'
  // It looks at the limits of every account: only who asks for all of them waits for that.
  const ahead = sort === 'forecast' || (!isPage && query['forecast'] === true) ? await forecasts(all.map(({ id }) => id)) : null
  const sizes = isSize(sort) ? await sizesOf(parts, nowMs) : null
  const valueOf = (account: AccountOverview): string | number => {
    switch (sort) {
      case 'id': return account.id
      case 'plan': return account.plan ?? ''
      case 'keys': return account.keys
      case 'forecast': return ahead?.get(account.id) ?? Infinity
      default: return sizes === null ? 0 : sizeOf(sizes, sort, account.id)
    }
  }
  const sorted = sort === 'id' && !falling ? all : inOrder(all, valueOf, falling)
  const page = isPage ? sorted.slice(offset, offset + limit) : sorted.slice(offset)
  if (!isPage && ahead === null) return { accounts: page, total: all.length, offset, limit: null }
  const aheadOfPage = ahead ?? await forecasts(page.map(({ id }) => id))
  const accounts = page.map((account) => ({ ...account, forecast_at: timeText(aheadOfPage.get(account.id)) }))
  if (!isPage) return { accounts, total: all.length, offset, limit: null }
  return {
    total: all.length, offset, limit,
    accounts: await Promise.all(accounts.map(async (account) => ({
      ...account, limits_now: (await standing(account.id).catch(nullWhileAway))?.limits ?? [], ...(sizes === null ? {} : { usage_30d: toUsage(sizes.usage.get(account.id), sizes.refused.get(account.id) ?? 0) }),
    }))),
  }
}

function wanted(account: AccountOverview, query: Asked['query'], { directory }: AdminParts): boolean {
  if (typeof query['suspended'] === 'boolean' && account.suspended !== query['suspended']) return false
  const { search } = query
  if (typeof search !== 'string') return true
  const part = search.toLowerCase()
  const labels = directory.accounts.get(account.id)?.labels ?? {}
  return [account.id, account.plan ?? '', account.parent ?? '', ...Object.values(labels)].some((text) => text.toLowerCase().includes(part))
}

function isSize(sort: AccountSort): sort is Size {
  return (bySize as readonly string[]).includes(sort)
}

function inOrder(accounts: readonly AccountOverview[], valueOf: (account: AccountOverview) => string | number, falling: boolean): AccountOverview[] {
  const decorated = accounts.map((account) => ({ account, value: valueOf(account) }))
  // Those that are alike stay in the order of their names.
  decorated.sort((a, b) => (a.value === b.value ? 0 : (a.value < b.value) === falling ? 1 : -1))
  return decorated.map(({ account }) => account)
}

function spanOf(nowMs: number): { readonly unit: 'day'; readonly fromMs: number; readonly untilMs: number } {
  return { unit: 'day', fromMs: bucketOf('day', nowMs - sizeOverMs), untilMs: nextBucket('day', bucketOf('day', nowMs)) }
}

interface Sizes {
  readonly usage: ReadonlyMap<string, UsageRow>
  readonly refused: ReadonlyMap<string, number>
}

/** Of all accounts that have any. */
async function sizesOf({ analytics }: AdminParts, nowMs: number): Promise<Sizes> {
  if (analytics.kept === null) return { usage: new Map(), refused: new Map() }
  const question = { ...spanOf(nowMs), by: ['account'], series: false, only: {} } as const
  const [rows, refusals] = await Promise.all([
    analytics.usage({ ...question, latencies: false, top: null }), analytics.refusals(question),
  ])
  return { usage: new Map(rows.map((row) => [row.by.account ?? '', row])), refused: new Map(refusals.map(({ by, refused }) => [by.account ?? '', refused])) }
}

function sizeOf({ usage, refused }: Sizes, sort: Size, account: string): number {
  if (sort === 'refused') return refused.get(account) ?? 0
  const counts = usage.get(account)?.counts
  return counts === undefined ? 0 : Number(counts[sort === 'cost' ? 'cost_nanos' : sort])
}

function toUsage(row: UsageRow | undefined, refused: number): unknown {
  return {
    requests: row?.counts.requests ?? 0, total_tokens: row?.counts.total_tokens ?? 0, cost: Object.fromEntries([...row?.costs ?? []].map(([currency, nanos]) => [currency, decimalOfNanos(nanos)])), refused,
  }
}

/** Who asks about accounts is answered while the store is away, too. */
function nullWhileAway(error: unknown): null {
  if (error instanceof StoreUnavailable) return null
  throw error
}

function timeText(atMs: number | undefined): string | null {
  return atMs === undefined ? null : toWholeSecond(atMs)
}
