import type { Writable } from 'node:stream'
import { harmlessJson } from '../acting-characters.ts'
import type { Clock } from '../clock.ts'
import type { Random } from '../random.ts'

/** What a command may touch of the world. `main.ts` hands it over; tests hand over their own. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>
  readonly clock: Clock
  readonly random: Random
  readonly stdout: Writable
  readonly stderr: Writable
  /** Asks the process to tell of signals; each listener stays until the end. */
  onSignal(signal: 'stop' | 'reload', listener: () => void): void
}

/** One command as plain data; `cli.ts` makes the parser's commands of it. */
export interface Command {
  /** `keys create`. */
  readonly name: string
  readonly summary: string
  readonly arguments?: readonly { readonly name: string; readonly about: string; readonly optional?: true }[]
  readonly options?: readonly Option[]
  readonly examples: readonly string[]
  /** Gives the exit code. Throws CommandFailed with a sentence for everything that the operator can do something about. */
  run(input: Input, around: Surroundings): Promise<number>
}

export interface Option {
  /** `--id <id>`, `--json`. */
  readonly flags: string
  readonly about: string
}

export interface Input {
  readonly arguments: readonly string[]
  /** Value of an option by its long name (`expires`, `admin-listen`); undefined: not given. */
  text(name: string): string | undefined
  flag(name: string): boolean
}

/** The end of a command, as one clear sentence. Exit code 1: the operation failed; 2: wrong usage or a bad config. */
export class CommandFailed extends Error {
  override name = 'CommandFailed'
  readonly exitCode: 1 | 2
  constructor(message: string, exitCode: 1 | 2 = 1) {
    super(message)
    this.exitCode = exitCode
  }
}

export const jsonOption: Option = { flags: '--json', about: 'print JSON' }

export function print(around: Surroundings, text: string): void {
  around.stdout.write(`${text}\n`)
}

export function printJson(around: Surroundings, value: unknown): void {
  print(around, harmlessJson(JSON.stringify(value, null, 2)))
}
