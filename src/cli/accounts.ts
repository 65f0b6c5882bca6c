import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command, Input, Surroundings } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer, Door } from './door.ts'
import { given } from './keys.ts'
import { isRefusing } from './subscriptions.ts'
import { toTable } from './table.ts'

const whichAccount = [{ name: 'id', about: 'which account' }]
/** Option → field of the API. */
const wishes = {
  plan: 'plan', parent: 'parent', timezone: 'timezone', 'billing-anchor': 'billing_anchor', labels: 'labels', 'add-ons': 'add_ons', limits: 'limits', entitlements: 'entitlements',
} as const
const wishOptions = [
  { flags: '--plan <plan>', about: 'its plan; none: that of the account above it' },
  { flags: '--parent <account>', about: 'the account above it; none takes it away' },
  { flags: '--timezone <zone>', about: 'by whose clock its days and months are counted' },
  { flags: '--billing-anchor <day>', about: 'from which billing periods are counted, such as 2027-01-15' },
  { flags: '--labels <yaml>', about: 'copied into its events: "{ team: ml }"; none takes them away' },
  { flags: '--add-ons <names>', about: 'names with commas between; none takes them away' },
  { flags: '--limits <yaml>', about: 'limits of its own, as the config has them; none takes them away' },
  { flags: '--entitlements <yaml>', about: 'in place of the plan\'s, as the config has them; none takes them away' },
]
const shownFields = ['plan', 'parent', 'where', 'revision', 'unused_because', 'timezone', 'billing_anchor', 'labels', 'add_ons', 'subscription', 'suspended_at', 'suspended_reason', 'created_at', 'created_by']
const limitColumns = [
  { title: 'LIMIT', cell: (limit: Answer) => cell(limit, 'name') },
  { title: 'METER', cell: (limit: Answer) => cell(limit, 'meter') },
  { title: 'CEILING', cell: (limit: Answer) => (limit['name'] === undefined ? null : (cell(limit, 'limit') ?? 'unlimited')) },
  { title: 'WINDOW', cell: (limit: Answer) => cell(limit, 'window') },
  { title: 'PER', cell: (limit: Answer) => cell(limit, 'per') },
  { title: 'MODE', cell: (limit: Answer) => cell(limit, 'mode') },
]

