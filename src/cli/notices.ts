import { mustBeAccount } from './accounts.ts'
import { jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer } from './door.ts'
import { toTable } from './table.ts'

export const noticesCommand: Command = {
  name: 'notices', summary: 'what somebody was told: limits that run out, subscriptions that end, grants that expire',
  options: [
    { flags: '--account <account>', about: 'of this account alone' },
    { flags: '--since <when>', about: 'an instant, or how long ago (24h); all, unless given' },
    { flags: '--type <type>', about: 'threshold, forecast, subscription, grant_expiring or breakage' },
    jsonOption, ...doorOptions,
  ],
  examples: ['tallygate notices', 'tallygate notices --account acme --since 7d', 'tallygate notices --type threshold --json'],
  run: (input, around) => throughDoor(input, around, async (door) => {
    const query = Object.fromEntries(['account', 'since', 'type'].flatMap((name) => {
      const value = input.text(name)
      return value === undefined ? [] : [[name, value] as const]
    }))
    const answer = await door.ask('GET', '/api/v1/notices', { query })
    if (rowsOf(answer, 'notices').length === 0) await mustBeAccount(door, input.text('account'))
    if (input.flag('json')) printJson(around, answer)
    else {
      print(around, toTable(rowsOf(answer, 'notices'), [
        { title: 'TIME', cell: (row) => cell(row, 'time') },
        { title: 'ACCOUNT', cell: (row) => cell(row, 'subject') },
        { title: 'TYPE', cell: (row) => cell(dataOf(row), 'type') },
        { title: 'WHAT', cell: (row) => cell(dataOf(row), 'text') },
      ], 'nothing was told'))
      if (typeof answer['more'] === 'number' && answer['more'] > 0) print(around, `and ${answer['more']} older ones`)
    }
    return 0
  }),
}

function dataOf(row: Answer): Answer {
  const { data } = row
  return typeof data === 'object' && data !== null ? data as Answer : {}
}
