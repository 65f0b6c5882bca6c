// `/-/usage/history`: what a key has used, for whoever holds it.

import t from 'tap'
import { Analytics } from '../../src/analytics/analytics.ts'
import { openRollups } from '../../src/analytics/open-rollups.ts'
import { ROLLUPS } from '../../src/analytics/projector.ts'
import { systemClock } from '../../src/clock.ts'
import type { GatewayParts } from '../../src/gateway/parts.ts'
import type { HistoryAnswer, HistoryQuestion, UsageHistory } from '../../src/gateway/usage-history.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import type { RawResponse } from '../fixtures/raw-client.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { startRig, type Rig, type RigOptions } from './exchange/rig.ts'

const team = { a: 'tg-test-team-a-0123456789', b: 'tg-test-team-b-0123456789' }
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined }

interface Sums {
  readonly requests: number
  readonly input_tokens: number
  readonly output_tokens: number
  readonly total_tokens: number
  readonly cost: Readonly<Record<string, string>>
  readonly refused: number | null
}
interface History { readonly account: string; readonly key: string; readonly unit: string; readonly from: string; readonly to: string; readonly complete_until: string | null; readonly rows: readonly (Sums & { from: string })[]; readonly totals: Sums }

const teamOptions: RigOptions = {
  entitlements: '{ models: ["*"] }\n    prices: standard',
  limits: ['{ name: calls, meter: requests, limit: 6, window: day, per: key }'],
  keys: [`{ id: team-a, account: team, secret: "${team.a}" }`, `{ id: team-b, account: team, secret: "${team.b}" }`],
  sections: 'accounts: { team: { plan: main } }\nprices: { standard: { currency: USD, version: 2026-01-01, models: { "*": { input_tokens: 3/M, output_tokens: 15/M } } } }',
}

/** A gateway whose usage is rolled up. */
async function startCounted(t: Teardown, more: RigOptions = {}): Promise<{ rig: Rig; ask: (query?: string, key?: string | null) => Promise<RawResponse> }> {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const rig = await startRig(t, upstream.url, {
    ...teamOptions, ...more,
    parts: async (store, config) => {
      const analytics = new Analytics({ outbox: store.outbox, clock: systemClock, log: silent, onHold: () => undefined, open: (kept) => openRollups(config().store, store, kept), archive: () => null })
      await store.outbox.setConsumers([ROLLUPS])
      await analytics.use(config())
      t.teardown(() => analytics.stop())
      return { onlooker: analytics.traffic, history: analytics.historyOf(config) }
    },
  })
  return { rig, ask: (query = '', key = team.a) => rig.request({ target: `/-/usage/history${query}`, key }) }
}

/** A gateway with a history that is under the test's command. */
async function startWith(t: Teardown, history: UsageHistory | null, more: Partial<GatewayParts> = {}): Promise<{ rig: Rig; ask: (query?: string, key?: string) => Promise<RawResponse> }> {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { ...teamOptions, parts: async () => ({ ...(history === null ? {} : { history }), ...more }) })
  return { rig, ask: (query = '', key = team.a) => rig.request({ target: `/-/usage/history${query}`, key }) }
}

const noHistory: HistoryAnswer = { fromMs: 0, untilMs: 86_400_000, completeUntilMs: 0, rows: [] }
const codeOf = (answer: RawResponse): string => (answer.json() as { error: { code: string } }).error.code
const messageOf = (answer: RawResponse): string => (answer.json() as { error: { message: string } }).error.message

t.test('a key is told what its own calls came to, equal to their events, and nothing of its account\'s other keys', async (t) => {
  const { rig, ask } = await startCounted(t)
  t.match((await ask()).json(), { account: 'team', key: 'team-a', unit: 'day', rows: [], totals: { requests: 0, total_tokens: 0, cost: {}, refused: 0 } }, 'nothing yet')
  const chat = (key: string): ReturnType<Rig['request']> => rig.request({ method: 'POST', target: '/v1/chat/completions', key, body: { model: 'small', messages: [{ role: 'user', content: 'hi' }] } })
  for (const key of [team.a, team.a, team.a, team.b]) t.equal((await chat(key)).status, 200)
  for (let i = 0; i < 7; i++) await chat(team.b)
  const events = (await rig.events()).filter(({ key }) => key === 'team-a')
  t.equal(events.length, 3)
  const sum = (name: string): number => events.reduce((all, event) => all + Number(event[name]), 0)
  const cost = events.reduce((all, event) => all + BigInt(String(event['cost']).replace('.', '')), 0n)
  const history = await waitFor('the roll-ups', async () => {
    const found = (await ask()).json() as History
    return found.totals.requests === 3 ? found : undefined
  }, { deadlineMs: 20_000, everyMs: 1_100 })
  t.match(history, { account: 'team', key: 'team-a', unit: 'day', from: /T00:00:00Z$/, to: /T00:00:00Z$/, complete_until: /^\d{4}-.*Z$/ })
  t.same(history.totals, {
    requests: sum('requests'), input_tokens: sum('input_tokens'), output_tokens: sum('output_tokens'), total_tokens: sum('total_tokens'),
    cost: { USD: `0.${cost.toString().padStart(9, '0')}` }, refused: 0,
  })
  t.ok(cost > 0n)
  t.same(history.rows.reduce((all, row) => all + row.requests, 0), 3)
  const refused = await waitFor('the refusals', async () => {
    const { totals } = (await ask('?unit=hour', team.b)).json() as History
    return totals.refused === 2 ? totals : undefined
  }, { deadlineMs: 20_000, everyMs: 1_100 })
  t.equal(refused.requests, 6, 'the other one has its own')
  const month = (await ask('?unit=month')).json() as History
  t.equal(month.unit, 'month')
  t.same(month.totals, history.totals)
  t.equal((await ask('?since=2d&unit=day', team.a)).status, 200)
})

