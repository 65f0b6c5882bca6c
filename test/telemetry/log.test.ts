// The log: one line for each thing that happened, whatever was in it, with the fields that docs/logs.md names.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { harmless, openLogTo, type Log } from '../../src/log.ts'
import { canaries, canariesIn } from '../fixtures/canaries.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream, reset, steps } from '../fixtures/scripted-upstream.ts'
import { startRig } from '../gateway/exchange/rig.ts'
import type { Telemetry } from '../../src/telemetry/telemetry.ts'

function opened(): { log: Log; lines: string[] } {
  const lines: string[] = []
  return { log: openLogTo({ write: (line) => lines.push(line) }, 'info'), lines }
}

const acting = /\p{Cc}|[\u200e\u200f\u2028-\u202e\u2066-\u2069]/u

t.test('W6: whatever is in a field, it is one line of JSON without anything that acts on a terminal', async (t) => {
  const hostile = [
    '\n{"level":"fatal","msg":"forged"}', '\r\n', '\u001b[2J\u001b[31mred\u001b[0m', '\u009b31m', '\u0007\u0008\u007f\u0085', '\u202eRTL\u2066x\u2069', '\u2028\u2029', '"}\n{"', '\\u001b[2J', '\0', '\ud800', '😀 é 中', '${jndi:ldap://x}', '%s%n%d',
  ]
  for (const [index, text] of hostile.entries()) {
    const { log, lines } = opened()
    log.info({ id: 'x', model: text, list: [text], inside: { [text]: text } }, 'exchange')
    t.equal(lines.length, 1)
    const [line = ''] = lines
    t.ok(/^[^\n]*\n$/.test(line), `text ${index} is in one line`)
    t.notOk(acting.test(line.slice(0, -1)), 'and acts on nothing')
    const { level, model, list, msg } = JSON.parse(line) as Record<string, unknown>
    t.ok(level === 'info' && model === text && Array.isArray(list) && list[0] === text && msg === 'exchange', 'what it said can still be read')
  }
})

t.test('a line says the same whatever its level, also where JSON has no word for it', async (t) => {
  for (const fields of [{}, { a: 1, b: undefined, c: null, d: NaN, e: true, f: 'x"\\\n', g: [1, { h: 'é' }] }, { big: 5n }, { at: new Date(0) }]) {
    const { log, lines } = opened()
    log.info(fields, 'said "so"')
    log.warn(fields, 'said "so"')
    const [info, warn] = lines.map((line) => ({ ...JSON.parse(line) as Record<string, unknown>, time: '' }))
    t.same({ ...info, level: 'warn' }, warn)
    t.match(lines[0], /^\{"level":"info","time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"[,}]/)
  }
})

t.test('W6: 100 KB in one field, in many, or in a list, leave a short line with everything else in it', async (t) => {
  const long = 'x'.repeat(100_000)
  for (const fields of [
    { model: long }, { model: '\u001b'.repeat(100_000) }, { problems: Array.from({ length: 10_000 }, () => 'y'.repeat(50)) }, Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [`field${i}`, i])),
    { deep: { deep: { deep: { deep: { deep: long } } } } }, { [long]: 1 },
  ]) {
    const { log, lines } = opened()
    log.error({ id: 'call-1', ...fields }, 'something')
    const [line = ''] = lines
    t.ok(line.length < 40_000, `${line.length} characters`)
    t.match(JSON.parse(line), { level: 'error', id: 'call-1' })
  }
  const { log, lines } = opened()
  log.warn({ model: long, status: 200 }, 'exchange')
  t.match(JSON.parse(lines[0] ?? ''), { model: /^x{1024}… \(100000 characters\)$/, status: 200, msg: 'exchange' })
  t.ok((lines[0] ?? '').length < 1_400)
  t.equal(harmless('{"a":1}\n'), '{"a":1}\n', 'what is harmless is not touched')
})

t.test('an exchange\'s line has the documented fields and no other; each of them can be had', async (t) => {
  const text = readFileSync(new URL('../../docs/logs.md', import.meta.url), 'utf8')
  const section = text.slice(text.indexOf('## One line for each exchange'))
  const documented = [...section.matchAll(/^\| ((?:`\w+`(?:, )?)+) \|/gm)].flatMap(([, cell = '']) => [...cell.matchAll(/`(\w+)`/g)].map(([, name = '']) => name))
  const trace = { traceId: 'a'.repeat(32), parentId: null, spanId: 'b'.repeat(16), upstreamSpanId: 'c'.repeat(16), sampled: false, upstreamParent: `00-${'a'.repeat(32)}-${'c'.repeat(16)}-00`, state: '' }
  const telemetry: Telemetry = { begin: () => trace, ended: () => undefined, close: async () => undefined }
  const upstream = await openScriptedUpstream(t, openai({ pieces: [canaries.answer] }))
  const rig = await startRig(t, upstream.url, { telemetry, limits: ['{ name: calls, meter: requests, limit: 5, window: lifetime }', '{ name: watched, meter: requests, limit: 1, window: lifetime, mode: shadow }'] })
  const messages = [{ role: 'user', content: canaries.prompt }]
  await rig.chat({ messages }, { 'x-request-id': 'from-the-caller' })
  await rig.chat({ messages, stream: true, stream_options: { include_usage: true } })
  upstream.script = steps(reset)
  await rig.chat({ messages })
  await rig.request({ method: 'POST', target: `/v1/${canaries.prompt}`, key: canaries.key, body: '{}' })
  await rig.request({ method: 'POST', target: '/v1/chat/completions', key: canaries.key, body: '{}' })
  await rig.settled()
  const lines = rig.logged.filter(({ message }) => message === 'exchange' && message !== undefined)
  const known = (line: object): string[] => Object.entries(line).filter(([name, value]) => value !== undefined && name !== 'level' && name !== 'message').map(([name]) => name)
  t.same([...new Set(lines.flatMap(known))].toSorted(), [...new Set(documented)].toSorted())
  t.ok(lines.every((line) => /^[0-9a-f-]{36}$/.test(String(line['id']))), 'the id is in each')
  t.same(canariesIn(JSON.stringify(rig.logged)), [])
  const example = JSON.parse(/```json\n(.*)\n```/.exec(section)?.[1] ?? '{}') as Record<string, unknown>
  t.ok(Object.keys(example).every((name) => ['level', 'time', 'msg', ...documented].includes(name)), 'the example is one')
})
