// traceparent and tracestate, by W3C's own words: what is valid is joined, what is not is not there.

import t from 'tap'
import { systemRandom } from '../../src/random.ts'
import { traceOf } from '../../src/telemetry/trace-context.ts'

const traceId = '0af7651916cd43dd8448eb211c80319c'
const spanId = 'b7ad6b7169203331'
const good = `00-${traceId}-${spanId}-01`
const of = (headers: readonly string[], share = 1): ReturnType<typeof traceOf> => traceOf(headers, share, systemRandom)

t.test('a valid caller\'s context is continued, under two new spans', async (t) => {
  const trace = of(['accept', '*/*', 'traceparent', good, 'tracestate', 'congo=t61rcWkgMzE, rojo=00f067aa0ba902b7'])
  t.match(trace, { traceId, parentId: spanId, sampled: true, state: 'congo=t61rcWkgMzE,rojo=00f067aa0ba902b7' })
  t.match(trace.upstreamParent, new RegExp(`^00-${traceId}-${trace.upstreamSpanId}-01$`))
  t.equal(new Set([spanId, trace.spanId, trace.upstreamSpanId]).size, 3)
  t.match(of(['traceparent', `00-${traceId}-${spanId}-00`]), { sampled: false, upstreamParent: /-00$/ }, 'the caller has decided')
  t.match(of(['traceparent', `00-${traceId}-${spanId}-03`]), { sampled: true, upstreamParent: /-03$/ }, 'the random bit goes on')
  t.match(of(['traceparent', `00-${traceId}-${spanId}-fd`]), { sampled: true, upstreamParent: /-01$/ }, 'bits that nobody knows do not')
  t.match(of(['traceparent', `cc-${traceId}-${spanId}-01-what-the-future-brings`]), { traceId, upstreamParent: /^00-/ }, 'a later version is read as this one')
  t.match(of(['traceparent', `cc-${traceId}-${spanId}-01`]), { traceId })
})

t.test('what cannot be read is not there: a new trace begins, without the state', async (t) => {
  const bad = [
    '', 'x', good.toUpperCase(), `${good}-more`, `${good} `, ` ${good}`, `ff-${traceId}-${spanId}-01`, `0-${traceId}-${spanId}-01`, `00-${'0'.repeat(32)}-${spanId}-01`, `00-${traceId}-${'0'.repeat(16)}-01`,
    `00-${traceId.slice(1)}-${spanId}-01`, `00-${traceId}-${spanId}-1`, `00-${traceId}-${spanId}-0g`, `00_${traceId}_${spanId}_01`, `cc-${traceId}-${spanId}-01.x`, `cc-${traceId}-${spanId}-01-${'x'.repeat(300)}`,
    `${good},${good}`, `00-${traceId}-${spanId}-01\u0000`,
  ]
  for (const text of bad) {
    const trace = of(['traceparent', text, 'tracestate', 'a=1'])
    t.match(trace, { parentId: null, state: '', upstreamParent: /^00-[0-9a-f]{32}-[0-9a-f]{16}-03$/ }, JSON.stringify(text.slice(0, 70)))
    t.not(trace.traceId, traceId)
  }
  t.equal(of(['traceparent', good, 'traceparent', good]).parentId, null, 'said twice')
  t.equal(of([]).parentId, null)
  t.equal(of(['tracestate', 'a=1']).state, '')
})

t.test('a state that cannot be read is dropped whole; the trace goes on', async (t) => {
  const state = (...texts: string[]): string => {
    const trace = of(['traceparent', good, ...texts.flatMap((text) => ['tracestate', text])])
    t.equal(trace.parentId, spanId)
    return trace.state
  }
  t.equal(state('a=1', 'b=2'), 'a=1,b=2', 'two headers are one list')
  t.equal(state('a=1,,b=2, '), 'a=1,b=2')
  t.equal(state('fw529a3039@dt=x;y:z, 1tenant@sys=! ~'), 'fw529a3039@dt=x;y:z,1tenant@sys=! ~')
  for (const bad of ['a', '=1', 'A=1', 'a=1,a=2', 'a=\u0001', 'a=1=2', 'a=é', 'a b=1', `a=${'x'.repeat(257)}`, `${'a'.repeat(257)}=1`, Array.from({ length: 33 }, (_, i) => `k${i}=1`).join(','), `a=1,${'b'.repeat(5_000)}`]) {
    t.equal(state(bad), '', bad.slice(0, 40))
  }
})

t.test('so many of the traces that begin here are recorded, and everybody who looks at an id decides alike', async (t) => {
  for (const [share, least, most] of [[0, 0, 0], [1, 4_000, 4_000], [0.1, 300, 500], [0.5, 1_850, 2_150]] as const) {
    const sampled = Array.from({ length: 4_000 }, () => of([], share)).filter((trace) => trace.sampled)
    t.ok(sampled.length >= least && sampled.length <= most, `${sampled.length} of 4000 at ${share}`)
    t.ok(sampled.every(({ upstreamParent }) => upstreamParent.endsWith('-03')))
  }
  const fixed = (fill: number): ReturnType<typeof traceOf> => traceOf([], 0.5, { bytes: (count) => new Uint8Array(count).fill(fill), fraction: () => 0 })
  t.equal(fixed(0x7f).sampled, false)
  t.equal(fixed(0x80).sampled, true)
  t.match(fixed(0), { traceId: /1$/, spanId: /1$/, upstreamSpanId: /1$/ }, 'an id of zeros would mean none')
})
