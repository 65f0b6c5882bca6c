interface Due<Item> {
  readonly atMs: number
  readonly rank: number
  readonly order: number
  readonly item: Item
}

/** What is to happen when: the earliest first, of one instant those of the lowest rank, and of those what was entered first. A binary heap. */
export class Agenda<Item> {
  readonly #heap: Due<Item>[] = []
  #order = 0

  get size(): number {
    return this.#heap.length
  }

  /** Of the next one; Infinity: there is none. */
  get nextMs(): number {
    return this.#heap[0]?.atMs ?? Infinity
  }

  add(atMs: number, rank: number, item: Item): void {
    const due = { atMs, rank, order: this.#order++, item }
    const heap = this.#heap
    let at = heap.push(due) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      const above = heap[parent] as Due<Item>
      if (!isBefore(due, above)) break
      heap[at] = above
      at = parent
    }
    heap[at] = due
  }

  /** undefined: it is empty. */
  take(): Due<Item> | undefined {
    const heap = this.#heap
    const first = heap[0]
    const last = heap.pop()
    if (first === undefined || last === undefined || heap.length === 0) return first
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Due<Item>, heap[child] as Due<Item>)) child += 1
      const below = heap[child] as Due<Item>
      if (!isBefore(below, last)) break
      heap[at] = below
      at = child
    }
    heap[at] = last
    return first
  }
}

function isBefore(one: Due<unknown>, other: Due<unknown>): boolean {
  if (one.atMs !== other.atMs) return one.atMs < other.atMs
  return one.rank === other.rank ? one.order < other.order : one.rank < other.rank
}
