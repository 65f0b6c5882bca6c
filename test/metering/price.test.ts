import fc from 'fast-check'
import t from 'tap'
import type { ModelRates, PriceCard, RateCard } from '../../src/config/config.ts'
import { METERS, type BuiltinMeter, type Quantities } from '../../src/metering/meter.ts'
import { dearestUnit, periodCharge } from '../../src/metering/period-price.ts'
import { costBound, costNanos, decimalOfNanos, eachPart, pricedUsage, ratesFor, ratesOfCall, ratesWithin, versionAt } from '../../src/metering/price.ts'
import { readTable } from './table.ts'

/** `input_tokens=0.15 …` → pairs. */
function pairs(words: readonly string[]): [BuiltinMeter, string][] {
  return words.map((word) => word.split('=') as [BuiltinMeter, string])
}

/** Dollars as tables write them → picos per small unit, without a double in between. */
function picosOf(meter: BuiltinMeter, dollars: string): number {
  const [whole = '0', fraction = ''] = dollars.split('.')
  const picos = BigInt(whole + fraction.padEnd(12, '0'))
  return Number(picos / (meter.endsWith('_tokens') ? 1_000_000n : BigInt(METERS[meter].scale)))
}

t.test('calls cost what price.txt says', async (t) => {
  let rates: ModelRates = { models: ['*'], picosPer: {} }
  for (const { line, text, left: [what], right } of readTable('price.txt')) {
    const [word, ...words] = what!.split(/\s+/)
    if (word === 'rates') {
      rates = { models: ['*'], picosPer: Object.fromEntries(pairs(words).map(([meter, dollars]) => [meter, picosOf(meter, dollars)])) }
      continue
    }
    const usage: Quantities = Object.fromEntries(pairs(words).map(([meter, count]) => [meter, Number(count)]))
    t.same([decimalOfNanos(costNanos(usage, rates)), decimalOfNanos(costBound(usage, rates))], right, `line ${line}: ${text}`)
  }
})

const price = fc.integer({ min: 0, max: 200_000_000 })
const tokens = fc.integer({ min: 0, max: 2_000_000 })
const anyRates = fc.record({ input_tokens: price, output_tokens: price, requests: price }, { requiredKeys: [] }).chain((whole) =>
  fc.record({ cached_input_tokens: price, cache_write_tokens: price, reasoning_tokens: price }, { requiredKeys: [] }).map((parts): ModelRates => ({ models: ['*'], picosPer: { ...whole, ...parts } })))

t.test('a cost is exact, and rounded up by less than a billionth', async (t) => {
  fc.assert(fc.property(anyRates, tokens, tokens, tokens, tokens, tokens, (rates, input, cached, written, output, reasoning) => {
    const usage: Quantities = { requests: 1, input_tokens: input + cached + written, cached_input_tokens: cached, cache_write_tokens: written, output_tokens: output + reasoning, reasoning_tokens: reasoning }
    const at = (name: string, otherwise = ''): bigint => BigInt(rates.picosPer[name] ?? rates.picosPer[otherwise] ?? 0)
    const picos = at('requests') + BigInt(input) * at('input_tokens') + BigInt(cached) * at('cached_input_tokens', 'input_tokens') + BigInt(written) * at('cache_write_tokens', 'input_tokens')
      + BigInt(output) * at('output_tokens') + BigInt(reasoning) * at('reasoning_tokens', 'output_tokens')
    const nanos = BigInt(costNanos(usage, rates))
    return nanos * 1_000n >= picos && (nanos - 1n) * 1_000n < picos
  }), { numRuns: 2_000 })
  t.pass('2,000 random calls')
})

t.test('no call costs more than its bound, however its tokens turn out', async (t) => {
  fc.assert(fc.property(anyRates, tokens, tokens, tokens, tokens, tokens, tokens, fc.integer({ min: 1, max: 16 }), (rates, input, less, cached, written, output, reasoning, choices) => {
    const bound = costBound({ requests: 1, input_tokens: input }, rates) + output * costBound({ output_tokens: choices }, rates)
    const usage: Quantities = {
      requests: 1, input_tokens: Math.max(0, input - less), cached_input_tokens: cached, cache_write_tokens: written, output_tokens: output * choices, reasoning_tokens: reasoning,
    }
    return costNanos(usage, rates) <= bound
  }), { numRuns: 2_000 })
  t.pass('2,000 random calls')
})

