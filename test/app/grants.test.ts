// test: timeout 180 s
// Grants through a whole gateway, over its admin API, with the store in memory and with Redis and two workers.

import t from 'tap'
import { anthropic } from '../fixtures/anthropic-scripts.ts'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import type { GatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { startRedis } from '../fixtures/redis.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'

const keys = { dev: 'tg-test-dev-0123456789abc', payer: 'tg-test-payer-0123456789a', a: 'tg-test-team-a-0123456789', b: 'tg-test-team-b-0123456789' }
type Key = keyof typeof keys

interface Grant { readonly id: string; readonly limit: string; readonly meter: string; readonly amount: number; readonly used: number; readonly remaining: number; readonly source: string; readonly expires_at: string | null }

const yaml = (openaiUrl: string, anthropicUrl: string, more: string): string => `
${more}
upstreams:
  one: { url: ${openaiUrl}, provider: openai }
  two: { url: ${anthropicUrl}, provider: anthropic }
meters: { credits: 3 * requests }
plans:
  base:
    limits: [{ name: monthly, meter: requests, limit: 2, window: month }]
  prepaid:
    limits: [{ name: credit, meter: credits, limit: 0, window: lifetime, prepaid: true }]
  team:
    limits: [{ name: rpm, meter: requests, limit: 1000, window: 1m }]
accounts:
  acme: { plan: base }
  payer: { plan: prepaid }
  group: { limits: [{ name: pool, meter: requests, limit: 1, window: billing_period }], grants: [{ id: spare, limit: pool, amount: 1 }] }
  team-a: { parent: group, plan: team }
  team-b: { parent: group, plan: team }
keys:
  - { id: dev, account: acme, secret: ${keys.dev} }
  - { id: payer, account: payer, secret: ${keys.payer} }
  - { id: a, account: team-a, secret: ${keys.a} }
  - { id: b, account: team-b, secret: ${keys.b} }
`

async function chat(gateway: GatewayProcess, key: Key): Promise<Response> {
  const response = await fetch(`${gateway.url}/v1/chat/completions`, { method: 'POST', headers: { authorization: `Bearer ${keys[key]}`, 'content-type': 'application/json' }, body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hi' }] }) })
  await response.clone().text()
  return response
}

const status = async (gateway: GatewayProcess, key: Key): Promise<number> => (await chat(gateway, key)).status

async function admin(gateway: GatewayProcess, method: string, path: string, body?: unknown): Promise<{ status: number; body: Record<string, unknown> }> {
  const response = await fetch(`${gateway.adminUrl}/api/v1/${path}`, { method, ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }) })
  return { status: response.status, body: await response.json() as Record<string, unknown> }
}

async function usage(gateway: GatewayProcess, key: Key): Promise<{ limits: { name: string; limit: number; used: number; remaining: number }[]; grants: Grant[] }> {
  return await (await fetch(`${gateway.url}/-/usage`, { headers: { authorization: `Bearer ${keys[key]}` } })).json() as never
}

/** Every worker has heard of it: each of several looks in a row, over connections of their own, sees it. */
async function seen(gateway: GatewayProcess, key: Key, ids: readonly string[]): Promise<void> {
  let inARow = 0
  await waitFor(`grants ${ids.join(', ')} everywhere`, async () => {
    const { grants } = await usage(gateway, key)
    inARow = JSON.stringify(grants.map(({ id }) => id).sort()) === JSON.stringify([...ids].sort()) ? inARow + 1 : 0
    return inARow >= 8
  }, { deadlineMs: 10_000, everyMs: 100 })
}

t.setTimeout(150_000)
const redis = await startRedis(t)
const stores: Record<string, string> = { memory: 'store: "memory:"', 'Redis and two workers': `store: { url: "${redis.url}", spool: none, durability: none }\nserver: { workers: 2 }` }

for (const [name, store] of Object.entries(stores)) {
  t.test(`${name}: what is given over the API lets a refused key call again, is drawn in its order, and can be taken back`, { timeout: 70_000 }, async (t) => {
    const [one, two] = [await openScriptedUpstream(t, openai()), await openScriptedUpstream(t, anthropic())]
    const gateway = await startGatewayProcess(t, yaml(one.url, two.url, store))
    // Workers answer a little before the admin port does.
    await waitFor('the admin port', () => admin(gateway, 'GET', 'config').then(({ status: code }) => code === 200, () => false))
    t.same([await status(gateway, 'dev'), await status(gateway, 'dev'), await status(gateway, 'dev')], [200, 200, 429])

    const second = await admin(gateway, 'POST', 'grants', { account: 'acme', limit: 'monthly', amount: 1, id: 'second', note: 'sorry' })
    t.match(second, { status: 201, body: { account: 'acme', id: 'second', limit: 'monthly', meter: 'requests', amount: 1, used: 0, remaining: 1, priority: 100, state: 'active', source: 'operator', where: 'store', created_by: /./ } })
    t.match(await admin(gateway, 'POST', 'grants', { account: 'acme', limit: 'monthly', amount: '2', id: 'first', priority: 10, expires: '2090-01-01' }), { status: 201, body: { expires_at: '2090-01-01T00:00:00.000Z' } })
    t.match(await admin(gateway, 'POST', 'grants', { account: 'acme', limit: 'monthly', amount: 1, id: 'second', note: 'sorry' }), { status: 201, body: { amount: 1, created_by: second.body['created_by'] } }, 'given once')
    t.match(await admin(gateway, 'POST', 'grants', { account: 'acme', limit: 'monthly', amount: 5, id: 'second' }), { status: 409, body: { detail: /there is another grant "second"/ } })
    // A worker that has heard of one of them only draws that one.
    await seen(gateway, 'dev', ['first', 'second'])
    await waitFor('the refused key to be let in', async () => await status(gateway, 'dev') === 200, { deadlineMs: 5_000, everyMs: 50 })
    t.match(await usage(gateway, 'dev'), { limits: [{ name: 'monthly', limit: 5, used: 3, remaining: 2 }], grants: [{ id: 'first', limit: 'monthly', amount: 2, used: 1, remaining: 1 }, { id: 'second', used: 0, remaining: 1 }] }, 'the lower priority first')
    const answer = await chat(gateway, 'dev')
    t.equal(answer.status, 200)
    t.match(answer.headers.get('ratelimit'), /"monthly";r=1/, 'the header counts what grants have left')
    t.match((await usage(gateway, 'dev')).grants, [{ id: 'first', remaining: 0 }, { id: 'second', remaining: 1 }])

    t.match(await admin(gateway, 'DELETE', 'grants/acme/second?reason=mistake'), { status: 200, body: { account: 'acme', id: 'second' } })
    await seen(gateway, 'dev', ['first'])
    t.equal(await status(gateway, 'dev'), 429, 'what was left is gone')
    t.match(await admin(gateway, 'DELETE', 'grants/acme/nothing'), { status: 404 })
    const { body } = await admin(gateway, 'GET', 'grants?account=acme')
    t.match(body, { grants: [{ id: 'second', state: 'revoked', used: 0 }, { id: 'first', state: 'active', used: 2, remaining: 0 }].sort((a, b) => (a.id < b.id ? 1 : -1)) })
    t.same(((await admin(gateway, 'GET', 'audit')).body['changes'] as { action: string; target: string }[]).map(({ action, target }) => `${action} ${target}`).sort(), ['grant.add acme/first', 'grant.add acme/second', 'grant.revoke acme/second'])

    // Prepaid credit, in both dialects.
    const broke = await chat(gateway, 'payer')
    t.equal(broke.status, 402)
    t.match(await broke.json(), { error: { code: 'insufficient_quota', reason: 'no_credit_available', message: /^There is no credit left for 'credit': 0 of 0 credits are used\.$/ } })
    const messages = (): Promise<Response> => fetch(`${gateway.url}/v1/messages`, { method: 'POST', headers: { 'x-api-key': keys.payer, 'content-type': 'application/json', 'anthropic-version': '2023-06-01' }, body: JSON.stringify({ model: 'claude', max_tokens: 5, messages: [{ role: 'user', content: 'hi' }] }) })
    const refused = await messages()
    t.equal(refused.status, 402)
    t.match(await refused.json(), { type: 'error', error: { details: { reason: 'no_credit_available' } } })
    t.match(await admin(gateway, 'POST', 'grants', { account: 'payer', limit: 'credit', amount: '7', source: 'purchase', id: 'invoice-1' }), { status: 201, body: { meter: 'credits', amount: 7 } })
    await seen(gateway, 'payer', ['invoice-1'])
    t.same([await status(gateway, 'payer'), (await messages()).status], [200, 200])
    t.match((await usage(gateway, 'payer')).grants, [{ id: 'invoice-1', meter: 'credits', amount: 7, used: 6, remaining: 1, source: 'purchase', expires_at: null }])
    const short = await chat(gateway, 'payer')
    t.equal(short.status, 402)
    t.match(await short.json(), { error: { message: /^The credit that is left for 'credit' is not enough for this call: 6 of 7 credits are used\.$/ } })

    // A pool of a group: both teams draw it, and its grant.
    t.same([await status(gateway, 'a'), await status(gateway, 'b'), await status(gateway, 'a'), await status(gateway, 'b')], [200, 200, 429, 429])
    t.match(await usage(gateway, 'b'), { grants: [{ id: 'spare', limit: 'group/pool', used: 1, remaining: 0 }] })
    t.match(await admin(gateway, 'POST', 'grants', { account: 'group', limit: 'pool', amount: 1, id: 'more' }), { status: 201 })
    await seen(gateway, 'a', ['spare', 'more'])
    t.same([await status(gateway, 'b'), await status(gateway, 'a')], [200, 429])

    for (const [asked, wanted, sentence] of [
      [{ account: 'acme', limit: 'monthly', amount: 'lots' }, 422, /amount: "lots" is not a number/],
      [{ account: 'acme', limit: 'monthly', amount: 0 }, 422, /extends nothing/],
      [{ account: 'acme', limit: 'montly', amount: 1 }, 404, /has no limit "montly"; it has monthly/],
      [{ account: 'team-a', limit: 'rpm', amount: 1 }, 422, /rpm is no allowance/],
      [{ account: 'nobody', limit: 'monthly', amount: 1 }, 404, /there is no account "nobody"/],
      [{ account: 'acme', limit: 'monthly', amount: 1, expires: '2020-01-01' }, 422, /before it is effective/],
      [{ account: 'acme', limit: 'monthly', amount: 1, id: 'rollover-x' }, 422, /choose another/],
      [{ account: 'group', limit: 'pool', amount: 1, id: 'spare' }, 409, /stands in a file/],
      [{ account: 'acme', limit: 'monthly', amount: 9_007_199_254_740_000 }, 201, undefined],
      [{ account: 'acme', limit: 'monthly', amount: 9_007_199_254_740_000 }, 422, /more than can be counted exactly/],
    ] as const) {
      const said = await admin(gateway, 'POST', 'grants', asked)
      t.equal(said.status, wanted, JSON.stringify(asked))
      if (sentence !== undefined) t.match(said.body['detail'], sentence)
      else await waitFor('the gateway to know of it', async () => ((await admin(gateway, 'GET', 'grants?account=acme')).body['grants'] as unknown[]).length === 3)
    }
    t.match(await admin(gateway, 'DELETE', 'grants/group/spare'), { status: 200 }, 'one of the file can be taken back')
    t.match(await admin(gateway, 'GET', 'grants?account=group'), { body: { grants: [{ id: 'spare', where: 'file', state: 'revoked' }, {}] } })
    t.equal(await gateway.stop(), 0)
  })
}
