import type { Settle, Void } from '../../metering/moves.ts'

/** How long an acknowledged move is remembered. */
const KEPT_MS = 60_000
/** Bounds of what is remembered, whatever the load: at 32 MiB and a few kilobytes each, some ten thousand settlements. */
const MOVES_MAX = 100_000
const BYTES_MAX = 32 * 1024 * 1024

interface Noted {
  readonly atMs: number
  readonly bytes: number
  readonly move: Settle | Void
}

/**
 * The settlements and voids of the last minute that the store has acknowledged: after a failover the new server may lack the newest of them, and all may
 * be repeated blindly. They are kept as they are, the oldest let go first when there are too many.
 */
export class RecentMoves {
  readonly #bytesMax: number
  readonly #movesMax: number
  /** In the order of their times; what is before `#first` has been let go. */
  #noted: Noted[] = []
  #first = 0
  #bytes = 0

  constructor(bounds: { readonly moves: number; readonly bytes: number } = { moves: MOVES_MAX, bytes: BYTES_MAX }) {
    this.#movesMax = bounds.moves
    this.#bytesMax = bounds.bytes
  }

  get count(): number {
    return this.#noted.length - this.#first
  }

  /** Roughly what they take in memory. */
  get bytes(): number {
    return this.#bytes
  }

  /** `nowMs` of a clock that does not go back. */
  note(move: Settle | Void, nowMs: number): void {
    const bytes = bytesOf(move)
    this.#noted.push({ atMs: nowMs, bytes, move })
    this.#bytes += bytes
    this.#letGo(nowMs - KEPT_MS)
  }

  /** Those noted at `fromMs` or later, the oldest first. */
  since(fromMs: number): readonly (Settle | Void)[] {
    const moves: (Settle | Void)[] = []
    for (let i = this.#noted.length - 1; i >= this.#first; i--) {
      const { atMs, move } = this.#noted[i]!
      if (atMs < fromMs) break
      moves.push(move)
    }
    return moves.reverse()
  }

  #letGo(beforeMs: number): void {
    for (let oldest = this.#noted[this.#first]; oldest !== undefined; oldest = this.#noted[this.#first]) {
      if (oldest.atMs >= beforeMs && this.count <= this.#movesMax && this.#bytes <= this.#bytesMax) break
      this.#bytes -= oldest.bytes
      this.#first += 1
    }
    // Moving the rest down now and then costs less than a ring that has to grow.
    if (this.#first < 1_024 || this.#first < this.#noted.length / 2) return
    this.#noted = this.#noted.slice(this.#first)
    this.#first = 0
  }
}

/** An estimate: objects cost more than their text, and labels and counters make nearly all of it. */
function bytesOf(move: Settle | Void): number {
  if (!('event' in move)) return 256
  let bytes = 2_048
  for (const { slots, ceilings } of move.checks) bytes += 256 + slots.length * (16 + (slots[0]?.length ?? 0)) + ceilings.length * 256
  for (const [name, value] of Object.entries(move.event.labels)) bytes += 64 + name.length + value.length
  for (const [name, value] of Object.entries(move.event.caller.tags)) bytes += 64 + name.length + value.length
  return bytes
}
