// Names that callers make up and operators are careless with, in everything that is handed on: notices, webhooks, usage events, tables, CSV, metrics, the log.
// test: timeout 120 s
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { tallygate } from '../app/process.ts'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { startReceiver, secretA } from '../notices/receiver.ts'
import { secret } from '../process/outside.ts'
import { SeededRandom } from '../sim/seeded-random.ts'

t.setTimeout(110_000)

const hostile = [
  '<img src=x onerror=alert(1)>', `'"><script>alert(1)</script>`, `'-alert(1)-'`, 'javascript:alert(1)', '{{7*7}}${7*7}', '\u202egnp.exe', '=HYPERLINK("http://evil.example","x")', '+1', '-1+1', '@SUM(1)',
  '|cmd', '\t=1', 'a,"b"', 'two\r\nlines', '\u001b[2J\u001b[31mred', 'nul\u0000=1', '\u2028', '"} 1\ntallygate_forged 1', '__proto__',
]
/** What a limit may be called: printable ASCII without quotation marks. */
const limitName = '=<img src=x onerror=alert(1)>{{7*7}}'
// oxlint-disable-next-line no-control-regex
const acting = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/
// oxlint-disable-next-line no-control-regex
const actingInCsv = /\u0000/

/** A reader of RFC 4180 that knows nothing of ours. */
function cellsOf(text: string): string[] {
  return [...text.matchAll(/(?:^|,|\r\n)(?:"((?:[^"]|"")*)"|([^",\r\n]*))/g)].map(([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain ?? '')
}

t.test('W1, W2, W5, W6: hostile names arrive as the texts they are, act nowhere, and make no series', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const notices = await startReceiver(t)
  const billing = await startReceiver(t)
  const gateway = await startGatewayProcess(t, `
upstreams: { model: { url: "${upstream.url}" } }
plans:
  process:
    entitlements: { models: ["*"] }
    policy: { output_default: 100 }
    prices: { currency: EUR, version: v1, models: { "*": { input_tokens: 2.50/M, output_tokens: 10/M } } }
    limits:
      - { name: '${limitName}', meter: requests, limit: 4, window: lifetime, each: model, notify: [10%] }
      - { name: watched, meter: requests, limit: 1, window: lifetime, each: model, mode: shadow }
keys: [{ id: dev, plan: process, hash: "sha256:${hashOfSecret(secret)}" }]
sinks:
  - { name: file, type: file, path: "{dir}/usage.ndjson" }
  - { name: hook, type: webhook, url: "${billing.url}", private: true, secrets: ["${secretA}"] }
notifications: { webhooks: [{ url: "${notices.url}", secret: "${secretA}" }] }
`, { TALLYGATE_LOG_LEVEL: 'trace' })
  const call = async (model: string): Promise<number> => {
    const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: 'POST', headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json', 'user-agent': '<script>alert(2)</script>', 'x-request-id': '=1+1<b>' },
      body: JSON.stringify({ model, user: model, messages: [{ role: 'user', content: 'hi' }] }),
    })
    await answer.arrayBuffer()
    return answer.status
  }
  const models: string[] = []
  for (const model of hostile) if (await call(model) === 200) models.push(model)
  t.ok(models.length >= hostile.length - 4, `${models.length} of ${hostile.length} names are taken`)
  const taken = new Set(models)
  const told = (): string[] => notices.received.map(({ event }) => String(event.data['model']))
  await waitFor('a notice of each', () => new Set(told()).size >= taken.size, { deadlineMs: 30_000, everyMs: 50 })
  const billed = (): string[] => billing.received.flatMap(({ body }) => [JSON.parse(body) as { data: { model: string } } | { data: { model: string } }[]].flat()).map(({ data }) => data.model)
  await waitFor('every event', () => billed().length >= models.length, { deadlineMs: 20_000, everyMs: 50 })

  // As they were, under a signature, for whoever reads JSON.
  t.same(new Set(told()), taken)
  t.same(new Set(billed()), taken)
  t.ok([...notices.received, ...billing.received].every(({ verified }) => verified))
  t.match(notices.received[0]?.event.data['text'], limitName)
  for (const { headers } of [...notices.received, ...billing.received]) t.notMatch(JSON.stringify(headers), /script|img|alert/)

  // Tables of a terminal.
  const run = async (...args: string[]): Promise<string> => {
    const { code, out, err } = await tallygate(t, gateway.dir, [...args, '--config', 'tallygate.yaml'])
    t.equal(code, 0, err)
    return out
  }
  for (const args of [['notices'], ['usage', '--by', 'model', '--since', '1h'], ['events', 'tail', '--no-follow', '--since', '1h'], ['events', 'tail', '--no-follow', '--since', '1h', '--json'], ['notices', '--json']]) {
    const out = await run(...args)
    t.match(out, /onerror=alert/, `${args[0]} shows them`)
    t.notMatch(out, acting, `${args.join(' ')}: nothing acts on the terminal`)
  }
  // CSV, as finance opens it.
  const csv = await run('usage', '--format', 'focus', '--since', '1h')
  const cells = cellsOf(csv)
  t.notMatch(csv, actingInCsv)
  t.ok(cells.includes('\'=HYPERLINK("http://evil.example","x")') && cells.includes('\'@SUM(1)'), 'they are in it, as texts')
  t.same(cells.filter((cell) => /^\s*[=+\-@|]|^[\t\r]/.test(cell) && !/^-?\d+(\.\d+)?$/.test(cell)), [], `${cells.length} cells`)

  // The log: one line each, nothing acts.
  const lines = gateway.output().split('\n').filter((line) => line.startsWith('{'))
  t.equal(lines.filter((line) => line.includes('"msg":"exchange"')).length >= models.length, true)
  t.notMatch(lines.join('\n'), acting)
  for (const line of lines) JSON.parse(line)
  t.notMatch(gateway.output(), /^(?!\{).*(alert\(1\)|forged)/m, 'no line but those of the log has them')
  for (const line of readFileSync(join(gateway.dir, 'usage.ndjson'), 'utf8').trimEnd().split('\n')) JSON.parse(line)

  // Metrics: as many series after two hundred names as after twenty.
  const series = async (): Promise<string[]> => (await (await fetch(`${gateway.adminUrl}/metrics`)).text()).split('\n').filter((line) => line !== '' && !line.startsWith('#')).map((line) => line.slice(0, line.lastIndexOf(' '))).toSorted()
  const before = await series()
  t.notMatch(before.join('\n').replaceAll(limitName, ''), /img|<script|alert|forged|evil|proto|7\*7/)
  for (const reader of ['@rollups', '@notices']) t.ok(before.includes(`tallygate_outbox_events{sink="${reader}"}`), `${reader} says how far behind it is`)
  const random = new SeededRandom(20_261_123)
  for (let i = 0; i < 10; i++) await Promise.all(Array.from({ length: 20 }, () => call(`m-${random.int(0, 1e9)}`)))
  await waitFor('all to be told', async () => !/^tallygate_outbox_events\{sink="[^"]+"\} [1-9]/m.test(await (await fetch(`${gateway.adminUrl}/metrics`)).text()), { deadlineMs: 30_000, everyMs: 200 })
  t.same((await series()).filter((each) => !before.includes(each)), [], `${before.length} series before and after`)
})
