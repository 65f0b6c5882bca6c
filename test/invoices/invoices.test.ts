import { readFileSync } from 'node:fs'
import t from 'tap'
import { loadConfig } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'
import type { Plan } from '../../src/config/config.ts'
import { invoiceDocument, invoiceText } from '../../src/invoices/document.ts'
import { explainPrice } from '../../src/invoices/explanation.ts'
import { invoiceOf } from '../../src/invoices/invoice.ts'
import { termsOf, type InvoiceTerms } from '../../src/invoices/terms.ts'
import type { UsageEvent } from '../../src/metering/event.ts'
import type { Quantities } from '../../src/metering/meter.ts'
import { decimalOfNanos, pricedUsage, ratesFor, ratesOfCall } from '../../src/metering/price.ts'
import type { PlanChange } from '../../src/metering/plan-change.ts'
import type { Subscription } from '../../src/metering/subscription.ts'

const period = { startMs: Date.UTC(2026, 0, 1), endMs: Date.UTC(2026, 1, 1) }

function plansOf(yaml: string): ReadonlyMap<string, Plan> {
  const { config, problems } = loadConfig({ file: 'invoices.txt', text: yaml, env: {}, hostName: 'h' })
  if (config === null) throw new Error(problems.map(toText).join('\n'))
  return config.plans
}

/** One event of a table's line. */
function eventOf(line: string, plans: ReadonlyMap<string, Plan>): Pick<UsageEvent, 'time' | 'data'> {
  const [, date = '', who = '', ...words] = line.split(/\s+/)
  const [model, plan = 'p'] = who.split('/').reverse()
  const values = new Map(words.map((word) => word.split('=') as [string, string]))
  const card = plans.get(plan)!.prices!
  const features = values.get('features')?.split(',') ?? []
  const usage: Quantities = Object.fromEntries([...values].filter(([name]) => !/^(features|drawn|version|cost|correction|unpriced)$/.test(name)).map(([name, count]) => [name, Number(count)]))
  const version = values.get('version') ?? card.versions[0]!.version
  const rates = ratesOfCall(ratesFor(card.versions[0]!, model ?? null), features)
  const cost = values.get('cost') ?? decimalOfNanos(pricedUsage(usage, rates).cost ?? 0, card.scale)
  const { compute_seconds: compute, ...rest } = usage
  return {
    time: new Date(`${date}T00:00:00Z`).toISOString(),
    data: {
      plan, model, ...rest, ...(compute === undefined ? {} : { compute_ms: compute }), ...(features.length === 0 ? {} : { features }), ...(values.has('correction') ? { corrects: 'x' } : {}),
      ...(values.has('unpriced') ? {} : { cost, currency: card.currency, price_version: version }),
      drawn: values.get('drawn')?.split(',').map((draw) => ({ bucket: draw.split(':')[0], amount: Number(draw.split(':')[1]) })) ?? [],
    },
  }
}

t.test('invoices are what invoices.txt shows', async (t) => {
  const [, ...cases] = readFileSync(new URL('invoices.txt', import.meta.url), 'utf8').split(/^=== /m)
  t.ok(cases.length >= 9)
  for (const text of cases) {
    const [given = '', wanted = ''] = text.split('\n->\n')
    const [name = '', ...lines] = given.split('\n')
    const of = (word: string): readonly string[] => lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1))
    const plans = plansOf(`plans:\n${of('plan').map((plan) => `  ${plan.replace(' {', ': {')}\n`).join('')}`)
    const terms: InvoiceTerms = {
      account: 'acme', period, timeZone: 'UTC', plans,
      shares: of('shares').flatMap((line) => line.split(' ')).map((share) => {
        const [, plan = '', days, ofDays] = /^(\w+)=(\d+)\/(\d+)$/.exec(share) ?? []
        return { plan, version: 1, days: Number(days), ofDays: Number(ofDays) }
      }),
      joined: of('joined'), yearOf: of('year')[0] ?? null, prepaidLimitOf: (bucket) => (bucket === 'grant' ? 'credits' : null),
    }
    const events = lines.filter((line) => line.startsWith('event ')).map((line) => eventOf(line, plans))
    t.equal(invoiceText(invoiceDocument(invoiceOf(terms, events))).replace(/ +/g, ' '), wanted.trim().replace(/ +/g, ' '), name)
  }
})

const at = (date: string): number => Date.parse(`${date}T00:00:00Z`)
const subscription = (more: Partial<Subscription>): Subscription => ({
  kind: 'term', startMs: at('2025-01-10'), trialEndMs: null, endMs: null, graceMs: 0, renewal: 'auto', term: { unit: 'year', count: 1 }, timeZone: 'UTC', suspended: null, seats: null,
  plans: [], addOns: [], where: 'store', ...more,
})

