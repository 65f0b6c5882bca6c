// test: timeout 120 s
// A call is explained by its id: what it was held against, what that was settled to, and what it cost. Figures are worked out here by hand.

import { join } from 'node:path'
import t from 'tap'
import { z } from 'zod'
import { answerAdmin } from '../../src/admin/admin-api.ts'
import type { Explanation } from '../../src/admin/explanation.ts'
import { toProblem } from '../../src/admin/problem.ts'
import { openBooks } from '../../src/books.ts'
import { systemClock } from '../../src/clock.ts'
import { loadConfig } from '../../src/config/load.ts'
import { silentLog } from '../../src/log.ts'
import { recallEntitlement } from '../../src/metering/entitlement.ts'
import { draftReservation } from '../../src/metering/reservation.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { configIn, serve, tallygate, writeConfig, basics } from '../app/process.ts'
import { openai, openaiAnswer, chatChunk, chatUsage } from '../fixtures/openai-scripts.ts'
import { chunk, lastChunk, openScriptedUpstream, sse, sseHead, steps } from '../fixtures/scripted-upstream.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { eventBody, newId, reserveOf, settleOf, skeleton } from '../stores/sample-moves.ts'

const secret = 'tg_team_0123456789abcdefghij'
const prompt = 'What is the airspeed of an unladen swallow?'

const sold = (more = ''): string => `
prices:
  standard:
    currency: USD
    version: 2026-01
    models:
      small: { input_tokens: 2/M, cached_input_tokens: 0.5/M, output_tokens: 8/M }
plans:
  pro:
    version: 3
    prices: standard
    limits:
      - { name: rpm, meter: requests, limit: 60, window: 1m }
      - { name: monthly, meter: total_tokens, limit: 60, window: month, overdraft: 100k }
      - { name: parallel, meter: concurrency, limit: 4, per: key }
      - { name: tiny, meter: total_tokens, limit: 10, window: day, mode: shadow }
accounts:
  corp: { limits: [{ name: monthly, meter: cost, limit: 5, window: month }], billing: { timezone: Europe/Berlin } }
  team: { plan: pro, parent: corp, billing: { timezone: Asia/Kolkata } }
keys:
  - { id: team-1, account: team, secret: "${secret}" }
${more}`

