import { existsSync, readFileSync } from 'node:fs'

/** Where SQLite's write-ahead log stops being readable. SQLite itself stops there without a word. */
export interface WalScan {
  /** Frames that hold. */
  readonly goodFrames: number
  /** Byte offset of the first frame that does not hold; null: none. */
  readonly badOffset: number | null
  /** Frames of the same generation after the first bad one: with them the damage is in the middle and not a torn end. */
  readonly framesAfter: number
}

const HEADER_BYTES = 32
const FRAME_HEADER_BYTES = 24
const MAGIC = 0x377f0682

/** Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log */
export function scanWal(path: string): WalScan {
  const nothing = { goodFrames: 0, badOffset: null, framesAfter: 0 }
  if (!existsSync(path)) return nothing
  const bytes = readFileSync(path)
  if (bytes.length < HEADER_BYTES) return nothing
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const magic = words.getUint32(0)
  if ((magic & ~1) !== MAGIC) return { ...nothing, badOffset: 0 }
  const littleEndian = (magic & 1) === 0
  const sum = (from: number, to: number, start: readonly [number, number]): [number, number] => {
    let [a, b] = start
    for (let at = from; at < to; at += 8) {
      a = (a + words.getUint32(at, littleEndian) + b) >>> 0
      b = (b + words.getUint32(at + 4, littleEndian) + a) >>> 0
    }
    return [a, b]
  }
  let running = sum(0, 24, [0, 0])
  if (words.getUint32(24) !== running[0] || words.getUint32(28) !== running[1]) return { ...nothing, badOffset: 0 }
  const frameBytes = FRAME_HEADER_BYTES + words.getUint32(8)
  const sameGeneration = (at: number): boolean => words.getUint32(at + 8) === words.getUint32(16) && words.getUint32(at + 12) === words.getUint32(20)

  let goodFrames = 0
  let at = HEADER_BYTES
  for (; at + frameBytes <= bytes.length; at += frameBytes) {
    const next = sum(at + FRAME_HEADER_BYTES, at + frameBytes, sum(at, at + 8, running))
    if (!sameGeneration(at) || words.getUint32(at + 16) !== next[0] || words.getUint32(at + 20) !== next[1]) break
    running = next
    goodFrames += 1
  }
  if (at >= bytes.length) return { goodFrames, badOffset: null, framesAfter: 0 }
  let framesAfter = 0
  for (let later = at + frameBytes; later + frameBytes <= bytes.length; later += frameBytes) if (sameGeneration(later)) framesAfter += 1
  return { goodFrames, badOffset: at, framesAfter }
}
