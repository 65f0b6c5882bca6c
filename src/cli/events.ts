import { harmlessJson, harmlessText } from '../acting-characters.ts'
import { mustBeAccount } from './accounts.ts'
import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command, Input, Surroundings } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer, Door } from './door.ts'
import { focusNumbers } from '../invoices/focus.ts'
import { toCsv } from './csv.ts'
import { given } from './keys.ts'
import { toTable } from './table.ts'

const waitS = 25

export const eventCommands: readonly Command[] = [
  {
    name: 'usage', summary: 'usage summed over events',
    options: [
      { flags: '--account <account>', about: 'of this account only' },
      { flags: '--since <when>', about: 'from then on: how long ago such as 24h (the default), or an instant' },
      { flags: '--until <when>', about: 'up to then' },
      { flags: '--by <fields>', about: 'comma-separated: account, key, plan, model, model_served, endpoint, provider, upstream, end, usage_source, status; account unless given' },
      { flags: '--bucket <size>', about: 'a row for each hour, day or month (UTC); of focus hour or day, and day unless given' },
      { flags: '--format <format>', about: 'table, which is the default, or focus: what calls cost, as CSV of FOCUS 1.2 for finance' },
      { flags: '--provider <name>', about: 'of focus: who provides and invoices; the gateway\'s instance unless given' },
      jsonOption, ...doorOptions,
    ],
    examples: ['tallygate usage', 'tallygate usage --account acme --since 7d --by model,key', 'tallygate usage --since 2026-11-01 --bucket day --json', 'tallygate usage --format focus --since 2026-11-01 --until 2026-12-01 > usage.csv'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const format = input.text('format') ?? 'table'
      if (format === 'focus') return await printFocus(door, input, around)
      if (format !== 'table') throw new CommandFailed(`--format is table or focus, not "${format}"`, 2)
      const by = input.text('by') ?? 'account'
      const answer = await door.ask('GET', '/api/v1/usage', {
        query: given({ from: input.text('since'), to: input.text('until'), by, bucket: input.text('bucket'), account: input.text('account') }),
      }).catch(inOptionNames)
      const rows = rowsOf(answer, 'rows')
      if (rows.length === 0) await mustBeAccount(door, input.text('account'))
      if (input.flag('json')) {
        printJson(around, answer)
        return 0
      }
      const groups = [...(input.text('bucket') === undefined ? [] : ['from']), ...by.split(',').map((name) => name.trim()).filter((name) => name !== '')]
      const sums = [['requests', 'REQUESTS'], ['input_tokens', 'INPUT'], ['cached_input_tokens', 'CACHED'], ['output_tokens', 'OUTPUT'], ['total_tokens', 'TOTAL']] as const
      print(around, toTable(rows, [
        ...groups.map((name) => ({ title: name.toUpperCase(), cell: (row: Answer) => cell(row, name) })),
        ...sums.map(([name, title]) => ({ title, cell: (row: Answer) => cell(row, name) })),
        ...(rows.some((row) => costOf(row) !== '') ? [{ title: 'COST', cell: costOf }] : []),
        ...(rows.some((row) => shadowOf(row) !== '') ? [{ title: 'SHADOW', cell: shadowOf }] : []),
      ], 'no usage in this time'))
      return 0
    }),
  },
  {
    name: 'events tail', summary: 'usage events as they are written, one a line',
    options: [
      { flags: '--since <when>', about: 'begin there: how long ago such as 1h, or an instant; now unless given' },
      { flags: '--no-follow', about: 'end when all is printed' },
      { flags: '--json', about: 'print each event as JSON' },
      ...doorOptions,
    ],
    examples: ['tallygate events tail', 'tallygate events tail --since 1h --no-follow --json'],
    run: (input, around) => throughDoor(input, around, (door) => tail(door, around, {
      since: input.text('since'), follow: door.running && !input.flag('no-follow'), json: input.flag('json'),
    })),
  },
  {
    name: 'events replay', summary: 'deliver to a sink again what was written since an instant',
    options: [
      { flags: '--sink <sink>', about: 'which sink' },
      { flags: '--since <when>', about: 'how long ago such as 24h, or an instant' },
      jsonOption, ...doorOptions,
    ],
    examples: ['tallygate events replay --sink file --since 24h'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('POST', '/api/v1/events/replay', { body: given({ sink: input.text('sink'), since: input.text('since') }) })
      if (input.flag('json')) printJson(around, answer)
      else {
        const { events, archived, sink } = answer
        const before = archived === 0 ? '' : `${String(archived)} events of the archive ${door.running ? 'are being' : 'were'} delivered to ${String(sink)} again${door.running ? '' : ', as far as it took them'}\n`
        print(around, `${before}${String(events)} events will be delivered to ${String(sink)} again${door.running ? '' : ' when the gateway runs'}`)
      }
      return 0
    }),
  },
  {
    name: 'events dead', summary: 'events that a sink refused for good',
    options: [
      { flags: '--sink <sink>', about: 'of this sink only' },
      { flags: '--retry', about: 'deliver them once more' },
      jsonOption, ...doorOptions,
    ],
    examples: ['tallygate events dead', 'tallygate events dead --retry --sink file'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const sink = given({ sink: input.text('sink') })
      if (input.flag('retry')) {
        const answer = await door.ask('POST', '/api/v1/events/dead/retry', { body: sink })
        if (input.flag('json')) printJson(around, answer)
        else print(around, `${String(answer['delivered'])} delivered, ${String(answer['failed'])} refused again`)
        return answer['failed'] === 0 ? 0 : 1
      }
      const answer = await door.ask('GET', '/api/v1/events/dead', { query: sink })
      if (input.flag('json')) printJson(around, answer)
      else {
        print(around, toTable(rowsOf(answer, 'dead'), [
          { title: 'SINK', cell: (row) => cell(row, 'sink') },
          { title: 'BURIED', cell: (row) => cell(row, 'buried_at') },
          { title: 'EVENT', cell: (row) => cell((row['event'] ?? {}) as Answer, 'id') },
          { title: 'REASON', cell: (row) => cell(row, 'reason') },
        ], 'no dead events'))
        const more = Number(answer['total']) - rowsOf(answer, 'dead').length
        if (more > 0) print(around, `and ${more.toLocaleString('en-US')} more`)
      }
      return 0
    }),
  },
  {
    name: 'events quarantined', summary: 'records that are not sent any more: whether the receiver booked them is not known',
    options: [
      { flags: '--sink <sink>', about: 'of this sink only' },
      { flags: '--send', about: 'send them: you know that they were not booked' },
      { flags: '--drop', about: 'forget them: you know that they were booked, or do not want them to be' },
      { flags: '--of <ids>', about: 'with --send or --drop: only of these events or sums, comma-separated; all of the sink unless given' },
      jsonOption, ...doorOptions,
    ],
    examples: ['tallygate events quarantined', 'tallygate events quarantined --sink stripe --drop --of 019ab2c0-7d41-7aaa-8bbb-0123456789ab'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const [send, drop, sink] = [input.flag('send'), input.flag('drop'), input.text('sink')]
      if (send && drop) throw new CommandFailed('--send and --drop exclude each other', 2)
      if (!send && !drop) {
        const answer = await door.ask('GET', '/api/v1/events/quarantined', { query: given({ sink }) })
        if (input.flag('json')) printJson(around, answer)
        else {
          print(around, toTable(rowsOf(answer, 'quarantined'), [
            { title: 'SINK', cell: (row) => cell(row, 'sink') },
            { title: 'OF', cell: (row) => cell(row, 'of') },
            { title: 'WHY', cell: (row) => cell(row, 'why') },
            { title: 'SENT', cell: (row) => cell(row, 'sent_at') },
            { title: 'REASON', cell: (row) => cell(row, 'reason') },
          ], 'nothing is in quarantine'))
        }
        return 0
      }
      if (sink === undefined) throw new CommandFailed('say of which sink: --sink NAME', 2)
      const answer = await door.ask('POST', '/api/v1/events/quarantined/release', { body: given({ sink, how: send ? 'send' : 'drop', of: input.text('of') }) })
      if (input.flag('json')) printJson(around, answer)
      else print(around, `${String(answer['released'])} ${send ? 'sent' : 'dropped'}, ${String(answer['failed'])} left`)
      return answer['failed'] === 0 ? 0 : 1
    }),
  },
  {
    name: 'events credit', summary: 'take an event back at a sink: its records once more, with negative values',
    arguments: [{ name: 'id', about: 'of the event' }],
    options: [{ flags: '--sink <sink>', about: 'which sink' }, jsonOption, ...doorOptions],
    examples: ['tallygate events credit 019ab2c0-7d41-7aaa-8bbb-0123456789ab --sink openmeter'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('POST', `/api/v1/events/${encodeURIComponent(input.arguments[0] ?? '')}/credit`, { body: given({ sink: input.text('sink') }) })
      if (input.flag('json')) printJson(around, answer)
      else print(around, answer['result'] === 'sent' ? `${String(answer['id'])} was taken back at ${String(answer['sink'])}` : `${String(answer['sink'])} was told nothing of ${String(answer['id'])}`)
      return 0
    }),
  },
  {
    name: 'sinks list', summary: 'what each sink is doing, and how far it is behind',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate sinks list', 'tallygate sinks list --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/sinks')
      if (input.flag('json')) printJson(around, answer)
      else {
        print(around, toTable(rowsOf(answer, 'sinks'), [
          { title: 'SINK', cell: (row) => cell(row, 'name') },
          { title: 'TYPE', cell: (row) => `${cell(row, 'type')}${row['contract'] === 'experimental' ? ' (experimental)' : ''}` },
          { title: 'STATE', cell: (row) => cell(row, 'state') },
          { title: 'WAITING', cell: (row) => cell(row, 'waiting') },
          { title: 'OLDEST', cell: (row) => cell(row, 'oldest_at') },
          { title: 'DEAD', cell: (row) => cell(row, 'dead') },
          { title: 'QUARANTINED', cell: (row) => cell(row, 'quarantined') },
          { title: 'LAST DELIVERY', cell: (row) => cell(row, 'last_delivery_at') },
          { title: 'NEXT TRY', cell: (row) => cell(row, 'next_try_at') },
          { title: 'REASON', cell: (row) => cell(row, 'reason') },
        ], 'no sinks'))
      }
      return 0
    }),
  },
  {
    name: 'sinks retry', summary: 'try a sink that waits or is paused again at once',
    arguments: [{ name: 'name', about: 'of the sink' }],
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate sinks retry billing'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const name = input.arguments[0] ?? ''
      const answer = await door.ask('POST', `/api/v1/sinks/${encodeURIComponent(name)}/retry`, { body: {} })
      if (input.flag('json')) printJson(around, answer)
      else print(around, `${name} ${retriedWords[String(answer['result'])] ?? String(answer['result'])}`)
      return answer['result'] === 'elsewhere' ? 1 : 0
    }),
  },
]

