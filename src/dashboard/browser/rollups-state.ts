import { get } from './api.ts'
import { nowMs } from './clock.ts'
import { brief, exact, fromNow } from './format.ts'
import { useLoaded } from './loading.ts'
import type { RollupsAnswer } from './shapes.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

const LOOK_MS = 5_000

/** Above figures of usage that are not whole just now: why, and what to expect. Nothing while they are. */
export function RollupsState(): VNode | null {
  const { data } = useLoaded('rollups', async (signal) => get<RollupsAnswer>('/api/v1/analytics', {}, signal), LOOK_MS)
  const words = data === undefined ? null : wordsOf(data)
  return words === null ? null : html`<p class="notice" role="status">${words}</p>`
}

function wordsOf({ state, behind, rebuild, missed, failure }: RollupsAnswer): string | null {
  switch (state) {
    case 'rebuilding': return `Usage is being added up again from the events (${rebuild === null ? 'by another gateway' : `begun ${fromNow(rebuild.started_at, nowMs())}; ${exact(rebuild.archived)} of the archive are in so far`}). Until that is done, figures of usage are too small. Limits and bills have their own books.`
    case 'behind': return `${brief(behind)} events are still to be added up. Until then, figures of usage are too small.`
    case 'failing': return `Usage is not added up just now, and it is tried again every few seconds: ${failure ?? 'unknown'}. Limits and bills have their own books.`
    case 'current': return missed === 0 ? null : `${exact(missed)} events are in no figure of usage: the store had to remove them before they were added up. "tallygate analytics rebuild" puts in those that an archive has.`
    // Who asks for usage is told.
    case 'off': return null
    default: return null
  }
}
