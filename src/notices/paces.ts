import type { Mark, Pace, Paces } from '../metering/forecast.ts'
import type { Records } from '../stores/store.ts'
import { noticeKinds } from './notice-book.ts'

type Document = Readonly<Record<string, unknown>>

/** How fast limits are used, as the one who watches them has noted: every process follows, so that all tell the same forecast. */
export class StoredPaces implements Paces {
  readonly #records: Records
  readonly #paces = new Map<string, Pace>()
  readonly #unwatch: () => void

  private constructor(records: Records) {
    this.#records = records
    this.#unwatch = records.watch(noticeKinds.pace, (id, value) => this.#take(id, value))
  }

  static async open(records: Records): Promise<StoredPaces> {
    const paces = new StoredPaces(records)
    try {
      for (const { id, value } of await records.list(noticeKinds.pace)) paces.#take(id, value)
    } catch (error) {
      paces.close()
      throw error
    }
    return paces
  }

  paceOf(counters: string): Pace | undefined {
    return this.#paces.get(counters)
  }

  async put(counters: string, { period, marks }: Pace): Promise<void> {
    await this.#records.put(noticeKinds.pace, counters, { period, marks: marks.map(({ atMs, used }) => ({ at_ms: atMs, used })) })
  }

  /** Removes those of which nothing has been used since an instant. */
  async forget(beforeMs: number): Promise<void> {
    for (const [counters, { marks }] of this.#paces) if ((marks.at(-1)?.atMs ?? 0) < beforeMs) await this.#records.delete(noticeKinds.pace, counters)
  }

  close(): void {
    this.#unwatch()
  }

  #take(counters: string, value: Document | undefined): void {
    const pace = value === undefined ? undefined : toPace(value)
    if (pace === undefined) this.#paces.delete(counters)
    else this.#paces.set(counters, pace)
  }
}

function toPace({ period, marks }: Document): Pace | undefined {
  if (typeof period !== 'number' || !Array.isArray(marks)) return undefined
  const read: Mark[] = []
  for (const mark of marks as readonly Document[]) {
    const { at_ms: atMs, used } = mark
    if (typeof atMs === 'number' && typeof used === 'number') read.push({ atMs, used })
  }
  return { period, marks: read }
}
