import { jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer } from './door.ts'
import { toTable } from './table.ts'

export const auditCommand: Command = {
  name: 'audit', summary: 'who changed what, and when',
  options: [
    { flags: '--target <name>', about: 'what was changed: an account, a key, a sink' },
    { flags: '--limit <count>', about: 'how many, the newest first; 100 unless given, at most 1,000' },
    jsonOption, ...doorOptions,
  ],
  examples: ['tallygate audit', 'tallygate audit --target acme --limit 20', 'tallygate audit --json'],
  run: (input, around) => throughDoor(input, around, async (door) => {
    const query = Object.fromEntries(['target', 'limit'].flatMap((name) => {
      const value = input.text(name)
      return value === undefined ? [] : [[name, value] as const]
    }))
    const answer = await door.ask('GET', '/api/v1/audit', { query })
    if (input.flag('json')) printJson(around, answer)
    else {
      print(around, toTable(rowsOf(answer, 'changes'), [
        { title: 'TIME', cell: (row) => cell(row, 'at') },
        { title: 'WHO', cell: (row) => cell(row, 'who') },
        { title: 'ACTION', cell: (row) => cell(row, 'action') },
        { title: 'TARGET', cell: (row) => cell(row, 'target') },
        { title: 'DETAILS', cell: detailsOf },
      ], 'nobody changed anything'))
    }
    return 0
  }),
}

function detailsOf({ details }: Answer): string {
  return Object.entries(details as Readonly<Record<string, unknown>>).map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`).join(' ')
}
