/**
 * The client's side of an exchange as plain values, so that no rule knows `node:http`: `server.ts` makes them, a faster wire may
 * make them one day. Header names are lower-case; lists are flat (name, value, name, value …), repeats kept.
 */
export interface Downstream {
  readonly method: string
  /** The path exactly as received, without the query. Already checked: no dot segments, no encoded slashes, no controls. */
  readonly path: string
  /** Without '?'; '' when absent. */
  readonly query: string
  readonly headers: readonly string[]
  /** The first value of a header; undefined when absent. */
  header(name: string): string | undefined
  /** The peer, or what trusted proxies said of it. */
  readonly address: string
  readonly httpVersion: '1.0' | '1.1'

  /** The whole body. Throws GatewayError: request_too_large, request_timeout, bad_request (framing, content-encoding bombs); DownstreamGone. */
  readBody(maxBytes: number): Promise<Uint8Array>

  /** Sends status and headers; may be called once. Framing headers are the wire's own affair, content-length is passed through when given. */
  writeHead(status: number, headers: readonly string[]): void
  /** False: wait for `onDrain` before the next one. The chunk is not kept. */
  write(chunk: Uint8Array): boolean
  onDrain(listener: () => void): void
  /** Ends the answer; trailers only where the caller sent `TE: trailers`. */
  end(chunk?: Uint8Array, trailers?: readonly string[]): void
  /** Cuts the connection: the client must not mistake what it has for a whole answer. */
  cut(): void
  /** Called once when the client has gone before the answer's end was handed to the kernel. */
  onGone(listener: () => void): void
  readonly headSent: boolean
  readonly gone: boolean
  /** Bytes of the body that have been handed to the kernel or are on their way. */
  readonly bytesOut: number
}

/** The client left while we waited for it. */
export class DownstreamGone extends Error {
  override name = 'DownstreamGone'
}
