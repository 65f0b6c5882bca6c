import { durationOf, instantOf } from '../config/scalars.ts'
import { Problem } from './problem.ts'

/** `30s`, `12h`, `30d`, as in the config; throws a Problem for anything else. */
export function toDurationMs(text: string, name: string): number {
  const answer = durationOf(text)
  if ('problem' in answer) throw new Problem(422, `${name}: ${answer.problem}`)
  return answer.value
}

/** An instant (`2026-11-01`, `2026-11-01T10:00:00Z`). */
export function toInstantMs(text: string, name: string): number {
  const answer = instantOf(text)
  if ('problem' in answer) throw new Problem(422, `${name}: ${answer.problem}`)
  return answer.value
}

/** An instant, or how long ago (`24h`). */
export function toPastMs(text: string, name: string, nowMs: number): number {
  if (!isAgo(text)) return toInstantMs(text, name)
  const answer = durationOf(text)
  if ('problem' in answer) throw new Problem(422, `${name}: ${answer.problem}; or an instant such as 2026-11-01T10:00:00Z`)
  return nowMs - answer.value
}

/** It says how long ago. */
export function isAgo(text: string): boolean {
  return !/^\d{4}-/.test(text)
}
