import { html } from './view.ts'
import type { VNode } from './view.ts'

const WIDTH = 120
const HEIGHT = 32

/** The shape of the last values. Only for the eye: the number beside it says what there is to know. */
export function Sparkline({ values, length }: { readonly values: readonly number[]; readonly length: number }): VNode {
  const top = Math.max(...values, 0) || 1
  const step = WIDTH / (length - 1)
  const from = WIDTH - (values.length - 1) * step
  const points = values.map((value, index) => `${(from + index * step).toFixed(1)},${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`)
  if (values.length < 2) return html`<svg class="spark" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true"></svg>`
  return html`<svg class="spark" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
    <polygon points=${`${from.toFixed(1)},${HEIGHT} ${points.join(' ')} ${WIDTH},${HEIGHT}`} /><polyline points=${points.join(' ')} />
  </svg>`
}
