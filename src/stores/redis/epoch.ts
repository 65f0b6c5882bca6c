import { StoreUnavailable } from '../store.ts'
import { KeyNames } from './keys.ts'
import { RedisError, type RedisLink } from './link.ts'
import { loadScript } from './scripts.ts'

/** The format of everything that this release writes. A release reads its own and the one before. */
const FORMAT = 1

/** What `meta` holds. */
export interface StoreMeta {
  readonly format: number
  readonly partitions: number
  /** Names one making of the books. Every partition has it too: where it is missing, counts have been lost. */
  readonly epoch: string
  /** `making`: the partitions are being marked, and nobody admits yet. `filling`: rows of another store are being written, and nobody may use it. */
  readonly state: 'making' | 'ready' | 'filling'
  readonly madeMs: number
  /** An operator has said that what an earlier epoch counted may be missing. */
  readonly accepted: boolean
}

/** The store cannot be used as it is; the message is a sentence that says what to do. */
export class StoreRefused extends Error {
  override name = 'StoreRefused'
}

export interface OpeningParts {
  readonly link: RedisLink
  readonly prefix: string
  /** Wanted; a store that exists keeps its own. */
  readonly partitions: number
  readonly newEpoch: () => string
  readonly nowMs: number
  /** The epoch that this machine has seen last; null: none. */
  readonly knownEpoch: string | null
  readonly acceptLoss: boolean
}

/** Finds the books, or makes them where there are none. Throws StoreRefused, StoreUnavailable. */
export async function openMeta({ link, prefix, partitions, newEpoch, nowMs, knownEpoch, acceptLoss }: OpeningParts): Promise<StoreMeta> {
  const key = new KeyNames(prefix, partitions).meta()
  let found = await find(link, key)
  if (found === null && knownEpoch !== null && !acceptLoss) {
    throw new StoreRefused('this Redis is empty, but books have been kept in it before: restore it from its backup, or run `tallygate store accept-loss` to begin anew')
  }
  if (found === null) {
    const fresh: StoreMeta = { format: FORMAT, partitions, epoch: newEpoch(), state: 'making', madeMs: nowMs, accepted: acceptLoss }
    // Two may do this at once: one of them wins, and both go on with what is there then.
    await link.command(key, 'SET', [key, JSON.stringify(fresh), 'NX'])
    found = await find(link, key)
    if (found === null) throw new StoreUnavailable('the store could not be made')
  }
  const { meta } = found
  if (meta.partitions !== partitions) {
    throw new StoreRefused(`this store was made with ${meta.partitions} partitions, and the configuration says ${partitions}: the number is fixed at the first start`)
  }
  if (meta.state === 'ready' && !acceptLoss && !meta.accepted && knownEpoch !== null && knownEpoch !== meta.epoch) {
    throw new StoreRefused('the books in this Redis are not those that this gateway knew: they were lost and made anew, or the address has changed; `tallygate store accept-loss` goes on with what is there')
  }
  for (;;) {
    if (found.meta.state === 'making') {
      // Whoever finds the making unfinished does the same again: nothing has been counted meanwhile.
      await mark(link, prefix, found.meta)
      found = await swap(link, key, found, { ...found.meta, state: 'ready' })
    } else {
      const damaged = acceptLoss && await isDamaged(link, prefix, found.meta)
      if (!damaged && (found.meta.accepted || !acceptLoss)) return found.meta
      // Other gateways that still know an older epoch may go on as well.
      found = await swap(link, key, found, damaged ? { ...found.meta, epoch: newEpoch(), state: 'making', accepted: true } : { ...found.meta, accepted: true })
    }
  }
}

/** null: there are no books. Throws StoreRefused for those of another format. */
export async function readMeta(link: RedisLink, key: string): Promise<StoreMeta | null> {
  return (await find(link, key))?.meta ?? null
}

/** The books' mark, and its text. */
interface Found {
  readonly text: string
  readonly meta: StoreMeta
}