t.test('it needs a key, in any place where a dialect puts it, and is read with GET', async (t) => {
  const asked: HistoryQuestion[] = []
  const { rig, ask } = await startWith(t, { isKept: true, of: async (question) => { asked.push(question); return noHistory } })
  t.equal((await rig.request({ target: '/-/usage/history', key: null })).status, 401)
  const unknown = await ask('', 'tg-test-nobody-0123456789')
  t.equal(unknown.status, 401)
  t.equal((await rig.request({ target: '/-/usage/history?key=team-b', key: null })).status, 401, 'an id is no key')
  t.equal((await rig.request({ target: `/-/usage/history?key=${team.b}`, key: null })).status, 200)
  t.equal((await rig.request({ target: '/-/usage/history', key: null, headers: { 'x-api-key': team.b } })).status, 200)
  t.same(asked.map(({ account, key }) => [account, key]), [['team', 'team-b'], ['team', 'team-b']])
  const posted = await rig.request({ method: 'POST', target: '/-/usage/history', key: team.a, body: {} })
  t.equal(posted.status, 405)
  t.equal(posted.header('allow'), 'GET')
  t.equal((await ask()).header('cache-control'), 'no-store')
  for (const path of ['/-/usage/history/', '/-/usage/', '/-/usage/History', '/-/history']) t.equal((await rig.request({ target: path, key: team.a })).status, 404, path)
})

t.test('guessing keys there is braked as everywhere', async (t) => {
  const { ask } = await startWith(t, { isKept: true, of: async () => noHistory })
  const statuses = new Set<number>()
  for (let i = 0; i < 62; i++) statuses.add((await ask('', `tg-test-guess-${i}-0123456789`)).status)
  t.same([...statuses], [401, 429])
  t.equal((await ask()).status, 200, 'a valid key is not')
})

t.test('what is wrong in a query is refused by name, and nobody else\'s usage can be asked for', async (t) => {
  const asked: HistoryQuestion[] = []
  const { ask } = await startWith(t, { isKept: true, of: async (question) => { asked.push(question); return noHistory } })
  const cases: readonly (readonly [string, RegExp])[] = [
    ['?unit=minute', /^unit has/], ['?unit=', /^unit has/], ['?unit=day&unit=hour', /^unit is given twice/], ['?unit=__proto__', /^unit has/], ['?unit=%00', /^unit has/], ['?unit=DAY', /^unit has/],
    ['?since=', /^since says/], ['?since=0d', /^since says/], ['?since=-1d', /^since says/], ['?since=1e9d', /^since says/], ['?since=100000d', /^since says/], ['?since=30', /^since says/],
    ['?since=1.5d', /^since says/], ['?since=30d%0a', /^since says/], ['?since=2026-01-01', /^since says/], ['?since=%ff', /^since says/], ['?since=30d&since=1h', /^since is given twice/],
    ['?account=other', /^"account" is not known/], ['?by=key', /^"by" is not known/], ['?from=30d', /^"from" is not known/], ['?%3Cscript%3E=1', /^A part of the query/], [`?${'x'.repeat(4_000)}=1`, /^A part of the query/],
  ]
  for (const [query, words] of cases) {
    const answer = await ask(query)
    t.equal(answer.status, 400, query.slice(0, 40))
    t.match(messageOf(answer), words, query.slice(0, 40))
  }
  t.same(asked, [])
  for (const query of ['', '?', '?unit=hour', '?since=99999d', '?since=1h&unit=month', '?&&']) if ((await ask(query)).status !== 200) t.fail(query)
  t.same(asked.map(({ unit, backMs }) => [unit, backMs]), [['day', null], ['day', null], ['hour', null], ['day', 99_999 * 86_400_000], ['month', 3_600_000], ['day', null]])
})

