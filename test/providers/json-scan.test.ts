// test: alone
// The scanners agree with JSON.parse on every text, and hostile texts cost no time.

import fc from 'fast-check'
import t from 'tap'
import { ARRAY, FALSE, JsonCapture, JsonTape, name, NULL, NUMBER, OBJECT, STRING, TRUE } from '../../src/providers/json-scan.ts'
import { RequestBody } from '../../src/providers/request-body.ts'
import { atRandom, piecewise, seeded } from './conformance.ts'

function valueOf(tape: JsonTape, node: number): unknown {
  switch (tape.kind(node)) {
    case OBJECT: {
      const members: [string, unknown][] = []
      for (let key = tape.first(node); key < tape.after(node); key = tape.after(tape.valueOf(key))) members.push([tape.text(key), valueOf(tape, tape.valueOf(key))])
      return Object.fromEntries(members)
    }
    case ARRAY: {
      const items: unknown[] = []
      for (let item = tape.first(node); item < tape.after(node); item = tape.after(item)) items.push(valueOf(tape, item))
      return items
    }
    case STRING: return tape.text(node)
    case NUMBER: return Number(tape.raw(node))
    case TRUE: return true
    case FALSE: return false
    case NULL: return null
    default: throw new Error('no kind')
  }
}

function parsed(text: string): { value: unknown } | null {
  try {
    return { value: JSON.parse(text) }
  } catch {
    return null
  }
}

t.test('the tape reads what JSON.parse reads', (t) => {
  const tape = new JsonTape()
  fc.assert(fc.property(fc.json({ maxDepth: 6 }), fc.constantFrom(0, 1, 2), (json, indent) => {
    const text = JSON.stringify(JSON.parse(json), null, indent)
    const bytes = Buffer.from(text)
    const wanted = JSON.parse(text) as unknown
    return tape.scan(bytes, 0, bytes.length) && JSON.stringify(valueOf(tape, 0)) === JSON.stringify(wanted)
  }), { numRuns: 500 })
  t.end()
})

t.test('the tape refuses what JSON.parse refuses', (t) => {
  const tape = new JsonTape()
  const pieces = ['{', '}', '[', ']', ',', ':', '"a"', '"\\u00e9"', '"\\x"', '1', '-', '01', '1.', '1e5', '-0', 'true', 'nul', 'null', ' ', '\n', '"', '\\', '\u0001', 'NaN', '//', '.5', '1E+', '"\t"']
  let accepted = 0
  fc.assert(fc.property(fc.array(fc.constantFrom(...pieces), { maxLength: 9 }), (chosen) => {
    const text = chosen.join('')
    const bytes = Buffer.from(text)
    const ours = tape.scan(bytes, 0, bytes.length)
    if (ours) accepted++
    return ours === (parsed(text) !== null)
  }), { numRuns: 20_000 })
  t.ok(accepted > 20, 'some of them are JSON')
  t.end()
})

t.test('the capture finds members wherever they stand, in chunks of any split', (t) => {
  const member = fc.constantFrom('usage', 'model', 'id', 'us\u0061ge', 'response', 'x"y', 'é', '\\')
  const value = fc.jsonValue({ maxDepth: 3 })
  fc.assert(fc.property(fc.array(fc.tuple(member, value), { maxLength: 8 }), fc.array(fc.tuple(member, value), { maxLength: 4 }), fc.integer(), (top, inner, seed) => {
    const object: Record<string, unknown> = {}
    for (const [key, item] of top) object[key] = item
    const nested: Record<string, unknown> = {}
    for (const [key, item] of inner) nested[key] = item
    object['response'] = nested
    const bytes = Buffer.from(JSON.stringify(object, null, seed % 3))
    const capture = new JsonCapture(['usage', 'model', 'response.usage', 'response.id'], 'response')
    for (const chunk of atRandom(bytes, seeded(seed))) capture.push(chunk)
    const found = (key: string): string | undefined => {
      const raw = capture.found(key)
      return raw === undefined ? undefined : JSON.stringify(JSON.parse(Buffer.from(raw).toString()))
    }
    return capture.closed && found('usage') === JSON.stringify(object['usage']) && found('model') === JSON.stringify(object['model']) &&
      found('response.usage') === JSON.stringify(nested['usage']) && found('response.id') === JSON.stringify(nested['id'])
  }), { numRuns: 1_000 })
  t.end()
})