const retriedWords: Readonly<Record<string, string>> = {
  trying: 'is tried again now; what comes of it is in: tallygate sinks list', running: 'runs: it waits for nothing', elsewhere: 'was not tried: another gateway delivers to it; ask that one',
  replaying: 'is being told what the archive has; its own turn comes after that',
}

async function printFocus(door: Door, input: Input, around: Surroundings): Promise<number> {
  const answer = await door.ask('GET', '/api/v1/usage/focus', {
    query: given({ from: input.text('since'), to: input.text('until'), bucket: input.text('bucket'), account: input.text('account'), provider: input.text('provider') }),
  }).catch(inOptionNames)
  if (answer['events'] === 0 && answer['unpriced'] === 0) await mustBeAccount(door, input.text('account'))
  if (input.flag('json')) printJson(around, answer)
  else around.stdout.write(toCsv(answer['columns'] as string[], answer['rows'] as (string | null)[][], focusNumbers))
  // Beside the rows, which may go into a file.
  if (answer['unpriced'] !== 0) around.stderr.write(`${String(answer['unpriced'])} events have no price and are not among the rows\n`)
  return 0
}

/** The API calls them `from` and `to`; who typed an option reads that option's name. */
function inOptionNames(error: unknown): never {
  if (!(error instanceof CommandFailed)) throw error
  throw new CommandFailed(error.message.replace(/^from\b/, '--since').replace(/^to\b|\bto$/, '--until'), error.exitCode)
}

