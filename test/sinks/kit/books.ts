/** A record as the receiver understood it. */
export interface Received {
  /** By which the receiver tells copies. */
  readonly key: string
  /** Ours. */
  readonly id: string
  /** The receiver's name of the meter; `event` where it takes whole events. */
  readonly code: string
  readonly customer: string
  /** As precise as the receiver keeps it. */
  readonly timeMs: number
  /** Exact decimal text; `1` of a whole event. */
  readonly value: string
  /** What the receiver finds wrong with its shape; null: nothing. */
  readonly bad: string | null
}

export interface Booking {
  readonly received: Received
  /** How often it counts. */
  readonly copies: number
  /** When its key was seen first. */
  readonly sinceMs: number
  /** Why it was thrown away after it had been accepted; null: it stands. */
  readonly rejected: string | null
}

export interface Asked {
  readonly code?: string
  readonly customer?: string
  /** Included. */
  readonly fromMs?: number
  /** Not included. */
  readonly untilMs?: number
}

/** What a receiver would bill. */
export class Books {
  readonly #byKey = new Map<string, Booking>()
  readonly #byId = new Map<string, Set<string>>()
  /** Ids that came again with another time or value: whoever sent them has not frozen them. */
  readonly changed: string[] = []
  /** Copies that were told as such. */
  duplicates = 0

  /** Within the window a key counts once. */
  book(received: Received, windowMs: number | 'forever', nowMs: number, overwrites = false): 'booked' | 'duplicate' {
    const before = this.#byKey.get(received.key)
    if (before !== undefined && (before.received.timeMs !== received.timeMs || before.received.value !== received.value)) this.changed.push(received.id)
    if (before !== undefined && this.knows(received.key, windowMs, nowMs)) {
      this.duplicates += 1
      if (overwrites) this.#keep({ ...before, received })
      return 'duplicate'
    }
    this.#keep({ received, copies: (before?.copies ?? 0) + 1, sinceMs: nowMs, rejected: null })
    return 'booked'
  }

  knows(key: string, windowMs: number | 'forever', nowMs: number): boolean {
    const before = this.#byKey.get(key)
    return before !== undefined && (windowMs === 'forever' || nowMs - before.sinceMs < windowMs)
  }

  /** It was accepted and is not counted. */
  reject(received: Received, reason: string, nowMs: number): void {
    this.#keep({ received, copies: 0, sinceMs: nowMs, rejected: reason })
  }

  /** For tests of `reconcile`: one copy more, or none any more. */
  plantDouble(id: string): void {
    for (const booking of this.of(id)) this.#keep({ ...booking, copies: booking.copies + 1 })
  }

  plantLoss(id: string): void {
    for (const key of this.#byId.get(id) ?? []) this.#byKey.delete(key)
    this.#byId.delete(id)
  }

  of(id: string): readonly Booking[] {
    return [...this.#byId.get(id) ?? []].flatMap((key) => this.#byKey.get(key) ?? [])
  }

  copies(id: string): number {
    return this.of(id).reduce((sum, { copies }) => sum + copies, 0)
  }

  rejected(id: string): string | null {
    return this.of(id).find(({ rejected }) => rejected !== null)?.rejected ?? null
  }

  /** Of different ids that count. */
  get size(): number {
    return this.#byId.size
  }

  bookings(asked: Asked = {}): Booking[] {
    const { code, customer, fromMs = -Infinity, untilMs = Infinity } = asked
    return [...this.#byKey.values()].filter(({ received }) => (code === undefined || received.code === code) &&
      (customer === undefined || received.customer === customer) && received.timeMs >= fromMs && received.timeMs < untilMs)
  }

  total(asked: Asked = {}): string {
    return sum(this.bookings(asked).flatMap(({ received, copies }) => Array.from({ length: copies }, () => received.value)))
  }

  #keep(booking: Booking): void {
    const { key, id } = booking.received
    this.#byKey.set(key, booking)
    const keys = this.#byId.get(id)
    if (keys === undefined) this.#byId.set(id, new Set([key]))
    else keys.add(key)
  }
}

/** Of decimal texts, exact. */
export function sum(values: readonly string[]): string {
  const digits = 12
  let total = 0n
  for (const value of values) {
    const [, sign = '', whole = '0', part = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(value) ?? []
    total += BigInt(`${sign}1`) * BigInt(`${whole}${part.padEnd(digits, '0').slice(0, digits)}`)
  }
  const text = (total < 0n ? -total : total).toString().padStart(digits + 1, '0')
  const fraction = text.slice(-digits).replace(/0+$/, '')
  return `${total < 0n ? '-' : ''}${text.slice(0, -digits)}${fraction === '' ? '' : `.${fraction}`}`
}
