import { once } from 'node:events'
import { createReadStream, existsSync } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { AccountHomes } from '../accounts/homes.ts'
import type { Config, StoreConfig } from '../config/config.ts'
import { silentLog } from '../log.ts'
import { fromLines, RowsRefused, Tally, toLines, type Filled, type StoreRow } from '../stores/rows.ts'
import { StoreUnavailable } from '../stores/store.ts'
import { CommandFailed, print, printJson } from './command.ts'
import type { Surroundings } from './command.ts'
import { toTable } from './table.ts'
import { productVersion } from './version.ts'

/** A copy is patient: nobody's call waits for it. */
const deadlineMs = 5_000

/** Everything of the configured store into another one. Gives the exit code. */
export function copyStore(config: Config, to: StoreConfig, around: Surroundings, json: boolean): Promise<number> {
  return fromSource(config, around, async (rows) => {
    if (await spooled(config) > 0) throw new CommandFailed(`${await spooled(config)} settlements wait in this machine's spool: start a gateway until they are booked, then copy`)
    return await intoStore(config, to, rows, around, json)
  })
}

/** Everything of the configured store into a file. */
export function backupStore(config: Config, path: string, around: Surroundings, json: boolean): Promise<number> {
  if (existsSync(path)) throw new CommandFailed(`${path} is there already; a backup overwrites nothing`, 2)
  return fromSource(config, around, async (rows) => {
    const waiting = await spooled(config)
    if (waiting > 0) around.stderr.write(`warning: ${waiting} settlements wait in this machine's spool and are not in the backup\n`)
    const passing = new Passing(rows)
    await writeFile(path, passing.rows())
    const document = passing.tally.toDocument()
    if (json) printJson(around, { file: path, ...document })
    else print(around, `${table([{ title: 'IN THE FILE', tally: document }])}\n${path} is written; \`tallygate store restore\` makes a store of it`)
    return 0
  })
}

/** A file of `backupStore` into the configured store, which must be empty. */
export async function restoreStore(config: Config, path: string, around: Surroundings, json: boolean): Promise<number> {
  if (!existsSync(path)) throw new CommandFailed(`${path} is not there`, 2)
  const rows = (): AsyncGenerator<StoreRow> => fromLines(createReadStream(path, { encoding: 'utf8', highWaterMark: 1024 * 1024 }))
  return await inSentences(async () => {
    // All of it is looked at before anything is written.
    let last: StoreRow | null = null
    for await (const row of rows()) last = row
    if (last === null) throw new RowsRefused(`${path} is empty`)
    return await intoStore(config, config.store, rows(), around, json)
  })
}

/** Opens the configured store, which nobody else may use meanwhile. */
async function fromSource(config: Config, around: Surroundings, use: (rows: AsyncIterable<StoreRow>) => Promise<number>): Promise<number> {
  if (config.store.kind === 'memory') throw new CommandFailed('a store in memory is gone with its gateway: there is nothing to copy', 2)
  const [{ openingOf }, { openStore }] = await Promise.all([import('../books.ts'), import('../stores/index.ts')])
  return await inSentences(async () => {
    const store = await openStore(patient(config.store), openingOf(config, { ...around, log: silentLog }))
    try {
      if (store.export === undefined) throw new CommandFailed(`a store of kind ${config.store.kind} cannot be copied`, 2)
      return await use(store.export(productVersion()))
    } finally {
      await store.close()
    }
  })
}

async function intoStore(config: Config, to: StoreConfig, rows: AsyncIterable<StoreRow>, around: Surroundings, json: boolean): Promise<number> {
  const [{ openingOf }, { fillStore, openStore }] = await Promise.all([import('../books.ts'), import('../stores/index.ts')])
  const target = to.kind === 'redis' ? { ...to, spool: null } : to
  const opening = openingOf(config, { ...around, log: silentLog })
  const passing = new Passing(rows)
  const filled = await fillStore(patient(target), opening, passing.rows(), new AccountHomes(config))
  // What is there now is read back, every row.
  const store = await openStore(patient(target), opening)
  const found = new Tally()
  try {
    for await (const row of store.export?.(productVersion()) ?? []) if (row.t !== 'store' && row.t !== 'end') found.add(row)
  } finally {
    await store.close()
  }
  return tell(passing.tally, filled, found, around, json)
}

