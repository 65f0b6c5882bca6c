import { get } from './api.ts'
import { useLoaded } from './loading.ts'
import { When } from './pieces.ts'
import type { ConfigInUse } from './shapes.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

const LOOK_MS = 15_000

/** Above every page while what stands on disk is not what is in use. */
export function ConfigState(): VNode | null {
  const { data } = useLoaded('config', (signal) => get<ConfigInUse>('/api/v1/config', {}, signal), LOOK_MS)
  const last = data?.last_reload
  if (last === undefined || last === null || last.ok) return null
  const [first, ...others] = last.problems
  return html`<p class="notice bad" role="status">The configuration on disk has mistakes since <${When} at=${last.at} exact />; the one before stays in use.${first === undefined ? '' : html` <bdi>${first}</bdi>`}${others.length === 0 ? '' : ` (and ${others.length} more)`}</p>`
}
