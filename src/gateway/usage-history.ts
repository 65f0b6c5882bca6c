import { GatewayError } from '../errors.ts'
import { toInstant, toWholeSecond } from '../metering/event.ts'
import { decimalOfNanos } from '../metering/price.ts'
import { StoreUnavailable } from '../stores/store.ts'
import { authenticate } from './authenticate.ts'
import type { Exchange } from './exchange.ts'
import type { Workings } from './parts.ts'
import { respondJson } from './respond.ts'

export const usageHistoryPath = '/-/usage/history'

const historyUnits = ['hour', 'day', 'month'] as const
type HistoryUnit = (typeof historyUnits)[number]

/** What keys have used, by the hour, day and month in UTC. It may be seconds late. */
export interface UsageHistory {
  /** False: none is kept. */
  readonly isKept: boolean
  /** Of one key alone. Rejects with StoreUnavailable. */
  of(question: HistoryQuestion): Promise<HistoryAnswer>
}

export interface HistoryQuestion {
  readonly account: string
  readonly key: string
  readonly unit: HistoryUnit
  /** How far back, ms, widened to whole buckets and narrowed to what is kept; null: as far as is usual for the unit. */
  readonly backMs: number | null
}

export interface HistoryAnswer {
  readonly fromMs: number
  /** Where the bucket of this moment ends. */
  readonly untilMs: number
  /** What was settled before is in the sums; null: they are being made again. */
  readonly completeUntilMs: number | null
  /** Of buckets that have anything, in the order of time. */
  readonly rows: readonly HistoryRow[]
}

export interface HistoryRow {
  readonly fromMs: number
  readonly requests: number
  readonly inputTokens: number
  readonly outputTokens: number
  readonly totalTokens: number
  /** By currency, in 10⁻⁹. */
  readonly costs: ReadonlyMap<string, bigint>
  /** null: it cannot be told apart from others'. */
  readonly refused: number | null
}

/** `GET /-/usage/history?unit=day&since=30d`: what this key has used, and nothing of its account's other keys. */
export async function answerUsageHistory(x: Exchange, w: Workings): Promise<void> {
  if (x.d.method !== 'GET') throw new GatewayError('method_not_allowed', 'This is read with GET.', { details: { allow: 'GET' } })
  const { account: { id: account }, keyId: key } = x.principal = await authenticate(x.d, w)
  const { unit, backMs } = wishOf(x.d.query)
  const { history } = w
  if (history === undefined || !history.isKept) throw new GatewayError('not_found', 'No history of usage is kept here.')
  const leave = w.historyTurns.enter(account, w.clock.monotonicMs())
  // However long it takes, so many are read at once and no more.
  const reading = history.of({ account, key, unit, backMs }).finally(leave)
  const { fromMs, untilMs, completeUntilMs, rows } = await inTime(reading, w)
  x.status = 200
  x.end = 'complete'
  respondJson(x.d, 200, {
    account, key, unit, from: toWholeSecond(fromMs), to: toWholeSecond(untilMs), complete_until: completeUntilMs === null ? null : toInstant(completeUntilMs),
    rows: rows.map((row) => ({ from: toWholeSecond(row.fromMs), ...documentOf(row) })), totals: documentOf(totalOf(rows)),
  })
}

/** Throws `bad_request`, which names the field. */
function wishOf(query: string): Pick<HistoryQuestion, 'unit' | 'backMs'> {
  const given = new Map<string, string>()
  for (const [name, value] of new URLSearchParams(query)) {
    // It said who asks.
    if (name === 'key') continue
    if (name !== 'unit' && name !== 'since') throw new GatewayError('bad_request', `${/^[a-z_]{1,32}$/i.test(name) ? `"${name}"` : 'A part of the query'} is not known here; there are unit and since.`)
    if (given.has(name)) throw new GatewayError('bad_request', `${name} is given twice.`)
    given.set(name, value)
  }
  const text = given.get('unit') ?? 'day'
  const unit = historyUnits.find((each) => each === text)
  if (unit === undefined) throw new GatewayError('bad_request', `unit has to be one of ${historyUnits.join(', ')}.`)
  const since = given.get('since')
  if (since === undefined) return { unit, backMs: null }
  const [, count = '', letter] = /^([1-9]\d{0,4})([hd])$/.exec(since) ?? []
  if (count === '') throw new GatewayError('bad_request', 'since says how far back, in hours or days, such as 24h or 30d.')
  return { unit, backMs: Number(count) * (letter === 'h' ? 3_600_000 : 86_400_000) }
}

