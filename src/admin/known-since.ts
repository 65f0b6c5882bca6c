import { ARCHIVE } from '../archive/history.ts'
import type { AdminParts } from './route.ts'

/** From when on all events are known, ms; 0: all there ever were. */
export async function knownSinceMs({ config, outbox, inspectStore }: Pick<AdminParts, 'config' | 'outbox' | 'inspectStore'>, nowMs: number): Promise<number> {
  const hotMs = await outbox.completeSince?.() ?? 0
  if (hotMs === 0) return 0
  const { archive, keepMs } = config().events
  if (archive === null) return Math.min(hotMs, nowMs)
  // The archive has what left the store since it was configured, for as long as its files are kept.
  const missedMs = Math.max(0, ...(await inspectStore()).gaps.filter(({ sink }) => sink === ARCHIVE).map(({ atMs }) => atMs))
  return Math.min(hotMs, Math.max(missedMs, nowMs - keepMs))
}
