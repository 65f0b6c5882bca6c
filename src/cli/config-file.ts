import { hostname } from 'node:os'
import type { LoadOptions } from '../config/load.ts'
import type { Config } from '../config/config.ts'
import { CommandFailed } from './command.ts'
import type { Input, Option, Surroundings } from './command.ts'

export const configOption: Option = { flags: '--config <file>', about: 'the config; ./config/tallygate.yaml, or TALLYGATE_CONFIG, unless given' }

const defaultFile = 'config/tallygate.yaml'

export function configSource(input: Input, around: Surroundings): LoadOptions {
  const listen = input.text('listen') ?? around.env['TALLYGATE_LISTEN']
  const adminListen = input.text('admin-listen') ?? around.env['TALLYGATE_ADMIN_LISTEN']
  return {
    file: input.text('config') ?? around.env['TALLYGATE_CONFIG'] ?? defaultFile,
    env: around.env,
    hostName: hostname(),
    ...(listen === undefined || listen === '' ? {} : { listen }),
    ...(adminListen === undefined || adminListen === '' ? {} : { adminListen }),
  }
}

/** A config with mistakes, one a line. */
export class BadConfig extends CommandFailed {
  override name = 'BadConfig'
  readonly mistakes: number
  constructor(lines: readonly string[]) {
    super(lines.join('\n'), 2)
    this.mistakes = lines.length
  }
}

/** The valid config; throws BadConfig with every mistake in it. */
export async function readConfig(input: Input, around: Surroundings): Promise<Config> {
  const [{ loadConfig }, { toText }] = await Promise.all([import('../config/load.ts'), import('../config/problem.ts')])
  const { config, problems } = loadConfig(configSource(input, around))
  if (config === null) throw new BadConfig(problems.map(toText))
  return config
}
