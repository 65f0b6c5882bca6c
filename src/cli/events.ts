import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command, Surroundings } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer, Door } from './door.ts'
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
      { flags: '--by <fields>', about: 'comma-separated: account, key, plan, model, endpoint, provider, upstream, end, usage_source; account unless given' },
      { flags: '--bucket <size>', about: 'a row for each hour, day or month (UTC)' },
      jsonOption, ...doorOptions,
    ],
    examples: ['tallygate usage', 'tallygate usage --account acme --since 7d --by model,key', 'tallygate usage --since 2026-11-01 --bucket day --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const by = input.text('by') ?? 'account'
      const answer = await door.ask('GET', '/api/v1/usage', {
        query: given({ from: input.text('since'), to: input.text('until'), by, bucket: input.text('bucket'), account: input.text('account') }),
      }).catch(inOptionNames)
      if (input.flag('json')) {
        printJson(around, answer)
        return 0
      }
      const groups = [...(input.text('bucket') === undefined ? [] : ['from']), ...by.split(',').map((name) => name.trim()).filter((name) => name !== '')]
      const sums = [['requests', 'REQUESTS'], ['input_tokens', 'INPUT'], ['cached_input_tokens', 'CACHED'], ['output_tokens', 'OUTPUT'], ['total_tokens', 'TOTAL']] as const
      const rows = rowsOf(answer, 'rows')
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
      }
      return 0
    }),
  },
]

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
    for (const { event } of events) print(around, json ? JSON.stringify(event) : line(event as Answer))
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
