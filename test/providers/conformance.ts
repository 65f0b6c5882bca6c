// What every dialect owes, whatever its words: the recorded exchanges of a provider are replayed whole, one byte at a time, cut at
// random places, cut short after every event, and with garbage behind them.
//
// A case is three files: `<case>.request.json` (the caller's body), `<case>.response.txt` (the upstream's bytes; ⟦x*9⟧ stands for nine x),
// `<case>.expected.json` (see `Expected`).

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TAP, Test } from 'tap'
import type { StreamEnd } from '../../src/metering/event.ts'
import type { Quantities } from '../../src/metering/meter.ts'
import type { AnswerMeter, Endpoint, Metered, Provider, RequestFacts } from '../../src/providers/provider.ts'

type Expected = {
  readonly endpoint: string
  readonly contentType: string
  readonly status?: number
  /** What the caller must not see, because we had asked for it and he had not. */
  readonly removed?: string | readonly string[]
  readonly usage: Quantities
  /** What the tokenizer makes of it; only where the case fixes it. */
  readonly later?: Quantities
  readonly source: Metered['source']
  readonly whole: boolean
  readonly alarms: readonly string[]
  readonly failed?: boolean
  readonly modelServed?: string
  readonly serviceTier?: string
}

export type Exchange = {
  readonly name: string
  readonly request: Uint8Array
  readonly response: Uint8Array
  readonly expected: Expected
}

export type Replay = { readonly out: Uint8Array; readonly early: Uint8Array; readonly counted: Quantities; readonly ended: boolean; readonly metered: Metered }

export function exchangesOf(provider: string): Exchange[] {
  const folder = join(import.meta.dirname, 'exchanges', provider)
  return readdirSync(folder).filter((file) => file.endsWith('.request.json')).sort().map((file) => {
    const name = file.slice(0, -'.request.json'.length)
    return {
      name,
      request: readFileSync(join(folder, file)),
      response: Buffer.from(expanded(readFileSync(join(folder, `${name}.response.txt`), 'utf8'))),
      expected: JSON.parse(readFileSync(join(folder, `${name}.expected.json`), 'utf8')) as Expected,
    }
  })
}

function expanded(text: string): string {
  return text.replace(/⟦(.+?)\*(\d+)⟧/g, (_, piece: string, times: string) => piece.repeat(Number(times)))
}

/** A small seeded generator: the same cuts in every run. */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

export function replay(meter: AnswerMeter, chunks: Iterable<Uint8Array>, end: StreamEnd): Replay {
  const passed: Uint8Array[] = []
  // Copies: a meter that lent out bytes and changed them later would be found out.
  for (const chunk of chunks) passed.push(Uint8Array.from(meter.pass(Uint8Array.from(chunk))))
  const counted = meter.counted()
  const { ended } = meter
  const metered = meter.finish(end)
  const early = Buffer.concat(passed)
  return { out: Buffer.concat([early, metered.rest]), early, counted, ended, metered }
}

export function* piecewise(bytes: Uint8Array, length = 1): Iterable<Uint8Array> {
  for (let i = 0; i < bytes.length; i += length) yield bytes.subarray(i, i + length)
}

export function* atRandom(bytes: Uint8Array, random: () => number): Iterable<Uint8Array> {
  for (let at = 0; at < bytes.length;) {
    const length = 1 + Math.floor(random() * (random() < 0.3 ? 4 : bytes.length / 3))
    yield bytes.subarray(at, at + length)
    at += length
  }
}

/** Everything but what the caller must not see. */
function visible(exchange: Exchange): Buffer {
  let text = Buffer.from(exchange.response).toString('latin1')
  const { removed } = exchange.expected
  for (const part of removed === undefined ? [] : typeof removed === 'string' ? [removed] : removed) {
    const piece = Buffer.from(part).toString('latin1')
    // The last of equal ones is gone first: order does not matter when all of them go.
    while (text.includes(piece)) text = text.replace(piece, '')
  }
  return Buffer.from(text, 'latin1')
}

function meterOf(endpoint: Endpoint, facts: RequestFacts, expected: Expected): AnswerMeter {
  return endpoint.meter(facts, { status: expected.status ?? 200, contentType: expected.contentType, contentEncoding: '' })
}