t.test('a settled call, a running one, and one that left nothing', async (t) => {
  const answer = { ...openaiAnswer, inputTokens: 57, cachedTokens: 20, outputTokens: 13 }
  const upstream = await openScriptedUpstream(t, openai(answer))
  const dir = configIn(tmpDir(t), `${sold()}upstreams:\n  model: { url: "${upstream.url}" }\n`)
  const running = await serve(t, dir)
  const post = (more: object = {}): Promise<Response> => fetch(`${running.gateway}/v1/chat/completions`, {
    method: 'POST', headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'small', messages: [{ role: 'user', content: prompt }], max_tokens: 500, ...more }),
  })
  const explain = async (id: string): Promise<Explanation> => {
    const response = await fetch(`${running.admin}/api/v1/explain/${id}`)
    t.equal(response.status, 200, await response.clone().text())
    return await response.json() as Explanation
  }
  const settled = await post()
  await settled.text()
  const id = settled.headers.get('x-request-id') ?? ''
  const told = await explain(id)
  t.match(told, {
    id, state: 'settled', account: 'team', key: 'team-1', plan: 'pro', plan_version: 3, endpoint: 'chat.completions', model: 'small', model_served: 'test-model', upstream: 'model', provider: 'openai',
    stream: false, status: 200, end: 'complete', usage_source: 'upstream', output_bound: null, expires_at: null, other_draws: [], overruns: [], corrections: [], notes: [],
    usage: { requests: 1, input_tokens: 57, cached_input_tokens: 20, output_tokens: 13, total_tokens: 70 },
  })
  t.same(told.shadow, ['tiny'])
  t.equal(told.bound?.output, 500)
  const input = told.bound?.input ?? 0
  const limit = (name: string, of: string): Explanation['limits'][number] => {
    const found = told.limits.find((each) => each.name === name && each.of === of)
    if (found === undefined) throw new Error(`${of}/${name} is not there`)
    return found
  }
  t.match(limit('rpm', 'team'), { meter: 'requests', window: '1m', limit: 60, held: 1, used: 1, buckets: [{ bucket: 'rpm', of: 60, drawn: 1 }] })
  t.match(limit('monthly', 'team'), { meter: 'total_tokens', window: 'month', limit: 60, held: input + 500, used: 70, buckets: [{ bucket: 'monthly', of: 60, drawn: 60 }, { bucket: 'monthly.overdraft', of: 100_000, drawn: 10 }] })
  t.match(limit('monthly', 'team').from, /T18:30:00.000Z$/, 'midnight in Kolkata')
  t.match(limit('parallel', 'team-1'), { per: 'key', window: null, from: null, until: null, limit: 4, held: 1, used: 0 })
  t.match(limit('tiny', 'team'), { mode: 'shadow', limit: 10, used: 70 })
  // 37 tokens at 2/M, 20 cached ones at 0.5/M, 13 at 8/M.
  const cost = 0.000188
  t.match(limit('monthly', 'corp'), { meter: 'cost', limit: 5, used: cost, buckets: [{ bucket: 'monthly', drawn: cost }] })
  t.match(limit('monthly', 'corp').from, /T2[23]:00:00.000Z$/, 'midnight in Berlin')
  // The dearest that it could be: no part of the input cached.
  t.equal(limit('monthly', 'corp').held, Number((input * 0.000002 + 500 * 0.000008).toFixed(9)))
  for (const { from, until } of told.limits) if (from !== null && until !== null) t.ok(from <= told.admitted_at && told.admitted_at < until)
  t.match(told.price, { price_version: '2026-01', currency: 'USD', cost: '0.000188000', sum: '0.000188000000', rate: ['small'], parts: [
    { counted: 'input_tokens', quantity: '37', unit_price: '2/M' }, { counted: 'cached_input_tokens', quantity: '20', unit_price: '0.5/M' }, { counted: 'output_tokens', quantity: '13', unit_price: '8/M' },
  ] })
  t.notMatch(JSON.stringify(told), /swallow|Hello/, 'no word of the caller or the model')

  let go = (): void => {}
  const gate = new Promise<void>((resolve) => { go = resolve })
  upstream.script = steps(sseHead(), chunk(sse(chatChunk({ content: 'Hel' }))), () => gate, chunk(sse(chatChunk({}, { finish: 'stop' }))), chunk(sse({ ...chatChunk({}), choices: [], usage: chatUsage(answer) })), chunk(sse('[DONE]')), lastChunk)
  const streamed = await post({ stream: true })
  const flying = streamed.headers.get('x-request-id') ?? ''
  const pending = await explain(flying)
  t.match(pending, { state: 'in_flight', settled_at: null, end: null, stream: true, usage: {}, price: null, notes: [/has not ended/] })
  t.ok(Date.parse(pending.expires_at ?? '') > Date.now())
  t.match(pending.limits.find(({ name, of }) => name === 'monthly' && of === 'team'), { held: (pending.bound?.input ?? 0) + 500, used: null })
  t.match(pending.limits.find(({ name }) => name === 'parallel'), { held: 1 })
  t.match((await tallygate(t, dir, ['explain', flying])).out, /in flight[\s\S]*given up at \S+ unless/)
  go()
  await streamed.text()
  t.match(await explain(flying), { state: 'settled', usage: { total_tokens: 70 } })

  const table = await tallygate(t, dir, ['explain', id])
  t.equal(table.code, 0)
  t.match(table.out, /^Who +account team, key team-1, plan pro version 3$/m)
  t.match(table.out, /^monthly +total_tokens +month +\S+ +\S+ +60 +\d+ +70 +monthly: 60, monthly.overdraft: 10$/m)
  t.match(table.out, /^corp\/monthly +cost +month/m)
  t.match(table.out, /^Cost 0.000188000 USD, by prices 2026-01 for small; exactly 0.000188000000$/m)
  t.match(JSON.parse((await tallygate(t, dir, ['explain', id, '--json'])).out), { id })

  const unknown = newId(Date.now())
  const missing = await fetch(`${running.admin}/api/v1/explain/${unknown}`)
  t.equal(missing.status, 404)
  t.match(await missing.json(), { detail: `there is no event of "${unknown}", and no such call is in flight: a call that was refused, or that the upstream failed, leaves none.` })
  t.equal((await fetch(`${running.admin}/api/v1/explain/soon`)).status, 422)
  t.match(await tallygate(t, dir, ['explain', unknown]), { code: 1, err: /there is no event/ })

  // Whatever has been changed since, the draws are what they were.
  writeConfig(dir, `${basics}${sold().replace('version: 3', 'version: 4').replace('name: rpm', 'name: pace').replace('keys:', 'keys: []\nx-keys:')}upstreams:\n  model: { url: "${upstream.url}" }\n`)
  const later = await waitFor('the new config', async () => {
    const now = await explain(id)
    return now.limits.some(({ name }) => name === 'pace') ? now : undefined
  })
  t.match(later, { other_draws: [{ bucket: 'rpm', amount: 1 }], notes: [/was at version 3, and is at 4 by now/, /no longer there/] })
  t.match(later.limits.find(({ name, of }) => name === 'monthly' && of === 'team'), { used: 70 }, 'also without its key')
})