t.test('a call with a long input is priced by it, all of it, and never above its bound', async (t) => {
  const rates: ModelRates = {
    models: ['*'], picosPer: { input_tokens: 3_000_000, cached_input_tokens: 300_000, output_tokens: 15_000_000 },
    longInput: [{ over: 200, picosPer: { input_tokens: 6_000_000, cached_input_tokens: 600_000, output_tokens: 22_500_000 } }, { over: 1_000, picosPer: { input_tokens: 1_000_000, output_tokens: 90_000_000 } }],
  }
  const cost = (input: number, cached: number, output: number): number => costNanos({ requests: 1, input_tokens: input, cached_input_tokens: cached, output_tokens: output }, rates)
  t.equal(cost(200, 0, 1), 200 * 3_000 + 15_000)
  t.equal(cost(201, 0, 1), 201 * 6_000 + 22_500)
  t.equal(cost(1_001, 1_001, 0), 1_001 * 1_000, 'a part without a price in its tier costs what the whole does there')
  t.same(ratesWithin(rates, 200)?.picosPer, rates.picosPer)
  t.same(ratesWithin(rates, 201)?.picosPer, { input_tokens: 6_000_000, cached_input_tokens: 600_000, output_tokens: 22_500_000 })
  t.equal(ratesWithin(rates, Infinity)?.picosPer['output_tokens'], 90_000_000)
  fc.assert(fc.property(anyRates, anyRates, fc.nat(3_000), fc.nat(4_000), fc.nat(4_000), tokens, tokens, tokens, (short, long, over, bound, less, cached, output, reasoning) => {
    const rates: ModelRates = { ...short, longInput: [{ over, picosPer: long.picosPer }] }
    const within = ratesWithin(rates, bound)!
    const usage: Quantities = { requests: 1, input_tokens: Math.max(0, bound - less), cached_input_tokens: cached, output_tokens: output, reasoning_tokens: reasoning }
    return costNanos(usage, rates) <= costBound({ requests: 1, input_tokens: bound }, within) + output * costBound({ output_tokens: 1 }, within)
  }), { numRuns: 2_000 })
})

t.test('a feature costs once for each call that used it', async (t) => {
  const rates: ModelRates = { models: ['*'], picosPer: { input_tokens: 5_000 }, features: { hosted_tools: 10_000_000, store: 7_000 }, longInput: [{ over: 10, picosPer: { input_tokens: 9_000, requests: 1_000 } }] }
  t.equal(ratesOfCall(rates, []), rates)
  t.equal(ratesOfCall(rates, ['background']), rates)
  const used = ratesOfCall(rates, ['hosted_tools', 'store'])!
  t.equal(ratesOfCall(rates, ['hosted_tools', 'store']), used, 'made once')
  t.equal(costNanos({ requests: 1, input_tokens: 2 }, used), 10_000 + 7 + 10)
  t.equal(costNanos({ requests: 1, input_tokens: 11 }, used), 10_000 + 7 + 99 + 1)
  t.equal(costNanos({ requests: 0, input_tokens: 2 }, used), 10)
})

t.test('what depends on the period: each unit by its tier, all by the last one, or begun packages', async (t) => {
  const tiers = [{ upTo: 10, picos: 3 }, { upTo: 100, picos: 2 }, { upTo: null, picos: 5 }]
  const charge = (kind: 'graduated' | 'volume', quantity: number): number => Number(periodCharge({ kind, tiers }, BigInt(quantity)))
  t.same([-5, 0, 1, 10, 11, 100, 101].map((quantity) => charge('graduated', quantity)), [0, 0, 3, 30, 32, 210, 215])
  t.same([-5, 0, 1, 10, 11, 100, 101].map((quantity) => charge('volume', quantity)), [0, 0, 3, 30, 22, 200, 505])
  t.same([-1n, 0n, 1n, 10n, 11n].map((quantity) => periodCharge({ kind: 'package', size: 10, nanos: 7 }, quantity)), [0n, 0n, 7_000n, 7_000n, 14_000n])
  t.equal(dearestUnit({ kind: 'volume', tiers }), 5)
  t.equal(dearestUnit({ kind: 'package', size: 3, nanos: 1 }), 334, 'rounded up')
})

