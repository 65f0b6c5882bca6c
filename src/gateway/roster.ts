/** Something that is in one roster at most, and knows where. */
export interface Listed {
  /** -1: in none. */
  place: number
}

/**
 * Who is in flight at the moment, in no order. Not a Set or a Map: one that is filled and emptied all the time leaves a trail of old tables, each pointing
 * to the next, and once the first of them has grown old, every exchange since is kept until the next full collection.
 */
export class Roster<T extends Listed> {
  readonly #all: T[] = []

  get size(): number {
    return this.#all.length
  }

  add(one: T): void {
    one.place = this.#all.length
    this.#all.push(one)
  }

  /** Harmless for what is not in it. */
  remove(one: T): void {
    const { place } = one
    if (this.#all[place] !== one) return
    const last = this.#all.pop() as T
    if (last !== one) {
      this.#all[place] = last
      last.place = place
    }
    one.place = -1
  }

  has(one: T): boolean {
    return this.#all[one.place] === one
  }

  /** As it is now: whoever is called for one of them may remove it. */
  list(): readonly T[] {
    return [...this.#all]
  }
}
