import { asBuffer } from './byte-hold.ts'
import type { TextTally } from './text-tally.ts'

const emptyBuffer = Buffer.alloc(0)

/**
 * Nearly all events of a stream are the same but for one string. When the event before differed from this one in nothing else, its
 * meaning is known without reading it again: two comparisons of memory and a look at the string. Anything else is read as usual.
 */
export class DeltaTemplate {
  #prefix: Buffer = emptyBuffer
  #suffix: Buffer = emptyBuffer
  #choice = 0

  /** `tally` has just taken one string of this event, and the event meant nothing beyond it. */
  learn(bytes: Uint8Array, start: number, end: number, tally: TextTally): void {
    const source = asBuffer(bytes)
    this.#prefix = Buffer.from(source.subarray(start, tally.lastStart))
    this.#suffix = Buffer.from(source.subarray(tally.lastEnd, end))
    this.#choice = tally.lastChoice
  }

  /** True: the event was like the one learnt from, and its text has been added. */
  matches(bytes: Uint8Array, start: number, end: number, tally: TextTally): boolean {
    const prefix = this.#prefix
    const suffix = this.#suffix
    const textStart = start + prefix.length
    const textEnd = end - suffix.length
    if (prefix.length === 0 || textEnd < textStart) return false
    const source = asBuffer(bytes)
    if (prefix.compare(source, start, textStart) !== 0 || suffix.compare(source, textEnd, end) !== 0) return false
    // The string has to end where the suffix begins, not before.
    let at = textStart
    while (at < textEnd) {
      const byte = source[at] ?? 0
      if (byte === 0x22 || byte < 0x20) return false
      at += byte === 0x5c ? 2 : 1
    }
    if (at !== textEnd) return false
    tally.add(this.#choice, bytes, textStart, textEnd)
    return true
  }
}
