// test: timeout 180 s
import { readFileSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { chunk, openScriptedUpstream, sse, sseHead, stall, steps } from '../fixtures/scripted-upstream.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { basics, chat, configIn, freePlan, paste, serve, spawnTallygate, tallygate, usage, writeConfig } from './process.ts'

interface Event { id: string; data: { end: string; total_tokens: number; output_tokens: number } }

function events(dir: string): Event[] {
  return readFileSync(join(dir, 'data/usage.ndjson'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Event)
}

t.test('without an upstream: the printed lines work as pasted, plain and streamed, and are metered to the token', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  const running = await serve(t, dir)
  t.equal(running.curlLines.length, 3)
  const [plain = '', streamed = '', left = ''] = running.curlLines

  const answer = await paste(plain)
  t.equal(answer.code, 0)
  const body = JSON.parse(answer.out) as { choices: { message: { content: string } }[]; usage: { total_tokens: number } }
  t.match(body.choices[0]?.message.content, /stand-in/, 'it says what it is')

  const stream = await paste(streamed)
  t.equal(stream.code, 0)
  t.ok(stream.out.split('\n').filter((line) => line.startsWith('data: {')).length > 10, 'word by word')
  t.match(stream.out, /data: \[DONE\]\s*$/)
  t.notMatch(stream.out, /"choices":\[\]/, 'the usage that nobody asked for was counted and taken out')

  const standing = JSON.parse((await paste(left)).out) as { limits: { name: string; used: number }[] }
  const total = 2 * body.usage.total_tokens
  t.match(standing.limits.find(({ name }) => name === 'daily'), { used: total })
  t.match(standing.limits.find(({ name }) => name === 'rpm'), { used: 2 })
  await waitFor('both events in the file', () => events(dir).length === 2)
  t.equal(events(dir).reduce((sum, { data }) => sum + data.total_tokens, 0), total)

  t.equal(statSync(join(dir, 'data/demo-key')).mode & 0o777, 0o600)
  running.child.kill('SIGTERM')
  t.equal((await running.finished).code, 0)

  const again = await serve(t, dir)
  t.equal(again.row('demo key'), running.row('demo key'), 'the second start keeps the demo key')
  t.match((await usage(again.gateway, again.row('demo key') ?? '')).limits.find(({ name }) => name === 'daily'), { used: total }, 'and the books')
  again.child.kill('SIGINT')
  t.equal((await again.finished).code, 0, 'an interrupt ends it as well')
})

t.test('with UPSTREAM_URL a first real key is made and printed once, and the demo key is worth nothing', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  const demo = await serve(t, dir)
  const demoSecret = demo.row('demo key') ?? ''
  demo.child.kill('SIGTERM')
  await demo.finished

  const model = spawnTallygate(t, ['demo-model', '--port', '0'], { cwd: dir })
  const url = await waitFor('the model', () => /http:\S+/.exec(model.out())?.[0])
  for (const address of [url, url.replace(/\/v1$/, '')]) {
    const first = await serve(t, dir, { UPSTREAM_URL: address })
    const secret = first.row('first key')
    if (address === url) {
      t.match(secret, /^tg_/)
      t.equal((await chat(first.gateway, secret ?? '')).status, 200)
      t.equal((await chat(first.gateway, demoSecret)).status, 401)
      const models = await paste(first.curlLines[0] ?? '')
      t.match(models.out, /"id":\s*"demo"/, 'the printed line works')
    } else t.equal(secret, undefined, 'only once')
    first.child.kill('SIGTERM')
    t.equal((await first.finished).code, 0)
  }
  model.child.kill('SIGTERM')
  t.equal((await model.finished).code, 0)
})

t.test('G19: what keeps it from starting is one clear sentence, without a stack', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  const running = await serve(t, dir)

  const second = await tallygate(t, dir, ['serve'])
  t.equal(second.code, 1)
  t.match(second.err, /data directory .* is in use by process \d+/)

  const other = createServer().listen(0, '127.0.0.1')
  t.teardown(() => other.close())
  await waitFor('the port', () => other.listening)
  const { port } = other.address() as AddressInfo
  const free = configIn(tmpDir(t), freePlan)
  const taken = await tallygate(t, free, ['serve', '--listen', `127.0.0.1:${port}`])
  t.equal(taken.code, 1)
  t.match(taken.err, new RegExp(`cannot listen on 127.0.0.1:${port}: something else listens there`))
  const takenAdmin = await tallygate(t, free, ['serve'], { TALLYGATE_ADMIN_LISTEN: `127.0.0.1:${port}` })
  t.equal(takenAdmin.code, 1)

  writeConfig(free, `${basics}plan: {}\nplans: { free: { limits: [ { name: a, meter: request, limit: 1, window: 1m } ] } }\n`)
  const bad = await tallygate(t, free, ['serve'])
  t.equal(bad.code, 2)
  t.match(bad.err, /tallygate.yaml:\d+:\d+ plan/)
  t.match(bad.err, /tallygate.yaml:\d+:\d+ .*meter/, 'every mistake at once')
  t.equal((await tallygate(t, free, ['serve', '--config', 'nowhere.yaml'])).code, 2)
  for (const { err, out } of [second, taken, takenAdmin, bad]) t.notMatch(err + out, /^\s+at /m)

  running.child.kill('SIGTERM')
  t.equal((await running.finished).code, 0)
})

