import { calcPrice, findProvider } from '@pydantic/genai-prices'
import t from 'tap'
import { loadConfig } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'
import type { PublicPrices } from '../../src/config/public-prices.ts'
import { publicPrices } from '../../src/config/public-prices.ts'
import type { PriceCard } from '../../src/config/config.ts'
import { costNanos, ratesFor } from '../../src/metering/price.ts'

const providers = ['anthropic', 'openai', 'google', 'mistral', 'deepseek', 'cohere', 'x-ai', 'groq']

function pricesOf(names: readonly string[], markup = 0, fromMs: number | null = null, untilMs: number | null = null): readonly PublicPrices[] {
  const found = publicPrices(names, markup, fromMs, untilMs)
  if ('unknown' in found) throw new Error(found.unknown)
  return found
}

function cardOf({ fromMs, version, rates }: PublicPrices): PriceCard {
  return { fromMs, version, rates: [], base: rates }
}

t.test('public prices without a markup are what the package itself calculates, for every model and on both sides of a long input', async (t) => {
  let compared = 0
  const differ: string[] = []
  for (const provider of providers) {
    const versions = pricesOf([provider])
    for (const prices of versions) {
      // A moment of that version, at an hour that no price by the time of day knows.
      const at = prices.fromMs ?? Date.UTC(2020, 0, 1)
      const card = cardOf(prices)
      for (const model of findProvider({ providerId: provider })!.models) {
        if (Array.isArray(model.prices) && model.prices.some(({ constraint }) => constraint?.type === 'time_of_date')) continue
        const rates = ratesFor(card, model.id)
        if (rates === null) continue
        for (const [input, cached, written, output] of [[1_000, 0, 0, 100], [150_000, 40_000, 0, 7_001], [900_001, 300_000, 0, 33]] as const) {
          const usage = { requests: 1, input_tokens: input, cached_input_tokens: cached, cache_write_tokens: written, output_tokens: output }
          const theirs = calcPrice({ input_tokens: input, cache_read_tokens: cached, cache_write_tokens: written, output_tokens: output }, model.id, { providerId: provider, timestamp: new Date(at) })
          if (theirs === null) continue
          compared++
          const ours = costNanos(usage, rates) / 1e9
          if (Math.abs(ours - theirs.total_price) > 1e-9 + theirs.total_price * 1e-12) differ.push(`${provider} ${model.id} ${input}: ${ours}, not ${theirs.total_price}`)
        }
      }
    }
  }
  t.ok(compared > 800, `${compared} prices`)
  t.strictSame(differ, [])
})

t.test('a markup is exact, and rounded up to the last digit of a price', async (t) => {
  const base = ratesFor(cardOf(pricesOf(['openai'])[0]!), 'gpt-4o-mini')
  const marked = ratesFor(cardOf(pricesOf(['openai'], 2_000)[0]!), 'gpt-4o-mini')
  t.match(base?.picosPer, { input_tokens: 150_000, cached_input_tokens: 75_000, output_tokens: 600_000 })
  t.match(marked?.picosPer, { input_tokens: 180_000, cached_input_tokens: 90_000, output_tokens: 720_000 })
  const odd = ratesFor(cardOf(pricesOf(['openai'], 1_235)[0]!), 'gpt-4o-mini')
  t.equal(odd?.picosPer['cached_input_tokens'], 84_263, 'of 84,262.5')
})

t.test('the version of the data and the dates of its changes are part of the version, and overrides come first', async (t) => {
  const text = `prices:
  std:
    currency: USD
    version: "2026"
    cost_plus: { providers: [deepseek, openai], markup: 20% }
    models: { "gpt-*": { input_tokens: 1/M, output_tokens: 1/M } }
plans: { p: { prices: std, limits: [{ name: l, meter: cost, limit: 5, window: day }] } }
`
  const { config, problems } = loadConfig({ file: 'x.yaml', text, env: {}, hostName: 'h' })
  t.strictSame(problems.map(toText), [])
  const versions = config?.plans.get('p')?.prices?.versions ?? []
  t.match(versions[0]?.version, /^2026\+genai-prices@\d+\.\d+\.\d+$/)
  t.equal(new Set(versions.map(({ version }) => version)).size, versions.length)
  t.ok(versions.every(({ fromMs }, index) => index === 0 || (fromMs ?? 0) > (versions[index - 1]?.fromMs ?? -1)), 'they are in order')
  const last = versions.at(-1)!
  t.strictSame(ratesFor(last, 'gpt-4o')?.picosPer, { input_tokens: 1_000_000, output_tokens: 1_000_000 }, 'a pattern of the card, though the public name is longer')
  t.equal(ratesFor(last, 'o3-mini')?.picosPer['input_tokens'], 1_320_000)
  t.equal(ratesFor(last, 'llama-3.1-8b'), null)
  const dated = pricesOf(['deepseek'], 0, Date.UTC(2025, 0, 1), Date.UTC(2025, 6, 1))
  t.ok(dated.every(({ fromMs }) => fromMs !== null && fromMs < Date.UTC(2025, 6, 1)), 'none from when the next version is in force')
})

t.test('of prices by the time of day the dearest is charged', async (t) => {
  const model = findProvider({ providerId: 'deepseek' })!.models.find(({ prices }) => Array.isArray(prices) && prices.some(({ constraint }) => constraint?.type === 'time_of_date'))
  const rates = ratesFor(cardOf(pricesOf(['deepseek']).at(-1)!), model!.id)
  const all = (Array.isArray(model!.prices) ? model!.prices : []).map(({ prices }) => Math.round(Number(prices['input_mtok']) * 1_000_000))
  t.equal(rates?.picosPer['input_tokens'], Math.max(...all))
})
