import { LATEST_SECOND_MS } from '../../accounts/latest-instant.ts'
import { keptOf } from '../../analytics/analytics.ts'
import { percentile } from '../../analytics/counts.ts'
import type { Sum } from '../../analytics/counts.ts'
import type { LiveFigures } from '../../analytics/live-feed.ts'
import { bucketOf, DIMENSIONS, nextBucket, REFUSAL_DIMENSIONS, ROWS_MAX, UNITS } from '../../analytics/rollups.ts'
import type { Dimension, Dimensions, Kept, RefusalDimension, RefusalRow, Unit, UsageRow } from '../../analytics/rollups.ts'
import { toInstant, toWholeSecond } from '../../metering/event.ts'
import { decimalOfNanos } from '../../metering/price.ts'
import { StoreUnavailable } from '../../stores/store.ts'
import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { AdminParts, Asked, Field, Fields, Route } from '../route.ts'
import { toPastMs } from '../when.ts'

const orders = ['requests', 'total_tokens', 'input_tokens', 'output_tokens', 'events', 'cost'] as const
type Order = (typeof orders)[number]
/** Those of refusals that roll-ups of usage have too. */
const common = ['account', 'key', 'model'] as const satisfies readonly (Dimension & RefusalDimension)[]
const samplesMax = 1_000
const samplesUnlessAsked = 100
const topMax = 1_000
const watchersMax = 64

const timeFields = {
  from: { type: 'string', about: 'from the bucket on in which this lies: an instant, or how long ago such as 24h (the default)' },
  to: { type: 'string', about: 'to the end of the bucket in which this lies: an instant, or how long ago; now unless given' },
  unit: { type: 'string', about: 'buckets in UTC; auto (the default) goes by the length of time and by what is kept', values: [...UNITS, 'auto'] },
  series: { type: 'boolean', about: 'a row for each bucket' },
} satisfies Fields

const onlyField = (name: string): Field => ({ type: 'string', about: `of this ${name} only` })

