import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../clock.ts'
import type { Log } from '../../log.ts'
import { timeOfId } from '../../metering/id.ts'
import type { Random } from '../../random.ts'
import type { Filled, Homes, StoreRow } from '../rows.ts'
import { StoreUnavailable } from '../store.ts'
import { openLink } from './connection.ts'
import { askDurability, judge, type DurabilityWanted } from './durability.ts'
import { openMeta, StoreRefused } from './epoch.ts'
import { fillRedis } from './fill.ts'
import { Housekeeping } from './housekeeping.ts'
import { KeyNames } from './keys.ts'
import type { RedisLink } from './link.ts'
import { RedisOutbox } from './outbox.ts'
import { RedisRecords } from './records.ts'
import { ServerTime } from './server-time.ts'
import { RedisStore } from './store.ts'

export interface RedisOptions {
  readonly url: string
  readonly prefix: string
  readonly partitions: number
  readonly deadlineMs: number
  /** What the server must promise at the start. */
  readonly durability: 'always' | 'everysec' | 'none'
  readonly confirm: { readonly replicas: number; readonly fsync: boolean }
  readonly eventsMax: number
  /** Where this machine remembers which books it knew; null: it does not, and cannot tell books that were lost from a first start. */
  readonly memoryDir: string | null
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  /** How long a closed reservation is remembered: the longest exchange and an hour. */
  readonly forgetAfterMs: number
  /** How long delivered events stay. */
  readonly hotMs: number
  /** An operator has said that what was counted may be missing. */
  readonly acceptLoss: boolean
  /** How long the server may take to be there, ms. */
  readonly patienceMs?: number
  readonly timeOf?: (id: string) => number
}

const PATIENCE_MS = 10_000
const LOOK_AGAIN_MS = 100
/** A copy is patient: nobody's call waits for it. */
const FILL_DEADLINE_MS = 5_000
const EPOCH_FILE = 'redis-epoch.json'

/** Joins what this folder is made of. Throws StoreUnavailable when the server is not there, StoreRefused when it may not be used as it is. */
export async function openRedis(options: RedisOptions): Promise<RedisStore> {
  const { url, prefix, deadlineMs, clock, random, log, memoryDir, acceptLoss } = options
  const confirm = options.confirm.replicas > 0 || options.confirm.fsync ? options.confirm : null
  const link = await openLink({ url, deadlineMs, clock, random, log, ...(confirm === null ? {} : { confirm }) })
  try {
    const untilMs = clock.monotonicMs() + (options.patienceMs ?? PATIENCE_MS)
    await patiently(link, clock, untilMs, () => demand(link, options))
    const keys = new KeyNames(prefix, options.partitions)
    const time = new ServerTime(link, keys.meta(), clock)
    await time.start()
    const knownEpoch = memoryDir === null ? null : await recall(memoryDir, prefix)
    const newEpoch = (): string => Buffer.from(random.bytes(12)).toString('hex')
    const meta = await patiently(link, clock, untilMs, () => openMeta({
      link, prefix, partitions: options.partitions, nowMs: time.nowMs(), acceptLoss, newEpoch, knownEpoch,
    }))
    const remember = (epoch: string): void => {
      if (memoryDir !== null) void note(memoryDir, prefix, epoch).catch((error: unknown) => log.warn({ error: String(error) }, 'the store\'s epoch could not be noted'))
    }
    if (memoryDir !== null) await note(memoryDir, prefix, meta.epoch)
    const outbox = new RedisOutbox({ link, keys, clock, random, log })
    const records = new RedisRecords({ link, keys, clock, log })
    const nowMs = (): number => time.nowMs()
    const housekeeping = new Housekeeping({ link, keys, outbox, clock, nowMs, log, hotMs: options.hotMs, eventsMax: options.eventsMax })
    housekeeping.start()
    return new RedisStore({
      link, keys, meta, time, outbox, records, housekeeping, clock, log, forgetAfterMs: options.forgetAfterMs, timeOf: options.timeOf ?? timeOfId, confirm, onEpoch: remember,
      wanted: wantedOf(options, link),
    })
  } catch (error) {
    await link.close()
    throw error
  }
}

/** Again and again while the server is away, or too slow for its deadline as at a busy start: what is done may be repeated. */
async function patiently<Done>(link: RedisLink, clock: Clock, untilMs: number, step: () => Promise<Done>): Promise<Done> {
  for (;;) {
    let why = link.reason ?? 'it does not answer'
    try {
      if (link.up) return await step()
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error
      why = error.message
    }
    if (clock.monotonicMs() >= untilMs) throw new StoreUnavailable(`Redis cannot be used: ${why}`)
    await clock.sleep(LOOK_AGAIN_MS)
  }
}

/** Is the server fit to keep books? What it loses, and when, is said once per start. */
async function demand(link: RedisLink, options: RedisOptions): Promise<void> {
  const { refuse, warnings } = judge(await askDurability(link), wantedOf(options, link))
  if (refuse !== null) throw new StoreRefused(refuse)
  for (const warning of warnings) options.log.warn({ where: 'store' }, warning)
}

function wantedOf({ durability, confirm, deadlineMs }: RedisOptions, { clustered }: RedisLink): DurabilityWanted {
  return { durability, confirm, deadlineMs, clustered }
}

/** Fills an empty Redis with another store's rows. Throws RowsRefused, StoreUnavailable, StoreRefused. */
export async function fillEmptyRedis(options: RedisOptions, rows: AsyncIterable<StoreRow>, homes: Homes): Promise<Filled> {
  const { url, prefix, partitions, clock, random, log, forgetAfterMs } = options
  const deadlineMs = Math.max(options.deadlineMs, FILL_DEADLINE_MS)
  const link = await openLink({ url, deadlineMs, clock, random, log })
  try {
    const untilMs = clock.monotonicMs() + (options.patienceMs ?? PATIENCE_MS)
    await patiently(link, clock, untilMs, () => demand(link, options))
    const newEpoch = (): string => Buffer.from(random.bytes(12)).toString('hex')
    return await fillRedis({ link, prefix, partitions, newEpoch, clock, forgetAfterMs, timeOf: options.timeOf ?? timeOfId }, rows, homes)
  } finally {
    await link.close()
  }
}

/** The epoch that this machine knew; null: it knew none. */
async function recall(dir: string, prefix: string): Promise<string | null> {
  let text: string
  try {
    text = await readFile(join(dir, EPOCH_FILE), 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null
    throw error
  }
  const known = (JSON.parse(text) as Readonly<Record<string, unknown>>)[prefix]
  return typeof known === 'string' ? known : null
}

async function note(dir: string, prefix: string, epoch: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const path = join(dir, EPOCH_FILE)
  // Several workers may write this at once, all of them the same.
  const next = `${path}.${process.pid}`
  await writeFile(next, `${JSON.stringify({ [prefix]: epoch })}\n`, { mode: 0o600 })
  await rename(next, path)
}
