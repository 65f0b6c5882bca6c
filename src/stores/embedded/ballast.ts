import { closeSync, fsyncSync, openSync, rmSync, statfsSync, statSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'

/** Space put aside while there was enough: when the disk is full it is let go, so that what has been admitted can still be settled. */

const CHUNK = Buffer.alloc(64 * 1024)

/** True when the space is set aside. */
export function fillBallast(path: string, bytes: number): boolean {
  if (holdsBallast(path, bytes)) return true
  const disk = statfsSync(dirname(path))
  // Taking the last free bytes would only bring the next full disk at once.
  if (disk.bavail * disk.bsize < bytes * 1.5) return false
  let fd: number | undefined
  try {
    fd = openSync(path, 'w', 0o600)
    for (let written = 0; written < bytes;) written += writeSync(fd, CHUNK, 0, Math.min(CHUNK.length, bytes - written))
    fsyncSync(fd)
    return true
  } catch {
    // Still no room, whatever the file system promised: try again later.
    rmSync(path, { force: true })
    return false
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

/** False when there was none to release. */
export function releaseBallast(path: string, bytes: number): boolean {
  if (!holdsBallast(path, bytes)) return false
  rmSync(path)
  return true
}

function holdsBallast(path: string, bytes: number): boolean {
  const found = statSync(path, { throwIfNoEntry: false })
  return found !== undefined && found.size >= bytes && bytes > 0
}
