import { CommandFailed, jsonOption, print, printJson, type Command, type Surroundings } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor, type Answer } from './door.ts'
import { given } from './keys.ts'
import { toTable } from './table.ts'

export const reconcileCommand: Command = {
  name: 'reconcile', summary: 'what was settled beside what a billing system has booked, every difference explained',
  options: [
    { flags: '--sink <sink>', about: 'which sink' },
    { flags: '--period <period>', about: 'by admission, UTC: a month such as 2026-11, a day, or FROM/UNTIL' },
    { flags: '--account <account>', about: 'of this account only' },
    { flags: '--each', about: 'look every record up, also where totals agree' },
    { flags: '--apply', about: 'send what puts the receiver\'s books right' },
    jsonOption, ...doorOptions,
  ],
  examples: ['tallygate reconcile --sink openmeter --period 2026-11', 'tallygate reconcile --sink lago --period 2026-11-22 --account acme --apply'],
  run: (input, around) => throughDoor(input, around, async (door) => {
    const sink = input.text('sink')
    const period = input.text('period')
    if (sink === undefined) throw new CommandFailed('say of which sink: --sink NAME', 2)
    if (period === undefined) throw new CommandFailed('say of which time: --period 2026-11', 2)
    const path = `/api/v1/sinks/${encodeURIComponent(sink)}/reconciliation`
    const asked = given({ period, account: input.text('account'), each: input.flag('each') ? 'true' : undefined })
    const answer = await (input.flag('apply') ? door.ask('POST', path, { body: asked }) : door.ask('GET', path, { query: asked }))
    if (input.flag('json')) printJson(around, answer)
    else printReport(around, answer, input.flag('apply'))
    return answer['unexplained'] === 0 ? 0 : 1
  }),
}

const parts = [['late', 'LATE'], ['refused', 'REFUSED'], ['quarantined', 'QUARANTINED'], ['missing', 'MISSING'], ['doubled', 'DOUBLED'], ['unexplained', 'UNEXPLAINED']] as const

function printReport(around: Surroundings, answer: Answer, applied: boolean): void {
  const rows = rowsOf(answer, 'rows')
  const differences = rowsOf(answer, 'differences')
  print(around, `${String(answer['sink'])} (${String(answer['type'])}), ${periodWords(String(answer['from']), String(answer['until']))}; ${howAsked(String(answer['asked']))}\n`)
  print(around, toTable(rows, [
    { title: 'ACCOUNT', cell: (row) => (row['accounts'] as string[]).join(',') },
    { title: 'CUSTOMER', cell: (row) => cell(row, 'customer') },
    { title: 'METER', cell: (row) => cell(row, 'code') },
    { title: 'RECORDS', cell: (row) => cell(row, 'records') },
    { title: 'OURS', cell: (row) => amount(row, 'ours') },
    { title: 'THEIRS', cell: (row) => amount(row, 'theirs') },
    { title: 'DIFFERENCE', cell: (row) => amount(row, 'difference') },
    ...parts.filter(([name]) => rows.some((row) => row[name] !== '0')).map(([name, title]) => ({ title, cell: (row: Answer) => amount(row, name) })),
  ], 'nothing was settled for this sink in this time'))
  if (differences.length > 0) {
    print(around, `\n${toTable(differences, [
      { title: 'WHY', cell: (row) => cell(row, 'why') },
      { title: 'RECORD', cell: (row) => cell(row, 'record') ?? `${String(row['records'])} records` },
      { title: 'ACCOUNT', cell: (row) => cell(row, 'account') },
      { title: 'METER', cell: (row) => cell(row, 'code') },
      { title: 'AT', cell: (row) => (row['from'] === row['until'] ? cell(row, 'from') : `${String(row['from'])}/${String(row['until'])}`) },
      { title: 'AMOUNT', cell: (row) => amount(row, 'amount') },
      { title: 'REASON', cell: (row) => cell(row, 'reason') },
      { title: 'COMPENSATION', cell: compensation },
    ], '')}`)
  }
  const notes = answer['notes'] as readonly string[]
  const unmapped = answer['unmapped'] === 0 ? [] : [`${String(answer['unmapped'])} events were left out: their accounts have no customer there`]
  const idle = applied && differences.every(({ outcome }) => outcome === null) ? ['There is nothing to apply: nothing was sent.'] : []
  const count = Number(answer['unexplained'])
  const verdict = answer['asked'] === 'nothing' ? 'The receiver cannot be asked: this is what is known here.'
    : count === 0 ? 'Every difference is explained.' : `${count} ${count === 1 ? 'difference is' : 'differences are'} not explained by our books.`
  print(around, `\n${[...notes, ...unmapped, verdict, ...idle].join('\n')}`)
}

/** A whole month or day as one is asked for. */
function periodWords(from: string, until: string): string {
  const next = new Date(from)
  if (from.endsWith('-01T00:00:00.000Z')) {
    next.setUTCMonth(next.getUTCMonth() + 1)
    if (next.toISOString() === until) return from.slice(0, 7)
  }
  const isDay = from.endsWith('T00:00:00.000Z') && Date.parse(until) - Date.parse(from) === 86_400_000
  return isDay ? from.slice(0, 10) : `${from} until ${until}`
}

function howAsked(asked: string): string {
  return asked === 'nothing' ? 'the receiver cannot be asked' : `asked for ${asked}`
}

/** As a number where it can be one without losing anything. */
function amount(row: Answer, name: string): string | number | null {
  const text = row[name]
  if (typeof text !== 'string') return null
  const number = Number(text)
  return Number.isSafeInteger(number) ? number : text
}

function compensation(row: Answer): string {
  const { how, because, record } = row['compensation'] as Answer
  if (typeof row['outcome'] === 'string') return row['outcome']
  if (how === 'none') return `none: ${String(because)}`
  const { id, value } = record as Answer
  return how === 'drop' ? 'forget it: it was booked' : `send ${String(id)}${value === undefined ? '' : ` ${String(value)}`}`
}