t.test('a refused call is explained with its refusal for as long as it is remembered', async (t) => {
  const upstream = await openScriptedUpstream(t, openai(openaiAnswer))
  const dir = configIn(tmpDir(t), `${sold().replace('limit: 60, window: 1m', 'limit: 1, window: 1m').replace('  pro:', '  pro:\n    entitlements: { models: [small] }')}upstreams:\n  model: { url: "${upstream.url}" }\n`)
  const running = await serve(t, dir)
  const post = async (model: string): Promise<{ status: number; id: string }> => {
    const response = await fetch(`${running.gateway}/v1/chat/completions`, {
      method: 'POST', headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' }, body: JSON.stringify({ model, messages: [{ role: 'user', content: prompt }], max_tokens: 10 }),
    })
    await response.text()
    return { status: response.status, id: response.headers.get('x-request-id') ?? '' }
  }
  t.match(await post('small'), { status: 200 })
  const limited = await post('small')
  t.equal(limited.status, 429)
  const foreign = await post('large')
  t.equal(foreign.status, 403)
  const { paths } = await (await fetch(`${running.admin}/api/v1/openapi.json`)).json() as { paths: Record<string, { get: { responses: Record<string, { content: Record<string, { schema: object }> }> } }> }
  const shape = z.fromJSONSchema({ ...paths['/api/v1/explain/{id}']?.get.responses['200']?.content['application/json']?.schema } as Parameters<typeof z.fromJSONSchema>[0])
  const explain = async (id: string): Promise<unknown> => {
    const response = await fetch(`${running.admin}/api/v1/explain/${id}`)
    t.equal(response.status, 200, await response.clone().text())
    const told: unknown = await response.json()
    t.ok(shape.safeParse(told).success, 'as it is documented')
    return told
  }
  // What was refused is told within a second.
  await waitFor('the last of them to be remembered', async () => (await fetch(`${running.admin}/api/v1/explain/${foreign.id}`)).status === 200)
  const told = await explain(limited.id) as { refused_at: string; resets_at: string }
  t.match(told, { id: limited.id, state: 'refused', account: 'team', key: 'team-1', model: 'small', reason: 'rate_limited', limit: 'rpm', ceiling: 1, used: 1, remaining: 0 })
  t.ok(told.refused_at < told.resets_at)
  t.match(await explain(foreign.id), { state: 'refused', model: 'large', reason: 'feature_unavailable', limit: null, ceiling: null, used: null, remaining: null, resets_at: null })

  const words = await tallygate(t, dir, ['explain', limited.id])
  t.equal(words.code, 0)
  t.match(words.out, new RegExp(`^Call +${limited.id}, refused$`, 'm'))
  t.match(words.out, /^Who +account team, key team-1$/m)
  t.match(words.out, /^Why +rate_limited: too many in a short time$/m)
  t.match(words.out, /^Limit +rpm, at most 1, 1 used, 0 left$/m)
  t.match(words.out, new RegExp(`^Anew from +${told.resets_at}$`, 'm'))
  t.match(JSON.parse((await tallygate(t, dir, ['explain', foreign.id, '--json'])).out), { id: foreign.id, state: 'refused' })
  t.equal((await fetch(`${running.admin}/api/v1/explain/${newId(Date.now())}`)).status, 404, 'what nobody remembers')
})

