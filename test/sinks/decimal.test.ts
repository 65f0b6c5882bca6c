import fc from 'fast-check'
import t from 'tap'
import { decimalOf, shifted, sumOf } from '../../src/sinks/decimal.ts'

t.test('a decimal moves its point exactly', async (t) => {
  for (const [value, places, expected] of [
    ['0.0125', 2, '1.25'], ['12', 2, '1200'], ['-0.000001', 2, '-0.0001'], ['100', -2, '1'], ['5', -3, '0.005'], ['10', 0, '10'], ['0', 2, '0'], ['-0.00', 1, '0'], ['0.10', 0, '0.1'],
    ['99999999999999999999.999999999', 2, '9999999999999999999999.9999999'],
  ] as const) t.equal(shifted(value, places), expected, `${value} by ${places}`)
})

t.test('there and back again is the same, and sums are exact', async () => {
  const decimal = fc.tuple(fc.bigInt({ min: -(10n ** 20n), max: 10n ** 20n }), fc.nat(9)).map(([digits, places]) => shifted(digits.toString(), -places))
  fc.assert(fc.property(decimal, fc.nat(9), (value, places) => shifted(shifted(value, places), -places) === value))
  fc.assert(fc.property(fc.array(decimal), (values) => shifted(sumOf(values), 9) === values.reduce((sum, value) => sum + BigInt(shifted(value, 9)), 0n).toString()))
})

t.test('what a receiver tells is a quantity or nothing', async (t) => {
  for (const [value, expected] of [[1e21, '1000000000000000000000'], [0.1 + 0.2, '0.3'], [-5, '-5'], [0, '0'], ['1.50', '1.50'], ['x', null], ['', null], [NaN, null], [null, null], ['1e5', null]] as const) t.equal(decimalOf(value), expected)
})
