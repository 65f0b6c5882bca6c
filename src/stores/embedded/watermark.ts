import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { crc32 } from 'node:zlib'

/**
 * The last group that was acknowledged to a caller, beside the journal. SQLite drops a damaged end of its log without a word; when this is ahead of
 * the journal, acknowledged moves are missing. It is written after the acknowledgement and never synced: behind is harmless, ahead is proof.
 */
export interface Watermark {
  readonly epoch: string
  readonly seq: number
  /** Which run of the machine wrote it: after a power loss `normal` may have lost the last groups, which it says it may. */
  readonly boot: string
}

const BYTES = 128

export class WatermarkFile {
  readonly #fd: number
  readonly #epoch: string
  readonly #boot = bootId()

  constructor(path: string, epoch: string) {
    this.#fd = openSync(path, 'a+', 0o600)
    closeSync(this.#fd)
    this.#fd = openSync(path, 'r+', 0o600)
    this.#epoch = epoch
  }

  write(seq: number): void {
    const text = `${this.#epoch} ${String(seq).padStart(15, '0')} ${this.#boot}`
    const line = `${text} ${crc32(text).toString(16).padStart(8, '0')}`
    // Always the same bytes of the same file: it can be written on a full disk.
    writeSync(this.#fd, `${line.padEnd(BYTES - 1)}\n`, 0)
  }

  close(): void {
    closeSync(this.#fd)
  }
}

/** `absent`: never written. `damaged`: it says nothing, which after a power loss is no surprise. */
export function readWatermark(path: string): Watermark | 'absent' | 'damaged' {
  let text: string
  try {
    text = readFileSync(path, 'utf8').trimEnd()
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return 'absent'
    throw error
  }
  if (text === '') return 'absent'
  const [epoch, seq, boot, crc] = text.split(' ')
  if (epoch === undefined || seq === undefined || boot === undefined || crc !== crc32(`${epoch} ${seq} ${boot}`).toString(16).padStart(8, '0')) return 'damaged'
  return { epoch, seq: Number(seq), boot }
}

export function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  } catch {
    // Not Linux: every run counts as the same.
    return 'unknown'
  }
}
