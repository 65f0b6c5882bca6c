import type { Call } from '../dialect.ts'

export const numeric = /^-?\d+(\.\d+)?$/

/** The list that a body is, or that it has under a name; null: it is not there. */
export function eventsIn<E>(call: Call, name?: string): readonly E[] | null {
  try {
    const body = JSON.parse(call.text) as unknown
    const list = name === undefined ? body : (body as Record<string, unknown>)[name]
    return Array.isArray(list) ? list as E[] : null
  } catch {
    return null
  }
}
