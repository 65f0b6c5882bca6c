import type { RedisStoreConfig } from '../config/config.ts'
import { CommandFailed, print } from './command.ts'
import type { Command, Surroundings } from './command.ts'
import { configOption, configSource } from './config-file.ts'

export const checkCommand: Command = {
  name: 'check', summary: 'validate the config; every mistake at once, each plan said in words, and what Redis may lose',
  options: [
    { flags: '--print', about: 'print the config as it was understood, secrets hidden' },
    { flags: '--schema', about: 'print the JSON Schema of the config, for editors' },
    { flags: '--offline', about: 'ask no server: a Redis store is otherwise asked what it would lose when' },
    configOption,
  ],
  examples: ['tallygate check', 'tallygate check --config /etc/tallygate/tallygate.yaml --print', 'tallygate check --offline'],
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
    if (config === null) throw new CommandFailed(`${problems.map(toText).join('\n')}\n${counted(problems.length, 'mistake')}`, 2)
    if (input.flag('print')) {
      print(around, printConfig(config))
      return 0
    }
    for (const plan of describe(config)) print(around, plan.sentence)
    print(around, `${source.file} is valid: ${counted(config.plans.size, 'plan')}, ${counted(config.accounts.size, 'account')}, ${counted(config.keys.length, 'key')}, ${config.upstreams.size === 0 ? 'the demo model (no upstream is configured)' : counted(config.upstreams.size, 'upstream')}`)
    if (config.store.kind === 'redis' && !input.flag('offline')) await askStore(config.store, around)
    return 0
  },
}

function counted(count: number, one: string): string {
  return `${count} ${one}${count === 1 ? '' : 's'}`
}

/** A server that is far away or busy still gets this long to answer, ms: nobody's call waits for it. */
const patienceMs = 2_000

/** Says what the server would lose when. One that is not there is a warning; one on which no gateway may start is a failure, though not the file's. */
async function askStore(store: RedisStoreConfig, around: Surroundings): Promise<void> {
  const [{ openLink }, { askDurability, judge }, { readMeta, StoreRefused }, { KeyNames }, { parseRedisUrl }, { StoreUnavailable }, { silentLog }] = await Promise.all([
    import('../stores/redis/connection.ts'), import('../stores/redis/durability.ts'), import('../stores/redis/epoch.ts'), import('../stores/redis/keys.ts'), import('../stores/redis/address.ts'),
    import('../stores/store.ts'), import('../log.ts'),
  ])
  const { clock, random } = around
  const { url, prefix, partitions, durability, confirm, deadlineMs } = store
  const warn = (sentence: string): void => { around.stderr.write(`warning: store: ${sentence}\n`) }
  const link = await openLink({ url, deadlineMs: Math.max(deadlineMs, patienceMs), clock, random, log: silentLog })
  try {
    const servers = await askDurability(link)
    const { refuse, warnings, losses } = judge(servers, { durability, confirm, deadlineMs, clustered: link.clustered })
    print(around, `store: ${servers.map(({ product, version, address }) => `${product} ${version ?? 'of an unknown version'} at ${address}`).join(', ')}`)
    for (const loss of losses) print(around, `  ${loss}`)
    for (const warning of warnings) warn(warning)
    if (refuse !== null) throw new CommandFailed(`store: no gateway would start on it. ${refuse}`)
    const meta = await readMeta(link, new KeyNames(prefix, partitions).meta())
    if (meta !== null && meta.partitions !== partitions) {
      throw new CommandFailed(`store: no gateway would start on it. Its books were made with ${meta.partitions} partitions, and store.partitions is ${partitions}: the number is fixed at the first start.`)
    }
  } catch (error) {
    if (error instanceof StoreRefused) throw new CommandFailed(`store: no gateway would start on it: ${error.message}`)
    if (!(error instanceof StoreUnavailable)) throw error
    warn(`${parseRedisUrl(url).shown} could not be asked: ${link.reason ?? error.message}. A gateway needs it at its start; --offline asks nobody`)
  } finally {
    await link.close()
  }
}
