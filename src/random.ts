import { randomBytes } from 'node:crypto'

/** The only door to chance. */
export interface Random {
  bytes(count: number): Uint8Array
  /** A number in [0, 1). */
  fraction(): number
}

// Filling a pool once is far cheaper than asking the kernel ten bytes at a time.
const poolBytes = 4096
let pool = randomBytes(poolBytes)
let used = 0

export const systemRandom: Random = {
  bytes(count) {
    if (count > poolBytes) return randomBytes(count)
    if (used + count > poolBytes) {
      pool = randomBytes(poolBytes)
      used = 0
    }
    const bytes = pool.subarray(used, used + count)
    used += count
    return bytes
  },
  fraction() {
    const bytes = this.bytes(6)
    let value = 0
    for (const byte of bytes) value = value * 256 + byte
    return value / 2 ** 48
  },
}
