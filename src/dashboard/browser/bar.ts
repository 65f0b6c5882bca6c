import { brief, exact, meterWords, unitOf, windowWords } from './format.ts'
import { nowMs } from './clock.ts'
import { When } from './pieces.ts'
import type { LimitStanding } from './shapes.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

const NEARLY = 0.8
const FULL = 1

/** How much of a limit is used, 0 … 1 and beyond; null: it has no end. */
export function shareOf({ limit, used, reserved }: Pick<LimitStanding, 'limit' | 'used' | 'reserved'>): number | null {
  if (limit === null) return null
  return limit === 0 ? FULL : (used + reserved) / limit
}

/** Use against a limit: what is settled, what calls in flight hold, what is left. */
export function LimitBar({ of, brief: short = false }: { readonly of: LimitStanding; readonly brief?: boolean }): VNode {
  const share = shareOf(of)
  const { name, limit: ceiling, used, reserved, remaining } = of
  const state = share === null ? 'open' : share >= FULL ? 'full' : share >= NEARLY ? 'nearly' : 'fine'
  const unit = unitOf(of.meter)
  const words = ceiling === null
    ? `${exact(used)} ${unit} used, no limit`
    : `${exact(used)} of ${exact(ceiling)} ${unit} used${reserved > 0 ? `, ${exact(reserved)} held by calls in flight` : ''}, ${exact(remaining)} left`
  const part = (amount: number): string => (ceiling === null || ceiling === 0 ? '0%' : `${Math.min(100, (amount / ceiling) * 100)}%`)
  return html`<div class=${`limit ${state}`}>
    ${short ? null : html`<div class="limit-head"><strong>${name}</strong><span class="muted">${meterWords(of.meter)} ${windowWords(of.window)}${of.per === 'key' ? ', each key' : ''}${of.mode === 'shadow' ? ', only watched' : ''}</span></div>`}
    <div class="bar" role="meter" aria-label=${short ? `${name}: ${meterWords(of.meter)} ${windowWords(of.window)}` : name} aria-valuemin="0" aria-valuemax=${ceiling ?? undefined} aria-valuenow=${ceiling === null ? used : Math.min(used + reserved, ceiling)} aria-valuetext=${words}>
      <i class="used" style=${{ width: share === null ? '0%' : ceiling === 0 ? '100%' : part(used) }}></i><i class="held" style=${{ width: part(reserved) }}></i>
    </div>
    ${short
    ? html`<div class="limit-foot"><span>${name}</span><span class="muted">${brief(used + reserved)} / ${ceiling === null ? '∞' : brief(ceiling)}</span></div>`
    : html`<div class="limit-foot">
      <span>${exact(used)}${ceiling === null ? '' : ` of ${exact(ceiling)}`}${share === null ? '' : html` <b>${percent(share)}</b>`}${state === 'full' ? ' · used up' : state === 'nearly' ? ' · nearly used up' : ''}</span>
      ${reserved > 0 ? html`<span class="muted">${exact(reserved)} held</span>` : null}
      ${remaining === null ? null : html`<span class="muted">${exact(remaining)} left</span>`}
      ${of.resets_at === null || Date.parse(of.resets_at) <= nowMs() ? null : html`<span class="muted">anew <${When} at=${of.resets_at} /></span>`}
      ${of.forecast_at === null ? null : html`<span class="warning">runs out <${When} at=${of.forecast_at} /></span>`}
    </div>`}
  </div>`
}

export function percent(share: number): string {
  return share > 0 && share < 0.01 ? '< 1%' : `${Math.floor(share * 100)}%`
}