export const accountCommands: readonly Command[] = [
  {
    name: 'accounts list', summary: 'all accounts, keys that are their own account among them',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate accounts list', 'tallygate accounts list --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/accounts')
      if (input.flag('json')) printJson(around, answer)
      else {
        const rows = rowsOf(answer, 'accounts')
        const stateOf = statesOf(rows)
        print(around, toTable(rows, [
          { title: 'ACCOUNT', cell: (row) => cell(row, 'id') },
          { title: 'PLAN', cell: (row) => cell(row, 'plan') },
          { title: 'UNDER', cell: (row) => cell(row, 'parent') },
          { title: 'KEYS', cell: (row) => cell(row, 'keys') },
          { title: 'WHERE', cell: (row) => cell(row, 'where') },
          { title: 'REVISION', cell: (row) => cell(row, 'revision') },
          { title: 'STATE', cell: stateOf },
        ], 'no accounts yet: they stand in the config, or are made with tallygate accounts create'))
      }
      return 0
    }),
  },
  {
    name: 'accounts show', summary: 'one account: its terms, limits of its own, and keys',
    arguments: whichAccount,
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate accounts show acme', 'tallygate accounts show acme --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', pathOf(input))
      if (input.flag('json')) {
        printJson(around, answer)
        return 0
      }
      print(around, toTable(shownFields.map((name) => ({ name, value: answer[name] })).filter(({ value }) => value !== null && value !== undefined), [
        { title: 'ACCOUNT', cell: ({ name }) => name.replaceAll('_', ' ') },
        { title: String(answer['id']), cell: ({ value }) => (typeof value === 'object' ? JSON.stringify(value) : String(value)) },
      ], ''))
      const limits = rowsOf(answer, 'limits')
      if (limits.length > 0) print(around, `\n${toTable(limits, limitColumns, '')}`)
      const keys = rowsOf(answer, 'keys')
      print(around, `\n${toTable(keys, [
        { title: 'KEY', cell: (row) => cell(row, 'id') }, { title: 'STATE', cell: (row) => cell(row, 'state') }, { title: 'WHERE', cell: (row) => cell(row, 'where') },
      ], 'no keys yet: tallygate keys create --account ID')}`)
      return 0
    }),
  },
  {
    name: 'accounts create', summary: 'make an account that is not in the config',
    arguments: whichAccount,
    options: [...wishOptions, { flags: '--change <name>', about: 'a name of your own for this change: said again, it changes nothing more' }, jsonOption, ...doorOptions],
    examples: [
      'tallygate accounts create globex --plan pro --timezone Europe/Berlin --billing-anchor 2027-01-15',
      'tallygate accounts create globex-dev --parent globex --labels "{ team: ml }" --limits "[{ name: rpm, meter: requests, limit: 60, window: 1m }]"',
    ],
    run: (input, around) => throughDoor(input, around, async (door) => tell(input, around, await door.ask('POST', pathOf(input), { body: { ...wishesOf(input), revision: '0' } }), 'made')),
  },
  {
    name: 'accounts set', summary: 'change an account that is not in the config; what is not given stays as it is',
    arguments: whichAccount,
    options: [
      ...wishOptions, { flags: '--revision <number>', about: 'refuse when the account is at another revision by now' },
      { flags: '--change <name>', about: 'a name of your own for this change: said again, it changes nothing more' }, jsonOption, ...doorOptions,
    ],
    examples: ['tallygate accounts set globex --plan enterprise --revision 3', 'tallygate accounts set globex --limits none'],
    run: (input, around) => throughDoor(input, around, async (door) => tell(input, around, await door.ask('POST', pathOf(input), { body: { ...wishesOf(input), ...given({ revision: input.text('revision') }) } }), 'set')),
  },
  {
    name: 'accounts remove', summary: 'take away an account that is not in the config, once its keys are revoked; its counters and events stay',
    arguments: whichAccount,
    options: [{ flags: '--revision <number>', about: 'refuse when the account is at another revision by now' }, jsonOption, ...doorOptions],
    examples: ['tallygate accounts remove globex-dev'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('DELETE', pathOf(input), { query: given({ revision: input.text('revision') }) })
      if (answer['removed'] !== true) throw new CommandFailed(`there is no account "${String(answer['id'])}"`)
      if (input.flag('json')) printJson(around, answer)
      else print(around, `${String(answer['id'])} is removed`)
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
        ...limitColumns.map(({ title, cell: of }) => ({ title, cell: ({ limit }: { readonly plan: Answer; readonly limit: Answer }) => of(limit) })),
      ], 'no plans'))
      return 0
    }),
  },
]

function pathOf(input: Input): string {
  return `/api/v1/accounts/${encodeURIComponent(input.arguments[0] ?? '')}`
}

function wishesOf(input: Input): Readonly<Record<string, string>> {
  return given({ ...Object.fromEntries(Object.entries(wishes).map(([option, field]) => [field, input.text(option)])), change: input.text('change') })
}

function tell(input: Input, around: Surroundings, answer: Answer, done: string): number {
  if (input.flag('json')) printJson(around, answer)
  else print(around, `${String(answer['id'])} is ${done} (revision ${String(answer['revision'])})`)
  return 0
}

/** Whether an account is served; if not, the nearest reason on the way up. */
function statesOf(rows: readonly Answer[]): (row: Answer) => string {
  const used = new Map(rows.filter((row) => isNone(row['unused_because'])).map((row) => [row['id'], row]))
  return (row) => {
    if (!isNone(row['unused_because'])) return `unused: ${String(row['unused_because'])}`
    if (row['suspended'] === true) {
      const where = Array.isArray(row['suspended_in']) ? (row['suspended_in'] as unknown[]).map(String).join(' and ') : ''
      return `suspended (${where === '' ? `by parent ${String(row['suspended_parent'])}` : where})`
    }
    const seen = new Set<Answer>()
    for (let each: Answer | undefined = row; each !== undefined && !seen.has(each); each = used.get(each['parent'])) {
      const state = each['subscription']
      if (isRefusing(state)) return each === row ? state : `${state} (by parent ${String(each['id'])})`
      seen.add(each)
    }
    return String(row['subscription'] ?? 'active')
  }
}

function isNone(value: unknown): boolean {
  return value === null || value === undefined
}

/** For an answer with nothing of the account in it, if one was asked for: a misspelt one would pass for one that is well. */
export async function mustBeAccount(door: Door, account: string | undefined): Promise<void> {
  if (account !== undefined) await door.ask('GET', `/api/v1/accounts/${encodeURIComponent(account)}`)
}
