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
  t.match(await tallygate(t, dir, ['accounts', 'remove', 'dev']), { code: 0, out: 'there was no dev\n' })
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
