import { CommandFailed, print } from './command.ts'
import type { Command } from './command.ts'
import { configOption, configSource } from './config-file.ts'

export const checkCommand: Command = {
  name: 'check', summary: 'validate the config; every mistake at once, and each plan said in words',
  options: [
    { flags: '--print', about: 'print the config as it was understood, secrets hidden' },
    { flags: '--schema', about: 'print the JSON Schema of the config, for editors' },
    configOption,
  ],
  examples: ['tallygate check', 'tallygate check --config /etc/tallygate/tallygate.yaml --print'],
  async run(input, around) {
    const [{ loadConfig }, { toText }, { describe, printConfig }] = await Promise.all([
      import('../config/load.ts'), import('../config/problem.ts'), import('../config/describe.ts'),
    ])
    if (input.flag('schema')) {
      const { jsonSchemaText } = await import('../config/json-schema.ts')
      around.stdout.write(jsonSchemaText())
      return 0
    }
    const source = configSource(input, around)
    const { config, problems, warnings } = loadConfig(source)
    for (const warning of warnings) around.stderr.write(`warning: ${toText(warning)}\n`)
    if (config === null) throw new CommandFailed(`${problems.map(toText).join('\n')}\n${problems.length} ${problems.length === 1 ? 'mistake' : 'mistakes'}`, 2)
    if (input.flag('print')) {
      print(around, printConfig(config))
      return 0
    }
    for (const plan of describe(config)) print(around, plan.sentence)
    print(around, `${source.file} is valid: ${config.plans.size} plans, ${config.accounts.size} accounts, ${config.keys.length} keys, ${config.upstreams.size} upstreams`)
    return 0
  },
}
