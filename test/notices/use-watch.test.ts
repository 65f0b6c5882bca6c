import t from 'tap'
import type { Notice } from '../../src/notices/notice.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { delivered, openUseWorld } from './use-world.ts'

const at = (text: string): number => Date.parse(text)
const hour = 3_600_000
const day = 24 * hour
const now = at('2026-11-10T12:00:00Z')

const monthly = (limit: string, more = ''): string => `
${more}
plans: { pro: { limits: [{ name: monthly, meter: total_tokens, limit: ${limit}, window: month }, { name: rpm, meter: requests, limit: 9, window: 1m }] } }
accounts: { acme: { plan: pro } }
`
const told = (notices: readonly Notice[]): string[] => notices.map(({ type, account, data }) => `${type} ${account} ${String(data['limit'] ?? '')}${data['grant'] === undefined ? '' : ` ${String(data['grant'])}`} ${String(data['threshold'] ?? '')}`.trim()).sort()
const noForecast = 'notifications: { forecast: false }'

t.test('each threshold of a period is told once, whoever looks, in the numbers of the usage page', async (t) => {
  const w = await openUseWorld(t, monthly('1000', noForecast), now)
  const [one, two] = [w.watch(), w.watch()]
  await w.use('dev', 499)
  t.same(told(await w.look(one)), [], 'just below')
  await w.use('ci', 1)
  const [half] = await w.look(one)
  t.match(half, {
    type: 'threshold', account: 'acme', atMs: now, source: 'tallygate/test', text: "acme has reached 50% of 'monthly': 500 of 1,000 tokens are used",
    data: { limit: 'monthly', meter: 'total_tokens', window: 'month', per: 'account', threshold: 50, percent: 50, used: 500, ceiling: 1000, remaining: 500, plan: 'pro', period_start: '2026-11-01T00:00:00.000Z', period_end: '2026-12-01T00:00:00.000Z' },
    forgetMs: at('2026-12-01') + 90 * day,
  })
  await w.use('dev', 100)
  t.same(told(await w.look(two)), [], 'another gateway that takes over')
  await w.use('dev', 400)
  t.same(told(await w.look(two)), ['threshold acme monthly 100', 'threshold acme monthly 80'], 'two at once are two notices')
  await w.use('dev', 500)
  t.same(told(await w.look(w.watch())), [], 'after a restart')
  await w.configure(monthly('1M', noForecast))
  await w.use('dev', 600_000)
  t.same(told(await w.look(w.watch())), [], 'a raised ceiling tells nothing again in its period')
  w.set(at('2026-12-01T00:00:01Z'))
  await w.use('dev', 800_000)
  t.same(told(await w.look(one)), ['threshold acme monthly 50', 'threshold acme monthly 80'], 'a new period begins anew')
})

t.test('what was used before a period ended is told although its events are seen after it', async (t) => {
  const w = await openUseWorld(t, monthly('1000', noForecast), at('2026-11-30T23:59:59Z'))
  await w.use('dev', 600)
  w.set(at('2026-12-01T00:10:00Z'))
  await w.use('dev', 300, { atMs: at('2026-11-30T23:59:59.500Z') })
  await w.use('dev', 550)
  const notices = await w.look(w.watch())
  t.same(notices.map(({ data }) => [String(data['period_start']).slice(0, 7), data['threshold']]).sort(), [['2026-11', 50], ['2026-11', 80], ['2026-12', 50]])
})

