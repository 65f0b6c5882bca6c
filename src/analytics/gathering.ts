import { addAll, addSums, nothingAdded, raise } from './counts.ts'
import type { Adding } from './counts.ts'
import { bucketOf, DIMENSIONS, UNITS } from './rollups.ts'
import type { Dimension, Dimensions, Increment, Unit } from './rollups.ts'

/** What separates names in texts that are made of several. */
export const SEPARATOR = '\u001f'
export const OTHER = 'other'
/** Models of an account and day; callers make their names up. */
export const MODELS_MAX = 200
/** Models of all accounts and a day. */
export const MODELS_OF_ALL = 1_000

/** Of events of one minute that are alike in every dimension. */
export interface Gathered {
  /** Where the minute begins, ms. */
  readonly atMs: number
  readonly dimensions: Dimensions
  readonly currency: string
  readonly adding: Adding
}

/** Many events come to few rows: they are added up by the minute before they are sent or written anywhere. */
export function gathered(increments: Iterable<Increment>): Gathered[] {
  const rows = new Map<string, Gathered>()
  for (const { dimensions, currency, atMs, sums, costNanos, latencySlot, firstTokenSlot } of increments) {
    const minute = bucketOf('minute', atMs)
    const { account, key, plan, model, endpoint, upstream, end, status } = dimensions
    const text = `${minute}\u001f${account}\u001f${key}\u001f${plan}\u001f${model}\u001f${endpoint}\u001f${upstream}\u001f${end}\u001f${status}\u001f${currency}`
    let row = rows.get(text)
    if (row === undefined) rows.set(text, row = { atMs: minute, dimensions, currency, adding: nothingAdded() })
    const { adding } = row
    addSums(adding, { sums, costNanos })
    if (latencySlot !== null) raise(adding.latency ??= new Map(), latencySlot)
    if (firstTokenSlot !== null) raise(adding.firstToken ??= new Map(), firstTokenSlot)
  }
  return [...rows.values()]
}

/**
 * `usage`: of one account, by everything else. `accounts`: of an account in all; the account '' is all of them. `mix`: of all accounts, by everything but account and key.
 * What is told apart by more is read from `usage`.
 */
export const TABLES = ['usage', 'accounts', 'mix'] as const
export type Table = (typeof TABLES)[number]

const KEPT_IN: Readonly<Record<Table, readonly Unit[]>> = { usage: ['minute', 'hour', 'day'], accounts: ['hour', 'day', 'month'], mix: UNITS }

/** In which units a table has rows of an account; '' is all of them, undefined each. */
export function keptIn(table: Table, account: string | undefined): readonly Unit[] {
  return table === 'accounts' && account === '' ? UNITS : KEPT_IN[table]
}

/** What is added to one row of a table. */
export interface TableRow {
  readonly table: Table
  readonly unit: Unit
  readonly bucket: number
  /** '' in `mix`, and in `accounts` for all of them. */
  readonly account: string
  /** The other dimensions, in the order of COMBINED: empty texts in `accounts`, and the key's in `mix`. */
  readonly names: readonly string[]
  readonly currency: string
  readonly adding: Adding
}

export const COMBINED = DIMENSIONS.filter((dimension) => dimension !== 'account')
const noNames = COMBINED.map(() => '')

/**
 * The rows that minutes come to, each once. `modelOf` gives a model's name, or `other` where there are too many on that day; `account` '' is all of them. `folds`: what
 * is of accounts will be added up from the minute later on.
 */
export function tableRows(minutes: readonly Gathered[], modelOf: (day: number, account: string, model: string) => string, folds: (minute: number) => boolean = () => false): TableRow[] {
  const rows = new Map<string, TableRow>()
  const add = (place: string, table: Table, unit: Unit, bucket: number, account: string, names: readonly string[], currency: string, adding: Adding): void => {
    let row = rows.get(place)
    if (row === undefined) rows.set(place, row = { table, unit, bucket, account, names, currency, adding: nothingAdded() })
    addAll(row.adding, adding)
  }
  const day = latest((atMs) => bucketOf('day', atMs))
  for (const { atMs, dimensions, currency, adding } of minutes) {
    const { account, key, plan, model, endpoint, upstream, end, status } = dimensions
    const ownModel = modelOf(day(atMs), account, model)
    const own = [key, plan, ownModel, endpoint, upstream, end, status]
    const all = ['', plan, modelOf(day(atMs), '', ownModel), endpoint, upstream, end, status]
    const ownText = `${account}\u001f${own.join(SEPARATOR)}\u001f${currency}`
    const folded = folds(atMs)
    for (const unit of folded ? MINUTE : UNITS) {
      const bucket = bucketOf(unit, atMs)
      const place = `${unit}${bucket}`
      if (KEPT_IN.usage.includes(unit)) add(`u${place}${ownText}`, 'usage', unit, bucket, account, own, currency, adding)
      if (KEPT_IN.accounts.includes(unit)) add(`a${place}${account}\u001f${currency}`, 'accounts', unit, bucket, account, noNames, currency, adding)
    }
    add(`xminute${atMs}${all.join(SEPARATOR)}\u001f${currency}`, 'mix', 'minute', atMs, '', all, currency, adding)
  }
  // Of all accounts there are few: what is longer is added up from their minutes.
  const mixes = rows.values().filter(({ table }) => table === 'mix').toArray()
  for (const { bucket: atMs, names, currency, adding } of mixes) {
    for (const unit of UNITS) {
      const bucket = bucketOf(unit, atMs)
      if (unit !== 'minute') add(`x${unit}${bucket}${names.join(SEPARATOR)}\u001f${currency}`, 'mix', unit, bucket, '', names, currency, adding)
      add(`t${unit}${bucket}${currency}`, 'accounts', unit, bucket, '', noNames, currency, adding)
    }
  }
  return [...rows.values()]
}

const MINUTE: readonly Unit[] = ['minute']

/** Gives the last answer again where the question is the last one. */
function latest(answerTo: (atMs: number) => number): (atMs: number) => number {
  let asked = NaN
  let answer = NaN
  return (atMs) => {
    if (atMs !== asked) answer = answerTo(asked = atMs)
    return answer
  }
}

/** Which table answers, and in which unit it is read: the one asked for, or a finer one. `named`: dimensions that are grouped by or asked for. */
export function sourceOf(unit: Unit, named: readonly Dimension[]): { readonly table: Table; readonly unit: Unit } {
  if (named.length === 0) return { table: 'accounts', unit }
  if (named.every((dimension) => dimension === 'account') && KEPT_IN.accounts.includes(unit)) return { table: 'accounts', unit }
  if (!named.includes('account') && !named.includes('key')) return { table: 'mix', unit }
  // Of an account's models nothing is kept by the month.
  return { table: 'usage', unit: unit === 'month' ? 'day' : unit }
}
