// test: timeout 120 s
// The hosted model API of config/examples: each kind of customer calls, hits what its plan says, sees it in its usage, and is billed for it.

import t from 'tap'
import { costOf, nanos, openModel, startBusiness, words } from './business.ts'

const keys = { ADA_KEY: 'tg_ada_0123456789abcdefghijk', BRICK_KEY: 'tg_brick_0123456789abcdefghi', GIANT_KEY: 'tg_giant_0123456789abcdefghi' }

t.test('free, pro and enterprise', async (t) => {
  const model = await openModel(t)
  const business = await startBusiness(t, 'hosted-model-api.yaml', { ...keys, OPS_TOKEN: 'tg_ops_0123456789abcdefghijk', MODELS_URL: model.url })
  t.equal(business.checked.code, 0)
  t.equal(business.checked.err, '', 'no weakness')
  t.match(business.checked.out, /free[\s\S]*Without vision, tools[\s\S]*pro[\s\S]*Pro 20 USD a billing period[\s\S]*enterprise[\s\S]*at least 100 USD/)
  const chat = (secret: string, more: object): ReturnType<typeof business.call> => business.call(secret, '/v1/chat/completions', { model: 'small', max_tokens: 500, ...more })

  // Free: one model, text only, 40,000 tokens a day, 10 calls a minute.
  t.match(await chat(keys.ADA_KEY, { model: 'large', messages: words(20, 1) }), { status: 403, reason: 'feature_unavailable', message: 'The model \'large\' is not part of your plan \'free\'. Plans that have it: pro.' })
  t.match(await chat(keys.ADA_KEY, { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://pictures.test/a.png' } }] }] }), { status: 403, reason: 'feature_unavailable', message: /vision.*Plans that have it: pro/ })
  t.match(await chat(keys.ADA_KEY, { messages: words(17_000, 1) }), { status: 413, reason: 'request_too_large' }, 'the context of its plan')
  for (let n = 0; n < 3; n++) t.equal((await chat(keys.ADA_KEY, { messages: words(12_000, 100), max_tokens: 5_000 })).status, 200)
  const full = await chat(keys.ADA_KEY, { messages: words(12_000, 100) })
  t.match(full, { status: 429, reason: 'usage_limit_reached', message: /daily/ })
  t.ok(Number(full.headers.get('retry-after')) > 60)
  const ada = await business.usage(keys.ADA_KEY)
  t.match(ada, { plan: 'free' })
  t.match(ada.limits.find(({ name }) => name === 'daily'), { limit: 40_000, used: 36_300, remaining: 3_700 })
  t.notOk(ada.limits.some(({ name }) => name === 'daily-next'), 'a shadow is nobody’s business')
  for (let n = 0; n < 7; n++) t.equal((await chat(keys.ADA_KEY, { messages: words(50, 10), max_tokens: 10 })).status, 200)
  t.match(await chat(keys.ADA_KEY, { messages: words(50, 10), max_tokens: 10 }), { status: 429, reason: 'rate_limited', message: /rpm|per minute/i })

  // Pro: 100,000 tokens a billing period and 10 % more; tools and the large model.
  t.equal((await chat(keys.BRICK_KEY, { model: 'large', messages: words(1_000, 300), tools: [{ type: 'function', function: { name: 'f', parameters: {} } }] })).status, 200)
  for (let n = 0; n < 3; n++) t.equal((await chat(keys.BRICK_KEY, { messages: words(30_000, 500) })).status, 200)
  t.equal((await chat(keys.BRICK_KEY, { messages: words(14_000, 400) })).status, 200, 'into the overdraft')
  t.match(await chat(keys.BRICK_KEY, { messages: words(14_000, 400) }), { status: 429, reason: 'usage_limit_reached', message: /monthly/ })
  t.match((await business.usage(keys.BRICK_KEY)).limits.find(({ name }) => name === 'monthly'), { limit: 100_000, used: 107_200, remaining: 0 })
  t.match(await chat(keys.BRICK_KEY, { model: 'unknown', messages: words(20, 1) }), { status: 403, reason: 'feature_unavailable', message: /has no price/ })

  // Enterprise: on a contract, with no bound in tokens and one in money.
  for (let n = 0; n < 3; n++) t.equal((await chat(keys.GIANT_KEY, { model: 'large', messages: words(10_000, 500) })).status, 200)
  const giant = await business.usage(keys.GIANT_KEY)
  t.match(giant.subscription, { kind: 'term', state: 'active', renewal: 'auto', seats: 50 })
  t.match(giant.limits.find(({ name }) => name === 'seats'), { limit: 50 })

  const events = await business.events(18)
  t.same(events.filter(({ subject }) => subject === 'ada').map(({ data }) => data['shadow']).map((shadow) => shadow !== undefined), [false, true, true, ...Array.from({ length: 7 }, () => true)], 'whom the next version would refuse')
  t.match(await business.invoice('ada'), { events: 10, unpriced_events: 10, currencies: [] })

  const brick = await business.invoice('brick')
  t.equal(brick.known_since, null)
  t.equal(nanos(brick.currencies[0]?.usage), costOf(events, 'brick'))
  // small: 104,000 of input, 10,000 at 0.20/M and 94,000 at 0.15/M; 1,900 of output at 0.80/M. large: 1,000 at 2.50/M, 300 at 10/M.
  // Included are 2,000 of output: the dearest first, 300 of large and 1,700 of small. 20 for the plan.
  const small = 10_000n * 200n + 94_000n * 150n + 200n * 800n
  const large = 1_000n * 2_500n
  t.equal(nanos(brick.currencies[0]?.total), small + large + 20_000_000_000n)
  t.same([...new Set(brick.currencies[0]?.lines.map(({ kind }) => kind))], ['usage', 'included', 'prices', 'fee'])

  const contract = await business.invoice('giant')
  // 30,000 of input are beyond 20,000, so all of them cost 1.50/M; 1,500 of output at 8/M; and what is missing to 100.
  const used = 30_000n * 1_500n + 1_500n * 8_000n
  t.equal(nanos(contract.currencies[0]?.usage), costOf(events, 'giant'))
  t.equal(nanos(contract.currencies[0]?.total), 100_000_000_000n)
  t.equal(nanos(contract.currencies[0]?.lines.find(({ kind }) => kind === 'minimum')?.amount), 100_000_000_000n - used)
  t.match(contract.period, { timezone: 'Europe/Berlin' })
  t.match(await business.cli('invoice', 'giant'), { code: 0, out: /up to the minimum[\s\S]*total +100\.000000000/ })
})
