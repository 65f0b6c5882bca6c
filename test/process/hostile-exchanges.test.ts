// Fault G16: whatever one exchange throws, it ends that exchange only. With the input of faults.md, 4.6 and W6.
// test: timeout 60 s
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openRawClient, rawRequest } from '../fixtures/raw-client.ts'
import { chunk, end, head, json, lastChunk, openScriptedUpstream, reset, sse, sseHead, steps, type Script } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { chat, configOf, secret, standing, totalOf, usageLines } from './outside.ts'

t.setTimeout(55_000)

const ok = { 'Content-Type': 'application/json', 'Content-Length': '2' }
const stream = (...events: string[]): Script => steps(sseHead(), ...events.map((event) => chunk(event)), lastChunk)
const odd = ['null', '0', '""', '[]', '[[]]', '{}', '{"choices":null}', '{"choices":[null]}', '{"choices":[{"delta":null}]}', '{"choices":[{"delta":{"content":5}}]}', '{"choices":[],"usage":null}',
  '{"usage":[]}', '{"usage":{"prompt_tokens":{}}}', '{"error":null}', '{"error":[]}', '{"__proto__":{"usage":{"prompt_tokens":1}},"constructor":1}', '{"choices":{"0":{}}}', '"\ud800"',
  `{"choices":[{"delta":{"content":"${'\\ud800'.repeat(500)}"}}]}`, `${'['.repeat(5_000)}`, `{"model":${'9'.repeat(400)},"id":-0}`, '{"usage":{"prompt_tokens":1e400,"completion_tokens":-1}}']

/** What an upstream may answer with; the caller gets anything that is an answer, and the process lives. */
const upstreams: readonly (readonly [string, Script])[] = [
  ['nothing', steps(end)], ['a reset', steps(reset)], ['bytes', steps(Buffer.from(Array.from({ length: 3_000 }, (_, i) => (i * 7_919) % 256)), end)],
  ['a status line alone', steps('HTTP/1.1 200\r\n\r\n', end)], ['status 000', steps('HTTP/1.1 000 X\r\n\r\n', end)], ['status 999', steps('HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n')],
  ['101', steps('HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello', end)], ['a hundred 100s', steps('HTTP/1.1 100 Continue\r\n\r\n'.repeat(100), json(200, {}))],
  ['4.6: CR in a value', steps('HTTP/1.1 200 X\r\nX-A: a\rb\r\nContent-Length: 0\r\n\r\n')], ['4.6: NUL in a value', steps('HTTP/1.1 200 X\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n')],
  ['4.6: a bare LF that makes a header', steps('HTTP/1.1 200 X\r\nX-A: a\nSet-Cookie: b=c\r\nContent-Length: 0\r\n\r\n')],
  ['4.6: a cookie with escaped line ends', steps(head(200, { ...ok, 'Set-Cookie': 'a=%0d%0aX-Injected:%201' }), '{}')],
  ['4.6: a thousand encodings', steps(head(200, { ...ok, 'Content-Encoding': Array.from({ length: 1_000 }, () => 'gzip').join(',') }), '{}')],
  ['4.6: gzip that is none', steps(head(200, { ...ok, 'Content-Encoding': 'gzip' }), '{}')],
  ['4.6: a place inside', steps(head(307, { Location: 'http://169.254.169.254/latest/meta-data', 'Content-Length': '0' }))],
  ['4.6: words for a browser', steps(head(200, { ...ok, 'Alt-Svc': 'h2="evil:443"', Refresh: '0;url=http://evil', 'Clear-Site-Data': '"*"', 'Access-Control-Allow-Origin': '*' }), '{}')],
  ['4.6: a coding on 204', steps('HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n', end)],
  ['4.6: a coding on 304', steps('HTTP/1.1 304 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', end)],
  ['4.6: our own words', steps(head(200, { ...ok, 'x-ratelimit-remaining-tokens': '999', RateLimit: '"a";r=1', 'x-request-id': 'forged', 'x-tallygate-error': 'gateway' }), '{}')],
  ['two lengths', steps('HTTP/1.1 200 X\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}')], ['a chunk of minus one', steps('HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n', end)],
  ['a chunk without end', steps('HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx', end)],
  ['names of the prototype', steps(head(200, { ...ok, __proto__x: '1', constructor: '2', hasOwnProperty: '3' }), '{}')],
  ...odd.map((body): readonly [string, Script] => [`the JSON ${body.slice(0, 40)}`, steps(head(200, { 'Content-Type': 'application/json', 'Content-Length': String(Buffer.byteLength(body)) }), body)]),
  ...odd.map((body): readonly [string, Script] => [`the event ${body.slice(0, 40)}`, stream(sse(body), sse('[DONE]'))]),
  ...odd.map((body): readonly [string, Script] => [`the error ${body.slice(0, 40)}`, steps(head(400, { 'Content-Type': 'application/json', 'Content-Length': String(Buffer.byteLength(body)) }), body)]),
  ['UTF-8 cut and wrong', steps(sseHead(), chunk(Buffer.from('data: {"choices":[{"delta":{"content":"\xff\xc3\x28"}}]}\n\n', 'latin1')), chunk('data: [DO'), chunk('NE]\n\n'), lastChunk)],
  ['only line ends', stream('\n\n\r\r\r\n\n'.repeat(2_000))], ['only colons', stream(':\n'.repeat(5_000), ':::\n\n')], ['a line without end', steps(sseHead(), chunk('data: '.padEnd(300_000, 'x')), end)],
]