function tell(source: Tally, filled: Filled, found: Tally, around: Surroundings, json: boolean): number {
  for (const [name, events] of filled.again) filled.tally.waiting.set(name, (filled.tally.waiting.get(name) ?? 0) + events)
  const [wanted, there] = [filled.tally.toDocument(), found.toDocument()]
  const equal = JSON.stringify(sorted(wanted)) === JSON.stringify(sorted(there))
  const notes = [
    ...(filled.over === 0 ? [] : [`${filled.over} counters and closed calls were left out, because their time is over.`]),
    ...(filled.homeless === 0 ? [] : [`${filled.homeless} marks of closed calls were left out, because nothing tells their account; they were only there should the call be settled a second time.`]),
    ...[...filled.again].map(([name, events]) => `${events} events will be delivered to ${name} a second time, with the same ids.`),
  ]
  if (json) printJson(around, { equal, source: source.toDocument(), target: there, left_out: { over: filled.over, homeless: filled.homeless }, delivered_again: Object.fromEntries(filled.again) })
  else print(around, [table([{ title: 'SOURCE', tally: source.toDocument() }, { title: 'TARGET', tally: there }]), ...notes, ...(equal ? ['Both sides agree.'] : [])].join('\n'))
  if (!equal) throw new CommandFailed('what was written and what is there do not agree: do not use the copy')
  return 0
}

/** Rows on their way, counted. */
class Passing {
  readonly tally = new Tally()
  readonly #rows: AsyncIterable<StoreRow>

  constructor(rows: AsyncIterable<StoreRow>) {
    this.#rows = rows
  }

  async *rows(): AsyncGenerator<StoreRow> {
    for await (const row of this.#rows) {
      if (row.t !== 'store' && row.t !== 'end') this.tally.add(row)
      yield row
    }
  }
}

const shown: readonly (readonly [string, string])[] = [
  ['counters', 'counters'], ['settled', 'settled, summed'], ['closed', 'closed calls'], ['expired', 'expired calls'], ['documents', 'keys and other documents'], ['dead', 'dead events'], ['events', 'events'],
]

function table(columns: readonly { readonly title: string; readonly tally: Readonly<Record<string, unknown>> }[]): string {
  const rows = shown.map(([name, title]) => ({ title, values: columns.map(({ tally }) => String(tally[name])) }))
  const names = Object.keys((columns[0]?.tally['waiting'] ?? {}) as object)
  for (const name of names) rows.push({ title: `events waiting for ${name}`, values: columns.map(({ tally }) => String((tally['waiting'] as Record<string, unknown>)[name] ?? '-')) })
  return toTable(rows, [{ title: '', cell: (row) => row.title }, ...columns.map(({ title }, i) => ({ title, cell: (row: typeof rows[number]) => row.values[i] ?? null }))], '')
}

function sorted(tally: Readonly<Record<string, unknown>>): unknown {
  return { ...tally, waiting: Object.entries(tally['waiting'] as object).sort(([a], [b]) => (a < b ? -1 : 1)) }
}

function patient(store: StoreConfig): StoreConfig {
  return store.kind === 'redis' ? { ...store, deadlineMs: Math.max(store.deadlineMs, deadlineMs) } : store
}

async function spooled({ store }: Config): Promise<number> {
  if (store.kind !== 'redis' || store.spool === null) return 0
  const { measureSpool } = await import('../spool/measure.ts')
  return measureSpool(store.spool)?.settlements ?? 0
}

/** On disk in one step, and nobody else's to read. */
async function writeFile(path: string, rows: AsyncIterable<StoreRow>): Promise<void> {
  const temporary = `${path}.part`
  try {
    const file = await open(temporary, 'w', 0o600)
    const stream = file.createWriteStream({ autoClose: false, highWaterMark: 1024 * 1024 })
    const failed = new Promise<never>((_resolve, reject) => stream.once('error', reject))
    failed.catch(() => undefined)
    for await (const line of toLines(rows)) if (!stream.write(line)) await Promise.race([once(stream, 'drain'), failed])
    await Promise.race([new Promise<void>((resolve) => stream.end(resolve)), failed])
    await file.sync()
    await file.close()
    await rename(temporary, path)
    const folder = await open(dirname(path), 'r')
    await folder.sync()
    await folder.close()
  } catch (error) {
    await rm(temporary, { force: true })
    if (error instanceof Error && 'code' in error && 'syscall' in error) throw new CommandFailed(`${path} cannot be written: ${error.message}`)
    throw error
  }
}

/** Everything that an operator can do something about. */
async function inSentences(task: () => Promise<number>): Promise<number> {
  try {
    return await task()
  } catch (error) {
    const known = error instanceof RowsRefused || error instanceof StoreUnavailable || (error instanceof Error && ['DirectoryRefused', 'JournalDamaged', 'StoreRefused'].includes(error.name))
    throw known ? new CommandFailed((error as Error).message) : error
  }
}
