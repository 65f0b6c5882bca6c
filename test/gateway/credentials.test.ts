// faults.md, section 4.3, through the whole gateway: nobody in without a key, by whichever way it is said.

import t from 'tap'
import { newSecret } from '../../src/accounts/secret.ts'
import { systemRandom } from '../../src/random.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openRawClient, rawRequest, requestBytes } from '../fixtures/raw-client.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { prompt, secrets, startRig, type Rig } from './exchange/rig.ts'

const post = (rig: Rig, headers: Record<string, string>, query = ''): ReturnType<typeof rawRequest> =>
  rawRequest({ port: rig.port }, { method: 'POST', target: `/v1/chat/completions${query}`, headers, body: prompt })
const { main, other } = secrets

t.test('A5: a key is taken from the places of the dialects, the same twice is one, two that differ are 400, and no other place counts', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const places: readonly (readonly [string, (secret: string) => [Record<string, string>, string?]])[] = [
    ['Authorization', (secret) => [{ Authorization: `Bearer ${secret}` }]], ['x-api-key', (secret) => [{ 'x-api-key': secret }]], ['api-key', (secret) => [{ 'api-key': secret }]],
    ['x-goog-api-key', (secret) => [{ 'x-goog-api-key': secret }]], ['the query', (secret) => [{}, `?key=${secret}`]],
  ]
  let good = 0
  for (const [name, place] of places) {
    const [headers, query] = place(main)
    t.equal((await post(rig, headers, query)).status, 200, name)
    good += 1
    for (const [second, otherPlace] of places) {
      if (second === name) continue
      const [same, sameQuery] = otherPlace(main)
      t.equal((await post(rig, { ...headers, ...same }, query ?? sameQuery)).status, 200, `${name} and ${second}, the same`)
      good += 1
      for (const different of [other, 'wrong-wrong-wrong-wrong']) {
        const [more, moreQuery] = otherPlace(different)
        t.equal((await post(rig, { ...headers, ...more }, query ?? moreQuery)).status, 400, `${name} and ${second} differ`)
      }
    }
  }
  for (const headers of [
    { Cookie: `key=${main}; api-key=${main}` }, { Authorization: `Basic ${Buffer.from(`user:${main}`).toString('base64')}` }, { Authorization: `Basic ${Buffer.from(`${main}:`).toString('base64')}` },
    { 'Sec-WebSocket-Protocol': `openai-insecure-api-key.${main}` }, { 'Proxy-Authorization': `Bearer ${main}` }, { 'x-auth-token': main }, { token: main },
  ]) t.equal((await post(rig, headers as Record<string, string>)).status, 401, Object.keys(headers).join())
  for (const query of [`?api_key=${main}`, `?access_token=${main}`, `?token=${main}`, `?KEY=${main}`]) t.equal((await post(rig, {}, query)).status, 401, query.replace(main, 'KEY'))
  t.equal((await post(rig, {}, `?key=${main}&key=${other}`)).status, 400)
  t.equal(upstream.executions, good)
  t.ok(upstream.requests.every(({ target, headers }) => !`${target} ${JSON.stringify(headers)}`.includes(main)), 'the caller\'s key never goes upstream')
  t.match(await rig.usage(), { rpm: { used: good, reserved: 0 } })
})

t.test('A6: the scheme is read in any case, spaces around the key are nothing, and whatever else is in its place is no key', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  for (const value of [`Bearer ${main}`, `bearer ${main}`, `BEARER ${main}`, `Bearer   ${main}`, `Bearer ${main}  `]) t.equal((await post(rig, { Authorization: value })).status, 200, value.replace(main, 'KEY'))
  for (const value of [
    'Bearer', 'Bearer ', main, `Bearer${main}`, `Bearer\t${main}`, `Bearer ${main},${other}`, `Bearer ${main} ${other}`, `Token ${main}`, `Bearer "${main}"`, `Bearer: ${main}`, `Bearer Bearer ${main}`,
    `Basic ${main}`, `Digest username="${main}"`, `Bearer ${main};`, `Bearer ${encodeURIComponent(`${main} `)}`,
  ]) t.equal((await post(rig, { Authorization: value })).status, 401, value.replaceAll(main, 'KEY'))
  t.equal(upstream.executions, 5)
})

