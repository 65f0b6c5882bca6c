import { instant, length, plainName } from './format.ts'
import type { Words } from './yaml-text.ts'
import { flow } from './yaml-text.ts'

/** Earlier, a number of milliseconds is a length of time. */
const EARLIEST_MS = Date.UTC(2000, 0)

/** What a change was, in words: "reason: unpaid; expires: 1 Jan 2027, 00:00:00". What it left alone is left out. */
export function detailWords(details: Words | undefined): string {
  const readable = toReadable(details ?? null)
  if (readable === null || typeof readable !== 'object' || Array.isArray(readable)) return readable === null ? '' : plainName(flow(readable))
  return plainName(Object.entries(readable).map(([name, value]) => `${name.replaceAll('_', ' ')}: ${typeof value === 'string' ? value : flow(value)}`).join('; '))
}

function toReadable(value: Words): Words {
  if (Array.isArray(value)) return value.map(toReadable)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).filter(([, each]) => !isNothing(each)).map(([name, each]) => (
    name.endsWith('_ms') && typeof each === 'number' ? [name.slice(0, -'_ms'.length), timeOf(each)] : [name, toReadable(each)]
  )))
}

function timeOf(ms: number): string {
  return ms > EARLIEST_MS ? instant(new Date(ms).toISOString()) : length(ms)
}

function isNothing(value: Words): boolean {
  return value === null || (typeof value === 'object' && Object.keys(value).length === 0)
}