async function tail(door: Door, around: Surroundings, { since, follow, json }: { since: string | undefined; follow: boolean; json: boolean }): Promise<number> {
  // A moment back, so that an answer seen just before is not missed.
  let query: Record<string, string> = { since: since ?? (follow ? '1s' : '24h') }
  for (;;) {
    const answer = await door.ask('GET', '/api/v1/events', { query: { ...query, limit: '1000', wait: String(follow ? waitS : 0) } })
    const events = rowsOf(answer, 'events')
    for (const { event } of events) print(around, json ? harmlessJson(JSON.stringify(event)) : harmlessText(line(event as Answer)))
    if (!follow && events.length < 1_000) return 0
    if (typeof answer['next'] === 'string') query = { after: answer['next'] }
  }
}

function line(event: Answer): string {
  const data = (event['data'] ?? {}) as Answer
  const number = (name: string): string => String(data[name] ?? '-')
  return [
    String(data['settled_at'] ?? event['time']), String(data['account']), String(data['key']), String(data['endpoint']), String(data['model'] ?? '-'),
    `in=${number('input_tokens')}`, `out=${number('output_tokens')}`, `status=${number('status')}`, `end=${number('end')}`, `by=${number('usage_source')}`, String(event['id']),
  // oxlint-disable-next-line no-control-regex
  ].join('  ').replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')
}

/** `rpm 12, daily 3`: what shadow limits would have refused. */
function shadowOf(row: Answer): string {
  const shadow = row['shadow']
  if (typeof shadow !== 'object' || shadow === null) return ''
  return Object.entries(shadow).map(([limit, count]) => `${limit} ${String(count)}`).join(', ')
}

function costOf(row: Answer): string {
  const cost = row['cost']
  if (typeof cost !== 'object' || cost === null) return ''
  return Object.entries(cost).map(([currency, amount]) => `${String(amount)} ${currency}`).join(', ')
}
