import { StoreUnavailable } from '../store.ts'
import { KeyNames } from './keys.ts'
import type { RedisLink } from './link.ts'

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
  let meta = await readMeta(link, key)
  if (meta === null && knownEpoch !== null && !acceptLoss) {
    throw new StoreRefused('this Redis is empty, but books have been kept in it before: restore it from its backup, or run `tallygate store accept-loss` to begin anew')
  }
  if (meta === null) {
    const fresh: StoreMeta = { format: FORMAT, partitions, epoch: newEpoch(), state: 'making', madeMs: nowMs, accepted: acceptLoss }
    // Two may do this at once: one of them wins, and both go on with what is there then.
    await link.command(key, 'SET', [key, JSON.stringify(fresh), 'NX'])
    meta = await readMeta(link, key)
    if (meta === null) throw new StoreUnavailable('the store could not be made')
  }
  if (meta.partitions !== partitions) {
    throw new StoreRefused(`this store was made with ${meta.partitions} partitions, and the configuration says ${partitions}: the number is fixed at the first start`)
  }
  if (meta.state === 'ready' && !acceptLoss && !meta.accepted && knownEpoch !== null && knownEpoch !== meta.epoch) {
    throw new StoreRefused('the books in this Redis are not those that this gateway knew: they were lost and made anew, or the address has changed; `tallygate store accept-loss` goes on with what is there')
  }
  if (meta.state === 'ready' && acceptLoss) {
    if (await isDamaged(link, prefix, meta)) meta = { ...meta, epoch: newEpoch(), state: 'making', accepted: true }
    // Other gateways that still know an older epoch may go on as well.
    else meta = { ...meta, accepted: true }
    await link.command(key, 'SET', [key, JSON.stringify(meta)])
  }
  if (meta.state === 'making') meta = await finishMaking(link, key, prefix, meta)
  return meta
}

/** null: there are no books. Throws StoreRefused for those of another format. */
export async function readMeta(link: RedisLink, key: string): Promise<StoreMeta | null> {
  const text = await link.command(key, 'GET', [key])
  if (typeof text !== 'string') return null
  let meta: Partial<StoreMeta>
  try {
    meta = JSON.parse(text) as Partial<StoreMeta>
  } catch {
    throw new StoreRefused(`the key ${key} does not hold what Tallygate writes there: another program uses it; choose another store.prefix`)
  }
  const { format, partitions, epoch, state, madeMs, accepted } = meta
  if (typeof format === 'number' && format > FORMAT + 1) throw new StoreRefused(`this store is of format ${format}, and this release knows ${FORMAT}: use the release that made it, or a newer one`)
  if (typeof format !== 'number' || typeof partitions !== 'number' || typeof epoch !== 'string') throw new StoreRefused(`the key ${key} does not hold what Tallygate writes there`)
  if (state === 'filling') throw new StoreRefused(`books are being copied into this Redis, or were when something stopped it: if nothing does it now, remove the keys that begin with ${key.slice(0, key.indexOf('{'))} and copy again`)
  return { format, partitions, epoch, state: state === 'making' ? 'making' : 'ready', madeMs: madeMs ?? 0, accepted: accepted === true }
}

/** Takes an empty store for a copy; until `endFilling` nobody can open it. Throws StoreRefused when somebody was faster. */
export async function beginFilling(link: RedisLink, prefix: string, partitions: number, epoch: string, nowMs: number): Promise<StoreMeta> {
  const key = new KeyNames(prefix, partitions).meta()
  const meta: StoreMeta = { format: FORMAT, partitions, epoch, state: 'filling', madeMs: nowMs, accepted: false }
  if (await link.command(key, 'SET', [key, JSON.stringify(meta), 'NX']) === null) throw new StoreRefused('there are books in this Redis already')
  return meta
}

/** The copy is whole. */
export async function endFilling(link: RedisLink, prefix: string, meta: StoreMeta): Promise<void> {
  await finishMaking(link, new KeyNames(prefix, meta.partitions).meta(), prefix, meta)
}

/** Has any partition lost its mark? */
async function isDamaged(link: RedisLink, prefix: string, meta: StoreMeta): Promise<boolean> {
  const keys = new KeyNames(prefix, meta.partitions)
  const answers = await link.commands(Array.from({ length: meta.partitions }, (_, p) => ({ key: keys.epoch(p), name: 'GET', args: [keys.epoch(p)] })))
  return answers.some((answer) => answer !== meta.epoch)
}

/** Marks every partition. Whoever finds the making unfinished does the same again: nothing has been counted meanwhile. */
async function finishMaking(link: RedisLink, key: string, prefix: string, meta: StoreMeta): Promise<StoreMeta> {
  const keys = new KeyNames(prefix, meta.partitions)
  const answers = await link.commands(Array.from({ length: meta.partitions }, (_, p) => ({ key: keys.epoch(p), name: 'SET', args: [keys.epoch(p), meta.epoch] })))
  const failed = answers.find((answer) => answer instanceof Error)
  if (failed instanceof Error) throw failed
  const ready: StoreMeta = { ...meta, state: 'ready' }
  await link.command(key, 'SET', [key, JSON.stringify(ready)])
  return ready
}
