import type { Config } from '../config/config.ts'
import type { Side } from '../simulation/revenue.ts'
import { CommandFailed } from './command.ts'
import type { Input, Surroundings } from './command.ts'
import { configSource } from './config-file.ts'
import type { Door } from './door.ts'

/** What the store knows of accounts, keys, subscriptions and grants: documents by kind. */
export type State = Readonly<Record<string, readonly { readonly id: string; readonly value: Readonly<Record<string, unknown>> }[]>>

/** Throws CommandFailed with every mistake in it. */
export async function readCandidate(file: string | undefined, input: Input, around: Surroundings): Promise<{ readonly candidate: Config; readonly laid: boolean }> {
  if (file === undefined) throw new CommandFailed('--plan is missing: which file is the candidate?', 2)
  const [{ loadCandidate }, { toText }] = await Promise.all([import('../config/load.ts'), import('../config/problem.ts')])
  const { config, problems, laid } = loadCandidate(configSource(input, around), file)
  if (config === null) throw new CommandFailed(problems.map(toText).join('\n'), 2)
  return { candidate: config, laid }
}

/** The config with the calendars and histories that the store remembers, and everybody who may call under it; over a store in memory, so that nothing is changed. */
export async function sideOf(config: Config, state: State, { clock }: Surroundings): Promise<Side & { close(): Promise<void> }> {
  const [{ openMemory }, { StoredKeyDirectory }, { withCalendars }] = await Promise.all([
    import('../stores/memory/memory.ts'), import('../accounts/key-directory.ts'), import('../accounts/calendars.ts'),
  ])
  const store = await openMemory({ clock, forgetAfterMs: 0, hotMs: 0 })
  for (const [kind, documents] of Object.entries(state)) for (const { id, value } of documents) await store.records.put(kind, id, value)
  const acting = await withCalendars(config, store.records, clock.nowMs())
  const directory = await StoredKeyDirectory.open(store.records, acting, clock)
  return {
    config: acting, directory,
    close: async () => {
      directory.close()
      await store.close()
    },
  }
}

/** An account whose plan or calendar the candidate changes has them all along: what the store remembers of it is of the present ones. */
export function withoutChanged(state: State, current: Config, candidate: Config): State {
  const { calendar = [] } = state
  return {
    ...state,
    calendar: calendar.filter(({ id }) => {
      const [before, after] = [current.accounts.get(id), candidate.accounts.get(id)]
      return before === undefined || after === undefined || (before.plan === after.plan && before.calendar.timeZone === after.calendar.timeZone && before.calendar.anchor === after.calendar.anchor)
    }),
  }
}

export async function stateOf(door: Door): Promise<State> {
  const { state } = await door.ask('GET', '/api/v1/simulation/state')
  return state as State
}