async function find(link: RedisLink, key: string): Promise<Found | null> {
  let text: unknown
  try {
    text = await link.command(key, 'GET', [key])
  } catch (error) {
    throw error instanceof RedisError ? notOurs(key) : error
  }
  return typeof text === 'string' ? { text, meta: parseMeta(key, text) } : null
}

function parseMeta(key: string, text: string): StoreMeta {
  const { format, partitions, epoch, state, madeMs, accepted } = toObject(text) as Partial<StoreMeta>
  if (typeof format === 'number' && format > FORMAT + 1) throw new StoreRefused(`this store is of format ${format}, and this release knows ${FORMAT}: use the release that made it, or a newer one`)
  if (typeof format !== 'number' || typeof partitions !== 'number' || typeof epoch !== 'string') throw notOurs(key)
  if (state === 'filling') throw new StoreRefused(`books are being copied into this Redis, or were when something stopped it: if nothing does it now, remove the keys that begin with ${key.slice(0, key.indexOf('{'))} and copy again`)
  return { format, partitions, epoch, state: state === 'making' ? 'making' : 'ready', madeMs: madeMs ?? 0, accepted: accepted === true }
}

/** Empty for what is none. */
function toObject(text: string): object {
  try {
    const value = JSON.parse(text) as unknown
    return typeof value === 'object' && value !== null ? value : {}
  } catch {
    return {}
  }
}

function notOurs(key: string): StoreRefused {
  return new StoreRefused(`the key ${key} does not hold what Tallygate writes there: another program uses it; choose another store.prefix`)
}

/** Gives what is there then: `next`, or what somebody else has put there meanwhile. What a newer release keeps beside our fields stays. */
async function swap(link: RedisLink, key: string, found: Found, next: StoreMeta): Promise<Found> {
  const text = await link.script(swapScript, [key], [found.text, JSON.stringify({ ...toObject(found.text), ...next })])
  if (typeof text !== 'string') throw new StoreUnavailable('the books were removed meanwhile')
  return { text, meta: parseMeta(key, text) }
}

const swapScript = loadScript('meta-swap', ['meta-swap.lua'], ['allow-oom'])

/** Takes an empty store for a copy; until `endFilling` nobody can open it. Throws StoreRefused when somebody was faster. */
export async function beginFilling(link: RedisLink, prefix: string, partitions: number, epoch: string, nowMs: number): Promise<StoreMeta> {
  const key = new KeyNames(prefix, partitions).meta()
  const meta: StoreMeta = { format: FORMAT, partitions, epoch, state: 'filling', madeMs: nowMs, accepted: false }
  if (await link.command(key, 'SET', [key, JSON.stringify(meta), 'NX']) === null) throw new StoreRefused('there are books in this Redis already')
  return meta
}

/** The copy is whole. */
export async function endFilling(link: RedisLink, prefix: string, meta: StoreMeta): Promise<void> {
  const key = new KeyNames(prefix, meta.partitions).meta()
  await mark(link, prefix, meta)
  await link.command(key, 'SET', [key, JSON.stringify({ ...meta, state: 'ready' } satisfies StoreMeta)])
}

/** Has any partition lost its mark? Throws when one does not answer. */
async function isDamaged(link: RedisLink, prefix: string, meta: StoreMeta): Promise<boolean> {
  const keys = new KeyNames(prefix, meta.partitions)
  const answers = await link.commands(Array.from({ length: meta.partitions }, (_, p) => ({ key: keys.epoch(p), name: 'GET', args: [keys.epoch(p)] })))
  const away = answers.find((answer) => answer instanceof StoreUnavailable)
  if (away !== undefined) throw away
  return answers.some((answer) => answer !== meta.epoch)
}

/** Marks every partition with the epoch. */
async function mark(link: RedisLink, prefix: string, meta: StoreMeta): Promise<void> {
  const keys = new KeyNames(prefix, meta.partitions)
  const answers = await link.commands(Array.from({ length: meta.partitions }, (_, p) => ({ key: keys.epoch(p), name: 'SET', args: [keys.epoch(p), meta.epoch] })))
  const failed = answers.find((answer) => answer instanceof Error)
  if (failed !== undefined) throw failed
}
