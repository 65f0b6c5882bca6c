import type { Random } from '../../src/random.ts'

/** Chance that a seed repeats. Every actor has a stream of its own (`fork`), so that one that draws more does not change the others. */
export class SeededRandom implements Random {
  #a: number
  #b: number
  #c = 0x9e3779b9
  #counter = 1

  constructor(seed: number, label = '') {
    let hash = 0x811c9dc5 ^ seed
    for (let i = 0; i < label.length; i++) hash = Math.imul(hash ^ label.charCodeAt(i), 0x01000193)
    this.#a = seed >>> 0
    this.#b = hash >>> 0
    for (let i = 0; i < 12; i++) this.#next()
  }

  fork(label: string): SeededRandom {
    return new SeededRandom(this.#next(), label)
  }

  bytes(count: number): Uint8Array {
    const bytes = new Uint8Array(count)
    for (let i = 0; i < count; i++) bytes[i] = this.#next() & 0xff
    return bytes
  }

  fraction(): number {
    return this.#next() / 2 ** 32
  }

  /** An integer from `least` to `most`, both included. */
  int(least: number, most: number): number {
    return least + Math.floor(this.fraction() * (most - least + 1))
  }

  chance(probability: number): boolean {
    return this.fraction() < probability
  }

  pick<T>(list: readonly T[]): T {
    const one = list[this.int(0, list.length - 1)]
    if (one === undefined) throw new Error('nothing to pick from')
    return one
  }

  /** Small usually, large now and then: from `least` to about `most`. */
  skewed(least: number, most: number): number {
    return least + (most - least) * this.fraction() ** 3
  }

  /** The sfc32 generator. */
  #next(): number {
    const sum = (this.#a + this.#b + this.#counter) >>> 0
    this.#counter = (this.#counter + 1) >>> 0
    this.#a = (this.#b ^ (this.#b >>> 9)) >>> 0
    this.#b = (this.#c + (this.#c << 3)) >>> 0
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) >>> 0
    return sum
  }
}