t.test('G16: no answer of an upstream ends the process, leaves something held, or forges what is ours', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const gateway = await startGatewayProcess(t, configOf({ upstream: upstream.url, server: '{ timeouts: { first_byte: 3s, idle: 3s } }' }))
  const { pid } = gateway
  for (const [what, script] of upstreams) {
    upstream.script = script
    const calls = [false, true].map((streamed) => chat(gateway.port, what, { stream: streamed }))
    for (const call of calls) {
      await call.over
      t.ok(call.status === 0 || call.status >= 200, `${what}: ${call.status}`)
      t.not(call.status, 500, `${what} is no bug of ours`)
      const { 'set-cookie': cookie, 'x-injected': injected, 'access-control-allow-origin': origin, 'x-request-id': id } = call.headers
      t.same([cookie, injected, origin], [undefined, undefined, undefined])
      t.not(id, 'forged')
      t.not(call.headers['x-ratelimit-remaining-tokens'], '999')
    }
  }
  upstream.script = openai()
  const good = chat(gateway.port, 'good')
  t.equal(await good.over, true)
  t.match(good.text, /\[DONE\]/, 'the next call is as good as ever')
  t.equal(gateway.pid, pid)
  t.equal(process.kill(pid, 0), true)
  const now = await waitFor('nothing to be held', async () => {
    const all = await standing(gateway)
    return Object.values(all).every(({ reserved }) => reserved === 0) ? all : undefined
  })
  await waitFor('the events', () => totalOf(usageLines(gateway.dir), 'requests') === now['calls']?.used)
  t.equal(now['budget']?.used, totalOf(usageLines(gateway.dir), 'total_tokens'))
  t.notMatch(gateway.output(), /"level":"(fatal|error)"|"level":[56]0/, 'nothing was a surprise')
  t.comment(`${upstreams.length * 2} hostile answers, 0 deaths`)
})

t.test('G16, W6: no request ends the process, and its words cannot forge a line of the log', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const gateway = await startGatewayProcess(t, configOf({ upstream: upstream.url }))
  const hostile = ['\n{"level":"fatal","msg":"forged"}', '\u001b[2J\u001b[31mred', '\r\nX-Injected: 1', '\u202eRTL', '<img src=x onerror=alert(1)>', '{{7*7}}', 'x'.repeat(100_000), '__proto__', '%s%n%d', '\0', '\u2028\u2029']
  const auth = { authorization: `Bearer ${secret}`, 'content-type': 'application/json' }
  const post = async (body: string, headers: Record<string, string> = auth, path = '/v1/chat/completions'): Promise<number> => {
    const answer = await fetch(`${gateway.url}${path}`, { method: 'POST', headers, body })
    await answer.arrayBuffer()
    return answer.status
  }
  for (const word of hostile) {
    for (const body of [{ model: word, messages: [] }, { model: 'm', messages: [{ role: word, content: word }], user: word, [word]: word }, { model: 'm', messages: word }, { model: 'm', messages: [], max_tokens: word }, word]) {
      t.ok([200, 400, 404, 413].includes(await post(JSON.stringify(body))), `word ${hostile.indexOf(word)}`)
    }
    const safe = encodeURIComponent(word.slice(0, 2_000))
    t.ok([400, 404].includes(await post('{}', auth, `/v1/${safe}`)))
    t.ok([200, 400].includes(await post(JSON.stringify({ model: 'm', messages: [] }), { ...auth, 'user-agent': safe, 'x-request-id': safe.slice(0, 500), traceparent: safe }, `/v1/chat/completions?a=${safe}`)))
  }
  for (const bytes of ['\0\0\0\0', 'GET', 'POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n', `GET /${'\u001b[2J'} HTTP/1.1\r\nHost: h\r\n\r\n`, '\x16\x03\x01\x02\x00\x01\x00', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n']) {
    const client = await openRawClient({ port: gateway.port })
    await client.send(bytes)
    client.reset()
  }
  for (let cut = 1; cut < 200; cut += 9) {
    const client = await openRawClient({ port: gateway.port })
    await client.send(`POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ${secret}\r\nContent-Length: 60\r\n\r\n{"model":"m","messages":[{"role":"user","content":"hello"}]}`.slice(0, cut))
    client.reset()
  }
  t.equal((await rawRequest({ port: gateway.port }, { target: '/-/live' })).status, 200)
  t.equal(await post(JSON.stringify({ model: 'm', messages: [] })), 200)
  t.match(await standing(gateway), { budget: { reserved: 0 }, parallel: { used: 0, reserved: 0 } })
  const log = gateway.output().split('\n').filter((line) => line.startsWith('{') || /forged|RTL|red|onerror/.test(line))
  t.ok(log.length > 50)
  for (const line of log) {
    const fields = JSON.parse(line) as { msg: string }
    if (fields.msg === 'forged' || line.length > 4_096 || /\p{Cc}|\u202e/u.test(line)) t.fail(`a line of the log is not ours alone: ${line.slice(0, 200)}`)
  }
  t.pass(`${log.length} lines of the log are one JSON object each`)
})
