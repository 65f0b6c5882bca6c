// test: timeout 180 s
// An invoice is asked for while the gateway runs: it is the sum of what its events cost and of the adjustments, worked out here once more from the sink's file.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { answerAdmin } from '../../src/admin/admin-api.ts'
import { toProblem } from '../../src/admin/problem.ts'
import { openBooks } from '../../src/books.ts'
import { systemClock } from '../../src/clock.ts'
import { loadConfig } from '../../src/config/load.ts'
import type { Config } from '../../src/config/config.ts'
import type { InvoiceDocument } from '../../src/invoices/document.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { configIn, serve, tallygate } from '../app/process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { totalOf, type SimpleEvent } from '../invoices/oracle.ts'
import { eventBody, newId, settleOf } from '../stores/sample-moves.ts'

const secrets = { acme: 'tg_acme_0123456789abcdefghij', team: 'tg_team_0123456789abcdefghij', own: 'tg_own_0123456789abcdefghijk' }

const sold = `
prices:
  standard:
    currency: USD
    version: 2026-01
    models:
      small: { input_tokens: { graduated: [{ up_to: 150, price: 2/k }, { price: 1/k }] }, output_tokens: 3.3333/k, requests: 0.0007 }
      large: { input_tokens: 5/M, cached_input_tokens: 0.5/M, output_tokens: 7.77777/M }
plans:
  pro:
    prices: standard
    fees: [{ name: Base, amount: 49 }, { name: Setup, amount: 10, every: once }]
    included: { output_tokens: 25 }
    limits: [{ name: monthly, meter: total_tokens, limit: 1M, window: billing_period }]
  team:
    extends: pro
    minimum: 3
accounts:
  acme: { plan: pro, billing: { anchor: 2026-01-31, timezone: Asia/Kolkata } }
  research: { plan: team, parent: acme, billing: { anchor: 2026-01-31, timezone: Asia/Kolkata } }
keys:
  - { id: acme-1, account: acme, secret: "${secrets.acme}" }
  - { id: team-1, account: research, secret: "${secrets.team}" }
  - { id: own, plan: pro, secret: "${secrets.own}" }
`

type Answer = InvoiceDocument & { readonly as_of: string; readonly known_since: string | null; readonly children?: InvoiceDocument[]; readonly family?: { currency: string; total: string }[] }

async function chat(gateway: string, secret: string, model: string, more: object = {}): Promise<number> {
  const answer = await fetch(`${gateway}/v1/chat/completions`, {
    method: 'POST', headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model, messages: [{ role: 'user', content: 'Hello' }], max_tokens: 64, ...more }),
  })
  await answer.text()
  return answer.status
}

interface FileEvent { readonly subject: string; readonly data: Readonly<Record<string, unknown>> }

function simple({ data }: FileEvent): SimpleEvent {
  const names = ['requests', 'input_tokens', 'cached_input_tokens', 'cache_write_tokens', 'output_tokens', 'reasoning_tokens', 'total_tokens', 'bytes_in', 'bytes_out', 'images']
  return {
    model: String(data['model']), version: String(data['price_version']), plan: String(data['plan']), cost: String(data['cost']), correction: data['corrects'] !== undefined, features: [], drawn: [],
    quantities: { ...Object.fromEntries(names.flatMap((name) => (typeof data[name] === 'number' ? [[name, data[name]]] : []))), compute_seconds: Number(data['compute_ms']) },
  }
}