t.test('which limits are told of: visible ones of a day or longer, money and prepaid; what a limit says itself wins', async (t) => {
  const limits = (more: string): string => `${more}
plans:
  pro:
    limits:
      - { name: minute, meter: requests, limit: 1000, window: 1m }
      - { name: hours, meter: requests, limit: 1000, window: 5h }
      - { name: daily, meter: requests, limit: 1000, window: day }
      - { name: week, meter: requests, limit: 1000, window: 7d }
      - { name: hidden, meter: input_tokens, limit: 1000, window: day, visible: false }
      - { name: shadow, meter: output_tokens, limit: 1000, window: day, mode: shadow }
      - { name: asked, meter: images, limit: 1000, window: 2h, notify: 10% }
      - { name: quiet, meter: bytes_in, limit: 1000, window: day, notify: none }
      - { name: key, meter: requests, limit: 1000, window: week, per: key }
      - { name: person, meter: requests, limit: 1000, window: week, per: end_user }
      - { name: person-asked, meter: requests, limit: 1000, window: month, per: end_user, notify: 90% }
      - { name: models, meter: requests, limit: 1000, window: month, each: model, notify: 90% }
      - { name: all, meter: audio_seconds, limit: unlimited, window: day }
      - { name: nothing, meter: bytes_out, limit: 0, window: day }
accounts: { acme: { plan: pro } }
`
  const w = await openUseWorld(t, limits('notifications: { thresholds: 90%, forecast: false }'), now)
  await w.use('dev', 950, { model: 'small', endUser: 'u1' })
  await w.use('ci', 950, { model: 'large', endUser: 'u1' })
  const found = await w.look(w.watch())
  t.same(told(found), [
    'threshold acme asked 10', 'threshold acme daily 90', 'threshold acme key 90', 'threshold acme key 90', 'threshold acme models 90', 'threshold acme models 90', 'threshold acme person-asked 90', 'threshold acme person-asked 90', 'threshold acme week 90',
  ])
  const of = (limit: string, field: string): unknown[] => found.filter(({ data }) => data['limit'] === limit).map(({ data }) => data[field]).sort()
  t.same([of('key', 'key'), of('models', 'model'), of('person-asked', 'end_user')], [['ci', 'dev'], ['large', 'small'], ['u1', 'u1']])
  t.match(found.find(({ data }) => data['limit'] === 'key')?.text, /with the key '(dev|ci)': 950 of 1,000 requests/)

  const named = await openUseWorld(t, limits('notifications: { thresholds: 90%, forecast: false, limits: [h*, minute, shadow] }'), now)
  await named.use('dev', 950)
  t.same(told(await named.look(named.watch())), ['threshold acme asked 10', 'threshold acme hidden 90', 'threshold acme hours 90', 'threshold acme models 90', 'threshold acme shadow 90'], 'a minute is too short for anybody to read of it')
})

t.test('a parent\'s limit is told once, as the parent\'s', async (t) => {
  const w = await openUseWorld(t, `
${noForecast}
plans: { pro: { limits: [{ name: daily, meter: requests, limit: 1000, window: day }] } }
accounts:
  group: { limits: [{ name: pool, meter: requests, limit: 100, window: month }, { name: daily, meter: requests, limit: 60, window: day }] }
  acme: { plan: pro, parent: group }
  team: { plan: pro, parent: group }
`, now)
  await w.use('dev', 30)
  await w.use('kid', 30)
  t.same(told(await w.look(w.watch())), ['threshold group daily 100', 'threshold group daily 50', 'threshold group daily 80', 'threshold group pool 50'])
})

t.test('money is told in its currency, exactly', async (t) => {
  const w = await openUseWorld(t, `
${noForecast}
prices: { p: { currency: EUR, version: "1", models: { "*": { requests: 1 } } } }
plans: { pro: { prices: p, limits: [{ name: budget, meter: cost, limit: 0.04, window: 1h }] } }
accounts: { acme: { plan: pro } }
`, now)
  await w.use('dev', 20_000_000)
  t.match(await w.look(w.watch()), [{ text: "acme has reached 50% of 'budget': 0.02 of 0.04 EUR are used", data: { used: 0.02, ceiling: 0.04, currency: 'EUR', period_start: null, period_end: null } }])
})

t.test('grants extend what is 100 %, and are told of one by one; prepaid credit as a whole when it is used up, again after each purchase', async (t) => {
  const grant = async (w: Awaited<ReturnType<typeof openUseWorld>>, id: string, limit: string, amount: number): Promise<void> => {
    await w.store.records.put('grant', `acme/${id}`, { limit, meter: 'total_tokens', amount, priority: 100, effective_ms: now - hour, expires_ms: null, created_ms: w.clock.nowMs(), created_by: 'ops', source: 'purchase', note: null })
  }
  const w = await openUseWorld(t, monthly('1000', noForecast), now)
  await grant(w, 'bonus', 'monthly', 1_000)
  await w.use('dev', 999)
  t.same(told(await w.look(w.watch())), [], '49.95 % of 2000')
  await w.use('dev', 601)
  t.same(told(await w.look(w.watch())), ['threshold acme monthly 50', 'threshold acme monthly 80', 'threshold acme monthly bonus 50'])

  const prepaid = await openUseWorld(t, `
${noForecast}
plans: { payg: { limits: [{ name: credit, meter: total_tokens, limit: 0, window: lifetime, prepaid: true }] } }
accounts: { acme: { plan: payg } }
`, now)
  await grant(prepaid, 'first', 'credit', 100)
  await prepaid.use('dev', 79)
  t.same(told(await prepaid.look(prepaid.watch())), ['threshold acme credit first 50'])
  await prepaid.use('dev', 21)
  t.same(told(await prepaid.look(prepaid.watch())), ['threshold acme credit 100', 'threshold acme credit first 100', 'threshold acme credit first 80'])
  prepaid.set(now + day)
  await grant(prepaid, 'second', 'credit', 100)
  await prepaid.use('dev', 10)
  t.same(told(await prepaid.look(prepaid.watch())), [], 'there is credit again')
  await prepaid.use('dev', 90)
  const last = await prepaid.look(prepaid.watch())
  t.same(told(last), ['threshold acme credit 100', 'threshold acme credit second 100', 'threshold acme credit second 50', 'threshold acme credit second 80'])
  t.same(last.map(({ forgetMs }) => forgetMs), [null, null, null, null], 'what has no end is never forgotten, so it is never told again')
})

