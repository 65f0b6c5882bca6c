// The event stream of the standard, in every cutting: events are understood, and no byte is changed.

import fc from 'fast-check'
import t from 'tap'
import { DROP, EVENT_BYTES_MAX, EventStream, HOLD, PASS, type EventReader, type Verdict } from '../../src/providers/sse.ts'
import { atRandom, piecewise, seeded } from './conformance.ts'

class Recorder implements EventReader {
  readonly events: string[] = []
  pieces = 0
  readonly verdict: (data: string) => Verdict
  constructor(verdict: (data: string) => Verdict = () => PASS) {
    this.verdict = verdict
  }
  event(bytes: Uint8Array, start: number, end: number, isError: boolean): Verdict {
    const data = Buffer.from(bytes.subarray(start, end)).toString()
    this.events.push(isError ? `error:${data}` : data)
    return this.verdict(data)
  }
  piece(_bytes: Uint8Array, start: number, end: number): void {
    this.pieces += end - start
  }
  pieceEnd(): Verdict {
    this.events.push(`flown:${this.pieces}`)
    this.pieces = 0
    return this.verdict('flown')
  }
}

function read(chunks: Iterable<Uint8Array>, reader: Recorder, complete = true): { early: Buffer; rest: Buffer; events: string[] } {
  const stream = new EventStream(reader)
  const early: Uint8Array[] = []
  for (const chunk of chunks) early.push(Uint8Array.from(stream.pass(Uint8Array.from(chunk))))
  return { early: Buffer.concat(early), rest: Buffer.from(stream.end(complete)), events: reader.events }
}

const samples: [string, string, string[]][] = [
  ['a byte order mark', '\uFEFFdata: {"a":1}\n\n', ['{"a":1}']],
  ['CRLF', 'data:{"a":1}\r\n\r\ndata: 2\r\n\r\n', ['{"a":1}', '2']],
  ['lone CR', 'data: 1\r\rdata: 2\r\r', ['1', '2']],
  ['mixed ends', 'data: 1\r\ndata: 2\n\rdata: 3\n\n', ['1\n2', '3']],
  ['several data lines', 'data: {"a":\ndata: 1}\n\n', ['{"a":\n1}']],
  ['comments', ': ping\n\n: OPENROUTER PROCESSING\n\n:\n\ndata: 1\n\n', ['1']],
  ['event names', 'event: ping\ndata: {"type":"ping"}\n\nevent: error\ndata: x\n\ndata: y\n\n', ['{"type":"ping"}', 'error:x', 'y']],
  ['many bytes a character', 'data: {"t":"€🎉"}\n\n', ['{"t":"€🎉"}']],
  ['all fields', 'id: 7\nretry: 3000\nevent: x\ndata: y\n\n', ['y']],
  ['only one space is taken', 'data:  y \n\n', [' y ']],
  ['a field without a colon', 'data\n\ndata: x\n\n', ['x']],
  ['other fields', 'dat: 1\ndatax: 2\ndata: 3\n\n', ['3']],
  ['no blank line at the end', 'data: 1\n\ndata: {"x":1}', ['1', '{"x":1}']],
  ['no data', 'event: x\n\n\n\n\ndata:\n\ndata: 1\n\n', ['1']],
]

t.test('U23: what the standard allows is understood, whole and cut anywhere', (t) => {
  for (const [what, text, events] of samples) {
    const bytes = Buffer.from(text)
    const ways = [[bytes], ...Array.from({ length: bytes.length }, (_, at) => [bytes.subarray(0, at), bytes.subarray(at)]), [...piecewise(bytes)]]
    for (const chunks of ways) {
      const found = read(chunks, new Recorder())
      t.strictSame(found.events, events, what)
      t.equal(Buffer.concat([found.early, found.rest]).toString(), text, `${what}: bytes`)
    }
  }
  t.end()
})

