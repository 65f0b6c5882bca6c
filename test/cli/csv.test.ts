import t from 'tap'
import { toCsv } from '../../src/cli/csv.ts'

const none = new Set<string>()

t.test('W2: texts that a spreadsheet would run begin with an apostrophe, numbers stay numbers', async (t) => {
  for (const evil of ['=HYPERLINK("http://x")', '+1', '-1+1', '@SUM(A1)', ' =1', '\t=1', '\r=1', '\n=1', '＝1', '\u00a0=1', '|cmd', '｜cmd', '-2+3+cmd|\' /C calc\'!A0']) {
    const [, line = ''] = /^a\r\n([\s\S]*)\r\n$/.exec(toCsv(['a'], [[evil]], none)) ?? []
    const value = line.startsWith('"') ? line.slice(1, -1).replaceAll('""', '"') : line
    t.equal(value, `'${evil}`)
  }
  t.equal(toCsv(['n', 'a'], [['-0.000000001', '-0.1'], ['=1', 'a']], new Set(['n'])), 'n,a\r\n-0.000000001,\'-0.1\r\n\'=1,a\r\n', 'in a column of numbers only what is one')
})

t.test('W2: NUL is left out, and hides no formula', async (t) => {
  t.equal(toCsv(['a'], [['a\0b'], ['\0=1'], ['\0\t=1'], ['\0']], none), 'a\r\nab\r\n\'=1\r\n\'\t=1\r\n\r\n')
})

t.test('W2: commas, quotes and line ends are quoted; null is nothing and a text is never taken for it', async (t) => {
  t.equal(toCsv(['a', 'b,c'], [['x,y', 'say "hi"'], ['two\nlines', null]], none), 'a,"b,c"\r\n"x,y","say ""hi"""\r\n"two\nlines",\r\n')
})
