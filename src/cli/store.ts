import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { configOption, readConfig } from './config-file.ts'
import { doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Answer } from './door.ts'
import { toTable } from './table.ts'

const fileArgument = { name: 'file', about: 'of `store backup`' }

export const storeCommands: readonly Command[] = [
  {
    name: 'store info', summary: 'the store: where it is, whether it admits, what could be lost, what waits',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate store info', 'tallygate store info --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/store')
      if (input.flag('json')) printJson(around, answer)
      else print(around, described(answer))
      return 0
    }),
  },
  {
    name: 'store accept-loss', summary: 'go on although Redis has lost what was counted; what is missing stays missing',
    options: [configOption, { flags: '--yes', about: 'really' }],
    examples: ['tallygate store accept-loss --yes'],
    async run(input, around) {
      const config = await readConfig(input, around)
      if (config.store.kind === 'embedded') throw new CommandFailed('an embedded store is opened with `tallygate serve --accept-loss` when what it once acknowledged is missing', 2)
      if (config.store.kind === 'memory') throw new CommandFailed('a store in memory starts from nothing every time: there is no loss to accept', 2)
      if (!input.flag('yes')) {
        throw new CommandFailed('this says that whatever this Redis has lost stays lost: usage that was counted is forgotten, so callers may use that much more than they bought; events that no sink '
          + 'had taken will never be billed; keys that were made at run time may be gone, and revoked ones may work again. Restoring a backup of Redis loses less. Running gateways admit again within a second. '
          + 'If that is what you want: tallygate store accept-loss --yes', 2)
      }
      const [{ openBooks, BooksUnavailable }, { silentLog }, { Metrics }] = await Promise.all([import('../books.ts'), import('../log.ts'), import('../metrics.ts')])
      const { clock, random, stdout } = around
      const books = await openBooks(config, { clock, random, stdout, log: silentLog, metrics: new Metrics(), acceptLoss: true }).catch((error: unknown) => {
        throw error instanceof BooksUnavailable ? new CommandFailed(error.message) : error
      })
      try {
        const epoch = (await books.store.inspect?.())?.epoch ?? ''
        await books.changes.note('cli', 'store.accept_loss', epoch, {})
        print(around, `The books in Redis go on with what is there (epoch ${epoch}). Running gateways take this up within a second.`)
      } finally {
        await books.close()
      }
      return 0
    },
  },
  {
    name: 'store copy', summary: 'everything of the store (usage, keys, events, cursors) into another, empty one; no gateway may run',
    options: [
      { flags: '--to <store>', about: 'embedded:DIRECTORY or a redis:// address' },
      { flags: '--prefix <prefix>', about: 'of the keys in that Redis; tallygate, or as configured, unless given' },
      { flags: '--partitions <number>', about: 'of that Redis; 256, or as configured, unless given' },
      configOption, jsonOption,
    ],
    examples: ['tallygate store copy --to redis://redis.internal:6379/0', 'tallygate store copy --to embedded:./data'],
    async run(input, around) {
      const config = await readConfig(input, around)
      const to = input.text('to')
      if (to === undefined) throw new CommandFailed('--to is missing: embedded:DIRECTORY or a redis:// address', 2)
      const [{ storeTarget }, { copyStore }] = await Promise.all([import('./store-target.ts'), import('./store-copy.ts')])
      const target = await storeTarget(to, { prefix: input.text('prefix'), partitions: input.text('partitions') }, config.store)
      return await copyStore(config, target, around, input.flag('json'))
    },
  },
  {
    name: 'store backup', summary: 'everything of the store into a file that any kind of store can be restored from; no gateway may run',
    arguments: [{ name: 'file', about: 'which is made' }], options: [configOption, jsonOption],
    examples: ['tallygate store backup tallygate-2026-11-22.ndjson'],
    async run(input, around) {
      const config = await readConfig(input, around)
      const { backupStore } = await import('./store-copy.ts')
      return await backupStore(config, input.arguments[0] ?? '', around, input.flag('json'))
    },
  },
  {
    name: 'store restore', summary: 'a backup into the configured store, which must be empty',
    arguments: [fileArgument], options: [configOption, jsonOption],
    examples: ['tallygate store restore tallygate-2026-11-22.ndjson'],
    async run(input, around) {
      const config = await readConfig(input, around)
      const { restoreStore } = await import('./store-copy.ts')
      return await restoreStore(config, input.arguments[0] ?? '', around, input.flag('json'))
    },
  },
  {
    name: 'store repair', summary: 'writes what can be read of a damaged embedded store to a copy beside it, with a report',
    options: [configOption, jsonOption],
    examples: ['tallygate store repair'],
    async run(input, around) {
      const { store } = await readConfig(input, around)
      if (store.kind !== 'embedded') throw new CommandFailed(`only an embedded store can be repaired; this one is ${store.kind}`, 2)
      const { repair } = await import('../stores/index.ts')
      let report
      try {
        report = repair(store.dir, around.clock.nowMs())
      } catch (error) {
        throw new CommandFailed(error instanceof Error ? error.message : String(error))
      }
      if (input.flag('json')) printJson(around, report)
      else {
        print(around, [...report.findings, `${report.rowsKept} rows kept, ${report.rowsLost.length} lost.`,
          `The copy is ${report.copy}, with report.txt. Nothing was changed in ${store.dir}: to use the copy, stop the gateway and move it there.`].join('\n'))
      }
      return 0
    },
  },
]

