// test: timeout 120 s
// The internal platform of config/examples: teams call, budgets hold at every level, and costs are charged back by their labels.

import t from 'tap'
import { costOf, nanos, openModel, startBusiness, words } from './business.ts'

const keys = { SEARCH_KEY: 'tg_search_0123456789abcdefgh', BATCH_KEY: 'tg_batch_0123456789abcdefghi', SUPPORT_KEY: 'tg_support_0123456789abcdefg' }

t.test('teams under one budget', async (t) => {
  const model = await openModel(t)
  const business = await startBusiness(t, 'internal-platform.yaml', { ...keys, OPS_TOKEN: 'tg_ops_0123456789abcdefghijk', ANTHROPIC_API_KEY: 'bought-credential', CLAUDE_URL: model.url, VLLM_URL: model.url })
  t.equal(business.checked.code, 0)
  t.equal(business.checked.err, '', 'no weakness')
  const own = (secret: string, more: object): ReturnType<typeof business.call> => business.call(secret, '/v1/chat/completions', { model: 'own-8b', max_tokens: 400, ...more })
  const bought = (secret: string, more: object): ReturnType<typeof business.call> => business.call(secret, '/v1/messages', { model: 'claude-3-5-haiku-20241022', max_tokens: 400, ...more })

  t.equal((await own(keys.SEARCH_KEY, { messages: words(2_000, 300) })).status, 200)
  t.equal((await bought(keys.SEARCH_KEY, { messages: words(3_000, 400) })).status, 200)
  t.equal(model.requests.at(-1)?.header('x-api-key'), 'bought-credential', 'the company’s credential, not the team’s key')

  // Nightly jobs: own models, no streams, 60,000 tokens a day.
  t.match(await business.call(keys.BATCH_KEY, '/v1/messages', { model: 'claude-3-5-haiku-20241022', max_tokens: 10, messages: words(20, 1) }), { status: 403, reason: 'feature_unavailable' })
  t.match(await own(keys.BATCH_KEY, { messages: words(20, 1), stream: true }), { status: 403, reason: 'feature_unavailable', message: /streaming/ })
  for (let n = 0; n < 2; n++) t.equal((await own(keys.BATCH_KEY, { messages: words(25_000, 400) })).status, 200)
  t.match(await own(keys.BATCH_KEY, { messages: words(25_000, 400) }), { status: 429, reason: 'usage_limit_reached', message: /nightly/ })

  // Support has 0.05 a month: dear answers use it up, and are never longer than is left.
  const dear = { model: 'claude-3-5-haiku-20241022', max_tokens: 9_000, messages: words(1_000, 8_000) }
  const first = await bought(keys.SUPPORT_KEY, dear)
  t.equal(first.status, 200)
  const second = await bought(keys.SUPPORT_KEY, dear)
  t.equal(second.status, 200)
  t.match(second.headers.get('x-tallygate-output-bound'), /^\d+;asked=9000$/, 'lowered to what is left')
  t.match(await bought(keys.SUPPORT_KEY, dear), { status: 429, reason: 'usage_limit_reached', message: /budget/ })

  const search = await business.usage(keys.SEARCH_KEY)
  t.same(search.limits.map(({ name }) => name).sort(), ['budget', 'company/in-flight', 'rpm'], 'what the company has left is not theirs to see')
  t.match(search.limits.find(({ name }) => name === 'budget'), { meter: 'cost', limit: 2, reserved: 0 })

  const events = await business.events(6)
  t.match(events.find(({ data }) => data['key'] === 'search-jobs')?.data['labels'], { cost_center: '4711', job: 'reindex' })
  t.match(events.find(({ data }) => data['key'] === 'support-bot')?.data, { labels: { cost_center: '4712', app: 'bot' }, price_version: /^2026-11\+genai-prices@/ })
  const support = costOf(events, 'support')
  t.equal(BigInt(Math.round((search.limits.find(({ name }) => name === 'budget')?.used ?? 0) * 1e9)), costOf(events, 'search') + costOf(events, 'search-batch'), 'its own and its jobs’')
  t.ok(support <= 50_000_000n && support > 40_000_000n, `${support} nanos of 50,000,000`)

  const company = await business.invoice('company', '?with=children')
  t.same(company.children?.map(({ account }) => account).sort(), ['search', 'search-batch', 'support'])
  for (const child of company.children ?? []) t.equal(nanos(child.currencies[0]?.total), costOf(events, child.account), child.account)
  t.equal(nanos(company.family?.[0]?.total), costOf(events, 'search') + costOf(events, 'search-batch') + support)
  // 52,000 of input and 1,100 of output of the own model cost what the machines do.
  const machines = events.filter(({ data }) => data['model'] === 'own-8b').reduce((sum, { data }) => sum + nanos(String(data['cost'])), 0n)
  t.equal(machines, 52_000n * 50n + 1_100n * 200n)
  const explained = await business.cli('explain', events.find(({ subject }) => subject === 'search-batch')?.id ?? '')
  t.match(explained, { code: 0, out: /company\/company-budget +cost +month/ })
  t.match(explained.out, /search\/budget +cost/)
})
