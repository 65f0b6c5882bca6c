import { hashOfSecret, newSecret } from '../accounts/secret.ts'
import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command, Input } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer } from './door.ts'
import { toTable } from './table.ts'

const once = '(shown this once; only its hash is kept)'
const changeOption = { flags: '--change <name>', about: 'a name of your own for this change: said again, it changes nothing more' }

export const keyCommands: readonly Command[] = [
  {
    name: 'keys create', summary: 'make a key and print its secret once',
    options: [
      { flags: '--account <account>', about: 'the account that it belongs to' },
      { flags: '--plan <plan>', about: 'instead: the plan of a key that is its own account' },
      { flags: '--id <id>', about: 'a name of your own; else one is made up' },
      { flags: '--expires <duration>', about: 'after this time it works no more, such as 30d' },
      changeOption,
      jsonOption, ...doorOptions,
    ],
    examples: ['tallygate keys create --account acme', 'tallygate keys create --plan free --id ci-bot --expires 30d'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const body = given({ account: input.text('account'), plan: input.text('plan'), id: input.text('id'), expires_in: input.text('expires'), change: input.text('change') })
      if ((body['account'] === undefined) === (body['plan'] === undefined)) throw new CommandFailed('give --account or --plan, one of the two', 2)
      const answer = await door.ask('POST', '/api/v1/keys', { body })
      if (input.flag('json')) printJson(around, answer)
      else print(around, `key     ${String(answer['id'])}\n${secretLine(answer)}`)
      return 0
    }),
  },
  {
    name: 'keys new', summary: 'print a fresh secret and the YAML line for it; stores nothing',
    options: [
      { flags: '--yaml', about: 'print the line for the config (always done)' },
      { flags: '--id <id>', about: 'the id in that line' },
      { flags: '--account <account>', about: 'the account in that line' },
      { flags: '--plan <plan>', about: 'instead: the plan in that line' },
      jsonOption,
    ],
    examples: ['tallygate keys new --yaml --id acme-dev --account acme'],
    run(input, around) {
      const secret = newSecret(around.random)
      const plan = input.text('plan')
      const owner = plan === undefined ? `account: ${input.text('account') ?? 'ACCOUNT'}` : `plan: ${plan}`
      const yaml = `  - { id: ${input.text('id') ?? 'NAME'}, ${owner}, hash: "sha256:${hashOfSecret(secret)}" }`
      if (input.flag('json')) printJson(around, { secret, yaml: yaml.trim() })
      else print(around, `secret  ${secret}   (shown this once)\n\nkeys:\n${yaml}`)
      return Promise.resolve(0)
    },
  },
  {
    name: 'keys list', summary: 'all keys: of the config and made at run time',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate keys list', 'tallygate keys list --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/keys')
      if (input.flag('json')) printJson(around, answer)
      else {
        print(around, toTable(rowsOf(answer, 'keys'), [
          { title: 'KEY', cell: (row) => cell(row, 'id') },
          { title: 'ACCOUNT', cell: (row) => cell(row, 'account') },
          { title: 'PLAN', cell: (row) => cell(row, 'plan') },
          { title: 'STATE', cell: (row) => cell(row, 'state') },
          { title: 'EXPIRES', cell: (row) => cell(row, 'expires_at') },
          { title: 'OLD SECRET UNTIL', cell: (row) => cell(row, 'grace_until') },
          { title: 'WHERE', cell: (row) => cell(row, 'where') },
        ], 'no keys yet: tallygate keys create --help'))
      }
      return 0
    }),
  },
  {
    name: 'keys rotate', summary: 'give a key a new secret; the old one works on for the grace',
    arguments: [{ name: 'id', about: 'which key' }],
    options: [{ flags: '--grace <duration>', about: 'how long the old secret works on; 24h unless given, 0 for not at all' }, changeOption, jsonOption, ...doorOptions],
    examples: ['tallygate keys rotate acme-dev', 'tallygate keys rotate acme-dev --grace 0'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('POST', `${keyPath(input)}/rotate`, { body: given({ grace: input.text('grace'), change: input.text('change') }) })
      if (input.flag('json')) printJson(around, answer)
      else {
        print(around, `key     ${String(answer['id'])}\n${secretLine(answer)}\nthe old secret works until ${String(answer['grace_until'])}`)
        if (answer['where'] !== 'store') print(around, `${String(answer['where'])} still has the old hash; it is retired all the same`)
      }
      return 0
    }),
  },
  {
    name: 'keys revoke', summary: 'shut a key out, one of the config too, until it is restored',
    arguments: [{ name: 'id', about: 'which key' }],
    options: [{ flags: '--reason <text>', about: 'why, for the record' }, jsonOption, ...doorOptions],
    examples: ['tallygate keys revoke acme-dev --reason "laptop lost"'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('POST', `${keyPath(input)}/revoke`, { body: given({ reason: input.text('reason') }) })
      if (input.flag('json')) printJson(around, answer)
      else {
        print(around, `${String(answer['id'])} is revoked`)
        if (answer['where'] !== 'store') print(around, `it still stands in ${String(answer['where'])}; the revocation wins until it is restored`)
      }
      return 0
    }),
  },
  {
    name: 'keys restore', summary: 'lift the revocation of a key',
    arguments: [{ name: 'id', about: 'which key' }],
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate keys restore acme-dev'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('DELETE', `${keyPath(input)}/revocation`)
      if (input.flag('json')) printJson(around, answer)
      else print(around, `${String(answer['id'])} is no longer revoked; it is ${String(answer['state'] ?? 'unknown to the config and the store')}`)
      return 0
    }),
  },
]

function secretLine(answer: Answer): string {
  return typeof answer['secret'] === 'string' ? `secret  ${answer['secret']}   ${once}` : `secret  (${String(answer['told'])})`
}

function keyPath(input: Input): string {
  return `/api/v1/keys/${encodeURIComponent(input.arguments[0] ?? '')}`
}

/** Without what was not given. */
export function given(values: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined))
}
