import fc from 'fast-check'
import t from 'tap'
import type { Plan } from '../../src/config/config.ts'
import { loadConfig } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'
import { FocusSheet, focusColumns, focusNumbers, type FocusRow } from '../../src/invoices/focus.ts'
import type { Quantities } from '../../src/metering/meter.ts'
import { decimalOfNanos, pricedUsage, ratesFor, ratesOfCall } from '../../src/metering/price.ts'

const { config, problems } = loadConfig({
  file: 'focus.yaml', env: {}, hostName: 'h', text: `
upstreams: { m: { url: https://models.example.com } }
plans:
  pro:
    prices:
      currency: USD
      version: v1
      models:
        "gpt-*": { input_tokens: 2.50/M, cached_input_tokens: 1.25/M, output_tokens: 10/M, hosted_tools: 0.01 }
        "whisper": { audio_seconds: 0.0001 }
        "*": { requests: 0.0000000015 }
`,
})
if (config === null) throw new Error(problems.map(toText).join('\n'))
const plans: ReadonlyMap<string, Plan> = config.plans
const hourMs = 3_600_000
const day = Date.UTC(2026, 10, 22)
const month = { startMs: Date.UTC(2026, 10, 1), endMs: Date.UTC(2026, 11, 1) }

const sheetOf = (periodMs = 24 * hourMs, billingPeriod = (_account: string, _atMs: number) => month): FocusSheet => new FocusSheet({ provider: 'Acme Inference', periodMs, plans, billingPeriod })

function data(model: string, usage: Quantities, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  const card = plans.get('pro')?.prices?.versions[0]
  const features = (more['features'] ?? []) as string[]
  const { cost = 0 } = pricedUsage(usage, ratesOfCall(ratesFor(card ?? null, model), features))
  return { account: 'acme', key: 'dev', plan: 'pro', provider: 'openai', model, requests: 1, ...usage, ...(usage.audio_seconds === undefined ? {} : { audio_seconds: usage.audio_seconds / 1_000 }), cost: decimalOfNanos(cost), currency: 'USD', price_version: 'v1', ...more }
}

/** In 10⁻¹². */
const units = (text: string | null): bigint => {
  const [whole = '0', fraction = ''] = (text ?? '').replace('-', '').split('.')
  return BigInt(`${whole}${fraction.padEnd(12, '0')}`) * (text?.startsWith('-') === true ? -1n : 1n)
}
const total = (rows: readonly FocusRow[]): bigint => rows.reduce((sum, { BilledCost }) => sum + units(BilledCost), 0n)

t.test('a row for each period, account, key, model and meter, with what it cost at which price', async (t) => {
  const sheet = sheetOf()
  sheet.add(data('gpt-4o', { input_tokens: 1_000, cached_input_tokens: 400, output_tokens: 100 }), day + 1)
  sheet.add(data('gpt-4o', { input_tokens: 500, output_tokens: 50 }), day + 23 * hourMs)
  sheet.add(data('gpt-4o', { output_tokens: 1 }), day + 24 * hourMs)
  sheet.add({ account: 'acme', key: 'dev', plan: 'free', model: 'x', requests: 1 }, day)
  const rows = sheet.rows()
  t.equal(rows.length, 4)
  t.same(sheet.events, 3)
  t.same(sheet.unpriced, 1)
  const byMeter = new Map(rows.filter(({ ChargePeriodStart }) => ChargePeriodStart === '2026-11-22T00:00:00Z').map((row) => [row.SkuMeter, row]))
  t.same(byMeter.get('Cached Input Tokens'), {
    BilledCost: '0.0005', EffectiveCost: '0.0005', ContractedCost: '0.0005', ListCost: '0.0005', BillingAccountId: 'acme', BillingAccountName: null, BillingAccountType: 'Account', BillingCurrency: 'USD',
    BillingPeriodStart: '2026-11-01T00:00:00Z', BillingPeriodEnd: '2026-12-01T00:00:00Z', ChargePeriodStart: '2026-11-22T00:00:00Z', ChargePeriodEnd: '2026-11-23T00:00:00Z',
    ChargeCategory: 'Usage', ChargeClass: null, ChargeFrequency: 'Usage-Based', ChargeDescription: 'Cached Input Tokens of gpt-4o', ConsumedQuantity: '400', ConsumedUnit: 'Tokens', PricingQuantity: '400',
    PricingUnit: 'Tokens', PricingCategory: 'Standard', ContractedUnitPrice: '0.00000125', ListUnitPrice: '0.00000125', ProviderName: 'Acme Inference', PublisherName: 'Acme Inference',
    InvoiceIssuerName: 'Acme Inference', ServiceCategory: 'AI and Machine Learning', ServiceSubcategory: 'Generative AI', ServiceName: 'AI Inference', SkuId: 'gpt-4o/cached_input_tokens',
    SkuMeter: 'Cached Input Tokens', SkuPriceId: 'pro/v1/gpt-4o/cached_input_tokens/1250000', SubAccountId: 'dev', SubAccountName: null, SubAccountType: 'API key', x_Model: 'gpt-4o', x_Plan: 'pro',
    x_PriceVersion: 'v1', x_Provider: 'openai',
  })
  t.same([byMeter.get('Input Tokens')?.ConsumedQuantity, byMeter.get('Input Tokens')?.BilledCost], ['1100', '0.00275'], 'cached input is no input twice')
  t.same([byMeter.get('Output Tokens')?.ConsumedQuantity, byMeter.get('Output Tokens')?.BilledCost], ['150', '0.0015'])
})

