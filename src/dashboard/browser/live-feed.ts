import { after } from './clock.ts'
import type { Live } from './shapes.ts'
import { useEffect, useState } from './view.ts'

/** Values that are kept for the small curves, one a second. */
export const KEPT = 120
const AGAIN_MS = 3_000
/** A feed that says something every second and has said nothing for so long is gone, whatever the connection looks like. */
const SILENT_MS = 8_000

export interface Feed {
  readonly state: 'opening' | 'live' | 'lost'
  /** The newest is last. */
  readonly seconds: readonly Live[]
}

type Listener = (feed: Feed) => void

let feed: Feed = { state: 'opening', seconds: [] }
const listeners = new Set<Listener>()
let source: EventSource | null = null
let cancelWait = (): void => undefined
let cancelSilence = (): void => undefined

function change(next: Partial<Feed>): void {
  feed = { ...feed, ...next }
  for (const listener of listeners) listener(feed)
}

function open(): void {
  close()
  const opened = source = new EventSource('/api/v1/live')
  opened.onmessage = (event: MessageEvent<string>) => {
    listenForSilence()
    change({ state: 'live', seconds: [...feed.seconds, JSON.parse(event.data) as Live].slice(-KEPT) })
  }
  // The browser's own attempts end with the first answer that is no stream, such as one of a gateway that is just starting.
  opened.onerror = again
  listenForSilence()
}

function listenForSilence(): void {
  cancelSilence()
  cancelSilence = after(SILENT_MS, again)
}

function again(): void {
  close()
  change({ state: 'lost' })
  cancelWait = after(AGAIN_MS, open)
}

function close(): void {
  cancelWait()
  cancelSilence()
  source?.close()
  source = null
}

/** Begins with the first who looks, and ends with the last. */
export function useFeed(): Feed {
  const [state, setState] = useState(feed)
  useEffect(() => {
    listeners.add(setState)
    if (listeners.size === 1) open()
    return () => {
      listeners.delete(setState)
      if (listeners.size > 0) return
      close()
      feed = { state: 'opening', seconds: [] }
    }
  }, [])
  return state
}