/** In lines, for people. */
function described(answer: Answer): string {
  const text = (name: string): string | null => {
    const value = answer[name]
    return value === null || value === undefined ? null : String(value)
  }
  const lines: [string, string | null][] = [
    ['kind', text('kind')], ['directory', text('directory')], ['synchronous', text('synchronous')], ['url', text('url')], ['prefix', text('prefix')],
    ['partitions', text('partitions')], ['format', text('format')], ['epoch', text('epoch')], ['admitting', answer['admitting'] === true ? 'yes' : `no: ${String(answer['reason'])}`],
    ...rowsOf(answer, 'servers').map((server): [string, string] => ['server', serverText(server)]),
    ['open reservations', text('reservations')], ['undelivered events', text('undelivered')], ['quarantined', text('quarantined')], ['spool', spoolText(answer['spool'])],
  ]
  const shown = lines.filter((line): line is [string, string] => line[1] !== null)
  const width = Math.max(...shown.map(([name]) => name.length))
  const sinks = toTable(rowsOf(answer, 'sinks'), [
    { title: 'SINK', cell: (row) => String(row['name']) },
    { title: 'WAITING', cell: (row) => Number(row['waiting']) },
    { title: 'OLDEST', cell: (row) => row['oldest_at'] as string | null },
    { title: 'DEAD', cell: (row) => Number(row['dead']) },
    { title: 'MISSED', cell: (row) => Number(row['missed']) },
  ], 'no sinks')
  const gaps = [...rowsOf(answer, 'sinks'), ...rowsOf(answer, 'missed_before')].filter((row) => Number(row['missed']) > 0)
    .map((row) => `${String(row['name'])} has missed ${String(row['missed'])} events, last at ${String(row['missed_at'])}: they were removed while it was not configured.`)
  const losses = answer['losses']
  return [...shown.map(([name, value]) => `${name.padEnd(width)}  ${value}`), '', sinks, ...gaps, '', ...(Array.isArray(losses) ? losses.map(String) : [])].join('\n')
}

function serverText(server: Answer): string {
  const mebi = (bytes: unknown): string => `${(Number(bytes) / 1_048_576).toFixed(1)} MiB`
  const used = server['memory_bytes'] === null ? '' : `, ${mebi(server['memory_bytes'])} of memory used${Number(server['memory_max_bytes'] ?? 0) > 0 ? ` of ${mebi(server['memory_max_bytes'])}` : ', without bound'}`
  return `${String(server['address'])}, ${String(server['product'])} ${String(server['version'] ?? 'of an unknown version')}${used}`
}

function spoolText(spool: unknown): string | null {
  if (typeof spool !== 'object' || spool === null) return null
  const { directory, settlements, bytes } = spool as Answer
  return settlements === null ? `${String(directory)} cannot be read` : `${String(settlements)} settlements, ${String(bytes)} bytes, in ${String(directory)}`
}
