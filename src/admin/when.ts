import { LATEST_MS } from '../accounts/latest-instant.ts'
import { durationOf, instantOf, momentOf } from '../config/scalars.ts'
import type { Answer } from '../config/scalars.ts'
import { Problem } from './problem.ts'

/** `30s`, `12h`, `30d`, as in the config; throws a Problem for anything else. */
export function toDurationMs(text: string, name: string): number {
  const answer = durationOf(text)
  if ('problem' in answer) throw new Problem(422, `${name}: ${answer.problem}`)
  return answer.value
}

/** An instant (`2026-11-01`, `2026-11-01T10:00:00Z`). */
export function toInstantMs(text: string, name: string): number {
  return toldMs(instantOf(text), text, name)
}

/** A day, from its first instant in the time zone, or an instant. */
export function toMomentMs(text: string, name: string, timeZone: string): number {
  return toldMs(momentOf(text, timeZone), text, name)
}

/** An instant, or how long ago (`24h`). Nothing is older than 1970: what lies before is taken for that. */
export function toPastMs(text: string, name: string, nowMs: number): number {
  if (!isAgo(text)) return Math.max(0, toInstantMs(text, name))
  const answer = durationOf(text)
  if ('problem' in answer) throw new Problem(422, `${name}: ${answer.problem}; or an instant such as 2026-11-01T10:00:00Z`)
  return Math.max(0, nowMs - answer.value)
}

/** What cannot be told in an answer is not taken. */
function toldMs(answer: Answer<number>, text: string, name: string): number {
  if ('problem' in answer) throw new Problem(422, `${name}: ${answer.problem}`)
  if (answer.value > LATEST_MS) throw new Problem(422, `${name}: ${text} lies after the year 9999 in UTC`)
  return answer.value
}

/** It says how long ago. */
export function isAgo(text: string): boolean {
  return !/^\d{4}-/.test(text)
}