async function inTime(reading: Promise<HistoryAnswer>, { clock, limits }: Workings): Promise<HistoryAnswer> {
  const unavailable = (cause?: unknown): GatewayError => new GatewayError('metering_unavailable', 'The history of usage cannot be read at the moment. Please try again shortly.', { source: 'store', cause })
  let cancel = (): void => undefined
  const late = new Promise<never>((_resolve, reject) => {
    cancel = clock.after(limits.historyMs, () => reject(unavailable()), { unref: true })
  })
  try {
    return await Promise.race([reading, late])
  } catch (error) {
    throw error instanceof StoreUnavailable ? unavailable(error) : error
  } finally {
    cancel()
  }
}

function totalOf(rows: readonly HistoryRow[]): HistoryRow {
  const costs = new Map<string, bigint>()
  for (const row of rows) for (const [currency, nanos] of row.costs) costs.set(currency, (costs.get(currency) ?? 0n) + nanos)
  const sum = (of: (row: HistoryRow) => number): number => rows.reduce((all, row) => all + of(row), 0)
  return {
    fromMs: 0, requests: sum((row) => row.requests), inputTokens: sum((row) => row.inputTokens), outputTokens: sum((row) => row.outputTokens), totalTokens: sum((row) => row.totalTokens), costs,
    refused: rows.some(({ refused }) => refused === null) ? null : sum((row) => row.refused ?? 0),
  }
}

function documentOf({ requests, inputTokens, outputTokens, totalTokens, costs, refused }: HistoryRow): object {
  return {
    requests, input_tokens: inputTokens, output_tokens: outputTokens, total_tokens: totalTokens,
    cost: Object.fromEntries([...costs].map(([currency, nanos]) => [currency, decimalOfNanos(nanos)])), refused,
  }
}

const atOnceMax = 4
const ofAccountMax = 2
/** An account's questions: ten at a stroke, then one a second. */
const everyMs = 1_000
const burst = 10
const accountsKept = 10_000

interface Turn {
  running: number
  /** Of the monotonic clock: its questions are paid for until then. */
  paidMs: number
}

/** Reading is dearer than a call's own bookkeeping, and calls go first: of these questions there are few at once, in all and of each account. */
export class HistoryTurns {
  readonly #turns = new Map<string, Turn>()
  #running = 0

  /** Gives what is to be called once when the question is over. Throws `rate_limited`. */
  enter(account: string, nowMs: number): () => void {
    const turn = this.#turns.get(account) ?? { running: 0, paidMs: -Infinity }
    const paidMs = Math.max(nowMs, turn.paidMs) + everyMs
    const waitMs = paidMs - nowMs - burst * everyMs
    if (waitMs > 0) throw new GatewayError('rate_limited', 'The history of usage is asked for too often.', { details: { retryAfterMs: waitMs } })
    if (this.#running >= atOnceMax || turn.running >= ofAccountMax) {
      throw new GatewayError('rate_limited', 'Too many ask for a history of usage at this moment. Please try again shortly.', { details: { retryAfterMs: 1_000 } })
    }
    if (this.#turns.size >= accountsKept) this.#forget(nowMs)
    turn.paidMs = paidMs
    turn.running += 1
    this.#running += 1
    this.#turns.set(account, turn)
    return () => {
      turn.running -= 1
      this.#running -= 1
    }
  }

  /** Whoever may ask as often as anybody. */
  #forget(nowMs: number): void {
    for (const [account, { running, paidMs }] of this.#turns) if (running === 0 && paidMs <= nowMs) this.#turns.delete(account)
  }
}
