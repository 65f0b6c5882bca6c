// Reads tables of exact requests: what a sink is handed, and every byte that it sends. One case is a block of lines; blank lines part cases.
//
// ## NAME                    what the case is about
// settings {…}              beside those of the dialect; URL stands for where the receiver is
// event {…} | meter {…}     a record, or what differs from `sample`
// at INSTANT                what time it is
// answer STATUS [BODY]      to the next request; 200 and nothing unless said
// -> METHOD PATH            a request, with its query; then its headers, one a line, and its body behind `= `
// report {…}                what the sink makes of it; `fails KIND`: the failure

import { readFileSync } from 'node:fs'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { withTime, systemClock } from '../../src/clock.ts'
import { systemRandom } from '../../src/random.ts'
import { DeliveryFailed, type MeterRecord, type SinkKind, type SinkRecord } from '../../src/sinks/sink.ts'
import { sampleEvents } from './kit/samples.ts'

const sample: MeterRecord = {
  is: 'meter', id: '019aab01-997b-7000-8000-000000000000:tokens', timeMs: Date.parse('2026-08-21T10:00:00.123Z'), code: 'tokens', customer: 'cus_acme', account: 'acme', value: '1250',
  valueProperty: 'value', properties: { model: 'gpt-4o', provider: 'openai' },
}

interface Sent {
  readonly line: string
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: string
}

/** Runs every case of `wire/NAME.txt`. `settings`: with every default filled in. */
export function wireTable(t: Test, name: string, kind: SinkKind, settings: (url: string) => Readonly<Record<string, unknown>>): void {
  const blocks = readFileSync(new URL(`wire/${name}.txt`, import.meta.url), 'utf8').split(/\n\s*\n/).map((block) => block.split('\n').filter((line) => !/^#(?!#)/.test(line) && line.trim() !== ''))
  for (const lines of blocks) {
    const title = /^## (.+)$/.exec(lines[0] ?? '')?.[1]
    if (title !== undefined) t.test(`${name}: ${title}`, (t) => runCase(t, kind, settings, lines.slice(1)))
  }
}

async function runCase(t: Test, kind: SinkKind, settings: (url: string) => Readonly<Record<string, unknown>>, lines: readonly string[]): Promise<void> {
  const records: SinkRecord[] = []
  const answers: { status: number; body: string }[] = []
  const expected: { line: string; headers: [string, string][]; body: string }[] = []
  let more: Readonly<Record<string, unknown>> = {}
  let report: unknown = null
  let fails: string | null = null
  let nowMs = Date.parse('2026-08-21T10:00:05.000Z')
  for (const line of lines) {
    const [word = '', rest = ''] = cut(line, ' ')
    if (word === 'settings') more = JSON.parse(rest) as Record<string, unknown>
    else if (word === 'meter') records.push({ ...sample, ...JSON.parse(rest) as Partial<MeterRecord> })
    else if (word === 'event') {
      const [one] = sampleEvents(1, sample.timeMs + 1)
      const { id, data } = JSON.parse(rest) as { id: string; data: Readonly<Record<string, unknown>> }
      if (one !== undefined) records.push({ ...one, id, event: { ...one.event, id, data } })
    } else if (word === 'at') nowMs = Date.parse(rest)
    else if (word === 'answer') answers.push({ status: Number(cut(rest, ' ')[0]), body: cut(rest, ' ')[1] ?? '' })
    else if (word === '->') expected.push({ line: rest, headers: [], body: '' })
    else if (word === 'report') report = JSON.parse(rest)
    else if (word === 'fails') fails = rest
    else if (word === '=') (expected.at(-1) ?? { body: '' }).body = rest
    else expected.at(-1)?.headers.push(cut(line, ': ') as [string, string])
  }

  const sent: Sent[] = []
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    sent.push({ line: `${request.method ?? ''} ${request.url ?? ''}`, headers: request.headers, body: Buffer.concat(chunks).toString('utf8') })
    const { status, body } = answers.shift() ?? { status: 200, body: '' }
    response.writeHead(status, { 'content-type': 'application/json' }).end(status === 204 ? undefined : body)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const put = JSON.parse(JSON.stringify(more).replaceAll('URL', url)) as Record<string, unknown>
  const sink = await kind.open(kind.type, { ...settings(url), ...put }, { clock: withTime(systemClock, () => nowMs), random: systemRandom, stdout: process.stdout, instance: 'gw-1' })
  t.teardown(() => sink.close())

  const outcome = await sink.deliver(records, AbortSignal.timeout(5_000)).catch((error: unknown) => error)
  if (fails !== null) t.equal(outcome instanceof DeliveryFailed ? `${outcome.kind} ${outcome.message}` : outcome, fails)
  else if (report !== null) t.strictSame(outcome, report, 'what the sink makes of the answer')
  else t.notOk(outcome instanceof Error, String(outcome))
  t.equal(sent.length, expected.length, 'as many requests')
  for (const [index, { line, headers, body }] of expected.entries()) {
    const request = sent[index]
    t.equal(request?.line, line, 'method and path')
    for (const [header, value] of headers) t.equal(request?.headers[header], value === '-' ? undefined : value, header)
    t.equal(request?.body, body, 'every byte of the body')
  }
}

function cut(text: string, mark: string): [string, string] {
  const at = text.indexOf(mark)
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + mark.length)]
}
