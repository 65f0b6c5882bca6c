// What a caller sees of a subscription: refused before it starts, after its grace and while it is suspended, with a sentence; served in between.

import t from 'tap'
import { recordKinds, toSubscriptionDocument } from '../../src/accounts/account-records.ts'
import { subscriptionOf } from '../../src/metering/subscription.ts'
import type { SubscriptionFields } from '../../src/metering/subscription.ts'
import { anthropic } from '../fixtures/anthropic-scripts.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { prompt, startRig, type Rig } from './exchange/rig.ts'

const day = 86_400_000
const nowMs = Date.now()
const second = (ms: number): string => new Date(Math.ceil(ms / 1_000) * 1_000).toISOString().replace('.000Z', 'Z')

/** The key of the rig is its own account, on this subscription from now on. */
async function subscribe(rig: Rig, more: Partial<SubscriptionFields>): Promise<void> {
  const subscription = subscriptionOf({
    kind: 'term', startMs: nowMs - 10 * day, trialEndMs: null, endMs: null, graceMs: 0, renewal: null, term: { unit: 'month', count: 1 }, timeZone: 'UTC', suspended: null, seats: null, plans: [], addOns: [],
    where: 'store', ...more,
  })
  if (typeof subscription === 'string') throw new Error(subscription)
  await rig.store.records.put(recordKinds.subscription, 'main', toSubscriptionDocument({ subscription, revision: 1, changes: [] }))
}

const chat = (rig: Rig): ReturnType<Rig['request']> => rig.request({ method: 'POST', target: '/v1/chat/completions', body: prompt })

t.test('a caller is refused with 403, the reason, and a sentence that says which and when', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const cases: readonly (readonly [Partial<SubscriptionFields>, string])[] = [
    [{ startMs: nowMs + day }, `The subscription of this account begins at ${second(nowMs + day)}.`],
    [{ endMs: nowMs - day }, `The subscription of this account ended at ${second(nowMs - day)}.`],
    [{ endMs: nowMs - 3 * day, graceMs: 2 * day }, `The subscription of this account ended at ${second(nowMs - 3 * day)}, and the grace after it at ${second(nowMs - day)}.`],
    [{ kind: 'trial', trialEndMs: nowMs - day, term: null }, `The trial of this account ended at ${second(nowMs - day)}.`],
    [{ suspended: { fromMs: nowMs - day, untilMs: null } }, `This account has been suspended since ${second(nowMs - day)}.`],
    [{ suspended: { fromMs: nowMs - day, untilMs: nowMs + day } }, `This account has been suspended since ${second(nowMs - day)}, until ${second(nowMs + day)}.`],
  ]
  for (const [fields, sentence] of cases) {
    await subscribe(rig, fields)
    const answer = await chat(rig)
    t.equal(answer.status, 403, sentence)
    t.match(answer.json(), { error: { message: sentence, code: 'subscription_inactive', reason: 'subscription_inactive' } })
    t.equal(answer.header('x-should-retry'), 'false')
    t.equal((await rig.request({ target: '/-/usage' })).status, 403, 'nor may it look')
    t.equal((await rig.request({ target: '/v1/models' })).status, 403)
  }
  t.equal(upstream.executions, 0)
  await rig.store.records.put(recordKinds.suspension, 'main', { at_ms: nowMs - day, by: 'ops', reason: 'unpaid' })
  t.match((await chat(rig)).json(), { error: { message: `This account has been suspended since ${second(nowMs - day)}.` } }, 'an operator’s word, and not why')
  await rig.store.records.delete(recordKinds.suspension, 'main')
  await rig.store.records.delete(recordKinds.subscription, 'main')
  t.equal((await chat(rig)).status, 200)
  t.equal((await rig.events()).length, 1, 'refused calls leave nothing')
})

t.test('in Anthropic’s dialect the refusal is a permission error', async (t) => {
  const upstream = await openScriptedUpstream(t, anthropic())
  const rig = await startRig(t, upstream.url)
  await subscribe(rig, { startMs: nowMs + day })
  const answer = await rig.request({ method: 'POST', target: '/v1/messages', body: { model: 'claude', max_tokens: 5, messages: prompt.messages } })
  t.equal(answer.status, 403)
  t.match(answer.json(), { type: 'error', error: { type: 'permission_error', details: { reason: 'subscription_inactive' } } })
})

t.test('in its grace an account is served as ever, and sees it in its usage', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  await subscribe(rig, {})
  const before = await chat(rig)
  t.match((await rig.request({ target: '/-/usage' })).json(), { subscription: { kind: 'term', state: 'active', renewal: 'auto', since: second(nowMs - 10 * day), until: null, term: { start: second(nowMs - 10 * day) } } })
  await subscribe(rig, { endMs: nowMs - day, graceMs: 3 * day, term: null })
  const within = await chat(rig)
  t.equal(within.status, 200)
  t.same(within.headers.map(([name]) => name), before.headers.map(([name]) => name), 'no header tells of it')
  t.match((await rig.request({ target: '/-/usage' })).json(), {
    subscription: { state: 'grace', since: second(nowMs - day), until: second(nowMs + 2 * day), term: { start: second(nowMs - 10 * day), end: second(nowMs - day) } },
  })
})

t.test('what a term admits is used up until the next term', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { limits: ['{ name: lap, meter: requests, limit: 2, window: term }'] })
  await subscribe(rig, { startMs: nowMs - day, term: { unit: 'day', count: 30 } })
  t.same([(await chat(rig)).status, (await chat(rig)).status], [200, 200])
  const refused = await chat(rig)
  t.equal(refused.status, 429)
  t.match(refused.json(), { error: { reason: 'usage_limit_reached', limit: 'lap', resets_at: second(nowMs + 29 * day), message: /per term of the subscription/ } })
  t.match(await rig.usage(), { lap: { window: 'term', used: 2, remaining: 0 } })
  // The term that began a day ago was renewed an hour ago: it is another one.
  await subscribe(rig, { startMs: nowMs - 30 * day - 3_600_000, term: { unit: 'day', count: 30 } })
  t.equal((await chat(rig)).status, 200)
})

t.test('a context beyond the plan’s is refused with a sentence, and an answer is bounded by what is left of it', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { entitlements: '{ models: ["*"], max_context_tokens: 500 }', policy: 'output_default: 4096, clamp_floor: 16' })
  t.equal((await rig.chat()).status, 200)
  const bound = (upstream.requests.at(-1)?.json() as { max_tokens?: number; max_completion_tokens?: number })
  t.ok((bound.max_tokens ?? bound.max_completion_tokens ?? 0) < 500, 'the answer has room for what the prompt leaves')
  const long = { messages: [{ role: 'user', content: 'word '.repeat(200) }] }
  const refused = await rig.chat({ ...long, model: 'nobody-knows' })
  t.equal(refused.status, 413)
  t.match(refused.json(), { error: { reason: 'request_too_large', message: /^This request may be 1,\d{3} tokens long before any answer; your plan's context is 500 tokens\.$/ } })
  t.equal((await rig.chat({ ...long, model: 'gpt-4o' })).status, 200, 'counted exactly where the tokenizer is known')
  t.equal((await rig.chat({ messages: [{ role: 'user', content: 'word '.repeat(900) }], model: 'gpt-4o' })).status, 413)
})
