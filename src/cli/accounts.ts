import { jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer } from './door.ts'
import { given } from './keys.ts'
import { toTable } from './table.ts'

const whichAccount = [{ name: 'id', about: 'which account' }]

export const accountCommands: readonly Command[] = [
  {
    name: 'accounts list', summary: 'all accounts, keys that are their own account among them',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate accounts list', 'tallygate accounts list --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/accounts')
      if (input.flag('json')) printJson(around, answer)
      else {
        print(around, toTable(rowsOf(answer, 'accounts'), [
          { title: 'ACCOUNT', cell: (row) => cell(row, 'id') },
          { title: 'PLAN', cell: (row) => cell(row, 'plan') },
          { title: 'UNDER', cell: (row) => cell(row, 'parent') },
          { title: 'KEYS', cell: (row) => cell(row, 'keys') },
          { title: 'STATE', cell: stateOf },
        ], 'no accounts yet: they stand in the config'))
      }
      return 0
    }),
  },
  {
    name: 'accounts suspend', summary: 'refuse every call of an account and of those under it, until it is resumed',
    arguments: whichAccount,
    options: [{ flags: '--reason <text>', about: 'why, for the record' }, jsonOption, ...doorOptions],
    examples: ['tallygate accounts suspend acme --reason "invoice 2026-10 unpaid"'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('POST', `/api/v1/accounts/${encodeURIComponent(input.arguments[0] ?? '')}/suspend`, { body: given({ reason: input.text('reason') }) })
      if (input.flag('json')) printJson(around, answer)
      else print(around, `${String(answer['id'])} is suspended`)
      return 0
    }),
  },
  {
    name: 'accounts resume', summary: 'lift the suspension of an account',
    arguments: whichAccount,
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate accounts resume acme'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('POST', `/api/v1/accounts/${encodeURIComponent(input.arguments[0] ?? '')}/resume`)
      if (input.flag('json')) printJson(around, answer)
      else print(around, answer['state'] === 'active' ? `${String(answer['id'])} is active again` : `${String(answer['id'])} is still suspended by the config`)
      return 0
    }),
  },
  {
    name: 'plans list', summary: 'the plans in use, with their limits',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate plans list'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/plans')
      if (input.flag('json')) {
        printJson(around, answer)
        return 0
      }
      const rows = rowsOf(answer, 'plans').flatMap((plan) => {
        const limits = rowsOf(plan, 'limits')
        return limits.length === 0 ? [{ plan, limit: {} as Answer }] : limits.map((limit) => ({ plan, limit }))
      })
      print(around, toTable(rows, [
        { title: 'PLAN', cell: ({ plan }) => cell(plan, 'name') },
        { title: 'VERSION', cell: ({ plan }) => cell(plan, 'version') },
        { title: 'LIMIT', cell: ({ limit }) => cell(limit, 'name') },
        { title: 'METER', cell: ({ limit }) => cell(limit, 'meter') },
        { title: 'CEILING', cell: ({ limit }) => (limit['name'] === undefined ? null : (cell(limit, 'limit') ?? 'unlimited')) },
        { title: 'WINDOW', cell: ({ limit }) => cell(limit, 'window') },
        { title: 'PER', cell: ({ limit }) => cell(limit, 'per') },
        { title: 'MODE', cell: ({ limit }) => cell(limit, 'mode') },
      ], 'no plans'))
      return 0
    }),
  },
]

function stateOf(row: Answer): string {
  if (row['suspended'] !== true) return 'active'
  const where = Array.isArray(row['suspended_in']) ? (row['suspended_in'] as unknown[]).map(String).join(' and ') : ''
  return `suspended (${where === '' ? `by parent ${String(row['suspended_parent'])}` : where})`
}