export const analyticsRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/analytics', shape: answers.analytics, role: 'viewer', summary: 'How far usage is rolled up', answer: 'state: current, behind, rebuilding, failing or off; behind: events to be counted; complete_until: null while they are made again; kept, rebuild, missed',
    handle: (_asked, parts) => statusOf(parts),
  },
  {
    method: 'POST', path: '/api/v1/analytics/rebuild', shape: answers.analytics, role: 'admin', summary: 'Make the roll-ups of usage again from the events of the archive and the store', status: 202, answer: 'as GET /api/v1/analytics tells',
    body: {},
    async handle({ who }, parts) {
      const { analytics, changes, gateway, config } = parts
      if (config().analytics === null) throw new Problem(409, 'analytics are off; see analytics in the configuration')
      await changes.note(who, 'analytics.rebuild', 'analytics', {})
      // A command that is alone with the store ends with its answer; a gateway goes on, and tells in its log and its state how it went.
      if (gateway === null) {
        const archived = await analytics.rebuild(config())
        return { ...await statusOf(parts), archived }
      }
      void analytics.rebuild().catch(() => undefined)
      return await statusOf(parts)
    },
  },
  {
    method: 'GET', path: '/api/v1/analytics/usage', problems: { also: [409] }, shape: answers.rolledUsage, role: 'viewer', summary: 'Usage by minute, hour, day or month, from the roll-ups',
    answer: 'unit, from, to, complete_until, by, series, truncated, rows: from, grouping fields, sums of every quantity, cost by currency, refused, percentiles of latency and time to first token, tokens_per_second',
    query: {
      ...timeFields,
      by: { type: 'string', about: `comma-separated: ${DIMENSIONS.join(', ')}` },
      top: { type: 'integer', about: 'only the groups that have most', minimum: 1, maximum: topMax },
      order: { type: 'string', about: 'of what they have most; requests unless given', values: orders },
      percentiles: { type: 'boolean', about: 'of latency and time to first token; true unless given' },
      ...Object.fromEntries(DIMENSIONS.map((name) => [name, onlyField(name)])),
    },
    handle: (asked, parts) => usageOf(asked, parts),
  },
  {
    method: 'GET', path: '/api/v1/analytics/refusals', problems: { also: [409] }, shape: answers.rolledRefusals, role: 'viewer', summary: 'Refused calls by minute, hour, day or month', answer: 'unit, from, to, by, series, truncated, rows: from, grouping fields, refused',
    query: {
      ...timeFields,
      by: { type: 'string', about: `comma-separated: ${REFUSAL_DIMENSIONS.join(', ')}` },
      top: { type: 'integer', about: 'only the groups that have most', minimum: 1, maximum: topMax },
      ...Object.fromEntries(REFUSAL_DIMENSIONS.map((name) => [name, onlyField(name)])),
    },
    async handle({ query }, parts) {
      const kept = mustBeOn(parts)
      const span = spanOf(query, kept, parts.clock.nowMs())
      const by = namesOf(textOf(query, 'by'), REFUSAL_DIMENSIONS)
      const series = query['series'] === true
      const only = onlyOf(query, REFUSAL_DIMENSIONS)
      const rows = await parts.analytics.refusals({ ...span, by, series, only })
      const top = numberOf(query, 'top')
      const shown = top === null ? rows : largest(rows, by, top)
      return { ...spanText(span), by, series, truncated: rows.length >= ROWS_MAX, rows: shown.map((row) => ({ ...fromText(row.fromMs), ...row.by, refused: row.refused })) }
    },
  },
  {
    method: 'GET', path: '/api/v1/refusals', shape: answers.refusals, role: 'viewer', summary: 'The latest refused calls that this gateway remembers, newest first',
    answer: 'refusals: at, request_id, account, key, limit, reason, model, ceiling, used, remaining, resets_at',
    query: {
      account: onlyField('account'), limit: { type: 'string', about: 'refused by this limit only, by its name' },
      count: { type: 'integer', about: `how many; ${samplesUnlessAsked} unless given`, minimum: 1, maximum: samplesMax },
    },
    handle({ query }, { analytics }) {
      const account = textOf(query, 'account')
      const limit = textOf(query, 'limit')
      const samples = analytics.samples({ ...(account === null ? {} : { account }), ...(limit === null ? {} : { limit }) }, numberOf(query, 'count') ?? samplesUnlessAsked)
      return {
        refusals: samples.map((call) => ({
          at: toInstant(call.atMs), request_id: call.id, account: call.account, key: call.key, limit: call.limit, reason: call.reason, model: call.model,
          ceiling: call.ceiling, used: call.used, remaining: call.remaining, resets_at: call.resetsAt,
        })),
      }
    },
  },
  {
    method: 'GET', path: '/api/v1/live', stream: true, problems: { also: [409] }, shape: answers.live, role: 'viewer', summary: 'What happens just now, as server-sent events, one a second',
    answer: 'at, requests_per_second, tokens_per_second, cost_per_second by currency, errors_per_second, refused_per_second, open, streams, refusals: by reason in the last minute, sinks: name, lag, dead; analytics_lag',
    handle({ gone }, parts) {
      if (parts.gateway === null) throw new Problem(409, 'no gateway runs here')
      const leave = parts.analytics.live.admit(watchersMax, gone)
      if (leave === null) throw new Problem(503, `${watchersMax} others watch already`)
      return liveSeconds(parts, gone, leave)
    },
  },
]