t.test('an expired call that came back is explained with its correction', async (t) => {
  const { config } = loadConfig({ file: join(tmpDir(t), 'tallygate.yaml'), env: {}, hostName: 'test', text: `store: "memory:"\n${sold()}` })
  if (config === null) throw new Error('the config is wrong')
  const books = await openBooks(config, { clock: systemClock, random: systemRandom, log: silentLog, metrics: new Metrics(), stdout: process.stdout })
  t.teardown(() => books.close())
  const nowMs = Date.now()
  const id = newId(nowMs)
  const principal = books.directory.principalOf('team-1', nowMs)
  if (principal === undefined) throw new Error('no key')
  const entitlement = recallEntitlement(principal, { endpoint: 'chat.completions', model: 'small', features: [], endUser: null }, config.plans, nowMs)
  const draft = draftReservation(entitlement, { fixed: { requests: 1, concurrency: 1, input_tokens: 50, total_tokens: 50 }, perUnit: { output_tokens: 1, total_tokens: 1 } }, { uMin: 40, uMax: 40, asked: 40 }, nowMs)
  if (!('checks' in draft)) throw draft
  const of = { account: 'team', key: 'team-1', plan: 'pro', plan_version: 3, endpoint: 'chat.completions', model: 'small', currency: 'USD', price_version: '2026-01', bound: { bytes: 200, input: 50, output: 40 } }
  const amounts = (tokens: number): number[] => draft.checks.map(({ slots, at }) => (slots[at]?.includes('total_tokens') === true ? tokens : slots[at]?.includes('|requests|') === true ? 1 : 0))
  t.equal((await books.store.reserve(reserveOf(id, nowMs, 'corp', draft.checks, { uMin: 40, uMax: 40, skeleton: { ...skeleton, ...of } }))).outcome, 'admitted')
  t.equal((await books.store.extend({ id, nowMs, home: 'corp', checkpoint: 1, deadlineMs: nowMs + 1, counted: { amounts: amounts(62), usage: { requests: 1, input_tokens: 50, output_tokens: 12, total_tokens: 62, cost: 196_000 } }, checks: null })).outcome, 'extended')
  t.equal((await books.store.expire({ id, nowMs: nowMs + 10, home: 'corp', checkpoint: null })).outcome, 'expired')
  const explain = async (asked: string): Promise<Explanation> => (await answerAdmin(
    { method: 'GET', path: `/api/v1/explain/${asked}`, query: {}, body: {}, caller: { name: 'ops', role: 'viewer' }, gone: () => false }, books.adminParts(() => config, null),
  ).catch((error: unknown) => { throw toProblem(error) ?? error })).body as Explanation
  t.match(await explain(id), { state: 'expired', end: 'expired', usage_source: 'estimated', usage: { total_tokens: 62 }, corrections: [] })
  t.equal((await books.store.settle(settleOf(id, nowMs + 20, 'corp', draft.checks, amounts(70), {
    usage: { requests: 1, input_tokens: 50, output_tokens: 20, total_tokens: 70, cost: 260_000 }, event: { ...eventBody, ...of, settled_at: new Date(nowMs + 20).toISOString() },
  }))).outcome, 'settled_late')
  const whole = await explain(`${id}.late`)
  t.match(whole, {
    id, state: 'expired', usage: { requests: 1, output_tokens: 20, total_tokens: 70 }, price: { cost: '0.000196000', parts: [{}, {}] },
    corrections: [{ id: `${id}.late`, usage: { total_tokens: 8 }, drawn: [{ bucket: 'monthly.overdraft', amount: 8 }], price: { cost: '0.000064000', note: /A correction/ } }],
  })
  t.match(whole.limits.find(({ name, of }) => name === 'monthly' && of === 'team'), { held: 90, used: 70, buckets: [{ drawn: 60 }, { bucket: 'monthly.overdraft', drawn: 10 }] })
})
