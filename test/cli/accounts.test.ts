// test: timeout 120 s
import t from 'tap'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { startRedis } from '../fixtures/redis.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { chat, configIn, freePlan, serve, tallygate } from './../app/process.ts'

const secretIn = (out: string): string => /secret +(\S+)/.exec(out)?.[1] ?? ''

t.test('accounts are made, changed, shown and taken away from the command line, and their keys open at once', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  t.match(await tallygate(t, dir, ['accounts', 'create', 'globex', '--plan', 'free', '--labels', '{ team: ml }']), { code: 0, out: 'globex is made (revision 1)\n' }, 'without a gateway')
  const running = await serve(t, dir)
  const status = async (of: string): Promise<number> => (await chat(running.gateway, of)).status
  t.match(await tallygate(t, dir, ['accounts', 'create', 'globex', '--plan', 'free']), { code: 1, err: /already an account "globex" \(store, revision 1\); `accounts set` changes it/ })
  t.match(await tallygate(t, dir, ['accounts', 'create', 'dev', '--parent', 'globex', '--limits', '[{ name: few, meter: requests, limit: 1, window: 1h }]', '--change', 'order-1']), { code: 0 })
  t.match(await tallygate(t, dir, ['accounts', 'create', 'dev', '--parent', 'globex', '--change', 'order-1']), { code: 0, out: 'dev is made (revision 1)\n' }, 'said again')

  const made = await tallygate(t, dir, ['keys', 'create', '--account', 'dev', '--change', 'key-1'])
  const again = await tallygate(t, dir, ['keys', 'create', '--account', 'dev', '--change', 'key-1'])
  t.match(again, { code: 0, out: /secret +\(this change has been made before; its secret was told then/ })
  t.equal(/key +(\S+)/.exec(made.out)?.[1], /key +(\S+)/.exec(again.out)?.[1])
  t.same([await status(secretIn(made.out)), await status(secretIn(made.out))], [200, 429])
  t.match(await tallygate(t, dir, ['accounts', 'set', 'dev', '--limits', '[{ name: few, meter: requests, limit: 2, window: 1h }]', '--revision', '1']), { code: 0, out: 'dev is set (revision 2)\n' })
  t.same([await status(secretIn(made.out)), await status(secretIn(made.out))], [200, 429], 'what was used is used')

  const shown = (await tallygate(t, dir, ['accounts', 'show', 'dev'])).out
  t.match(shown, /^ACCOUNT +dev$/m)
  t.match(shown, /^parent +globex$/m)
  t.match(shown, /^few +requests +2 +1h +account +enforce$/m)
  t.match((await tallygate(t, dir, ['accounts', 'list'])).out, /^dev +free +globex +1 +store +2 +active$/m)
  t.match(await tallygate(t, dir, ['accounts', 'set', 'acme', '--plan', 'free']), { code: 1, err: /"acme" stands in .*tallygate.yaml:\d+: it is changed there/ })
  t.match(await tallygate(t, dir, ['accounts', 'set', 'dev', '--limits', '[{ name: few, meter: request, limit: 2, window: 1h }]']), { code: 2, err: /limits\[0\]\.meter: there is no meter "request"; did you mean "requests"/ })
  t.match(await tallygate(t, dir, ['accounts', 'remove', 'dev']), { code: 1, err: /belongs to "dev"; revoke it first/ })
  const key = /key +(\S+)/.exec(made.out)?.[1] ?? ''
  await tallygate(t, dir, ['keys', 'revoke', key])
  t.match(await tallygate(t, dir, ['accounts', 'remove', 'dev', '--revision', '2']), { code: 0, out: 'dev is removed\n' })
  t.match(await tallygate(t, dir, ['accounts', 'remove', 'dev']), { code: 1, out: '', err: 'there is no account "dev"\n' })
})

