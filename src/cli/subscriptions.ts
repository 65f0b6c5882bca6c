import type { SubscriptionState } from '../metering/subscription.ts'
import { jsonOption, print, printJson } from './command.ts'
import type { Command, Input, Surroundings } from './command.ts'
import { cell, doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer } from './door.ts'
import { given } from './keys.ts'
import { toTable } from './table.ts'

const whichAccount = [{ name: 'account', about: 'which account' }]
const intentOptions = [
  { flags: '--revision <number>', about: 'refuse when the subscription is at another revision by now' },
  { flags: '--change <name>', about: 'a name of your own for this change: said again, it changes nothing more' },
]

/** Option → field of the API. */
const wishes = {
  kind: 'kind', start: 'start', 'trial-end': 'trial_end', end: 'end', term: 'term', renewal: 'renewal', grace: 'grace', timezone: 'timezone', seats: 'seats',
  plan: 'plan', 'plan-from': 'plan_from', proration: 'proration', 'add-ons': 'add_ons', 'suspended-from': 'suspended_from', 'suspended-until': 'suspended_until',
} as const

export const subscriptionCommands: readonly Command[] = [
  {
    name: 'subscriptions list', summary: 'all subscriptions: of the config and made at run time',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate subscriptions list', 'tallygate subscriptions list --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/subscriptions')
      if (input.flag('json')) printJson(around, answer)
      else {
        print(around, toTable(rowsOf(answer, 'subscriptions'), [
          { title: 'ACCOUNT', cell: (row) => cell(row, 'account') },
          { title: 'KIND', cell: (row) => cell(row, 'kind') },
          { title: 'STATE', cell: (row) => cell(row, 'state') },
          { title: 'SINCE', cell: (row) => cell(row, 'since') },
          { title: 'UNTIL', cell: (row) => cell(row, 'until') },
          { title: 'TERM', cell: (row) => cell(row, 'term_length') },
          { title: 'RENEWAL', cell: (row) => cell(row, 'renewal') },
          { title: 'SEATS', cell: (row) => cell(row, 'seats') },
          { title: 'WHERE', cell: (row) => cell(row, 'where') },
          { title: 'REVISION', cell: (row) => cell(row, 'revision') },
        ], 'no subscriptions: every account is served for as long as it is there'))
      }
      return 0
    }),
  },
  {
    name: 'subscriptions set', summary: 'make or change the subscription of an account; what is not given stays as it is',
    arguments: whichAccount,
    options: [
      { flags: '--kind <kind>', about: 'perpetual, term or trial; a new one is a term' },
      { flags: '--start <when>', about: 'a day or an instant; now, unless given' },
      { flags: '--trial-end <when>', about: 'end of the trial; none takes it away' },
      { flags: '--end <when>', about: 'its end; none takes it away' },
      { flags: '--term <length>', about: 'length of a term: month, year, 3 months' },
      { flags: '--renewal <auto|none>', about: 'does a term follow the other?' },
      { flags: '--grace <duration>', about: 'still served after the end, such as 14d' },
      { flags: '--timezone <zone>', about: 'by whose clock terms are counted' },
      { flags: '--seats <number>', about: 'ceiling of the concurrency limit named seats; 0 takes it away' },
      { flags: '--plan <plan>', about: 'the plan from then on' },
      { flags: '--plan-from <when>', about: 'when that plan begins; now, unless given' },
      { flags: '--proration <none|by_day>', about: 'of the period in which the plan changes' },
      { flags: '--add-ons <names>', about: 'names with commas between; none takes them away' },
      { flags: '--suspended-from <when>', about: 'refused from then on; none lifts it' },
      { flags: '--suspended-until <when>', about: 'and served again' },
      ...intentOptions, jsonOption, ...doorOptions,
    ],
    examples: [
      'tallygate subscriptions set acme --term year --start 2027-01-01 --grace 14d --seats 25',
      'tallygate subscriptions set acme --plan pro-2027 --plan-from 2027-03-01 --proration by_day --revision 3',
      'tallygate subscriptions set newcomer --kind trial --trial-end 2027-02-01',
    ],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const chosen = given(Object.fromEntries(Object.entries(wishes).map(([option, field]) => [field, input.text(option)])))
      return tell(input, around, await door.ask('POST', pathOf(input), { body: { ...chosen, ...intentOf(input) } }))
    }),
  },
  {
    name: 'subscriptions renew', summary: 'one term more for a subscription that does not renew by itself',
    arguments: whichAccount,
    options: [...intentOptions, jsonOption, ...doorOptions],
    examples: ['tallygate subscriptions renew acme --change invoice-2027-0042'],
    run: (input, around) => throughDoor(input, around, async (door) => tell(input, around, await door.ask('POST', `${pathOf(input)}/renew`, { body: intentOf(input) }))),
  },
  {
    name: 'subscriptions cancel', summary: 'end a subscription with the term that runs, or when it is said',
    arguments: whichAccount,
    options: [{ flags: '--at <when>', about: 'now, a day or an instant' }, ...intentOptions, jsonOption, ...doorOptions],
    examples: ['tallygate subscriptions cancel acme', 'tallygate subscriptions cancel acme --at now'],
    run: (input, around) => throughDoor(input, around, async (door) => tell(input, around, await door.ask('POST', `${pathOf(input)}/cancel`, { body: { ...given({ at: input.text('at') }), ...intentOf(input) } }))),
  },
  {
    name: 'subscriptions remove', summary: 'take a subscription away: the account is then served without one',
    arguments: whichAccount,
    options: [{ flags: '--revision <number>', about: 'refuse when the subscription is at another revision by now' }, jsonOption, ...doorOptions],
    examples: ['tallygate subscriptions remove acme'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('DELETE', pathOf(input), { query: given({ revision: input.text('revision') }) })
      if (input.flag('json')) printJson(around, answer)
      else print(around, answer['removed'] === true ? `${String(answer['account'])} has no subscription any more` : `${String(answer['account'])} had none`)
      return 0
    }),
  },
]

/** The state of a subscription with which no call is served. */
export function isRefusing(state: unknown): state is SubscriptionState {
  return state === 'pending' || state === 'suspended' || state === 'ended'
}

function intentOf(input: Input): Readonly<Record<string, string>> {
  return given({ revision: input.text('revision'), change: input.text('change') })
}

function pathOf(input: Input): string {
  return `/api/v1/subscriptions/${encodeURIComponent(input.arguments[0] ?? '')}`
}

function tell(input: Input, around: Surroundings, answer: Answer): number {
  if (input.flag('json')) printJson(around, answer)
  else {
    const until = typeof answer['until'] === 'string' ? ` until ${answer['until']}` : ''
    const refused = isRefusing(answer['state']) ? `: calls are refused${until === '' ? '' : ' until then'}` : ''
    print(around, `${String(answer['account'])} is ${String(answer['state'])}${until}${refused} (revision ${String(answer['revision'])})`)
  }
  return 0
}