t.test('hours, and billing periods that begin within a day, part rows', async (t) => {
  const sheet = sheetOf(24 * hourMs, (_account, atMs) => (atMs < day + 5 * hourMs ? { startMs: 0, endMs: day + 5 * hourMs } : { startMs: day + 5 * hourMs, endMs: day + 99 * hourMs }))
  sheet.add(data('gpt-4o', { output_tokens: 1 }), day + 5 * hourMs - 1)
  sheet.add(data('gpt-4o', { output_tokens: 1 }), day + 5 * hourMs)
  t.same(sheet.rows().map(({ BillingPeriodStart }) => BillingPeriodStart), ['1970-01-01T00:00:00Z', '2026-11-22T05:00:00Z'])
  const hours = sheetOf(hourMs)
  hours.add(data('gpt-4o', { output_tokens: 1 }), day + hourMs - 1)
  hours.add(data('gpt-4o', { output_tokens: 1 }), day + hourMs)
  t.same(hours.rows().map(({ ChargePeriodStart, ChargePeriodEnd }) => [ChargePeriodStart, ChargePeriodEnd]), [['2026-11-22T00:00:00Z', '2026-11-22T01:00:00Z'], ['2026-11-22T01:00:00Z', '2026-11-22T02:00:00Z']])
})

t.test('seconds and features are counted as people count them', async (t) => {
  const sheet = sheetOf()
  sheet.add(data('whisper', { requests: 1, audio_seconds: 1_930 }), day)
  sheet.add(data('gpt-4o', { requests: 1 }, { features: ['hosted_tools'] }), day)
  const rows = new Map(sheet.rows().map((row) => [row.SkuMeter, row]))
  t.match(rows.get('Audio Seconds'), { ConsumedQuantity: '1.93', ConsumedUnit: 'Seconds', ContractedUnitPrice: '0.0001', BilledCost: '0.000193' })
  t.match(rows.get('Hosted Tools'), { ConsumedQuantity: '1', ConsumedUnit: 'Requests', ContractedUnitPrice: '0.01', BilledCost: '0.01' })
})

t.test('what events were rounded up by is an adjustment, and what has lost its prices is still there', async (t) => {
  const sheet = sheetOf()
  sheet.add(data('other', { requests: 1 }), day)
  sheet.add(data('other', { requests: 1 }), day)
  sheet.add(data('gpt-4o', { output_tokens: 7 }, { price_version: 'gone', cost: '0.123000000' }), day)
  const rows = sheet.rows()
  t.match(rows.find(({ ChargeCategory }) => ChargeCategory === 'Adjustment'), { BilledCost: '0.000000001', ConsumedQuantity: null, SkuId: null, SkuMeter: null, ContractedUnitPrice: null })
  t.match(rows.find(({ x_PriceVersion }) => x_PriceVersion === 'gone'), { BilledCost: '0.123', SkuMeter: 'Requests', ContractedUnitPrice: null, ConsumedQuantity: '1' })
  t.equal(total(rows), units('0.123000004'))
})

t.test('the rows are the events\' costs to the last digit, and a quantity at its price is its cost', async () => {
  const count = fc.nat(50_000)
  const event = fc.record({
    model: fc.constantFrom('gpt-4o', 'gpt-x', 'other', 'whisper'), input: count, cached: count, output: count, audio: count, at: fc.nat(72 * hourMs), correction: fc.boolean(), searched: fc.boolean(),
  })
  fc.assert(fc.property(fc.array(event, { maxLength: 40 }), (events) => {
    const sheet = sheetOf(hourMs)
    let expected = 0n
    for (const { model, input, cached, output, audio, at, correction, searched } of events) {
      const usage: Quantities = model === 'whisper' ? { requests: 1, audio_seconds: audio } : { requests: 1, input_tokens: input + cached, cached_input_tokens: cached, output_tokens: output }
      const one = data(model, usage, { ...(correction ? { corrects: 'x' } : {}), ...(searched ? { features: ['hosted_tools'] } : {}) })
      expected += units(one['cost'] as string)
      sheet.add(one, day + at)
    }
    const rows = sheet.rows()
    if (total(rows) !== expected) return false
    return rows.every((row) => focusColumns.every((column) => row[column] !== '' && (!focusNumbers.has(column) || row[column] === null || /^-?\d+(\.\d+)?$/.test(row[column]))) &&
      (row.ChargeCategory !== 'Usage' || units(row.ContractedUnitPrice) * units(row.PricingQuantity) === units(row.ContractedCost) * 10n ** 12n))
  }), { numRuns: 100 })
})

t.test('every mandatory column of FOCUS 1.2 is there', async (t) => {
  const mandatory = ['BilledCost', 'BillingAccountId', 'BillingAccountName', 'BillingCurrency', 'BillingPeriodEnd', 'BillingPeriodStart', 'ChargeCategory', 'ChargeClass', 'ChargeDescription', 'ChargePeriodEnd',
    'ChargePeriodStart', 'ContractedCost', 'EffectiveCost', 'InvoiceIssuerName', 'ListCost', 'PricingQuantity', 'PricingUnit', 'ProviderName', 'PublisherName', 'ServiceCategory', 'ServiceName']
  t.same(mandatory.filter((column) => !(focusColumns as readonly string[]).includes(column)), [])
  const sheet = sheetOf()
  sheet.add(data('gpt-4o', { output_tokens: 1 }), day)
  const [row] = sheet.rows()
  const mayBeNull = ['BillingAccountName', 'ChargeClass']
  t.same(mandatory.filter((column) => row?.[column as keyof FocusRow] === null), mayBeNull)
})
