import { harmlessText } from '../acting-characters.ts'
import { toldInstant } from '../accounts/latest-instant.ts'
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
    const target = input.text('target')
    const answer = await door.ask('GET', '/api/v1/audit', { query })
    if (input.flag('json')) printJson(around, answer)
    else {
      print(around, toTable(rowsOf(answer, 'changes'), [
        { title: 'TIME', cell: (row) => cell(row, 'at') },
        { title: 'WHO', cell: (row) => cell(row, 'who') },
        { title: 'ACTION', cell: (row) => cell(row, 'action') },
        { title: 'TARGET', cell: (row) => cell(row, 'target') },
        { title: 'DETAILS', cell: detailsOf },
      ], target === undefined ? 'nobody changed anything' : `nothing of "${harmlessText(target)}" was changed`))
    }
    return 0
  }),
}

function detailsOf({ details }: Answer): string {
  return Object.entries(toReadable(details) as Readonly<Record<string, unknown>>).map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`).join(' ')
}

/** Earlier, a number of milliseconds is a length of time. */
const earliestMs = Date.UTC(2000, 0)

/** For people: instants as such, and nothing of what was left out. */
function toReadable(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(toReadable)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).filter(([, each]) => each !== null).map(([name, each]) => (
    name.endsWith('_ms') && typeof each === 'number' && each > earliestMs ? [name.slice(0, -'_ms'.length), toldInstant(each)] : [name, toReadable(each)]
  )))
}