async function usageOf({ query }: Asked, parts: AdminParts): Promise<unknown> {
  const { analytics, clock } = parts
  const kept = mustBeOn(parts)
  const span = spanOf(query, kept, clock.nowMs())
  const by = namesOf(textOf(query, 'by'), DIMENSIONS)
  const series = query['series'] === true
  const only = onlyOf(query, DIMENSIONS)
  const order = (textOf(query, 'order') ?? 'requests') as Order
  const top = numberOf(query, 'top')
  const latencies = query['percentiles'] !== false
  // Before: what is counted in between is in the answer, and is not claimed to be.
  const completeUntilMs = await analytics.status().then((status) => status.completeUntilMs, nullWhileAway)
  const of = order === 'cost' ? 'cost_nanos' : order
  const found = await analytics.usage({ ...span, by, series, only, latencies, top: top === null ? null : { of, count: top } })
  const rows = top !== null || order === 'requests' ? found : found.toSorted((a, b) => (a.fromMs ?? 0) - (b.fromMs ?? 0) || Number(b.counts[of]) - Number(a.counts[of]))
  const refused = await refusedBy(analytics, span, by, series, only)
  const documents = rows.map((row) => ({ ...toUsageDocument(row, latencies), refused: refused === null ? null : refused.take(row.fromMs, row.by) }))
  const refusedOnly = refused === null || top !== null ? [] : refused.rest().map((row) => ({ ...toUsageDocument({ fromMs: row.fromMs, by: row.by, counts: null, costs: new Map() }, latencies), refused: row.refused }))
  return {
    ...spanText(span), complete_until: completeUntilMs === null ? null : toInstant(completeUntilMs), by, series, truncated: rows.length >= ROWS_MAX,
    rows: series ? [...documents, ...refusedOnly].sort((a, b) => (String(a.from) < String(b.from) ? -1 : String(a.from) > String(b.from) ? 1 : 0)) : [...documents, ...refusedOnly],
  }
}

/** What was counted is told while the store is away, too. */
function nullWhileAway(error: unknown): null {
  if (error instanceof StoreUnavailable) return null
  throw error
}

interface RefusedBy {
  /** 0: none were. */
  take(fromMs: number | null, by: Partial<Dimensions>): number
  /** What nothing was taken of. */
  rest(): readonly RefusalRow[]
}

/** null: refusals are not told apart by all that is asked for. */
async function refusedBy(analytics: AdminParts['analytics'], span: Span, by: readonly Dimension[], series: boolean, only: Partial<Dimensions>): Promise<RefusedBy | null> {
  const isCommon = (name: string): boolean => (common as readonly string[]).includes(name)
  if (!by.every(isCommon) || !Object.keys(only).every(isCommon)) return null
  const groups = by.filter((name) => isCommon(name)) as readonly (typeof common)[number][]
  const keyOf = (fromMs: number | null, names: Partial<Record<string, string>>): string => JSON.stringify([fromMs, ...groups.map((name) => names[name] ?? '')])
  const rows = new Map((await analytics.refusals({ ...span, by: groups, series, only })).map((row) => [keyOf(row.fromMs, row.by), row]))
  return {
    take(fromMs, names) {
      const key = keyOf(fromMs, names)
      const refused = rows.get(key)?.refused ?? 0
      rows.delete(key)
      return refused
    },
    rest: () => [...rows.values()],
  }
}

interface Span {
  readonly unit: Unit
  readonly fromMs: number
  readonly untilMs: number
}

const automatic: readonly (readonly [Unit, number])[] = [['minute', 3 * 3_600_000], ['hour', 4 * 86_400_000], ['day', 400 * 86_400_000], ['month', Infinity]]

/** Widened to whole buckets. Throws a Problem. */
function spanOf(query: Asked['query'], kept: Kept, nowMs: number): Span {
  const fromMs = toPastMs(textOf(query, 'from') ?? '24h', 'from', nowMs)
  const to = textOf(query, 'to')
  const toMs = to === null ? nowMs + 1 : toPastMs(to, 'to', nowMs)
  if (toMs <= fromMs) throw new Problem(422, 'from must lie before to')
  const asked = textOf(query, 'unit') ?? 'auto'
  const unit = asked === 'auto'
    ? automatic.find(([each, longestMs]) => toMs - fromMs <= longestMs && nowMs - kept[each] <= fromMs)?.[0] ?? 'month'
    : asked as Unit
  const last = bucketOf(unit, toMs)
  return { unit, fromMs: bucketOf(unit, fromMs), untilMs: last === toMs ? toMs : nextBucket(unit, last) }
}

