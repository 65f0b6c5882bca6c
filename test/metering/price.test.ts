import fc from 'fast-check'
import t from 'tap'
import type { ModelRates } from '../../src/config/config.ts'
import { METERS, type BuiltinMeter, type Quantities } from '../../src/metering/meter.ts'
import { costBound, costNanos, decimalOfNanos, pricedUsage, ratesFor } from '../../src/metering/price.ts'
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

t.test('K11: a model has the rates of its name, else of the longest glob, else none', async (t) => {
  const rates = (models: string[]): ModelRates => ({ models, picosPer: {} })
  const card = { currency: 'USD', version: '1', rates: [rates(['*']), rates(['gpt-*', 'o1']), rates(['gpt-4*'])] }
  for (const [model, index] of [['gpt-4o', 2], ['gpt-5', 1], ['o1', 1], ['o1-mini', 0], [null, 0]] as const) t.equal(ratesFor(card, model), card.rates[index], String(model))
  t.equal(ratesFor({ ...card, rates: [rates(['gpt-*'])] }, 'llama'), null)
  t.equal(ratesFor({ ...card, rates: [rates(['gpt-*'])] }, null), null)
  t.equal(ratesFor(null, 'llama'), null)
  t.same(pricedUsage({ requests: 2 }, null), { requests: 2 }, 'without rates there is no cost, which is not a cost of 0')
  t.same(pricedUsage({ requests: 2 }, { models: ['*'], picosPer: { requests: 1_500 } }), { requests: 2, cost: 3 })
})

t.test('money is written with nine digits', async (t) => {
  for (const [nanos, text] of [[0, '0.000000000'], [412_500, '0.000412500'], [1, '0.000000001'], [-1, '-0.000000001'], [1_000_000_000, '1.000000000'], [-12_345_678_901, '-12.345678901'], [9_007_199_254_740_991, '9007199.254740991']] as const) {
    t.equal(decimalOfNanos(nanos), text)
  }
})
