/** The one small thing that every limit kind reduces to (see README.md, "Check"). */

/** A ceiling of a check. Buckets are drained in order. Ceilings are integers in small units; null is unlimited. */
export interface Bucket {
  readonly name: string
  readonly ceiling: number | null
  /** The counter of what this bucket has been drawn. The first bucket has none: what the later ones were not drawn is its own. */
  readonly counter: string | null
  /** Only for a bucket that outlives the period (a grant): when its counter can no longer matter, ms since 1970; null: never. */
  readonly endsMs?: number | null
}

/** One rule's ceilings over a check. Limits with the same counters share a check and have a ceiling each. */
export interface Ceiling {
  /** The limit's name. */
  readonly limit: string
  readonly buckets: readonly Bucket[]
  /** False for shadow limits: they count and report, and never refuse. */
  readonly refuses: boolean
  /** False keeps it out of headers and self-service. */
  readonly visible: boolean
  /**
   * Where there are, or were in this period, buckets that outlive it: the counter of what those were drawn in this period alone. Without it their draws of
   * earlier periods could not be told from this one's.
   */
  readonly beyond?: string
}

export interface Check {
  /**
   * Names of the counters whose sum is the use, oldest first. `slots[at]` is the one of the admission: it is booked there.
   * Windows of `span` neighbouring slots that contain it must each hold (span = slots.length for all but a sliding window that is extended late).
   */
  readonly slots: readonly string[]
  readonly at: number
  readonly span: number
  /**
   * The slots of the periods before and after, where a ceiling has buckets that outlive the period: what is held there may be drawn from the same buckets. Only
   * their pending counts.
   */
  readonly alongside?: readonly string[]
  /** When `slots[at]` can no longer matter to any answer (the window's end), ms since 1970; null: never. After that and `forget_after` it is garbage. */
  readonly endsMs: number | null
  readonly ceilings: readonly Ceiling[]
  /** This call needs `fixed + perUnit × u`, where `u` is the output bound. */
  readonly fixed: number
  readonly perUnit: number
  /** May `u` be lowered to make this check fit? */
  readonly clampable: boolean
}

/** A check's standing at one instant, in small units. */
export interface Balance {
  /** Settled use, over all slots. */
  readonly used: number
  /** What open reservations hold. */
  readonly reserved: number
  /** What is left, the smallest over the refusing ceilings (over all, if none refuses); may be negative after an overrun; null is unlimited. */
  readonly room: number | null
  /** What grants add to this period: what is left of them, and what it has drawn of them. Only where there are, or were, grants. */
  readonly granted?: number
  /** Settled use per slot, oldest first, only where there is more than one: it tells when room comes back. */
  readonly usedBySlot?: readonly number[]
}
