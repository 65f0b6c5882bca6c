import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { MatchLogic, ModelInfo, ModelPrice, Provider, TieredPrices } from '@pydantic/genai-prices'
import type { ModelRates, UnitPrices } from './config.ts'

/**
 * Public list prices with a markup, from the one package that has them; refreshed by updating it. The data is read when a card asks for it, and not before: it is large.
 * Prices come as decimals a million, and become integers from their digits, never by way of a float's arithmetic.
 */
export interface PublicPrices {
  readonly fromMs: number | null
  /** Of the data: `genai-prices@0.1.8`, and the date from which these prices hold, where it is another than the card's. */
  readonly version: string
  readonly rates: readonly ModelRates[]
}

/** Some of those that may be asked for, for a sentence. */
const someProviders = ['anthropic', 'aws', 'azure', 'cohere', 'deepseek', 'google', 'groq', 'mistral', 'moonshotai', 'openai', 'openrouter', 'together', 'x-ai']

/** What is charged, and by which key the data has it. Prices by search, page or hour have no meter here, nor have caches that live for an hour. */
const keys: readonly (readonly [meter: string, key: string, perUnits: bigint])[] = [
  ['input_tokens', 'input_mtok', 1_000_000n], ['cached_input_tokens', 'cache_read_mtok', 1_000_000n], ['cache_write_tokens', 'cache_write_mtok', 1_000_000n],
  ['output_tokens', 'output_mtok', 1_000_000n], ['reasoning_tokens', 'output_reasoning_mtok', 1_000_000n], ['requests', 'requests_kcount', 1_000n],
]

interface Data {
  readonly findProvider: (options: { readonly providerId: string }) => Provider | undefined
  readonly version: string
}

let data: Data | null = null

function loaded(): Data {
  if (data !== null) return data
  const require = createRequire(import.meta.url)
  const { findProvider } = require('@pydantic/genai-prices') as Pick<Data, 'findProvider'>
  const about = JSON.parse(readFileSync(join(dirname(require.resolve('@pydantic/genai-prices')), '..', 'package.json'), 'utf8')) as { readonly version: string }
  data = { findProvider, version: about.version }
  return data
}

/** The rates of all models of these providers, once for each date at which one changes between `fromMs` and `untilMs` (null: open). `markup` in hundredths of a percent. */
export function publicPrices(
  providers: readonly string[], markup: number, fromMs: number | null, untilMs: number | null,
): readonly PublicPrices[] | { readonly unknown: string; readonly known: readonly string[] } {
  const { findProvider, version } = loaded()
  const found: Provider[] = []
  for (const name of providers) {
    const provider = findProvider({ providerId: name })
    if (provider === undefined) return { unknown: name, known: someProviders }
    found.push(provider)
  }
  const models = found.flatMap((provider) => provider.models)
  const dates = new Set<number>()
  for (const model of models) for (const ms of startsOf(model)) if (ms > (fromMs ?? -Infinity) && ms < (untilMs ?? Infinity)) dates.add(ms)
  return [fromMs, ...[...dates].sort((a, b) => a - b)].map((ms, index): PublicPrices => ({
    fromMs: ms,
    version: `genai-prices@${version}${index === 0 || ms === null ? '' : `@${new Date(ms).toISOString().slice(0, 10)}`}`,
    rates: ratesAt(models, ms ?? -Infinity, markup),
  }))
}

function startsOf(model: ModelInfo): readonly number[] {
  if (!Array.isArray(model.prices)) return []
  return model.prices.flatMap(({ constraint }) => (constraint?.type === 'start_date' ? [Date.parse(constraint.start_date)] : []))
}

function ratesAt(models: readonly ModelInfo[], atMs: number, markup: number): readonly ModelRates[] {
  const rates: ModelRates[] = []
  const seen = new Set<string>()
  for (const model of models) {
    // Of two models that a name fits equally well, the data means the first.
    const globs = [...new Set([model.id, ...globsOf(model.match)])].filter((glob) => !seen.has(glob))
    const prices = pricesOf(model, atMs)
    if (globs.length === 0 || prices.length === 0) continue
    for (const glob of globs) seen.add(glob)
    rates.push({ models: globs, ...ratesFrom(prices, markup) })
  }
  return rates
}

/** A name's pattern as globs; what is no glob (a regular expression, several conditions at once) is left out: the model's own name remains. */
function globsOf(match: MatchLogic): readonly string[] {
  if ('or' in match) return match.or.flatMap(globsOf)
  if ('equals' in match) return [match.equals]
  if ('starts_with' in match) return [`${match.starts_with}*`]
  if ('ends_with' in match) return [`*${match.ends_with}`]
  return 'contains' in match ? [`*${match.contains}*`] : []
}

/** The prices in force; several where they depend on the time of day: then the dearest is charged. */
function pricesOf(model: ModelInfo, atMs: number): readonly ModelPrice[] {
  if (!Array.isArray(model.prices)) return [model.prices]
  const dated = model.prices.filter(({ constraint }) => constraint?.type !== 'time_of_date')
  const inForce = dated.findLast(({ constraint }) => constraint === undefined || (constraint.type === 'start_date' && Date.parse(constraint.start_date) <= atMs)) ?? dated[0]
  const byTime = model.prices.filter(({ constraint }) => constraint?.type === 'time_of_date')
  return [...(inForce === undefined ? [] : [inForce]), ...byTime].map(({ prices }) => prices)
}

function ratesFrom(prices: readonly ModelPrice[], markup: number): Pick<ModelRates, 'picosPer' | 'longInput'> {
  const thresholds = [...new Set(prices.flatMap((price) => Object.values(price)).flatMap((value) => (isTiered(value) ? value.tiers.map(({ start }) => start) : [])))].sort((a, b) => a - b)
  const longInput = thresholds.map((over) => ({ over, picosPer: picosOf(prices, over, markup) }))
  return { picosPer: picosOf(prices, -1, markup), ...(longInput.length === 0 ? {} : { longInput }) }
}

/** The prices of calls with more input than `over` tokens, up to the next threshold. */
function picosOf(prices: readonly ModelPrice[], over: number, markup: number): UnitPrices {
  const picosPer: { [meter: string]: number } = {}
  for (const [meter, key, perUnits] of keys) {
    for (const price of prices) {
      const value = price[key]
      if (value === undefined) continue
      const decimal = isTiered(value) ? value.tiers.findLast(({ start }) => start <= over)?.price ?? value.base : value
      picosPer[meter] = Math.max(picosPer[meter] ?? 0, markedUp(decimal, perUnits, markup))
    }
  }
  return picosPer
}

function isTiered(value: number | TieredPrices | undefined): value is TieredPrices {
  return typeof value === 'object'
}

/** Dollars for `perUnits` → picos for one, with the markup, rounded up. The shortest decimal that reads back as the number is what was written in the data. */
function markedUp(dollars: number, perUnits: bigint, markup: number): number {
  const [, whole = '', fraction = '', exponent = '0'] = /^(\d+)(?:\.(\d+))?(?:e([-+]\d+))?$/.exec(String(dollars)) ?? []
  const decimals = fraction.length - Number(exponent)
  const numerator = BigInt(whole + fraction) * 1_000_000_000_000n * BigInt(10_000 + markup) * 10n ** BigInt(Math.max(0, -decimals))
  const divisor = perUnits * 10_000n * 10n ** BigInt(Math.max(0, decimals))
  return Number((numerator + divisor - 1n) / divisor)
}
