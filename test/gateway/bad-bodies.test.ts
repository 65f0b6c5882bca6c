// faults.md, section 4.4, through the whole gateway: what is no request of the dialect is a 4xx in the dialect's words, and nothing else happens.
// test: timeout 60 s
import t from 'tap'
import { chatCompletion, openai, openaiAnswer } from '../fixtures/openai-scripts.ts'
import { json, openScriptedUpstream, steps } from '../fixtures/scripted-upstream.ts'
import { prompt, secrets, startRig, type Rig } from './exchange/rig.ts'

type Row = readonly [id: string, what: string, body: string | Buffer, status: number, headers?: Record<string, string>]

const say = '"messages":[{"role":"user","content":"hi"}]'
/** What the dialect asks for beside the members of the case. */
let needed = ''
const chat = (members: string): string => `{${members},${members.includes('max_tokens') ? '' : needed}${say}}`
const multipart = (boundary: string, parts: string): string => `${parts.replaceAll('B', `--${boundary}`)}\r\n--${boundary}--\r\n`

const rowsOf = (): readonly Row[] => [
  ['B2', 'two million nested arrays', chat(`"model":"test-a","x":${'['.repeat(2_000_000)}${']'.repeat(2_000_000)}`), 400],
  ['B2', '65 levels of objects', chat(`"model":"test-a","x":${'{"a":'.repeat(65)}1${'}'.repeat(65)}`), 400],
  ['B3', '300,000 members', `{${Array.from({ length: 300_000 }, (_, i) => `"k${i}":1`).join(',')}}`, 400],
  ['B3', 'colliding numeric names', `{${Array.from({ length: 100_000 }, (_, i) => `"${i * 65_536}":1`).join(',')}}`, 400],
  ['B4', 'a model twice', chat('"model":"test-a","model":"test-b"'), 400],
  ['B4', 'a model twice, once escaped', chat('"model":"test-a","mod\\u0065l":"test-b"'), 400],
  ['B4', 'a bound twice', chat('"model":"test-a","max_tokens":1,"max_tokens":100000'), 400],
  ['B4', 'include_usage twice', chat('"model":"test-a","stream":true,"stream_options":{"include_usage":true,"include_usage":false}'), 400],
  ...['1e999', '1e2', '12345678901234567890', '-0', '1.0', '"5"', '-1', '0.5', 'true', '[5]', '{}'].map((bound): Row => ['B5', `max_tokens ${bound}`, chat(`"model":"test-a","max_tokens":${bound}`), 400]),
  ...['0', '129', '1.5', '"1"', '1e1'].map((n): Row => ['B5', `n ${n}`, chat(`"model":"test-a","n":${n}`), 400]),
  ['B7', 'a byte order mark', `\ufeff${chat('"model":"test-a"')}`, 400],
  ['B7', 'UTF-16', Buffer.from(chat('"model":"test-a"'), 'utf16le'), 400],
  ['B7', 'invalid UTF-8', Buffer.concat([Buffer.from('{"model":"test-a","x":"'), Buffer.from([0xff, 0xc3, 0x28]), Buffer.from(`",${say}}`)]), 400],
  ['B7', 'a surrogate as bytes', Buffer.concat([Buffer.from('{"model":"test-a","x":"'), Buffer.from([0xed, 0xa0, 0x80]), Buffer.from(`",${say}}`)]), 400],
  ['B7', 'a comment', `{"model":"test-a",/* x */${say}}`, 400], ['B7', 'a trailing comma', `{"model":"test-a",${say},}`, 400], ['B7', 'NaN', chat('"model":"test-a","temperature":NaN'), 400],
  ['B7', 'two documents', `${chat('"model":"test-a"')}${chat('"model":"test-b"')}`, 400], ['B7', 'NUL behind it', `${chat('"model":"test-a"')}\0`, 400], ['B7', 'cut short', chat('"model":"test-a"').slice(0, -1), 400],
  ...['text/plain', 'application/json, text/html', 'application/json; charset=utf-16', 'application/x-www-form-urlencoded', ''].map((type): Row => ['B8', `the type "${type}"`, chat('"model":"test-a"'), 415, { 'Content-Type': type }]),
  ...['', ' ', 'null', '[]', '"x"', 'true', '5', '[{"model":"test-a"}]'].map((body): Row => ['B10', `the body "${body}"`, body, 400]),
  ...['"true"', '1', '[]', '{}'].map((stream): Row => ['B11', `stream ${stream}`, chat(`"model":"test-a","stream":${stream}`), 400]),
  ...['1', '[]', '"x"', '{"include_usage":"yes"}', '{"include_usage":1}'].map((options): Row => ['B11', `stream_options ${options}`, chat(`"model":"test-a","stream":true,"stream_options":${options}`), 400]),
  ...['null', '5', '[]', '{}', '["test-a"]', '""', 'true'].map((model): Row => ['B12', `the model ${model}`, chat(`"model":${model}`), 400]),
  ['B12', 'a model of a megabyte', chat(`"model":"test-${'x'.repeat(1_000_000)}"`), 400],
  ...['../x', 'http://evil/test-a', 'te\nst-a', 'TEST-A', ' test-a', '<b>test-a</b>', '=cmd|test-a', 'ｔest-a', '\u202etest-a', 'tést-a', '__proto__', 'constructor', '\0test-a'].map((model): Row =>
    ['B12', `the model ${JSON.stringify(model)}`, chat(`"model":${JSON.stringify(model)}`), 403]),
  ['B14', 'multipart without a boundary', 'x', 415, { 'Content-Type': 'multipart/form-data' }],
  ['B14', 'multipart with 100,000 parts', multipart('b', 'B\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n'.repeat(10_000)), 415, { 'Content-Type': 'multipart/form-data; boundary=b' }],
  ['B14', 'a file name with a path and a line end', multipart('b', 'B\r\nContent-Disposition: form-data; name="file"; filename="../../etc/passwd\r\nX: 1"\r\n\r\nx'), 415, { 'Content-Type': 'multipart/form-data; boundary=b' }],
  ['B14', 'nested multipart', multipart('b', 'B\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n'), 415, { 'Content-Type': 'multipart/form-data; boundary=b' }],
]