t.test('what an invoice bears follows from the subscription', async (t) => {
  const terms = (given: Subscription | null, anchor = '2026-01-01'): Pick<InvoiceTerms, 'shares' | 'joined' | 'yearOf'> => {
    const changes: PlanChange[] = [{ plan: 'p', version: 1, fromMs: given?.startMs ?? 0, proration: 'by_day' }, ...(given?.plans ?? [])]
    const { shares, joined, yearOf } = termsOf({ id: 'a', changes, calendar: { timeZone: 'UTC', anchor }, subscription: given }, period, new Map(), () => null)
    return { shares, joined, yearOf }
  }
  const all = { plan: 'p', version: 1, days: 31, ofDays: 31 }
  t.same(terms(null), { shares: [all], joined: [], yearOf: 'p' }, 'without a subscription years are counted from the anchor')
  t.same(terms(null, '2024-07-01'), { shares: [all], joined: [], yearOf: null })
  t.same(terms(subscription({})), { shares: [all], joined: [], yearOf: 'p' }, 'its year begins on the 10th')
  t.same(terms(subscription({ startMs: at('2026-01-10') })), { shares: [{ ...all, days: 22 }], joined: ['p'], yearOf: 'p' }, 'from the 10th on')
  t.same(terms(subscription({ startMs: at('2026-02-10') })), { shares: [], joined: [], yearOf: null }, 'not begun')
  t.same(terms(subscription({ startMs: at('2025-12-25'), trialEndMs: at('2026-01-21') })), { shares: [{ ...all, days: 11 }], joined: ['p'], yearOf: 'p' }, 'a trial costs nothing')
  t.same(terms(subscription({ kind: 'trial', trialEndMs: at('2026-03-01') })), { shares: [], joined: [], yearOf: null }, 'nor does one that goes on')
  t.same(terms(subscription({ endMs: at('2026-01-05') })), { shares: [{ ...all, days: 4 }], joined: [], yearOf: null }, 'over before its year begins')
  const changed = subscription({ plans: [{ plan: 'q', version: 2, fromMs: at('2026-01-11'), proration: 'by_day' }] })
  t.same(terms(subscription({ startMs: at('2025-12-25'), trialEndMs: at('2026-01-21'), plans: [{ plan: 'q', version: 2, fromMs: at('2026-01-05'), proration: 'by_day' }] })), { shares: [{ plan: 'q', version: 2, days: 11, ofDays: 31 }], joined: ['q'], yearOf: 'q' }, 'changed during its trial')
  t.same(terms(changed), { shares: [{ ...all, days: 10 }, { plan: 'q', version: 2, days: 21, ofDays: 31 }], joined: ['q'], yearOf: 'p' })
})

t.test('the price of one event is explained, part by part', async (t) => {
  const plans = plansOf(`plans:
  p:
    prices:
      - { currency: USD, version: v1, from: 2026-01-01, models: { "m*": { input_tokens: 3/M, cached_input_tokens: 0.3/M, cache_write_tokens: 0.0003/M, output_tokens: 15/M, compute_seconds: 0.0001, hosted_tools: 0.01 }, "*": { images: { package: { size: 10, price: 1 } } } } }
`)
  const event = eventOf('event 2026-01-05 m1 requests=1 input_tokens=1001 cached_input_tokens=400 output_tokens=100 reasoning_tokens=60 compute_seconds=1930 features=hosted_tools', plans)
  t.strictSame(explainPrice(event.data, plans), {
    plan: 'p', currency: 'USD', price_version: 'v1', model: 'm1', cost: '0.013616000', in_force_from: '2026-01-01T00:00:00.000Z', rate: ['m*'],
    parts: [
      { counted: 'input_tokens', price: 'input_tokens', quantity: '601', unit_price: '3/M', amount: '0.001803000000' },
      { counted: 'cached_input_tokens', price: 'cached_input_tokens', quantity: '400', unit_price: '0.3/M', amount: '0.000120000000' },
      { counted: 'output_tokens', price: 'output_tokens', quantity: '40', unit_price: '15/M', amount: '0.000600000000' },
      { counted: 'reasoning_tokens', price: 'output_tokens', quantity: '60', unit_price: '15/M', amount: '0.000900000000' },
      { counted: 'compute_seconds', price: 'compute_seconds', quantity: '1.93', unit_price: '0.0001', amount: '0.000193000000' },
      { counted: 'hosted_tools', price: 'hosted_tools', quantity: '1', unit_price: '0.01', amount: '0.010000000000' },
    ],
    sum: '0.013616000000', note: null,
  })
  t.match(explainPrice({ ...event.data, cost: '0.013616001' }, plans).note, /edited after the call/)
  t.match(explainPrice({ ...event.data, price_version: 'v0' }, plans), { rate: null, sum: null, cost: '0.013616000', note: /no longer in the configuration/ })
  t.match(explainPrice({ plan: 'p', model: 'm1', input_tokens: 5 }, plans), { cost: null, note: /no price/ })
  // Of a difference of 0.3 billionths, each of the two costs was rounded: it may have become 0 or 1.
  const late = { plan: 'p', price_version: 'v1', model: 'm1', input_tokens: -1, cache_write_tokens: -1, corrects: 'x', currency: 'USD' }
  for (const cost of ['0.000000000', '-0.000000001']) t.match(explainPrice({ ...late, cost }, plans).note, /difference/, cost)
  for (const cost of ['0.000000001', '-0.000000002']) t.match(explainPrice({ ...late, cost }, plans).note, /edited/, cost)
  t.match(explainPrice(eventOf('event 2026-01-05 other images=3', plans).data, plans).note, /whole period/)
})
