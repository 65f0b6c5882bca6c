import t from 'tap'
import { addressOf, dateOf, decimalOf, durationOf, instantOf, integerOf, percentOf, priceOf, sizeOf } from '../../src/config/scalars.ts'
import type { Answer } from '../../src/config/scalars.ts'
import { globsMeet } from '../../src/config/schema.ts'
import { weightedMeter } from '../../src/config/weighted-meter.ts'

/** `text → value`, or `text ✗` for one that is refused. */
function table<T>(name: string, read: (text: string) => Answer<T>, rows: string): void {
  t.test(name, async (t) => {
    for (const row of rows.trim().split('\n')) {
      const [, text = '', arrow, expected = ''] = /^\s*(.*?) ?(→|✗) ?(.*)$/.exec(row) ?? []
      const answer = read(text)
      if (arrow === '✗') t.ok('problem' in answer && answer.problem.includes(expected), `${text}: ${JSON.stringify(answer)}`)
      else t.equal('value' in answer ? JSON.stringify(answer.value) : answer.problem, expected, text)
    }
  })
}

const maxInteger = Number.MAX_SAFE_INTEGER

table('numbers are exact, and what is none is refused', (text) => integerOf(text, 0, maxInteger), `
  0 → 0
  20 → 20
  100_000 → 100000
  1_0_0 → 100
  100k → 100000
  2.5M → 2500000
  0.000001M → 1
  1G → 1000000000
  9007199254740991 → 9007199254740991
  9007199254740992 ✗ more than can be counted
  2.5 ✗ not a whole number
  0.0001k ✗ not a whole number
  1k5 ✗ not a number
  k ✗ not a number
  _1 ✗ not a number
  1_ ✗ not a number
  1. ✗ not a number
  .5 ✗ not a number
  00 ✗ begins with a zero
  -0 ✗ negative
  1 k ✗ not a number
  1,000 ✗ not a number
  ٣ ✗ not a number
  ${'9'.repeat(400)} ✗ too long
`)

table('durations are milliseconds', durationOf, `
  0 → 0
  500ms → 500
  30s → 30000
  1.5h → 5400000
  0.001s → 1
  7d → 604800000
  0.0001s ✗ not a duration
  0.5ms ✗ finer than a millisecond
  5 ✗ did you mean "5s"
  5min ✗ did you mean "5m"
  2 hours ✗ did you mean "2h"
  1w ✗ not a duration
  -5s ✗ not a duration
  1h30m ✗ not a duration
  999999999999d ✗ too long
`)

table('sizes are bytes', sizeOf, `
  0B → 0
  10MiB → 10485760
  1.5KiB → 1536
  0.3B ✗ not a whole number of bytes
  10 ✗ did you mean "10B"
  10MB ✗ did you mean "10MiB"
  10m ✗ did you mean "10MiB"
  ten ✗ not a size
`)

table('addresses', addressOf, `
  127.0.0.1:8080 → {"host":"127.0.0.1","port":8080}
  [::1]:0 → {"host":"::1","port":0}
  :80 → {"host":"0.0.0.0","port":80}
  localhost:1 → {"host":"localhost","port":1}
  ::1:80 ✗ not an address
  127.0.0.1 ✗ not an address
  http://h:80 ✗ not an address
  h:99999 ✗ not a port
`)

table('dates exist', dateOf, `
  2024-02-29 → "2024-02-29"
  2023-02-29 ✗ does not exist
  2023-13-01 ✗ does not exist
  0000-00-00 ✗ does not exist
  2023-1-1 ✗ not a date
`)

table('instants', instantOf, `
  2027-01-15 → 1799971200000
  2027-01-15T10:00Z → 1800007200000
  2027-01-15T10:00:00.5+02:00 → 1800000000500
  2027-01-15T10:00:00 ✗ not an instant
  2027-01-15T24:00:00Z ✗ not an instant
  2027-02-30T10:00:00Z ✗ not an instant
  30d ✗ counted from when
`)

table('percentages', percentOf, `
  10% → 10
  12.5% → 12.5
  0% → 0
  1000% → 1000
  1001% ✗ up to 1000%
  -1% ✗ up to 1000%
  ten% ✗ up to 1000%
`)

table('prices of a token are exact picos', (text) => priceOf(text, 1), `
  0.15/M → 150000
  0.000001/M → 1
  15/M → 15000000
  2/k → 2000000000
  0.1 → 100000000000
  0 → 0
  0.0000001/M ✗ finer than
  1/G ✗ not a price
  1k ✗ not a price
  -1/M ✗ not a price
  /M ✗ not a price
  1e-6 ✗ not a price
  10000 ✗ too much
`)

table('prices of a second are of its milliseconds', (text) => priceOf(text, 1000), `
  0.0002 → 200000
  0.000000001 → 1
  0.0000000001 ✗ finer than
`)

table('sums of meters are exact', (text) => weightedMeter('w', text), `
  input_tokens → {"name":"w","terms":[{"meter":"input_tokens","coefficient":1}],"scale":1}
  input_tokens + 4 * output_tokens → {"name":"w","terms":[{"meter":"input_tokens","coefficient":1},{"meter":"output_tokens","coefficient":4}],"scale":1}
  0.1*input_tokens+output_tokens*0.25 → {"name":"w","terms":[{"meter":"input_tokens","coefficient":2},{"meter":"output_tokens","coefficient":5}],"scale":20}
  2 * compute_seconds → {"name":"w","terms":[{"meter":"compute_seconds","coefficient":1}],"scale":500}
  0.5 * input_tokens + 0.5 * input_tokens → {"name":"w","terms":[{"meter":"input_tokens","coefficient":1}],"scale":1}
  1k * images + 0 * requests → {"name":"w","terms":[{"meter":"images","coefficient":1000}],"scale":1}
  input_tokens + ✗ a term is missing
  2 * 3 * input_tokens ✗ multiplies more than once
  input_tokens * output_tokens ✗ is not a number
  0.00000000001 * input_tokens ✗ too large or too fine
  concurrency ✗ cannot be part of a sum
`)

t.test('two patterns meet when one name can match both', async (t) => {
  const rows: readonly (readonly [string, string, boolean])[] = [
    ['a', 'a', true], ['a', 'b', false], ['*', '', true], ['', '', true], ['a*', '*b', true], ['a*b', 'ab*', true], ['a*b', 'c*', false], ['*a*', '*b*', true], ['gpt-*', 'gpt-4*', true], ['gpt-4', 'gpt-4*', true],
    ['gpt-*-mini', 'gpt-4o', false], ['*x', 'y*z', false], ['a**', 'a', true], ['ab', 'a', false], ['a', 'ab', false], ['a*a', 'a', false], ['*', '*', true], ['abc*', 'ab*d', true], ['abc*', 'ab', false],
  ]
  for (const [a, b, meets] of rows) {
    t.equal(globsMeet(a, b), meets, `${a} ${b}`)
    t.equal(globsMeet(b, a), meets, `${b} ${a}`)
  }
})

t.test('a decimal keeps every digit', async (t) => {
  t.strictSame(decimalOf('0.10'), { value: { units: 10n, decimals: 2 } })
})