const dialects = [
  { name: 'openai', needs: '', rows: rowsOf, target: '/v1/chat/completions', shape: { error: { message: String, type: String } }, headers: { Authorization: `Bearer ${secrets.main}` } },
  // It has neither `n` nor stream_options.
  { name: 'anthropic', needs: '"max_tokens":5,', rows: (): readonly Row[] => rowsOf().filter(([, what]) => !/^(n |stream_options|include_usage)/.test(what)), target: '/v1/messages', shape: { type: 'error', error: { type: String, message: String }, request_id: String }, headers: { 'x-api-key': secrets.main, 'anthropic-version': '2023-06-01' } },
]

const untouched = async (rig: Rig): Promise<void> => {
  const { rpm, daily, parallel } = await rig.usage()
  for (const limit of [rpm, daily, parallel]) if (limit?.used !== 0 || limit.reserved !== 0) throw new Error(`a refused body left ${JSON.stringify(limit)}`)
}

for (const { name, needs, rows, target, shape, headers: auth } of dialects) {
  t.test(`${name}: B2 to B14: a body that is none is 4xx in the caller's dialect; nothing goes upstream, nothing is held or counted`, async (t) => {
    const upstream = await openScriptedUpstream(t, openai())
    const rig = await startRig(t, upstream.url, { entitlements: '{ models: ["test-*"] }' })
    needed = needs
    const list = rows()
    for (const [id, what, body, status, headers] of list) {
      const startedMs = performance.now()
      const answer = await rig.request({ method: 'POST', target, key: null, headers: { ...auth, 'Content-Type': 'application/json', ...headers }, body })
      const tookMs = performance.now() - startedMs
      t.equal(answer.status, status, `${id}: ${what}`)
      t.match(answer.json(), shape, `${id}: ${what}: its shape`)
      t.equal(answer.header('x-tallygate-error'), 'gateway')
      t.ok(answer.text.length < 1_024, `${id}: ${what}: what was sent is not sent back`)
      t.ok(tookMs < 2_000, `${id}: ${what}: ${Math.round(tookMs)} ms`)
      await untouched(rig)
    }
    t.equal(upstream.connections.length, 0, 'no upstream was dialled')
    t.same(await rig.events(), [])
    t.notMatch(JSON.stringify(rig.logged), /"level":"error"/)
    t.comment(`${list.length} bodies`)
  })
}