t.test('the capture keeps nothing of what it was not asked for, and does not mistake text for members', (t) => {
  const capture = new JsonCapture(['usage'])
  const text = '\n\n {"choices":[{"usage":1,"text":"\\"usage\\":2,{\\\\"}],"usa\\u0067e" : {"a":[1,{"usage":3}]} ,"z":"}"}'
  for (const chunk of piecewise(Buffer.from(text))) capture.push(chunk)
  t.equal(Buffer.from(capture.found('usage') ?? []).toString().trim(), '{"a":[1,{"usage":3}]}')
  t.equal(capture.closed, true)
  const huge = new JsonCapture(['usage'])
  huge.push(Buffer.from(`{"usage":"${'x'.repeat(100_000)}"}`))
  t.equal(huge.found('usage'), undefined, 'a member larger than any usage is not kept')
  t.end()
})

const refusals: [string, string | Uint8Array, RegExp][] = [
  ['empty', '', /empty/],
  ['null', 'null', /JSON object/],
  ['an array', '[]', /JSON object/],
  ['a string', '"x"', /JSON object/],
  ['a byte order mark', '\uFEFF{}', /byte order mark/],
  ['UTF-16', Buffer.from('{"a":1}', 'utf16le'), /not valid JSON/],
  ['invalid UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), /UTF-8/],
  ['a surrogate as bytes', Buffer.from([0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x3a, 0x31, 0x7d]), /UTF-8/],
  ['a comment', '{"a":1 /* x */}', /not valid JSON/],
  ['a trailing comma', '{"a":1,}', /not valid JSON/],
  ['NaN', '{"a":NaN}', /not valid JSON/],
  ['two documents', '{"a":1}{"a":2}', /follows its end/],
  ['NUL behind it', '{"a":1}\0', /follows its end/],
  ['a member twice', '{"model":"cheap","model":"costly"}', /"model" twice/],
  ['a member twice, one of them escaped', '{"model":"cheap","mod\\u0065l":"costly"}', /"model" twice/],
  ['65 levels', `{"a":${'['.repeat(64)}${']'.repeat(64)}}`, /deeper than 64/],
]
for (const [what, body, sentence] of refusals) {
  t.test(`B4, B7, B10: a body that is ${what} is refused with a sentence`, (t) => {
    t.throws(() => new RequestBody(Buffer.from(body as string)), { code: 'bad_request', message: sentence })
    t.end()
  })
}

t.test('B2, B3: hostile bodies stall nobody', (t) => {
  const timed = (what: string, text: string): void => {
    const bytes = Buffer.from(text)
    let best = Infinity
    // Processor time, the least of five: other work on the machine slows even that, so the file runs alone.
    for (let i = 0; i < 5; i++) {
      const start = process.cpuUsage()
      try {
        new RequestBody(bytes)
      } catch (error) {
        t.equal((error as { code?: string }).code, 'bad_request')
      }
      const { user } = process.cpuUsage(start)
      best = Math.min(best, user / 1_000)
    }
    t.comment(`${what}: ${best.toFixed(1)} ms of processor`)
    t.ok(best < 50, `${what}: ${best.toFixed(1)} ms`)
  }
  timed('2 million nested arrays', `{"a":${'['.repeat(2_000_000)}${']'.repeat(2_000_000)}}`)
  timed('300,000 keys at the top', `{${Array.from({ length: 300_000 }, (_, i) => `"k${i}":1`).join(',')}}`)
  timed('300,000 keys further down', `{"a":{${Array.from({ length: 300_000 }, (_, i) => `"k${i}":1`).join(',')}}}`)
  timed('colliding numeric keys', `{${Array.from({ length: 100_000 }, (_, i) => `"${i * 65_536}":1`).join(',')}}`)
  timed('2 million empty arrays', `{"a":[${'[],'.repeat(2_000_000)}[]]}`)
  t.end()
})

t.test('a name is found by its bytes, escaped or not, and the last of several counts', (t) => {
  const tape = new JsonTape()
  const bytes = Buffer.from('{"b":1,"a":2,"\\u0061":3}')
  t.ok(tape.scan(bytes, 0, bytes.length))
  t.equal(tape.raw(tape.member(0, name('a'))), '3')
  t.equal(tape.member(0, name('c')), -1)
  t.end()
})