function spanText({ unit, fromMs, untilMs }: Span): { unit: Unit; from: string; to: string } {
  // The last bucket of all ends where no instant can be told any more.
  return { unit, from: instant(fromMs), to: instant(Math.min(untilMs, LATEST_SECOND_MS)) }
}

function toUsageDocument({ fromMs, by, counts, costs }: Omit<UsageRow, 'counts'> & { counts: UsageRow['counts'] | null }, latencies: boolean): { from?: string } & Record<string, unknown> {
  const sum = (name: Sum): number => counts?.[name] ?? 0
  const share = (which: 'latency' | 'first_token', at: number): number | null => (counts === null || !latencies ? null : percentile(counts[which], at))
  return {
    ...fromText(fromMs), ...by,
    events: sum('events'), requests: sum('requests'), input_tokens: sum('input_tokens'), cached_input_tokens: sum('cached_input_tokens'), cache_write_tokens: sum('cache_write_tokens'),
    output_tokens: sum('output_tokens'), reasoning_tokens: sum('reasoning_tokens'), total_tokens: sum('total_tokens'), compute_ms: sum('compute_ms'), bytes_in: sum('bytes_in'), bytes_out: sum('bytes_out'),
    audio_seconds: sum('audio_ms') / 1_000, images: sum('images'), cost: costText(costs),
    p50_ms: share('latency', 0.5), p95_ms: share('latency', 0.95), p99_ms: share('latency', 0.99), ttft_p50_ms: share('first_token', 0.5), ttft_p95_ms: share('first_token', 0.95),
    tokens_per_second: sum('compute_ms') === 0 ? null : Math.round((sum('output_tokens') * 10_000) / sum('compute_ms')) / 10,
  }
}

function costText(costs: ReadonlyMap<string, bigint>): Record<string, string> {
  return Object.fromEntries([...costs].map(([currency, nanos]) => [currency, decimalOfNanos(nanos)]))
}

/** The groups that have most over the whole time, in their order. */
function largest(rows: readonly RefusalRow[], by: readonly RefusalDimension[], top: number): readonly RefusalRow[] {
  const keyOf = (row: RefusalRow): string => JSON.stringify(by.map((name) => row.by[name] ?? ''))
  const sums = new Map<string, number>()
  for (const row of rows) sums.set(keyOf(row), (sums.get(keyOf(row)) ?? 0) + row.refused)
  const kept = new Set([...sums].sort(([, a], [, b]) => b - a).slice(0, top).map(([key]) => key))
  return rows.filter((row) => kept.has(keyOf(row)))
}

async function statusOf({ analytics, config }: AdminParts): Promise<Record<string, unknown>> {
  const kept = keptOf(config().analytics)
  if (kept === null) return { state: 'off', behind: null, complete_until: null, kept: null, rebuild: null, missed: 0 }
  const { failure, rebuild, isNew, behind, missed, completeUntilMs } = await analytics.status()
  return {
    state: rebuild !== null || (isNew && failure === null) ? 'rebuilding' : failure !== null ? 'failing' : behind > behindMax ? 'behind' : 'current',
    behind, complete_until: completeUntilMs === null ? null : toInstant(completeUntilMs), kept: Object.fromEntries(UNITS.map((unit) => [unit, lengthText(kept[unit])])),
    rebuild: rebuild === null ? null : { started_at: toInstant(rebuild.startedMs), archived: rebuild.archived }, missed, failure,
  }
}

/** What gathers for a step under load. */
const behindMax = 10_000

