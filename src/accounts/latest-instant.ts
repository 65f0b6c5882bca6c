/** The last instant that RFC 3339 can tell: its years have four digits. */
export const LATEST_MS = Date.UTC(9999, 11, 31, 23, 59, 59, 999)

/** The last that is told in whole seconds, which are rounded up. */
export const LATEST_SECOND_MS = LATEST_MS - 999

/** RFC 3339 in UTC. Of what lies later, which was stored before that was refused, the latest instant there is. */
export function toldInstant(ms: number): string {
  return new Date(Math.min(ms, LATEST_MS)).toISOString()
}
