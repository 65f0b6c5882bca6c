const emptyBytes = new Uint8Array(0)

/**
 * Bytes kept for a while, in the order they came. The first chunk is kept as it is; more make one growing copy, so that
 * an answer that arrives one byte at a time costs linear time and no object per byte.
 */
export class ByteHold {
  #bytes: Uint8Array = emptyBytes
  #length = 0
  #owned = false

  get length(): number {
    return this.#length
  }

  /** A view, valid until the next call. */
  view(): Uint8Array {
    return this.#bytes.length === this.#length ? this.#bytes : this.#bytes.subarray(0, this.#length)
  }

  add(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    if (this.#length === 0) {
      this.#bytes = chunk
      this.#length = chunk.length
      this.#owned = false
    } else this.#append(chunk)
  }

  /** Like `add`, for a part of a chunk: copied, so that a few bytes do not keep a large buffer alive. */
  addCopy(bytes: Uint8Array, start: number, end: number): void {
    if (end <= start) return
    this.#append(bytes.subarray(start, end))
  }

  /** Hands over what was kept and starts anew. */
  take(): Uint8Array {
    const taken = this.view()
    this.#bytes = emptyBytes
    this.#length = 0
    this.#owned = false
    return taken
  }

  #append(chunk: Uint8Array): void {
    const needed = this.#length + chunk.length
    if (!this.#owned || needed > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(needed, this.#length * 2, 256))
      grown.set(this.view())
      this.#bytes = grown
      this.#owned = true
    }
    this.#bytes.set(chunk, this.#length)
    this.#length = needed
  }
}

/** One array of bytes from several; a single one is given back as it is. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const [only] = parts
  if (only === undefined) return emptyBytes
  if (parts.length === 1) return only
  let length = 0
  for (const part of parts) length += part.length
  const all = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

export { emptyBytes }