t.test('where no history is kept there is none, which only a key is told', async (t) => {
  const { rig, ask } = await startCounted(t, { sections: `${teamOptions.sections ?? ''}\nanalytics: off` })
  const answer = await ask()
  t.equal(answer.status, 404)
  t.match(messageOf(answer), /^No history of usage is kept here/)
  t.equal((await ask('', null)).status, 401)
  t.equal((await rig.request({ target: '/-/usage', key: team.a })).status, 200)
  const { ask: without } = await startWith(t, null)
  t.equal((await without()).status, 404, 'nor where nobody keeps any')
})

t.test('while roll-ups cannot be read it is 503 with a time to come back, and calls go on', async (t) => {
  const { rig, ask } = await startWith(t, { isKept: true, of: async () => { throw new StoreUnavailable('the roll-ups are away, at 10.0.0.7') } })
  const answer = await ask()
  t.equal(answer.status, 503)
  t.equal(codeOf(answer), 'metering_unavailable')
  t.equal(answer.header('retry-after'), '2')
  t.notMatch(answer.body.toString(), /10\.0\.0\.7/)
  t.equal((await rig.request({ method: 'POST', target: '/v1/chat/completions', key: team.a, body: { model: 'small', messages: [{ role: 'user', content: 'hi' }] } })).status, 200)
  t.equal((await rig.request({ target: '/-/usage', key: team.a })).status, 200)
  const { ask: broken } = await startWith(t, { isKept: true, of: async () => { throw new Error('a bug with secrets') } })
  const failed = await broken()
  t.equal(failed.status, 500)
  t.notMatch(failed.body.toString(), /secrets/)
})

t.test('roll-ups that do not answer are not waited for, and what they still read counts as read', async (t) => {
  const ends: (() => void)[] = []
  const { ask } = await startWith(t, { isKept: true, of: () => new Promise((resolve) => { ends.push(() => resolve(noHistory)) }) }, { bounds: { historyMs: 150 } })
  t.equal((await ask()).status, 503)
  t.equal((await ask()).status, 503)
  t.equal((await ask()).status, 429, 'two of an account')
  for (const end of ends.splice(0)) end()
  t.equal((await ask()).status, 503, 'they have ended')
  for (const end of ends.splice(0)) end()
})

t.test('few are read at once, in all and of each account, and nobody asks all the time; calls are not touched by it', async (t) => {
  const ends: (() => void)[] = []
  const { rig, ask } = await startWith(t, { isKept: true, of: () => new Promise((resolve) => { ends.push(() => resolve(noHistory)) }) })
  const main = 'tg-test-main-0123456789'
  const other = 'tg-test-other-0123456789'
  const running = [ask('', team.a), ask('', team.b), ask('', main), ask('', main)]
  await waitFor('all to be read', () => ends.length === 4)
  const braked = await ask('', other)
  t.equal(braked.status, 429)
  t.equal(codeOf(braked), 'rate_limited')
  t.equal(braked.header('retry-after'), '1')
  t.equal((await rig.request({ method: 'POST', target: '/v1/chat/completions', key: other, body: { model: 'small', messages: [{ role: 'user', content: 'hi' }] } })).status, 200)
  t.equal(ends.length, 4)
  for (const end of ends.splice(0)) end()
  t.same((await Promise.all(running)).map(({ status }) => status), [200, 200, 200, 200])
  const third = [ask('', team.a), ask('', team.b)]
  await waitFor('both', () => ends.length === 2)
  t.equal((await ask('', team.a)).status, 429, 'two of one account')
  for (const end of ends.splice(0)) end()
  await Promise.all(third)

  const { ask: quick } = await startWith(t, { isKept: true, of: async () => noHistory })
  const statuses: number[] = []
  for (let i = 0; i < 30; i++) statuses.push((await quick('', i % 2 === 0 ? team.a : team.b)).status)
  t.same(statuses.slice(0, 10), Array.from({ length: 10 }, () => 200))
  t.ok(statuses.filter((status) => status === 429).length >= 10, 'then one a second, over all keys of the account')
  t.equal((await quick('', main)).status, 200, 'others are not braked by it')
})

t.test('looking is no call: it is in no sum, no event, and no refusal', async (t) => {
  const told: string[] = []
  const onlooker = { ended: () => { told.push('ended') }, refused: (reason: string) => { told.push(reason) } }
  const { rig, ask } = await startWith(t, { isKept: true, of: async () => noHistory }, { onlooker })
  await ask()
  await ask('?unit=never')
  await rig.request({ target: '/-/usage', key: team.a })
  t.same(told, [])
  t.same(await rig.events(), [])
  await rig.request({ target: '/-/usage/history', key: null })
  t.same(told, ['invalid_api_key'], 'who brings no key is told of, as everywhere')
})