t.test('a difference is priced as it is: its parts may be negative', async (t) => {
  const rates: ModelRates = { models: ['*'], picosPer: { input_tokens: 2, cached_input_tokens: 1, output_tokens: 3, requests: 9 } }
  const parts: unknown[] = []
  eachPart({ requests: 0, input_tokens: -10, cached_input_tokens: 5, output_tokens: 4, reasoning_tokens: 7 }, rates, (...part) => parts.push(part), true)
  t.same(parts, [['input_tokens', 'input_tokens', -15, 2], ['cached_input_tokens', 'cached_input_tokens', 5, 1], ['output_tokens', 'output_tokens', -3, 3], ['reasoning_tokens', 'output_tokens', 7, 3]])
})

t.test('the prices in force are those of the last version that has begun', async (t) => {
  const version = (version: string, fromMs: number | null): PriceCard => ({ fromMs, version, rates: [] })
  const card: RateCard = { name: 'c', currency: 'USD', scale: 9, versions: [version('a', null), version('b', 1_000), version('c', 2_000)] }
  t.same([0, 999, 1_000, 1_999, 2_000, Infinity].map((ms) => versionAt(card, ms)?.version), ['a', 'a', 'b', 'b', 'c', 'c'])
  t.equal(versionAt({ ...card, versions: [version('b', 1_000)] }, 999), null, 'none yet')
  t.equal(versionAt(null, 0), null)
})

t.test('K11: a model has the rates of its name, else of the longest glob, else none', async (t) => {
  const rates = (models: string[]): ModelRates => ({ models, picosPer: {} })
  const card = { fromMs: null, version: '1', rates: [rates(['*']), rates(['gpt-*', 'o1']), rates(['gpt-4*'])] }
  for (const [model, index] of [['gpt-4o', 2], ['gpt-5', 1], ['o1', 1], ['o1-mini', 0], [null, 0]] as const) t.equal(ratesFor(card, model), card.rates[index], String(model))
  t.equal(ratesFor({ ...card, rates: [rates(['gpt-*'])] }, 'llama'), null)
  t.equal(ratesFor({ ...card, rates: [rates(['gpt-*'])] }, null), null)
  t.equal(ratesFor(null, 'llama'), null)
  const [wide, exact] = [rates(['*']), rates(['gpt-4o'])]
  t.equal(ratesFor({ fromMs: null, version: '1', rates: [rates(['o1'])], base: [wide, exact] }, 'gpt-4o'), exact)
  const own = rates(['gpt-*'])
  t.equal(ratesFor({ fromMs: null, version: '1', rates: [own], base: [wide, exact] }, 'gpt-4o'), own, 'a card has the first word, public prices the second')
  t.same(pricedUsage({ requests: 2 }, null), { requests: 2 }, 'without rates there is no cost, which is not a cost of 0')
  t.same(pricedUsage({ requests: 2 }, { models: ['*'], picosPer: { requests: 1_500 } }), { requests: 2, cost: 3 })
})

t.test('money is written with nine digits', async (t) => {
  for (const [nanos, text] of [[0, '0.000000000'], [412_500, '0.000412500'], [1, '0.000000001'], [-1, '-0.000000001'], [1_000_000_000, '1.000000000'], [-12_345_678_901, '-12.345678901'], [9_007_199_254_740_991, '9007199.254740991']] as const) {
    t.equal(decimalOfNanos(nanos), text)
    t.equal(decimalOfNanos(BigInt(nanos)), text)
  }
  t.equal(decimalOfNanos(1_234_567, 6), '1.234567')
  t.equal(decimalOfNanos(-123_456_789_012_345_678_901n), '-123456789012.345678901')
})
