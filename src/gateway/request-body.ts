import type { IncomingMessage } from 'node:http'
import { promisify } from 'node:util'
import { brotliDecompress, gunzip, inflate, inflateRaw, zstdDecompress } from 'node:zlib'
import type { Clock } from '../clock.ts'
import { GatewayError } from '../errors.ts'
import { DownstreamGone } from './downstream.ts'
import { listOf } from './request-head.ts'

/** Slower than this on average, once `graceMs` have passed, is an attack and not a bad line. */
export interface BodyPace { readonly graceMs: number; readonly bytesPerSecond: number }

const none = new Uint8Array(0)

/** A request's body as it comes from the wire: read whole, or thrown away within bounds. */
export class RequestBody {
  readonly #request: IncomingMessage
  readonly #declared: number | 'chunked'
  readonly #clock: Clock
  readonly #pace: BodyPace
  /** Reading it has failed: what still comes is of no use. */
  spoiled = false
  #failure: GatewayError | null = null
  #failed: (() => void) | null = null

  constructor(request: IncomingMessage, declared: number | 'chunked', clock: Clock, pace: BodyPace) {
    this.#request = request
    this.#declared = declared
    this.#clock = clock
    this.#pace = pace
  }

  /** Nothing of it is still to come. */
  get arrived(): boolean {
    return this.#declared === 0 || this.#request.complete
  }

  /** What was declared; null where only the end will tell. */
  get declaredBytes(): number | null {
    return this.#declared === 'chunked' ? null : this.#declared
  }

  /** The parser gave up: whoever reads hears of it. */
  fail(error: GatewayError): void {
    this.spoiled = true
    this.#failure ??= error
    this.#failed?.()
  }

  /** As it was sent, still encoded. Throws GatewayError (request_too_large, request_timeout, bad_request) and DownstreamGone. */
  read(maxBytes: number): Promise<Uint8Array> {
    if (this.#declared === 0) return Promise.resolve(none)
    if (this.#declared !== 'chunked' && this.#declared > maxBytes) {
      this.spoiled = true
      return Promise.reject(tooLarge(maxBytes))
    }
    if (this.#failure !== null) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => this.#collect(maxBytes, resolve, reject))
  }

  #collect(maxBytes: number, resolve: (body: Uint8Array) => void, reject: (error: Error) => void): void {
    const request = this.#request
    const chunks: Buffer[] = []
    let bytes = 0
    const startedMs = this.#clock.monotonicMs()
    const inTime = (): void => {
      const elapsedMs = this.#clock.monotonicMs() - startedMs
      if (bytes < (elapsedMs / 1_000) * this.#pace.bytesPerSecond) return settle(new GatewayError('request_timeout', 'The body of the request came too slowly.'))
      cancel = this.#clock.after(1_000, inTime, { unref: true })
    }
    let cancel = request.complete ? null : this.#clock.after(this.#pace.graceMs, inTime, { unref: true })
    const onData = (chunk: Buffer): void => {
      bytes += chunk.length
      if (bytes > maxBytes) return settle(tooLarge(maxBytes))
      chunks.push(chunk)
    }
    const onEnd = (): void => settle(null)
    const onClose = (): void => settle(this.#failure ?? new DownstreamGone('The caller left before its request was complete.'))
    const settle = (error: Error | null): void => {
      cancel?.()
      this.#failed = null
      request.off('data', onData).off('end', onEnd).off('close', onClose)
      if (error === null) return resolve(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, bytes))
      this.spoiled = true
      request.pause()
      reject(error)
    }
    this.#failed = () => { if (this.#failure !== null) settle(this.#failure) }
    request.on('data', onData).on('end', onEnd).on('close', onClose)
    if (request.destroyed && !request.readableEnded) onClose()
  }

  /** Throws away what still comes. `over` is called once with true when all of it has come, with false when it is more than `maxBytes` or broken. */
  discard(maxBytes: number, over: (arrived: boolean) => void): void {
    const request = this.#request
    let bytes = 0
    let told = false
    const tell = (arrived: boolean): void => {
      if (told) return
      told = true
      over(arrived)
    }
    if (request.readableEnded) return tell(true)
    this.#failed = () => tell(false)
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes > maxBytes) tell(false)
    })
    request.on('end', () => tell(true))
    request.on('close', () => tell(request.complete))
    request.resume()
  }
}

function tooLarge(maxBytes: number): GatewayError {
  return new GatewayError('request_too_large', `The body of the request is larger than ${maxBytes} bytes.`)
}

type Decoder = (bytes: Uint8Array, options: { maxOutputLength: number }) => Promise<Uint8Array>
const decoders = new Map<string, Decoder>([
  ['gzip', promisify(gunzip)],
  ['x-gzip', promisify(gunzip)],
  ['br', promisify(brotliDecompress)],
  ['zstd', promisify(zstdDecompress)],
  ['deflate', (bytes, options) => (isZlib(bytes) ? promisify(inflate) : promisify(inflateRaw))(bytes, options)],
])
export const acceptedEncodings = 'gzip, br, zstd, deflate'

/** `deflate` means the zlib format, and some send it without its frame. */
function isZlib(bytes: Uint8Array): boolean {
  const [first = 0, second = 0] = bytes
  return (first & 0x0f) === 8 && ((first << 8) | second) % 31 === 0
}

/** One layer, and never more than `maxBytes` of output. Throws GatewayError: unsupported_media_type, request_too_large, bad_request. */
export async function decodeBody(bytes: Uint8Array, contentEncoding: string | undefined, maxBytes: number): Promise<Uint8Array> {
  if (contentEncoding === undefined) return bytes
  const codings = listOf(contentEncoding).filter((coding) => coding !== 'identity')
  if (codings.length === 0) return bytes
  const decoder = codings.length === 1 && codings[0] !== undefined ? decoders.get(codings[0]) : undefined
  if (decoder === undefined) throw new GatewayError('unsupported_media_type', `The body may be encoded once, with one of ${acceptedEncodings}.`)
  try {
    return await decoder(bytes, { maxOutputLength: maxBytes })
  } catch (cause) {
    const tooMuch = cause instanceof Error && 'code' in cause && cause.code === 'ERR_BUFFER_TOO_LARGE'
    throw tooMuch ? tooLarge(maxBytes) : new GatewayError('bad_request', 'The body is not what its Content-Encoding says.', { cause })
  }
}

/** For endpoints whose body is read as JSON; an absent type is JSON, as many hand-written clients mean it. Throws GatewayError unsupported_media_type. */
export function requireJson(contentType: string | undefined): void {
  if (contentType === undefined) return
  const [type = '', ...parameters] = contentType.split(';').map((part) => part.trim().toLowerCase())
  const json = /^application\/(?:json|[a-z0-9!#$&^_.-]+\+json)$/.test(type)
  if (json && parameters.every((parameter) => !parameter.startsWith('charset') || /^charset[ \t]*=[ \t]*"?utf-?8"?$/.test(parameter))) return
  throw new GatewayError('unsupported_media_type', 'The body has to be application/json in UTF-8.')
}