t.test('the invoice of real calls is Σ events + adjustments, in the API and as a table, and a parent’s may show its children’s', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 57, cachedTokens: 20, outputTokens: 13 }))
  const dir = configIn(tmpDir(t), `${sold}upstreams:\n  model: { url: "${upstream.url}" }\n`)
  const running = await serve(t, dir)
  const calls: readonly (readonly [string, string, object?])[] = [
    [secrets.acme, 'small'], [secrets.acme, 'small', { stream: true }], [secrets.acme, 'large'], [secrets.acme, 'small'], [secrets.acme, 'large', { stream: true }],
    [secrets.team, 'small'], [secrets.team, 'large'], [secrets.own, 'large'],
  ]
  for (const [secret, model, more] of calls) t.equal(await chat(running.gateway, secret, model, more), 200)
  const events = await waitFor('all events in the file', () => {
    const lines = readFileSync(join(dir, 'data/usage.ndjson'), 'utf8').trim().split('\n')
    return lines.length === calls.length ? lines.map((line) => JSON.parse(line) as FileEvent) : undefined
  })
  const ask = async (path: string): Promise<Answer> => {
    const answer = await fetch(`${running.admin}/api/v1/invoices/${path}`)
    t.equal(answer.status, 200, path)
    return await answer.json() as Answer
  }
  const { config } = loadConfig({ file: join(dir, 'config/tallygate.yaml'), env: {}, hostName: 'test' })
  const plans = [...config!.plans.values()]
  const expected = (account: string, plan: string): { usage: string; total: string } =>
    totalOf(plans, [{ plan, days: 30, ofDays: 30 }], [], null, events.filter(({ subject }) => subject === account).map(simple), new Map())

  const acme = await ask('acme')
  const wanted = expected('acme', 'pro')
  t.match(acme, { account: 'acme', events: 5, corrections: 0, unpriced_events: 0, known_since: null, currencies: [{ currency: 'USD', ...wanted }] })
  t.equal(acme.currencies[0]?.adjustments, (Number(wanted.total) - Number(wanted.usage)).toFixed(9))
  t.ok(Date.parse(acme.period.start) <= Date.now() && Date.now() < Date.parse(acme.period.end))
  t.match(acme.period.start, /T18:30:00.000Z$/, 'midnight in Kolkata')
  t.same([...new Set(acme.currencies[0]?.lines.map(({ kind }) => kind))], ['usage', 'rounding', 'included', 'prices', 'fee'].filter((kind) => acme.currencies[0]?.lines.some((line) => line.kind === kind)))
  t.match(acme.currencies[0]?.lines.find(({ kind }) => kind === 'prices'), { by: 'graduated', model: 'small' })

  const family = await ask('acme?period=current&with=children')
  t.match(family.children, [{ account: 'research', currencies: [{ ...expected('research', 'team') }] }])
  t.same(family.currencies, acme.currencies)
  const nano = (text: string): bigint => BigInt(text.replace('.', ''))
  t.equal(nano(family.family?.[0]?.total ?? ''), nano(wanted.total) + nano(expected('research', 'team').total))
  t.same((await ask('research')).currencies, family.children?.[0]?.currencies, 'the same as by itself')
  t.match(await ask('own'), { account: 'own', period: { timezone: 'UTC' }, currencies: [expected('own', 'pro')] }, 'a key that is its own account')

  const before = await ask('acme?period=previous')
  t.match(before, { events: 0, currencies: [{ usage: '0.000000000', total: '49.000000000' }] }, 'its fee alone')
  t.equal(before.period.end, acme.period.start)
  const inKolkata = new Date(Date.parse(acme.period.start) + 5.5 * 3_600_000).toISOString()
  t.same((await ask(`acme?period=${inKolkata.slice(0, 7)}`)).period, acme.period, 'by the month in which it begins')
  t.same((await ask(`acme?period=${inKolkata.slice(0, 10)}`)).period, acme.period, 'by a day in it')
  for (const [path, status, sentence] of [
    ['nobody', 404, /there is no account "nobody"/], ['acme?period=2026-13', 422, /"2026-13" is no billing period; write current/], ['acme?period=soon', 422, /"soon" is no billing period/],
    ['acme?with=parents', 400, /with must be one of children/],
  ] as const) {
    const answer = await fetch(`${running.admin}/api/v1/invoices/${path}`)
    t.equal(answer.status, status)
    t.match(await answer.json(), { detail: sentence })
  }

  const table = await tallygate(t, dir, ['invoice', 'acme', '--with-children'])
  t.equal(table.code, 0)
  t.match(table.out, /^Invoice preview of acme\n.* up to .* \(Asia\/Kolkata\), 5 calls\n/)
  t.match(table.out, new RegExp(`total +${wanted.total.replace('.', '\\.')}\n`))
  t.match(table.out, /\nInvoice preview of research\n[\s\S]*pro|team +large input_tokens +2026-01 +\d+ +5\/M/)
  t.match(table.out, new RegExp(`\nAll together: ${family.family?.[0]?.total} USD\n$`))
  running.child.kill('SIGTERM')
  await running.finished
  const alone = JSON.parse((await tallygate(t, dir, ['invoice', 'acme', '--json'])).out) as Answer
  t.same(alone.currencies, acme.currencies, 'without a gateway, from the store')
  t.match(await tallygate(t, dir, ['invoice', 'acme', '--period', 'soon']), { code: 2, err: /is no billing period/ })
})

const count = 100_000