t.test('a misspelt account is no all-clear; one that was removed keeps what it left', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  const running = await serve(t, dir)
  t.equal((await tallygate(t, dir, ['accounts', 'create', 'gone', '--plan', 'free'])).code, 0)
  const made = await tallygate(t, dir, ['keys', 'create', '--account', 'gone', '--id', 'gone-1'])
  t.equal((await chat(running.gateway, secretIn(made.out))).status, 200)
  t.equal((await tallygate(t, dir, ['keys', 'revoke', 'gone-1'])).code, 0)
  await waitFor('its call to be over', async () => (await tallygate(t, dir, ['accounts', 'remove', 'gone'])).code === 0)
  t.match(await tallygate(t, dir, ['usage', '--account', 'gone']), { code: 0, out: /^gone +1 /m })
  t.match(await tallygate(t, dir, ['usage', '--account', 'gone', '--format', 'focus']), { code: 0, err: /1 events have no price/ })
  t.match(await tallygate(t, dir, ['audit', '--target', 'gone']), { code: 0, out: /account\.remove/ })
  for (const words of [['usage'], ['usage', '--json'], ['usage', '--format', 'focus'], ['grants', 'list'], ['grants', 'list', '--breakage'], ['notices'], ['notices', '--json']]) {
    t.match(await tallygate(t, dir, [...words, '--account', 'acm']), { code: 1, out: '', err: 'there is no account "acm"\n' }, words.join(' '))
    t.equal((await tallygate(t, dir, [...words, '--account', 'acme'])).code, 0, words.join(' '))
  }
  t.match(await tallygate(t, dir, ['usage', '--account', 'acme']), { out: 'no usage in this time\n' })
})

t.test('the list says of an account that is not served why it is not', async (t) => {
  const dir = configIn(tmpDir(t), `${freePlan}  later: { plan: free, subscription: { kind: perpetual, start: 2090-01-01 } }
  team: { parent: later }
  past: { plan: free, subscription: { kind: term, start: 2020-01-01, end: 2021-01-01 } }
  trying: { plan: free, subscription: { kind: trial, start: 2020-01-01, trial_end: 2090-01-01 } }
  served: { plan: free, subscription: { kind: perpetual, start: 2020-01-01 } }
`)
  const { out } = await tallygate(t, dir, ['accounts', 'list'])
  const states = new Map(out.trim().split('\n').slice(1).map((line) => [line.split(' ')[0], / - +(\S.*)$/.exec(line.replace(/^.*\.yaml:\d+/, ''))?.[1]]))
  t.same(Object.fromEntries(states), { acme: 'active', later: 'pending', team: 'pending (by parent later)', past: 'ended', trying: 'trial', served: 'active' })
})

t.test('workers and other gateways on the same Redis serve an account that was made at one of them', { timeout: 60_000 }, async (t) => {
  const model = createServer((request, response) => {
    request.resume()
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ id: 'x', object: 'chat.completion', model: 'm', choices: [{ index: 0, message: { role: 'assistant', content: 'hi' }, finish_reason: 'stop' }], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } }))
  })
  await new Promise<void>((resolve) => { model.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => { model.closeAllConnections(); model.close() })
  const { url } = await startRedis(t, { appendonly: 'everysec' })
  const yaml = (more: string): string => `store: { url: "${url}", spool: "{dir}/spool" }\n${more}upstreams: { model: { url: "http://127.0.0.1:${(model.address() as AddressInfo).port}", provider: openai } }\nplans: { free: { limits: [{ name: rpm, meter: requests, limit: 100, window: 1m }] } }\n`
  const workers = await startGatewayProcess(t, yaml('server: { workers: 2 }\n'))
  const other = await startGatewayProcess(t, yaml(''))
  const ask = async (path: string, body: object): Promise<Record<string, unknown>> => await (await fetch(`${other.adminUrl}/api/v1/${path}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })).json() as Record<string, unknown>
  t.match(await ask('accounts/globex', { plan: 'free' }), { id: 'globex', revision: 1 })
  const { secret } = await ask('keys', { account: 'globex' })
  const status = async (of: string): Promise<number> => (await fetch(`${of}/v1/chat/completions`, {
    method: 'POST', headers: { authorization: `Bearer ${String(secret)}`, 'content-type': 'application/json', connection: 'close' }, body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hi' }] }),
  })).status
  t.equal(await status(other.url), 200)
  await waitFor('every worker to know it', async () => (await Promise.all(Array.from({ length: 8 }, () => status(workers.url)))).every((each) => each === 200), { deadlineMs: 5_000 })
  await ask('accounts/globex', { entitlements: { models: ['other'] } })
  await waitFor('every worker to follow', async () => (await Promise.all(Array.from({ length: 8 }, () => status(workers.url)))).every((each) => each === 403), { deadlineMs: 5_000 })
})