t.test('A12: an admin port that others can reach is never open: a token is made and printed', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  const running = await serve(t, dir, { TALLYGATE_ADMIN_LISTEN: '0.0.0.0:0' })
  const token = running.row('admin token') ?? ''
  t.match(token, /^\S{20,}$/)
  t.equal((await fetch(`${running.admin}/api/v1/keys`)).status, 401)
  t.equal((await fetch(`${running.admin}/api/v1/keys`, { headers: { authorization: `Bearer ${token}` } })).status, 200)
  t.equal((await tallygate(t, dir, ['keys', 'list'])).code, 0, 'commands of this user find their own way in')
  t.equal((await chat(running.gateway, token)).status, 401, 'an admin token opens nothing on the public port')
  const named = await serve(t, configIn(tmpDir(t), freePlan), { TALLYGATE_ADMIN_LISTEN: '0.0.0.0:0', TALLYGATE_ADMIN_TOKEN: 'chosen-token-0123456789' })
  t.equal(named.row('admin token'), undefined)
  t.equal((await fetch(`${named.admin}/api/v1/keys`, { headers: { authorization: 'Bearer chosen-token-0123456789' } })).status, 200)
})

t.test('G10: SIGTERM: not ready at once, still accepting for the delay, what runs is finished and billed, exit 0', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  const running = await serve(t, dir)
  const secret = running.row('demo key') ?? ''
  t.equal((await fetch(`${running.gateway}/-/ready`)).status, 200)
  const streaming = await chat(running.gateway, secret, { stream: true })
  running.child.kill('SIGTERM')
  await waitFor('not ready', async () => (await fetch(`${running.gateway}/-/ready`)).status === 503, { everyMs: 1 })
  t.equal((await chat(running.gateway, secret)).status, 200, 'a call within the delay')
  t.match(await streaming.text(), /data: \[DONE\]\s*$/, 'a stream goes to its end')
  t.equal((await running.finished).code, 0)
  t.same(events(dir).map(({ data }) => data.end), ['complete', 'complete'])
})

t.test('G12: a second SIGTERM cuts what runs, and bills what was seen', async (t) => {
  const words = ['One ', 'two ', 'three '].map((content) => chunk(sse({ id: 'c', object: 'chat.completion.chunk', choices: [{ index: 0, delta: { content }, finish_reason: null }] })))
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...words, stall))
  const dir = configIn(tmpDir(t), freePlan)
  const running = await serve(t, dir, { UPSTREAM_URL: upstream.url })
  const streaming = await chat(running.gateway, running.row('first key') ?? '', { stream: true })
  const reader = streaming.body!.getReader()
  await reader.read()
  running.child.kill('SIGTERM')
  await waitFor('draining', () => running.out().includes('draining'))
  running.child.kill('SIGTERM')
  await sleep(600)
  t.equal(running.child.exitCode, null, 'the same signal once more at once is no second one: npm and the terminal both send Ctrl-C')
  running.child.kill('SIGTERM')
  const startedAt = performance.now()
  t.equal((await running.finished).code, 0)
  t.ok(performance.now() - startedAt < 10_000, 'long before the drain would have been over')
  await reader.cancel().catch(() => undefined)
  const [event] = events(dir)
  t.equal(events(dir).length, 1)
  t.not(event?.data.end, 'complete')
  t.ok((event?.data.output_tokens ?? 0) >= 3)
})

t.test('K1: a changed config is used by itself and on SIGHUP; a bad one changes nothing and is told', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  const running = await serve(t, dir)
  const secret = running.row('demo key') ?? ''
  t.equal((await chat(running.gateway, secret)).status, 200)
  const limit = async (): Promise<{ limit: number; used: number } | undefined> => (await usage(running.gateway, secret)).limits.find(({ name }) => name === 'rpm')
  t.match(await limit(), { limit: 20, used: 1 })

  writeConfig(dir, `${basics}${freePlan.replace('limit: 20', 'limit: 30')}`)
  running.child.kill('SIGHUP')
  await waitFor('the reload', async () => (await limit())?.limit === 30)
  t.match(await limit(), { used: 1 }, 'no edit resets usage')

  writeConfig(dir, `${basics}${freePlan.replace('limit: 20', 'limit: 40')}`)
  await waitFor('the file to be noticed', async () => (await limit())?.limit === 40)

  writeConfig(dir, `${basics}${freePlan.replace('limit: 20', 'limt: 50')}`)
  running.child.kill('SIGHUP')
  const status = await waitFor('the refusal', async () => {
    const { last_reload: last } = await (await fetch(`${running.admin}/api/v1/config`)).json() as { last_reload: { ok: boolean; problems: string[] } }
    return last.ok ? undefined : last
  })
  t.match(status.problems[0], /limt.*did you mean "limit"/)
  t.match(await limit(), { limit: 40 })
  t.equal((await fetch(`${running.admin}/api/v1/config/reload`, { method: 'POST' })).status, 422)
  t.match(await (await fetch(`${running.admin}/metrics`)).text(), /tallygate_config_reloads_total\{result="refused"\} [12]/)
  t.equal((await chat(running.gateway, secret)).status, 200)
})