t.test('an invoice over 100,000 events keeps nobody waiting', async (t) => {
  const { config } = loadConfig({ file: '/nowhere/tallygate.yaml', env: {}, hostName: 'test', text: `store: "embedded:${join(tmpDir(t), 'data')}"\n${sold}` })
  const parts = { clock: systemClock, random: systemRandom, log: silentLog, metrics: new Metrics(), stdout: process.stdout }
  const books = await openBooks(config as Config, parts)
  t.teardown(() => books.close())
  const settle = (account: string, input: number): Promise<unknown> => {
    const nowMs = systemClock.nowMs()
    const event = { ...eventBody, account, plan: 'pro', model: 'large', currency: 'USD', price_version: '2026-01', settled_at: new Date(nowMs).toISOString() }
    return books.store.settle(settleOf(newId(nowMs), nowMs, account, [], [], { usage: { requests: 1, input_tokens: input, output_tokens: 0, cost: input * 5_000 }, event }))
  }
  let sum = 0n
  for (let done = 0; done < count; done += 2_000) {
    await Promise.all(Array.from({ length: 2_000 }, (_, n) => {
      const input = 100 + (done + n) % 977
      if (n % 2 === 0) sum += BigInt(input) * 5_000n
      return settle(n % 2 === 0 ? 'acme' : 'research', input)
    }))
  }
  let longest = 0
  let asking = true
  let calls = 0
  const cpuMs = (): number => {
    const { user, system } = process.threadCpuUsage()
    return (user + system) / 1_000
  }
  // What one turn of the event loop takes, in this thread's own time: a busy machine does not count.
  let last = cpuMs()
  const turn = (): void => {
    const now = cpuMs()
    longest = Math.max(longest, now - last)
    last = now
    if (asking) setImmediate(turn)
  }
  setImmediate(turn)
  const caller = (async (): Promise<void> => {
    while (asking) {
      await settle('research', 100)
      calls += 1
    }
  })()
  const startedMs = performance.now()
  const answer = await answerAdmin(
    { method: 'GET', path: '/api/v1/invoices/acme', query: {}, body: {}, caller: { name: 'ops', role: 'viewer' }, gone: () => false }, books.adminParts(() => config as Config, null),
  ).catch((error: unknown) => { throw toProblem(error) ?? error })
  const tookMs = performance.now() - startedMs
  asking = false
  await caller
  t.comment(`${count} events in ${Math.round(tookMs)} ms; longest turn ${longest.toFixed(1)} ms of CPU; ${calls} calls settled meanwhile`)
  const { currencies, events } = answer.body as InvoiceDocument
  t.equal(events, count / 2)
  t.equal(BigInt((currencies[0]?.usage ?? '').replace('.', '')), sum)
  // Summed in one go it would be seconds; a page is some 10 ms, the rest is what the collector takes.
  t.ok(longest < 200, `${longest} ms`)
  t.ok(calls > 20, `${calls} calls`)
})

t.test('what is no longer kept is told', async (t) => {
  const dir = join(tmpDir(t), 'data')
  const at = { completeMs: 0 }
  const open = async (more: string): Promise<(period?: string) => Promise<Answer>> => {
    const { config } = loadConfig({ file: '/nowhere/tallygate.yaml', env: {}, hostName: 'test', text: `store: "memory:"\n${more}${sold}` })
    const books = await openBooks(config as Config, { clock: systemClock, random: systemRandom, log: silentLog, metrics: new Metrics(), stdout: process.stdout })
    t.teardown(() => books.close())
    const parts = books.adminParts(() => config as Config, null)
    const outbox = new Proxy(parts.outbox, {
      get: (target, name) => {
        if (name === 'completeSince') return async () => at.completeMs
        const value: unknown = Reflect.get(target, name, target)
        return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value
      },
    })
    return async (period = 'previous') => (await answerAdmin(
      { method: 'GET', path: '/api/v1/invoices/acme', query: { period }, body: {}, caller: { name: 'ops', role: 'viewer' }, gone: () => false }, { ...parts, outbox },
    )).body as Answer
  }
  const without = await open('')
  t.equal((await without()).known_since, null, 'nothing was removed yet')
  at.completeMs = Date.now() - 3_600_000
  t.equal((await without()).known_since, new Date(at.completeMs).toISOString())
  const archived = await open(`events: { archive: "${dir}" }\n`)
  t.equal((await archived()).known_since, null, 'the archive has it')
  t.match((await archived('2020-01')).known_since, /^\d{4}-/, 'but not for ever')
})
