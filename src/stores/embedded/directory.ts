import {
  accessSync, chmodSync, closeSync, constants, existsSync, fsyncSync, mkdirSync, openSync, readdirSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { errorText, SQLITE_BUSY, sqliteCode } from './sqlite-error.ts'

/** Where everything of one embedded store lies. */
export interface Layout {
  readonly dir: string
  readonly journal: string
  readonly wal: string
  readonly ballast: string
  readonly watermark: string
  readonly lock: string
  readonly holder: string
}

/** A data directory that must not be used as it is; the message says what to do. */
export class DirectoryRefused extends Error {
  override name = 'DirectoryRefused'
}

export function layoutOf(dir: string): Layout {
  return {
    dir,
    journal: join(dir, 'journal.db'),
    wal: join(dir, 'journal.db-wal'),
    ballast: join(dir, 'ballast'),
    watermark: join(dir, 'watermark'),
    lock: join(dir, 'lock.db'),
    holder: join(dir, 'lock.json'),
  }
}

/** Creates the directory if needed, follows a link once, and refuses one that others could change. */
export function prepareDirectory(path: string): Layout {
  const wanted = resolve(path)
  if (!existsSync(wanted)) {
    mkdirSync(wanted, { recursive: true, mode: 0o700 })
    syncDirectory(dirname(wanted))
  }
  const dir = realpathSync(wanted)
  const found = statSync(dir)
  if (!found.isDirectory()) throw new DirectoryRefused(`${dir} is not a directory: give the store one of its own`)
  if ((found.mode & 0o002) !== 0) throw new DirectoryRefused(`the data directory ${dir} can be written by everyone: chmod o-w ${dir}`)
  try {
    accessSync(dir, constants.R_OK | constants.W_OK | constants.X_OK)
  } catch (cause) {
    throw new DirectoryRefused(`the data directory ${dir} belongs to user ${found.uid} and cannot be written by user ${process.getuid?.() ?? '?'}, or is mounted read-only: ${errorText(cause)}`, { cause })
  }
  return layoutOf(dir)
}

/** Books and documents are nobody else's to read. Run with the lock held. */
export function closeToOthers(layout: Layout): void {
  for (const name of readdirSync(layout.dir)) {
    const path = join(layout.dir, name)
    const found = statSync(path)
    if (!found.isFile() || (found.mode & 0o077) === 0) continue
    try {
      chmodSync(path, 0o600)
    } catch (cause) {
      throw new DirectoryRefused(`${path} can be read by others, and user ${process.getuid?.() ?? '?'} may not change that: ${errorText(cause)}`, { cause })
    }
  }
}

/** A rename or a new file is only certain once its directory is. */
export function syncDirectory(dir: string): void {
  const fd = openSync(dir, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

export interface Holder {
  readonly pid: number
  readonly adminAddress: string | null
  readonly sinceMs: number
}

/**
 * Takes the directory for this process. The lock is the kernel's, on a file that SQLite holds: it ends with the process, however that ends,
 * so a dead process's lock is never in the way and a reused pid never is either. The file beside it only says who holds it.
 */
export function lockDirectory(layout: Layout, holder: Holder): () => void {
  const unlock = tryLock(layout.lock)
  if (unlock === null) throw new DirectoryRefused(`the data directory ${layout.dir} is in use by ${holderText(layout)}: one embedded store is one gateway; stop that one, or use another directory`)
  writeFileSync(layout.holder, `${JSON.stringify(holder)}\n`, { mode: 0o600 })
  return () => {
    rmSync(layout.holder, { force: true })
    unlock()
  }
}

/** Takes a lock file; null while another process, or this one, has it. */
export function tryLock(path: string): (() => void) | null {
  const lock = new DatabaseSync(path, { timeout: 0 })
  try {
    lock.exec('BEGIN EXCLUSIVE')
    return () => lock.close()
  } catch (cause) {
    lock.close()
    if (sqliteCode(cause) === SQLITE_BUSY) return null
    throw new DirectoryRefused(`the data directory ${dirname(path)} cannot be locked: ${errorText(cause)}`, { cause })
  }
}

function holderText(layout: Layout): string {
  try {
    const holder = JSON.parse(readFileSync(layout.holder, 'utf8')) as Holder
    const address = holder.adminAddress === null ? 'no admin address' : `admin address ${holder.adminAddress}`
    return `process ${holder.pid} (${address}, since ${new Date(holder.sinceMs).toISOString()})`
  } catch {
    return 'another process, which has not yet said who it is'
  }
}