t.test('A7, I4: whatever stands for a key is 401 in the same words, reaches nobody and leaves nothing', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const wrong = [
    "' OR '1'='1", '"; DROP TABLE keys; --', '*', '?', '[a-z]*', '${7*7}', '{{7*7}}', '{"$ne":null}', '[]', '__proto__', 'constructor', 'toString', 'return redis.call("get","x")', '../../etc/passwd', 'null', 'undefined',
    'true', '0', `${main}x`, `x${main}`, main.slice(0, -1), main.slice(1), main.toUpperCase(), `${main}%00`, `${main}\\0`, `${main}=`, main.replace('tg', 'ｔｇ'), main.replace('e', 'е'), 'é'.repeat(30), '\xff\xfe', 'x'.repeat(513), 'x'.repeat(8_000),
    newSecret(systemRandom),
  ]
  const seen = new Set<string>()
  for (const word of wrong) {
    for (const headers of [{ Authorization: `Bearer ${Buffer.from(word).toString('latin1')}` }, { 'x-api-key': Buffer.from(word).toString('latin1') }]) {
      const answer = await post(rig, headers as Record<string, string>)
      // Guessing is braked per address; until then every answer is the same.
      t.ok([401, 429].includes(answer.status), `${JSON.stringify(word).slice(0, 40)}: ${answer.status}`)
      if (answer.status === 401) seen.add(JSON.stringify([answer.headers.filter(([name]) => !['date', 'x-request-id'].includes(name.toLowerCase())), answer.text.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, 'ID')]))
    }
  }
  t.equal(seen.size, 1, 'the same words and headers for all')
  for (const bytes of [`Authorization: Bearer ${main}\0`, `Authorization: Bearer ${main}\r`, `Authorization: Bearer ${'x'.repeat(1_048_576)}`, `Authorization: Bearer ${main}\n x`]) {
    const client = await openRawClient({ port: rig.port })
    await client.send(`POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n${bytes}\r\nContent-Length: 2\r\n\r\n{}`)
    t.match((await client.readResponse()).status, /^4(00|01|31|14)$/, bytes.slice(-10))
    client.close()
  }
  t.equal(upstream.connections.length, 0)
  t.match(await rig.usage(), { rpm: { used: 0, reserved: 0 }, daily: { used: 0 } })
  t.equal((await rig.chat()).status, 200, 'a valid key is never braked')
  const labels = (await rig.metrics.text()).split('\n').filter((line) => line.includes('bad_keys'))
  t.ok(labels.length <= 5, 'no series for a key')
  t.notMatch(await rig.metrics.text() + JSON.stringify(rig.logged), new RegExp(`${main}|DROP TABLE|redis`))
})

t.test('A12: a key of one account says nothing and spends nothing of another', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const client = await openRawClient({ port: rig.port })
  t.teardown(() => client.close())
  // One connection, two keys in turn: what one spends the other does not see.
  for (const key of [main, other, other]) {
    await client.send(requestBytes({ method: 'POST', target: '/v1/chat/completions', headers: { Authorization: `Bearer ${key}`, 'x-tallygate-account': 'main', 'OpenAI-Organization': 'main' }, body: prompt }))
    t.equal((await client.readResponse()).status, 200)
  }
  await rig.settled()
  t.match(await rig.usage(main), { rpm: { used: 1 } })
  t.match(await rig.usage(other), { rpm: { used: 2 } })
  t.same((await rig.events()).map((event) => event['account']), ['main', 'other', 'other'])
})
