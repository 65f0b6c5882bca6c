import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { closeToOthers, DirectoryRefused, layoutOf, prepareDirectory, tryLock } from '../stores/embedded/directory.ts'

/**
 * Processes that share a spool's folder have a lane each: a folder in it, with a lock that ends with its process. A process takes the first that is free,
 * and what lies in others that are free was left by processes that are no more.
 */
export interface Lane {
  readonly dir: string
  release(): void
}

const LANES_MAX = 1_024

/** Throws DirectoryRefused, with a message that says what to do. */
export function takeLane(path: string): Lane {
  const { dir } = prepareDirectory(path)
  for (let n = 0; n < LANES_MAX; n++) {
    const lane = prepareDirectory(join(dir, String(n)))
    const release = tryLock(lane.lock)
    if (release === null) continue
    closeToOthers(lane)
    return { dir: lane.dir, release }
  }
  throw new DirectoryRefused(`all ${LANES_MAX} lanes of the spool ${dir} are in use: give each gateway a folder of its own`)
}

/** Those that nobody uses, taken for as long as they are looked at. */
export function* freeLanes(path: string, own: Lane): Generator<Lane> {
  for (const name of readdirSync(path)) {
    const dir = join(path, name)
    if (!/^\d{1,4}$/.test(name) || dir === own.dir || !existsSync(join(dir, 'spool.db'))) continue
    const release = tryLock(layoutOf(dir).lock)
    if (release !== null) yield { dir, release }
  }
}
