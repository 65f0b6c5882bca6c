import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import type { UsageEvent } from '../../src/metering/event.ts'
import { InvoicePreview } from '../../src/invoices/invoice.ts'
import { loadConfig } from '../../src/config/load.ts'
import { costNanos, decimalOfNanos, ratesFor } from '../../src/metering/price.ts'

const period = { startMs: Date.UTC(2026, 0, 1), endMs: Date.UTC(2026, 1, 1) }
const million = 1_000_000

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

function heapInUse(): number {
  collect()
  return process.memoryUsage().heapUsed
}

/** Of this thread alone: what else runs on the machine does not count. */
function cpuMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1_000
}

t.test('the preview of a million events takes less than 10 seconds, and no memory that grows with them', async (t) => {
  const { config } = loadConfig({
    file: 'million.yaml', env: {}, hostName: 'h', text: `plans:
  p:
    prices:
      - { currency: USD, version: v1, models: { "*": { input_tokens: { graduated: [{ up_to: 1G, price: 0.15/M }, { price: 0.1/M }] }, cached_input_tokens: 0.07/M, output_tokens: 0.6/M, requests: 0.0001 } } }
      - { currency: USD, version: v2, from: 2026-01-16, models: { "*": { input_tokens: 0.2/M, output_tokens: 0.7/M } } }
    fees: [{ name: Base, amount: 49 }]
    included: { output_tokens: 1M }
`,
  })
  const plans = config!.plans
  const versions = plans.get('p')!.prices!.versions
  const models = ['gpt-large', 'gpt-small', 'llama-3.1-70b', 'mistral']
  const preview = new InvoicePreview({ account: 'acme', period, timeZone: 'UTC', plans, shares: [{ plan: 'p', version: 1, days: 31, ofDays: 31 }], joined: [], yearOf: null, prepaidLimitOf: () => null })
  let sum = 0n
  let spentMs = 0
  let heap = 0
  for (let batch = 0; batch < 100; batch++) {
    // Made in parts, as a reader of files would hand them over; making them is not what is measured.
    const events: Pick<UsageEvent, 'time' | 'data'>[] = []
    for (let i = 0; i < million / 100; i++) {
      const n = batch * (million / 100) + i
      const ms = period.startMs + Math.floor((n * 7_919) % million * 2_678.4)
      const version = versions[ms < Date.UTC(2026, 0, 16) ? 0 : 1]!
      const model = models[n % 4]!
      const usage = { requests: 1, input_tokens: 500 + n % 4_000, cached_input_tokens: n % 400, output_tokens: n % 900, reasoning_tokens: 0, total_tokens: 0 }
      const cost = costNanos(usage, ratesFor(version, model)!)
      sum += BigInt(cost)
      events.push({
        time: new Date(ms).toISOString(),
        data: { account: 'acme', plan: 'p', model, price_version: version.version, currency: 'USD', cost: decimalOfNanos(cost), ...usage, compute_ms: 1_200, drawn: [{ bucket: 'monthly', amount: 900 }] },
      })
    }
    const before = cpuMs()
    for (const event of events) preview.add(event)
    spentMs += cpuMs() - before
    if (batch === 10) heap = heapInUse()
  }
  const before = cpuMs()
  const invoice = preview.finish()
  spentMs += cpuMs() - before
  const [section] = invoice.sections
  t.equal(invoice.events, million)
  t.equal(section?.usage, sum, 'the events\' costs, to the last unit')
  t.equal(section?.lines.reduce((all, { amount }) => all + amount, 0n), section?.total)
  t.ok(spentMs < 10_000, `${Math.round(spentMs)} ms`)
  const more = heapInUse() - heap
  t.ok(more < 1_048_576, `${more} bytes more after ten times the events`)
})

t.test('callers who make model names up do not make the invoice grow without end', async (t) => {
  const { config } = loadConfig({ file: 'names.yaml', env: {}, hostName: 'h', text: 'plans: { p: { prices: { currency: USD, version: v1, models: { "*": { requests: 1 } } } } }' })
  const preview = new InvoicePreview({ account: 'a', period, timeZone: 'UTC', plans: config!.plans, shares: [], joined: [], yearOf: null, prepaidLimitOf: () => null })
  const time = new Date(period.startMs).toISOString()
  for (let n = 0; n < 30_000; n++) preview.add({ time, data: { plan: 'p', model: `made-up-${n}`, price_version: 'v1', currency: 'USD', cost: '1.000000000', requests: 1 } })
  const [section] = preview.finish().sections
  t.equal(section?.total, 30_000_000_000_000n)
  t.equal(section?.lines.length, 10_001)
  t.match(section?.lines.find(({ model }) => model === '*'), { quantity: 20_000n, amount: 20_000_000_000_000n })
})
