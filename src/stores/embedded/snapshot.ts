import { closeSync, fsyncSync, openSync, readdirSync, readSync, renameSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { StringDecoder } from 'node:string_decoder'
import { crc32 } from 'node:zlib'
import { syncDirectory } from './directory.ts'

/**
 * The whole ledger after one journal row, as lines of JSON between a head and a foot with their checksum. Two are kept: the journal goes back
 * to the older one, so that a damaged newest costs time and nothing else.
 */
export interface SnapshotHead {
  readonly format: 1
  readonly epoch: string
  /** The last row that is in it. */
  readonly seq: number
}

interface SnapshotFoot {
  readonly lines: number
  readonly crc: number
}

export class SnapshotDamaged extends Error {
  override name = 'SnapshotDamaged'
}

/** The steps of writing, in order: a test stops at each of them. */
export type SnapshotStep = 'created' | 'half' | 'written' | 'synced' | 'renamed' | 'directory' | 'removed'

const NAME = /^snapshot-(\d{15})$/
const KEPT = 2
const CHUNK_BYTES = 256 * 1024

/** Newest first. */
export function listSnapshots(dir: string): number[] {
  return readdirSync(dir).flatMap((name) => { const found = NAME.exec(name); return found === null ? [] : [Number(found[1])] }).sort((a, b) => b - a)
}

export function snapshotPath(dir: string, seq: number): string {
  return join(dir, `snapshot-${String(seq).padStart(15, '0')}`)
}

/** Returns how many lines the ledger has. */
export function writeSnapshot(dir: string, head: SnapshotHead, lines: Iterable<string>, step: (at: SnapshotStep) => void = () => {}): number {
  const path = snapshotPath(dir, head.seq)
  const temporary = `${path}.tmp`
  const fd = openSync(temporary, 'w', 0o600)
  let count = 0
  try {
    step('created')
    let crc = 0
    let pending = `${JSON.stringify(head)}\n`
    const flush = (): void => {
      const bytes = Buffer.from(pending)
      crc = crc32(bytes, crc)
      for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at)
      pending = ''
    }
    for (const line of lines) {
      pending += `${line}\n`
      count += 1
      if (pending.length >= CHUNK_BYTES) flush()
    }
    flush()
    step('half')
    const foot: SnapshotFoot = { lines: count, crc }
    writeSync(fd, `${JSON.stringify(foot)}\n`)
    step('written')
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  step('synced')
  renameSync(temporary, path)
  step('renamed')
  syncDirectory(dir)
  step('directory')
  for (const seq of listSnapshots(dir).slice(KEPT)) rmSync(snapshotPath(dir, seq), { force: true })
  step('removed')
  return count
}

/** What a crash left half done. */
export function removeOrphans(dir: string): string[] {
  const orphans = readdirSync(dir).filter((name) => name.endsWith('.tmp'))
  for (const name of orphans) rmSync(join(dir, name), { force: true })
  return orphans
}

/** The ledger's lines. Only when it has ended without a throw was the file whole: what was built from it before that must be dropped. */
export function* readSnapshot(dir: string, seq: number, epoch: string): Generator<string> {
  const path = snapshotPath(dir, seq)
  const damaged = (what: string): SnapshotDamaged => new SnapshotDamaged(`${path} ${what}`)
  let crc = 0
  let count = -1
  let foot: SnapshotFoot | null = null
  // One line is held back, as the last is the foot and not in the checksum.
  let held: string | null = null
  for (const line of readLines(path)) {
    if (held !== null) {
      crc = crc32(`${held}\n`, crc)
      count += 1
      if (count === 0) {
        const head = parsed<SnapshotHead>(held)
        if (head === null || head.format !== 1 || head.seq !== seq) throw damaged('has a damaged head')
        if (head.epoch !== epoch) throw damaged('belongs to another store')
      } else yield held
    }
    held = line
  }
  if (held !== null) foot = parsed<SnapshotFoot>(held)
  if (foot === null || foot.lines !== count || foot.crc !== crc) throw damaged('is cut short or fails its checksum')
}

function parsed<T>(line: string): T | null {
  try {
    return JSON.parse(line) as T
  } catch {
    return null
  }
}

function* readLines(path: string): Generator<string> {
  const fd = openSync(path, 'r')
  try {
    const decoder = new StringDecoder('utf8')
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES)
    let rest = ''
    for (;;) {
      const read = readSync(fd, chunk, 0, chunk.length, null)
      if (read === 0) break
      const lines = (rest + decoder.write(chunk.subarray(0, read))).split('\n')
      rest = lines.pop()!
      yield* lines
    }
    if (rest !== '') yield rest
  } finally {
    closeSync(fd)
  }
}