const bytesSeen = (counted: Quantities, seen: number, facts: RequestFacts): boolean =>
  (counted.output_tokens ?? 0) <= seen && (counted.input_tokens ?? 0) <= 1_000_000 + facts.inputBytes

export function conformance(t: TAP, provider: Provider): void {
  for (const exchange of exchangesOf(provider.name)) {
    t.test(`${provider.name}/${exchange.name}`, async (t: Test) => {
      const { expected, response } = exchange
      const endpoint = provider.endpoints.find((candidate) => candidate.name === expected.endpoint)
      if (endpoint === undefined) throw new Error(`no endpoint ${expected.endpoint}`)
      const facts = endpoint.inspect(exchange.request)
      const wanted = visible(exchange)
      const isStream = expected.contentType === 'text/event-stream'

      const ways: [string, Iterable<Uint8Array>][] = [['whole', [response]], [response.length < 100_000 ? 'one byte at a time' : 'a few bytes at a time', piecewise(response, response.length < 100_000 ? 1 : 97)]]
      for (let seed = 1; seed <= 8; seed++) ways.push([`cut at random, seed ${seed}`, atRandom(response, seeded(seed))])
      for (const [way, chunks] of ways) {
        const found = replay(meterOf(endpoint, facts, expected), chunks, 'complete')
        t.ok(Buffer.from(found.out).equals(wanted), `${way}: bytes out are bytes in, but for what is ours`)
        const { usage, source, whole, alarms, failed, modelServed, serviceTier } = found.metered
        t.strictSame({ usage, source, whole, alarms, failed: failed === true, modelServed, serviceTier },
          { usage: expected.usage, source: expected.source, whole: expected.whole, alarms: expected.alarms, failed: expected.failed === true, modelServed: expected.modelServed, serviceTier: expected.serviceTier },
          `${way}: what is metered`)
        if (found.ended) t.ok(found.early.length < wanted.length, `${way}: the end waits`)
      }
      if (expected.later !== undefined) {
        const { metered } = replay(meterOf(endpoint, facts, expected), [response], 'complete')
        t.strictSame(await metered.countLater?.(), expected.later, 'what the tokenizer counts')
      }

      // Cut short: after every event, or at a hundred places of a plain answer.
      const text = Buffer.from(response).toString('latin1')
      const cuts = isStream
        ? [...text.matchAll(/\r\n\r\n|\n\n|\r\r/g)].map((match) => match.index + match[0].length)
        : Array.from({ length: Math.min(100, response.length) }, (_, i) => Math.floor((i * response.length) / 100))
      for (const cut of cuts.slice(0, 200)) {
        for (const end of ['upstream_broken', 'client_gone', 'complete', 'timed_out', 'quota_stop'] as const) {
          const found = replay(meterOf(endpoint, facts, expected), [response.subarray(0, cut)], end)
          const seen = found.metered.usage
          if (!bytesSeen(seen, cut, facts)) t.ok(false, `cut at ${cut}, ${end}: more output than bytes: ${JSON.stringify(seen)}`)
          if (!bytesSeen(found.counted, cut, facts)) t.ok(false, `cut at ${cut}: counted more than was seen`)
          if (found.metered.source === 'upstream' && (seen.output_tokens ?? 0) > (expected.usage.output_tokens ?? Infinity)) t.ok(false, `cut at ${cut}: more than reported`)
          if (!wanted.subarray(0, found.early.length).equals(found.early) && expected.removed === undefined) t.ok(false, `cut at ${cut}: bytes changed`)
          for (const value of Object.values(seen)) if (!Number.isSafeInteger(value) || value < 0) t.ok(false, `cut at ${cut}: ${value} is no amount`)
        }
      }

      // Garbage behind the end changes neither the usage nor what came before.
      const garbage = Buffer.from('\n\n{"usage":null}\u0000\xff garbage\n\ndata: {"choices":[\n\n: x\n')
      const found = replay(meterOf(endpoint, facts, expected), [response, garbage], 'complete')
      if (expected.source === 'upstream') t.strictSame(found.metered.usage, expected.usage, 'garbage behind it: the same usage')
      t.ok(wanted.length === 0 || Buffer.from(found.out).subarray(0, wanted.length).equals(wanted), 'garbage behind it: the same bytes before')
      t.end()
    })
  }
}
