import { mustBeAccount } from './accounts.ts'
import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import { given } from './keys.ts'
import { toTable } from './table.ts'

const accountOption = { flags: '--account <account>', about: 'which account' }

export const grantCommands: readonly Command[] = [
  {
    name: 'grants list', summary: 'grants of the config and those given at run time, with what is left of them',
    options: [accountOption, { flags: '--breakage', about: 'what grants had left when they expired' }, jsonOption, ...doorOptions],
    examples: ['tallygate grants list --account acme', 'tallygate grants list --json', 'tallygate grants list --breakage'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const breakage = input.flag('breakage')
      const answer = await door.ask('GET', breakage ? '/api/v1/breakage' : '/api/v1/grants', { query: given({ account: input.text('account') }) })
      if (rowsOf(answer, breakage ? 'breakage' : 'grants').length === 0) await mustBeAccount(door, input.text('account'))
      if (input.flag('json')) printJson(around, answer)
      else if (breakage) {
        print(around, toTable(rowsOf(answer, 'breakage'), [
          { title: 'ACCOUNT', cell: (row) => cell(row, 'account') },
          { title: 'GRANT', cell: (row) => cell(row, 'grant') },
          { title: 'LIMIT', cell: (row) => cell(row, 'limit') },
          { title: 'AMOUNT', cell: (row) => cell(row, 'amount') },
          { title: 'LEFT', cell: (row) => cell(row, 'left') },
          { title: 'EXPIRED', cell: (row) => cell(row, 'expired_at') },
        ], 'no grant has expired with something left'))
      } else {
        print(around, toTable(rowsOf(answer, 'grants'), [
          { title: 'ACCOUNT', cell: (row) => cell(row, 'account') },
          { title: 'GRANT', cell: (row) => cell(row, 'id') },
          { title: 'LIMIT', cell: (row) => cell(row, 'limit') },
          { title: 'AMOUNT', cell: (row) => cell(row, 'amount') },
          { title: 'LEFT', cell: (row) => cell(row, 'remaining') },
          { title: 'PRIORITY', cell: (row) => cell(row, 'priority') },
          { title: 'EXPIRES', cell: (row) => cell(row, 'expires_at') },
          { title: 'SOURCE', cell: (row) => cell(row, 'source') },
          { title: 'STATE', cell: (row) => cell(row, 'state') },
          { title: 'WHERE', cell: (row) => cell(row, 'where') },
        ], 'no grants'))
      }
      return 0
    }),
  },
  {
    name: 'grants add', summary: 'give an account an amount beyond one of its limits',
    options: [
      accountOption,
      { flags: '--limit <limit>', about: 'the limit that it extends, by its name' },
      { flags: '--amount <amount>', about: 'how much, as in the config: 500k, 25.50, 2h' },
      { flags: '--id <id>', about: 'a name of your own for it: said again, it is given once' },
      { flags: '--priority <number>', about: 'the lowest is drawn first; 100, unless given' },
      { flags: '--effective <when>', about: 'a day or an instant; now, unless given' },
      { flags: '--expires <when>', about: 'a day or an instant; never, unless given' },
      { flags: '--purchase', about: 'it was paid for' },
      { flags: '--note <text>', about: 'for people' },
      jsonOption, ...doorOptions,
    ],
    examples: [
      'tallygate grants add --account acme --limit monthly --amount 500k --id ticket-4711 --expires 2027-02-01 --note "for the outage"',
      'tallygate grants add --account acme --limit credit --amount 25 --purchase --id invoice-2027-0042',
    ],
    run: (input, around) => throughDoor(input, around, async (door) => {
      for (const name of ['account', 'limit', 'amount']) if (input.text(name) === undefined) throw new CommandFailed(`--${name} is missing`, 2)
      const chosen = given(Object.fromEntries(['account', 'limit', 'amount', 'id', 'priority', 'effective', 'expires', 'note'].map((name) => [name, input.text(name)])))
      const answer = await door.ask('POST', '/api/v1/grants', { body: { ...chosen, ...(input.flag('purchase') ? { source: 'purchase' } : {}) } })
      if (input.flag('json')) printJson(around, answer)
      else {
        const amount = typeof answer['remaining'] === 'number' ? answer['remaining'].toLocaleString('en-US', { maximumFractionDigits: 9 }) : ''
        const until = typeof answer['expires_at'] === 'string' ? ` until ${answer['expires_at']}` : ''
        print(around, `${String(answer['account'])} has ${amount} ${String(answer['meter'])} more for ${String(answer['limit'])}${until} (${String(answer['account'])}/${String(answer['id'])})`)
      }
      return 0
    }),
  },
  {
    name: 'grants revoke', summary: 'take back what is left of a grant, also of one of the config',
    arguments: [{ name: 'grant', about: 'account/grant, as the list has them' }],
    options: [{ flags: '--reason <text>', about: 'why' }, jsonOption, ...doorOptions],
    examples: ['tallygate grants revoke acme/ticket-4711', 'tallygate grants revoke acme/included@2027-01-01T00:00:00Z', 'tallygate grants revoke acme/included --reason "moved to another plan"'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const [account = '', ...rest] = (input.arguments[0] ?? '').split('/')
      if (rest.length === 0) throw new CommandFailed('say which as ACCOUNT/GRANT, such as acme/ticket-4711', 2)
      const answer = await door.ask('DELETE', `/api/v1/grants/${encodeURIComponent(account)}/${encodeURIComponent(rest.join('/'))}`, { query: given({ reason: input.text('reason') }) })
      if (input.flag('json')) printJson(around, answer)
      else print(around, `${String(answer['account'])}/${String(answer['id'])} was taken back at ${String(answer['revoked_at'])}`)
      return 0
    }),
  },
]
