import { hash } from 'node:crypto'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import type { Clock } from '../clock.ts'
import { statusWords } from '../failure-words.ts'
import { fieldOf, jsonOf, SinkHttp, type HttpAnswer } from './http.ts'
import { DeliveryFailed, type DeliveryReport, type Sink, type SinkContract, type SinkKind, type SinkRecord } from './sink.ts'
import { signatureHeaders } from './webhook-signature.ts'

interface Settings {
  readonly url: string
  readonly private: boolean
  readonly format: 'structured' | 'batched'
  readonly batch: number
  readonly secrets: readonly string[]
  readonly token: string | null
  readonly gzip: boolean
}

const compressed = promisify(gzip)

const batched: SinkContract = {
  verified: true, readsBack: false, batchMax: 100, bytesMax: 1_000_000, ratePerSecond: null, dedupWindowMs: 'forever', dedupKey: 'the event\'s id, by the receiver', duplicateSignal: 'silent',
  failureUnit: 'record', oldestMs: null, newestMs: null, timePrecision: 'millisecond', values: 'decimal', acknowledges: 'durable', corrections: 'negative', serialBy: 'none',
}

/**
 * Usage events as CloudEvents over HTTP, one a request (`structured`) or many (`batched`), signed by Standard Webhooks. Any 2xx takes them all, but for
 * those that a JSON body names: `{"refused":[{"id":"…","reason":"…"}]}` for good, `{"later":["…"]}` for now. The receiver counts each id once.
 */
export const webhook: SinkKind = {
  type: 'webhook',
  takes: 'events',
  contract: batched,
  contractOf(settings) {
    const { format, batch } = settings as unknown as Settings
    return { ...batched, batchMax: format === 'structured' ? 1 : batch }
  },
  settings: {
    url: { is: 'url', about: 'Where events are sent to.' },
    format: { is: 'choice', among: ['structured', 'batched'], otherwise: 'batched', about: 'structured: one event a request; batched: an array of them. Default batched.' },
    batch: { is: 'integer', min: 1, max: 1_000, otherwise: batched.batchMax, about: 'Events of one request at most. Default 100.' },
    secrets: { is: 'secrets', otherwise: [], about: 'Standard Webhooks: every request has a signature by each of them. Put the new one beside the old one to change it.' },
    token: { is: 'secret', otherwise: null, about: 'Sent as Authorization: Bearer.' },
    gzip: { is: 'boolean', otherwise: false, about: 'Compresses bodies. Default false.' },
  },
  open: async (_name, settings, around) => new Webhook(settings as unknown as Settings, new SinkHttp({ permitPrivate: settings['private'] === true }, around), around.clock),
}

class Webhook implements Sink {
  readonly #settings: Settings
  readonly #http: SinkHttp
  readonly #clock: Clock

  constructor(settings: Settings, http: SinkHttp, clock: Clock) {
    this.#settings = settings
    this.#http = http
    this.#clock = clock
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    const { format, secrets, token } = this.#settings
    const events = batch.flatMap((record) => record.is === 'event' ? [record.event] : [])
    const [first] = events
    if (first === undefined) return { accepted: [], refused: [] }
    const single = format === 'structured'
    const text = JSON.stringify(single ? first : events)
    const body = this.#settings.gzip ? await compressed(text) : text
    // Of a batch, the same as long as it has the same events.
    const id = single ? first.id : `batch_${hash('sha256', events.map((event) => event.id).join('\n')).slice(0, 32)}`
    const answer = await this.#http.send({
      url: this.#settings.url, body,
      headers: {
        'content-type': single ? 'application/cloudevents+json' : 'application/cloudevents-batch+json',
        ...(this.#settings.gzip ? { 'content-encoding': 'gzip' } : {}),
        ...(token === null || token === '' ? {} : { authorization: `Bearer ${token}` }),
        // Of what is compressed the content is signed: receivers get to see it decompressed.
        ...(secrets.length === 0 ? {} : signatureHeaders(secrets, id, Math.floor(this.#clock.nowMs() / 1_000), text)),
      },
    }, signal)
    return this.#read(batch, answer)
  }

  async close(): Promise<void> {
    await this.#http.close()
  }

  #read(batch: readonly SinkRecord[], answer: HttpAnswer): DeliveryReport {
    // The receiver is gone for good, which is no fault of an event.
    if (answer.status === 410) throw new DeliveryFailed('unauthorized', statusWords(410))
    if (answer.status < 200 || answer.status >= 300) throw this.#http.failureOf(answer)
    // Whoever stands in between answers with a page; a receiver may answer with nothing at all.
    if (answer.text.trimStart().startsWith('<')) throw new DeliveryFailed('unknown', 'the answer is a page')
    const said = jsonOf(answer)
    const ours = new Set(batch.map(({ id }) => id))
    const refused = listOf(fieldOf(said, 'refused')).flatMap((each) => {
      const id = fieldOf(each, 'id')
      return typeof id === 'string' && ours.has(id) ? [{ id, reason: reasonOf(fieldOf(each, 'reason')) }] : []
    })
    const later = listOf(fieldOf(said, 'later')).flatMap((id) => typeof id === 'string' && ours.has(id) ? [id] : [])
    const apart = new Set([...later, ...refused.map(({ id }) => id)])
    return { accepted: batch.flatMap(({ id }) => apart.has(id) ? [] : [id]), refused, later }
  }
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value as unknown[] : []
}

function reasonOf(reason: unknown): string {
  return (typeof reason === 'string' ? reason.replace(/[^\x20-\x7e]/g, ' ').slice(0, 200) : '') || 'refused'
}
