import type { Bug } from './world.ts'

/** Bugs to plant, and the invariants that must see each of them. A checker that has never failed proves nothing. */
export const plantedBugs: readonly { readonly bug: Bug; readonly what: string; readonly seenBy: readonly number[] }[] = [
  { bug: 'over_admit', what: 'admits up to twice every ceiling', seenBy: [1] },
  { bug: 'abort_not_settled', what: 'never settles a call whose client has left', seenBy: [2] },
  { bug: 'settle_twice', what: 'applies some settlements twice', seenBy: [3] },
  { bug: 'lose_event', what: 'loses the event of some settlements', seenBy: [3] },
  { bug: 'lose_delivery', what: 'reports some events as delivered that no sink has got', seenBy: [4] },
  { bug: 'change_event', what: 'delivers an event a second time with another content', seenBy: [4] },
  { bug: 'never_swept', what: 'never lets the reservations of dead gateways expire', seenBy: [2, 5] },
  { bug: 'void_keeps_hold', what: 'frees nothing when a reservation is voided', seenBy: [2, 3, 5] },
  { bug: 'refusal_counts', what: 'counts a refused call', seenBy: [6] },
  { bug: 'bills_half', what: 'bills half of the output', seenBy: [7] },
  { bug: 'ack_before_durable', what: 'acknowledges moves before they are durable', seenBy: [2, 7] },
  { bug: 'stale_standing', what: 'tells of another standing than the one that decided', seenBy: [3, 6, 8] },
  { bug: 'spool_forgets', what: 'takes settlements out of the spool before the store has them', seenBy: [2, 7] },
  { bug: 'sliding_is_short', what: 'looks at the newer half of a sliding window only', seenBy: [9] },
]
