import type { ServerResponse } from 'node:http'

/** How soon a browser comes again after the connection has ended. */
const RETRY_MS = 2_000

/** Sends one server-sent event for each value, until nobody listens or `mayStay` says no. Ends the values in either case. */
export async function sendEvents(response: ServerResponse, headers: Readonly<Record<string, string>>, values: AsyncIterable<unknown>, mayStay: () => Promise<boolean>): Promise<void> {
  response.writeHead(200, { ...headers, 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
  if (response.req.method === 'HEAD') {
    response.end()
    return
  }
  response.write(`retry: ${RETRY_MS}\n\n`)
  for await (const value of values) {
    // Who was logged out in the meantime is told nothing more.
    if (response.destroyed || !await mayStay()) break
    // Whoever does not read for a while misses some, and this process keeps nothing for him.
    if (!response.writableNeedDrain) response.write(`data: ${JSON.stringify(value)}\n\n`)
  }
  response.end()
}