t.test('a chunk of whole events is given back as it is', (t) => {
  const stream = new EventStream(new Recorder())
  const chunk = Buffer.from('data: 1\n\ndata: 2\n\n')
  t.equal(stream.pass(chunk), chunk)
  t.end()
})

t.test('dropped events are gone and nothing else, whatever the cuts', (t) => {
  fc.assert(fc.property(
    fc.array(fc.record({ data: fc.constantFrom('keep', 'drop', 'k€ep'), end: fc.constantFrom('\n', '\r\n', '\r'), comment: fc.boolean() }), { maxLength: 12 }), fc.integer(),
    (events, seed) => {
      const frame = (event: typeof events[number]): string => `data: ${event.data}${event.end}${event.end}`
      // A comment of its own after a lone CR would be read as the LF of it only if it began with one: it does not.
      const text = events.map((event) => (event.comment ? `: c${event.end}${event.end}` : '') + frame(event)).join('')
      const wanted = events.map((event) => (event.comment ? `: c${event.end}${event.end}` : '') + (event.data === 'drop' ? '' : frame(event))).join('')
      const found = read(atRandom(Buffer.from(text), seeded(seed)), new Recorder((data) => data === 'drop' ? DROP : PASS))
      return Buffer.concat([found.early, found.rest]).toString() === wanted
    }), { numRuns: 500 })
  t.end()
})

t.test('from the event that says so on, everything waits for the end', (t) => {
  const text = 'data: 1\n\ndata: last\n\n: after\n\ndata: 2\n\n'
  for (const chunks of [[Buffer.from(text)], [...piecewise(Buffer.from(text))]]) {
    const found = read(chunks, new Recorder((data) => data === 'last' ? HOLD : PASS))
    t.equal(found.early.toString(), 'data: 1\n\n')
    t.equal(found.rest.toString(), 'data: last\n\n: after\n\ndata: 2\n\n')
    t.strictSame(found.events, ['1', 'last', '2'])
  }
  t.end()
})

t.test('an event too large to keep flows, and only its blank line can wait', (t) => {
  const size = EVENT_BYTES_MAX * 2
  const text = `data: 1\n\ndata: ${'x'.repeat(size)}\r\ndata: yz\n\ndata: 2\n\n`
  for (const length of [text.length, 1000, 65_536, 7]) {
    const found = read(piecewise(Buffer.from(text), length), new Recorder((data) => data === 'flown' ? HOLD : PASS))
    t.equal(Buffer.concat([found.early, found.rest]).equals(Buffer.from(text)), true, `in pieces of ${length}`)
    if (length === text.length) continue
    t.strictSame(found.events, ['1', `flown:${size + 2}`, '2'])
    t.equal(found.rest.toString(), '\ndata: 2\n\n')
  }
  t.end()
})

t.test('U26: a line of 50 MB, a million tiny events and ten thousand in one chunk cost linear time and little memory', (t) => {
  const timed = (what: string, boundMs: number, chunks: Iterable<Uint8Array>): void => {
    const stream = new EventStream(new Recorder())
    const start = process.cpuUsage()
    for (const chunk of chunks) stream.pass(chunk)
    stream.end(true)
    const took = process.cpuUsage(start).user / 1_000
    t.comment(`${what}: ${took.toFixed(0)} ms`)
    t.ok(took < boundMs, `${what} in ${took.toFixed(0)} ms`)
  }
  const filler = Buffer.alloc(65_536, 'x')
  timed('50 MB in one line', 3_000, (function* () {
    yield Buffer.from('data: ')
    for (let i = 0; i < 800; i++) yield filler
  })())
  const tiny = Buffer.from('data: 1\n\n'.repeat(10_000))
  timed('a million events', 6_000, Array.from({ length: 100 }, () => tiny))
  const lone = Buffer.from('data: 1\r\r'.repeat(7_000))
  timed('7,000 events that end with CR', 1_000, [lone])
  timed('250 KB of one event, one byte at a time', 3_000, piecewise(Buffer.from(`data: ${'x'.repeat(250_000)}`)))
  t.end()
})