t.test('a forecast is told once a period, from what was used of late', async (t) => {
  const w = await openUseWorld(t, monthly('1000', 'notifications: { thresholds: none }'), at('2026-11-02T00:00:00Z'))
  let watch = w.watch()
  const found: string[] = []
  // Nothing for ten days, then 60 a day: the average says the end of January, the last day says the 27th.
  for (let hours = 0; hours < 28 * 24; hours++) {
    w.set(at('2026-11-02T00:00:00Z') + hours * hour)
    await w.use('dev', hours < 240 ? 0 : 2.5 * 2 * (hours % 2))
    if (hours % 50 === 0) watch = w.watch()
    for (const { type, data, atMs } of await w.look(watch)) found.push(`${type} ${new Date(atMs).toISOString().slice(0, 10)} ${String(data['exhausts_at']).slice(0, 10)}`)
  }
  t.same(found, ['forecast 2026-11-15 2026-11-28'])
  t.equal((await w.store.records.list('pace')).length, 1, 'one document for the limit')
})

t.test('while the store does not answer nothing is lost: events are held back for a minute, then owed', async (t) => {
  const w = await openUseWorld(t, monthly('1000', noForecast), now)
  let away = true
  const watch = w.watch()
  const { balances } = w.store
  w.store.balances = (home, checks) => (away ? Promise.reject(new StoreUnavailable('away')) : balances.call(w.store, home, checks))
  await w.use('dev', 600)
  await t.rejects(w.look(watch), StoreUnavailable)
  away = false
  t.same(told(await w.look(watch)), ['threshold acme monthly 50'], 'the same events again')
  away = true
  await w.use('dev', 200)
  await t.rejects(w.look(watch), StoreUnavailable)
  w.set(now + 61_000)
  t.same(told(await w.look(watch)), [], 'other shards\' events must not wait for ever')
  away = false
  await w.use('dev', 1)
  t.same(told(await w.look(watch)), ['threshold acme monthly 80'])
})

t.test('a mistake of ours in one account neither stops the others nor holds events back', async (t) => {
  const w = await openUseWorld(t, `
${noForecast}
plans: { pro: { limits: [{ name: daily, meter: requests, limit: 10, window: day }] } }
accounts: { acme: { plan: pro }, team: { plan: pro } }
`, now)
  const { balances } = w.store
  w.store.balances = (home, checks) => (home === 'acme' ? Promise.reject(new TypeError('a bug')) : balances.call(w.store, home, checks))
  const errors: string[] = []
  const watch = w.watch({ debug() {}, info() {}, warn() {}, error: (_fields, message) => { errors.push(message) } })
  await w.use('dev', 9)
  await w.use('kid', 9)
  t.same(told(await w.look(watch)), ['threshold team daily 50', 'threshold team daily 80'])
  t.same(errors, ['what an account has used could not be looked at'])
})

t.test('old notices are removed once they cannot happen again, with what is known of their deliveries', async (t) => {
  const w = await openUseWorld(t, `
${noForecast}
plans: { pro: { limits: [{ name: daily, meter: requests, limit: 10, window: day }, { name: monthly, meter: requests, limit: 10, window: month }, { name: ever, meter: requests, limit: 10, window: lifetime }] } }
accounts: { acme: { plan: pro } }
`, now)
  const watch = w.watch()
  await w.use('dev', 5)
  const first = await w.look(watch)
  for (const { id } of first) await w.store.records.put('notice_delivery', `hook/${id}`, { state: 'delivered' })
  const left = async (): Promise<string[]> => {
    await w.book.forget()
    t.equal((await w.store.records.list('notice_delivery')).length, (await w.all()).length)
    return (await w.all()).map(({ data }) => String(data['limit'])).sort()
  }
  t.same(await left(), ['daily', 'ever', 'monthly'])
  w.set(at('2026-11-11') + 14 * day + 1)
  t.same(await left(), ['ever', 'monthly'])
  w.set(at('2026-12-01') + 90 * day + 1)
  t.same(await left(), ['ever'])
  // The same old event once more, seen by a gateway that remembers nothing.
  const events = (await w.store.outbox.scan(null, 10)).map(({ record }) => delivered(record))
  await w.watch().deliver(events, new AbortController().signal)
  t.same(told(await w.all()), ['threshold acme ever 50'], 'what is forgotten is not told again')
})