t.test('B5, B6, B8, B11: what is odd and allowed goes upstream as it was judged', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  needed = ''
  const taken = async (body: string, type = 'application/json'): Promise<Record<string, unknown>> => {
    const before = upstream.requests.length
    const answer = await rig.request({ method: 'POST', target: '/v1/chat/completions', headers: { 'Content-Type': type }, body })
    t.equal(answer.status, 200, body.slice(0, 60))
    t.equal(upstream.requests.length, before + 1)
    return upstream.requests[before]!.json()
  }
  const polluted = await taken(chat('"model":"test-a","__proto__":{"admin":true,"max_tokens":5},"constructor":{"prototype":{"x":1}}'))
  t.equal(({} as Record<string, unknown>)['admin'], undefined, 'B6: nothing is polluted')
  t.equal(polluted['max_tokens'], 100, 'B6: and nothing of it is believed')
  t.equal((await taken(chat('"model":"test-a","max_tokens":5,"temperature":1e0,"seed":12345678901234567890')))['max_tokens'], 5, 'B5: numbers that no limit depends on are the upstream\'s matter')
  t.match(upstream.requests.at(-1)?.body.toString(), '12345678901234567890', 'B5: to the last digit')
  t.match((await taken(chat('"model":"test-a"'), 'application/json ; charset=utf-8'))['model'], 'test-a', 'B8: the spaced form is read, and read the same')
  for (const options of ['', ',"stream_options":null', ',"stream_options":{"include_usage":false}']) {
    const seen = await taken(chat(`"model":"test-a","stream":true${options}`))
    t.match(seen['stream_options'], { include_usage: true }, `B11: usage is asked for with${options}`)
  }
  for (const event of await rig.events()) t.equal(event['usage_source'], 'upstream')
})

t.test('B13: no field of a body changes where the call goes or whose credential it carries', async (t) => {
  const evil = await openScriptedUpstream(t, steps(json(200, chatCompletion(openaiAnswer))))
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const names = ['api_base', 'base_url', 'api_key', 'custom_llm_provider', 'extra_headers', 'extra_body', 'extra_query', 'proxy', 'endpoint', 'host', 'url', 'upstream', 'provider', 'organization', 'deployment_id', 'azure_endpoint', 'aws_region', 'fallbacks', 'metadata', 'user_config', 'headers']
  for (const name of names) {
    for (const value of [evil.url, { Authorization: 'Bearer stolen', Host: `127.0.0.1:${evil.port}`, url: evil.url, model: 'other' }]) {
      const answer = await rig.chat({ [name]: value })
      t.ok([200, 400].includes(answer.status), `${name}: ${answer.status}`)
    }
    await rig.request({ method: 'POST', target: `/v1/chat/completions?${name}=${encodeURIComponent(evil.url)}`, headers: { [name.replaceAll('_', '-')]: evil.url }, body: prompt })
  }
  t.equal(evil.connections.length, 0, 'nobody else was dialled')
  for (const request of upstream.requests) {
    t.equal(request.header('authorization'), 'Bearer upstream-credential')
    t.equal(request.target.split('?')[0], '/v1/chat/completions')
    t.equal(request.header('host'), `127.0.0.1:${upstream.port}`)
  }
  t.equal((await rig.chat({ metadata: { x: 'x'.repeat(1_000_000) } })).status, 200, 'a megabyte of metadata is a body like any')
  t.equal((await rig.chat({ user: 'u'.repeat(1_000_000) })).status, 400, 'a name of a megabyte is none')
})
