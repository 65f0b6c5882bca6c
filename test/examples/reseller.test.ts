// test: timeout 120 s
// The reseller of config/examples: credits are bought, held, drawn and used up, over images and tokens, and the invoice takes off what they covered.

import t from 'tap'
import { costOf, nanos, openModel, startBusiness, words } from './business.ts'

const keys = { NEWCOMER_KEY: 'tg_newcomer_0123456789abcdef', SHOP_KEY: 'tg_shop_0123456789abcdefghij', STUDIO_KEY: 'tg_studio_0123456789abcdefgh' }

t.test('credits over a trial, a shop that buys them, and a studio that is in the club', async (t) => {
  const model = await openModel(t)
  const business = await startBusiness(t, 'reseller.yaml', { ...keys, OPS_TOKEN: 'tg_ops_0123456789abcdefghijk', BOUGHT_API_KEY: 'bought-credential', MODELS_URL: model.url })
  t.equal(business.checked.code, 0)
  t.equal(business.checked.err, '', 'no weakness')
  const chat = (secret: string, more: object): ReturnType<typeof business.call> => business.call(secret, '/v1/chat/completions', { model: 'chat-1', max_tokens: 500, ...more })
  const draw = (secret: string, n: number): ReturnType<typeof business.call> => business.call(secret, '/v1/images/generations', { model: 'picture-1', prompt: 'a ship', n })
  const left = async (secret: string): Promise<Record<string, number>> => Object.fromEntries((await business.usage(secret)).grants.map((grant) => [String(grant['id']), Number(grant['remaining'])]))

  // The newcomer: 30 credits of chat, while the trial runs.
  t.match(await business.cli('subscriptions', 'set', 'newcomer', '--kind', 'trial', '--trial-end', '2090-01-01'), { code: 0, out: /newcomer is trial until 2090-01-01/ })
  t.equal((await chat(keys.NEWCOMER_KEY, { messages: words(19_500, 500) })).status, 200)
  t.equal(model.requests.at(-1)?.json()['model'], 'maker-chat-large')
  t.match(await business.usage(keys.NEWCOMER_KEY), { plan: 'taster', subscription: { kind: 'trial', state: 'trial' }, grants: [{ id: 'welcome', limit: 'credits', amount: 30, used: 20, remaining: 10 }] })
  t.match(await draw(keys.NEWCOMER_KEY, 1), { status: 403, reason: 'feature_unavailable', message: /images.generations.*Plans that have it: credits/ })
  const out = await chat(keys.NEWCOMER_KEY, { messages: words(19_500, 500) })
  t.match(out, { status: 402, reason: 'no_credit_available' })
  t.equal(out.headers.get('x-should-retry'), 'false')
  t.equal((await business.cli('subscriptions', 'cancel', 'newcomer', '--at', 'now')).code, 0)
  t.match(await chat(keys.NEWCOMER_KEY, { messages: words(50, 1) }), { status: 403, reason: 'subscription_inactive', message: /trial.*ended/ })

  // The shop bought 60 credits, and has the 30 of the beginning: four images, then 12 thousand tokens.
  t.equal((await draw(keys.SHOP_KEY, 4)).status, 200)
  t.equal((await chat(keys.SHOP_KEY, { messages: words(11_600, 400) })).status, 200)
  // The bought ones expire, if late: they are drawn before those that never do.
  t.same(await left(keys.SHOP_KEY), { welcome: 30, 'order-1001': 0 })
  t.equal((await draw(keys.SHOP_KEY, 2)).status, 200)
  const more = await draw(keys.SHOP_KEY, 1)
  t.match(more, { status: 402, reason: 'no_credit_available', message: /credit/ })
  const order = ['grants', 'add', '--account', 'shop', '--limit', 'credits', '--amount', '24', '--purchase', '--id', 'order-1043', '--expires', '2090-12-01']
  t.equal((await business.cli(...order)).code, 0)
  t.equal((await business.cli(...order)).code, 0, 'said again, it is given once')
  t.equal((await draw(keys.SHOP_KEY, 1)).status, 200)
  t.same(await left(keys.SHOP_KEY), { 'order-1043': 12, 'order-1001': 0, welcome: 6 })
  t.match((await business.cli('grants', 'list', '--account', 'shop')).out, /shop +order-1043 +credits +24 +12 /)

  // The studio: what comes with the club first, then what was bought, which lasts.
  for (let n = 0; n < 2; n++) t.equal((await draw(keys.STUDIO_KEY, 10)).status, 200)
  const studio = await left(keys.STUDIO_KEY)
  t.match(Object.entries(studio).filter(([id]) => id.startsWith('monthly@')).map(([, remaining]) => remaining), [0])
  t.equal((studio['pack-1000/credits'] ?? 0) + (studio['welcome'] ?? 0), 1_030 - 40, '240 credits, of which 200 came with the club')

  const events = await business.events(7)
  t.same(events.filter(({ data }) => data['endpoint'] === 'images.generations').map(({ data }) => data['images']), [4, 2, 1, 10, 10])
  const shop = await business.invoice('shop')
  t.equal(nanos(shop.currencies[0]?.usage), costOf(events, 'shop'))
  t.equal(costOf(events, 'shop'), 7n * 120_000_000n + 11_600n * 600n + 400n * 2_400n)
  t.equal(nanos(shop.currencies[0]?.total), 0n, 'all of it had been paid')
  t.equal(-nanos(shop.currencies[0]?.lines.find(({ kind }) => kind === 'credit')?.amount), costOf(events, 'shop'))
  const club = await business.invoice('studio')
  t.equal(nanos(club.currencies[0]?.usage), 20n * 120_000_000n)
  t.equal(nanos(club.currencies[0]?.total), 15_000_000_000n, 'the club alone')
  t.match(await business.cli('explain', events.find(({ subject }) => subject === 'studio')?.id ?? ''), { code: 0, out: /credits +credits +lifetime[\s\S]*monthly@/ })
})
