import type { Config } from '../config/config.ts'
import type { Difference, PlanDifference } from '../simulation/plan-diff.ts'
import { readCandidate, sideOf, stateOf } from './candidate.ts'
import type { State } from './candidate.ts'
import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command, Input, Surroundings } from './command.ts'
import { readConfig } from './config-file.ts'
import { doorOptions, throughDoor } from './door.ts'

const accountsShown = 10

export const planDiffCommand: Command = {
  name: 'plan diff', summary: 'what two files sell differently, in words: limits, prices, entitlements, whose use starts at zero, and whom it concerns',
  arguments: [{ name: 'old', about: 'a config, or a file with plans laid over the present one; the present one with --plan', optional: true }, { name: 'new', about: 'likewise', optional: true }],
  options: [
    { flags: '--plan <file>', about: 'against the present config: the file that might take its place, or be laid over it' },
    { flags: '--store', about: 'take accounts, keys and subscriptions of the store as well' },
    jsonOption, ...doorOptions,
  ],
  examples: ['tallygate plan diff plans-2026.yaml plans-2027.yaml', 'tallygate plan diff --plan plans-2027.yaml --store'],
  async run(input, around) {
    const [before, after] = await bothOf(input, around)
    const state = input.flag('store') ? await throughDoor(input, around, stateOf) : {}
    const difference = await differenceOf(before, after, state, around)
    if (input.flag('json')) printJson(around, difference)
    else print(around, textOf(difference))
    return 0
  },
}

async function bothOf(input: Input, around: Surroundings): Promise<readonly [Config, Config]> {
  const [old, fresh] = input.arguments
  const plan = input.text('plan')
  if (plan !== undefined && old === undefined) return [await readConfig(input, around), (await readCandidate(plan, input, around)).candidate]
  if (plan !== undefined || old === undefined || fresh === undefined) throw new CommandFailed('give two files, or --plan with one', 2)
  const [one, other] = [await readCandidate(old, input, around), await readCandidate(fresh, input, around)]
  return [one.candidate, other.candidate]
}

async function differenceOf(before: Config, after: Config, state: State, around: Surroundings): Promise<Difference> {
  const { diffPlans } = await import('../simulation/plan-diff.ts')
  const [one, other] = [await sideOf(before, state, around), await sideOf(after, state, around)]
  try {
    return diffPlans(one, other, around.clock.nowMs())
  } finally {
    await Promise.all([one.close(), other.close()])
  }
}

function textOf({ differences, moved }: Difference): string {
  if (differences.length === 0 && moved.length === 0) return 'Both sell the same to the same accounts.'
  const plans = differences.map((difference) => [headOf(difference), ...difference.changes.map(({ text }) => `  - ${text}`)].join('\n'))
  const moves = moved.map(({ account, before, after }) => (after === null ? `${account} is gone from ${before ?? 'no plan'}` : before === null ? `${account} comes to ${after}` : `${account} goes from ${before} to ${after}`))
  return shown([...plans, ...(moves.length === 0 ? [] : [moves.join('\n')])].join('\n\n'))
}

function headOf({ what, name, accounts }: PlanDifference): string {
  const more = accounts.length > accountsShown ? ` and ${accounts.length - accountsShown} more` : ''
  const whom = accounts.length === 0 ? 'nobody that is known here' : `${accounts.length} ${accounts.length === 1 ? 'account' : 'accounts'}: ${accounts.slice(0, accountsShown).join(', ')}${more}`
  return `${what === 'plan' ? '' : 'add-on '}${name} (${whom})`
}

/** A name that came from outside must not move the cursor of a terminal. */
function shown(text: string): string {
  return text.replace(/[^\P{Cc}\n]/gu, '?')
}