function lengthText(ms: number): string {
  return ms % 86_400_000 === 0 ? `${ms / 86_400_000}d` : ms % 3_600_000 === 0 ? `${ms / 3_600_000}h` : `${Math.round(ms / 60_000)}m`
}

interface SinkLook {
  readonly sinks: readonly { readonly name: string; readonly lag: number; readonly dead: number }[]
  readonly analytics_lag: number | null
}

const sinksEveryMs = 2_000

async function* liveSeconds(parts: AdminParts, gone: () => boolean, leave: () => void): AsyncGenerator<unknown> {
  const { live } = parts.analytics
  const sinks = new SinkStates(parts)
  try {
    do {
      yield { ...toLiveDocument(live.figures), ...await sinks.look() }
    } while (await live.next(gone))
  } finally {
    leave()
  }
}

/** Looked at every other second: who watches must not load the store. */
class SinkStates {
  readonly #parts: AdminParts
  #lookedMs = -Infinity
  #seen: SinkLook = { sinks: [], analytics_lag: null }

  constructor(parts: AdminParts) {
    this.#parts = parts
  }

  async look(): Promise<SinkLook> {
    const { clock, config, outbox, analytics } = this.#parts
    const nowMs = clock.monotonicMs()
    if (nowMs - this.#lookedMs < sinksEveryMs) return this.#seen
    this.#lookedMs = nowMs
    try {
      const sinks = await Promise.all(config().sinks.map(async ({ name }) => ({ name, lag: (await outbox.lag(name)).count, dead: await outbox.deadCount(name) })))
      this.#seen = { sinks, analytics_lag: analytics.kept === null ? null : (await analytics.status()).behind }
    } catch {
      // The store is away, which the page is told elsewhere; what was seen last is shown until it is back.
      this.#lookedMs = nowMs
    }
    return this.#seen
  }
}

function toLiveDocument(figures: LiveFigures): Record<string, unknown> {
  const tenths = (rate: number): number => Math.round(rate * 10) / 10
  return {
    at: toInstant(figures.atMs), requests_per_second: tenths(figures.requestsPerSecond), tokens_per_second: tenths(figures.tokensPerSecond),
    cost_per_second: Object.fromEntries([...figures.costPerSecond].map(([currency, nanos]) => [currency, decimalOfNanos(Math.round(nanos))])),
    errors_per_second: tenths(figures.failedPerSecond), refused_per_second: tenths(figures.refusedPerSecond), open: figures.open, streams: figures.streams, refusals: Object.fromEntries(figures.refusals),
  }
}

function mustBeOn({ analytics }: AdminParts): Kept {
  const { kept } = analytics
  if (kept === null) throw new Problem(409, 'analytics are off; see analytics in the configuration')
  return kept
}

function namesOf<Name extends string>(text: string | null, known: readonly Name[]): Name[] {
  const chosen: Name[] = []
  for (const part of (text ?? '').split(',').map((each) => each.trim()).filter((each) => each !== '')) {
    const found = known.find((each) => each === part)
    if (found === undefined) throw new Problem(400, `this cannot be grouped by "${part}"; there is ${known.join(', ')}`)
    if (!chosen.includes(found)) chosen.push(found)
  }
  return chosen
}

function onlyOf<Name extends string>(query: Asked['query'], names: readonly Name[]): Partial<Record<Name, string>> {
  const only: Partial<Record<Name, string>> = {}
  for (const name of names) {
    const value = textOf(query, name)
    if (value !== null) only[name] = value
  }
  return only
}

function fromText(fromMs: number | null): { from?: string } {
  return fromMs === null ? {} : { from: instant(fromMs) }
}

function instant(ms: number): string {
  return toWholeSecond(ms)
}

function textOf(values: Asked['query'], name: string): string | null {
  const value = values[name]
  return typeof value === 'string' ? value : null
}

function numberOf(values: Asked['query'], name: string): number | null {
  const value = values[name]
  return typeof value === 'number' ? value : null
}
