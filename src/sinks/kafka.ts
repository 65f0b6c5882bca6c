import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import type { Producer, ProducerOptions } from '@platformatic/kafka'
import type { UsageEvent } from '../metering/event.ts'
import { codeWords } from '../failure-words.ts'
import { DeliveryFailed, type DeliveryReport, type Sink, type SinkContract, type SinkKind, type SinkRecord } from './sink.ts'

const contract: SinkContract = {
  verified: true, readsBack: false,
  batchMax: 500,
  // A broker's own bound is 1 MiB for what one partition gets, with the headers and keys.
  bytesMax: 900_000,
  ratePerSecond: null,
  // Whoever reads the topic counts each id once, and knows it for as long as the log does: so nothing is ever too old to be sent again.
  dedupWindowMs: 'forever',
  dedupKey: 'id of the event, by whoever reads the topic',
  duplicateSignal: 'silent',
  failureUnit: 'batch',
  oldestMs: null,
  newestMs: null,
  timePrecision: 'millisecond',
  values: 'decimal',
  acknowledges: 'durable',
  corrections: 'negative',
  serialBy: 'none',
  // One account's events keep their order.
  inFlightMax: 1,
}

/** An attempt has to be over before the loop gives it up: what is sent in the background would come behind later events. */
const requestMs = 4_000
const retries = 2
const retryMs = 250

interface Settings {
  readonly brokers: readonly string[]
  readonly topic: string
  readonly mode: 'structured' | 'binary'
  readonly compression: 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd'
  readonly client_id: string
  readonly tls: boolean
  readonly tls_ca_file: string | null
  readonly tls_cert_file: string | null
  readonly tls_key_file: string | null
  readonly sasl: 'none' | 'plain' | 'scram-sha-256' | 'scram-sha-512' | 'oauthbearer'
  readonly username: string | null
  readonly password: string | null
}

/**
 * Usage events as CloudEvents on a Kafka topic, by the Kafka binding of CloudEvents 1.0. The key is the account, so that one account's events keep
 * their order; the timestamp is the admission. Acknowledged once every replica in sync has them. The producer is idempotent: what the client itself sends again is
 * written once. After a crash of the gateway an event may stand in the log twice, with the same id.
 */
export const kafka: SinkKind = {
  type: 'kafka',
  contract,
  takes: 'events',
  settings: {
    brokers: { is: 'texts', about: 'Where to begin: [broker-1:9092, broker-2:9092].' },
    topic: { is: 'text', whyNot: (topic) => (/^(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}$/.test(topic) ? null : 'is no name of a topic: it has letters, digits and . _ - (249 at most), and is not . or ..'), about: 'It has to exist; it is not created.' },
    mode: { is: 'choice', among: ['structured', 'binary'], otherwise: 'structured', about: 'structured: the value is the whole event; binary: the value is its data, and the rest are headers. Default structured.' },
    compression: { is: 'choice', among: ['none', 'gzip', 'snappy', 'lz4', 'zstd'], otherwise: 'none', about: 'Of batches. Default none.' },
    client_id: { is: 'text', otherwise: 'tallygate', about: 'How brokers know us in logs and quotas. Default tallygate.' },
    tls: { is: 'boolean', otherwise: false, about: 'Connect with TLS. Default false.' },
    tls_ca_file: { is: 'path', otherwise: null, about: 'Certificates to trust instead of the public ones, PEM.' },
    tls_cert_file: { is: 'path', otherwise: null, about: 'Our own certificate, PEM.' },
    tls_key_file: { is: 'path', otherwise: null, about: 'Its private key, PEM.' },
    sasl: { is: 'choice', among: ['none', 'plain', 'scram-sha-256', 'scram-sha-512', 'oauthbearer'], otherwise: 'none', about: 'How to log in; with oauthbearer the password is the token. Default none.' },
    username: { is: 'text', otherwise: null, about: 'For SASL.' },
    password: { is: 'secret', otherwise: null, about: 'For SASL.' },
  },
  async open(_name, settings) {
    const checked = settings as unknown as Settings
    const client = await import('@platformatic/kafka')
    const options = await producerOptions(checked)
    return new KafkaSink(checked, () => new client.Producer(options))
  },
}

type TextProducer = Producer<string, string, string, string>

class KafkaSink implements Sink {
  readonly #settings: Settings
  readonly #connect: () => TextProducer
  #producer: TextProducer | null = null

  constructor(settings: Settings, connect: () => Producer) {
    this.#settings = settings
    this.#connect = connect as unknown as () => TextProducer
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    signal.throwIfAborted()
    const producer = (this.#producer ??= this.#connect())
    const { topic, mode } = this.#settings
    const messages = batch.flatMap((record) => (record.is === 'event' ? [{ topic, key: record.event.subject, timestamp: BigInt(record.timeMs), ...toMessage(record.event, mode) }] : []))
    try {
      await unlessAborted(producer.send({ messages }), signal)
    } catch (error) {
      // A producer that has failed may still be sending: the next attempt begins with a new one. Its end is not waited for, because it waits for what hangs.
      void this.close()
      throw failureOf(error, this.#settings.brokers)
    }
    return { accepted: batch.map(({ id }) => id), refused: [] }
  }

  async close(): Promise<void> {
    const producer = this.#producer
    this.#producer = null
    // A connection that cannot even be closed properly is gone anyway.
    await producer?.close(true).catch(() => undefined)
  }
}

function toMessage(event: UsageEvent, mode: Settings['mode']): { value: string; headers: Record<string, string> } {
  if (mode === 'structured') return { value: JSON.stringify(event), headers: { 'content-type': 'application/cloudevents+json' } }
  const { specversion, type, source, id, subject, time, datacontenttype, data } = event
  return {
    value: JSON.stringify(data),
    headers: { 'content-type': datacontenttype, ce_specversion: specversion, ce_type: type, ce_source: source, ce_id: id, ce_subject: subject, ce_time: time },
  }
}

async function producerOptions(settings: Settings): Promise<ProducerOptions<Buffer, Buffer, Buffer, Buffer>> {
  const text = (value?: string): Buffer | undefined => (value === undefined ? undefined : Buffer.from(value))
  const { brokers, client_id, compression } = settings
  const username = settings.username ?? ''
  const password = settings.password ?? ''
  const tls: { ca?: Buffer; cert?: Buffer; key?: Buffer } = {}
  if (settings.tls_ca_file !== null) tls.ca = await readFile(settings.tls_ca_file)
  if (settings.tls_cert_file !== null) tls.cert = await readFile(settings.tls_cert_file)
  if (settings.tls_key_file !== null) tls.key = await readFile(settings.tls_key_file)
  const mechanism = settings.sasl.toUpperCase() as 'PLAIN' | 'SCRAM-SHA-256' | 'SCRAM-SHA-512' | 'OAUTHBEARER'
  return {
    clientId: client_id,
    bootstrapBrokers: [...brokers],
    // All replicas in sync, one request at a time, and numbers by which a broker knows a batch again.
    idempotent: true,
    compression,
    autocreateTopics: false,
    retries,
    retryDelay: retryMs,
    timeout: requestMs,
    requestTimeout: requestMs,
    connectTimeout: requestMs,
    serializers: { key: text, value: text, headerKey: text, headerValue: text } as unknown as NonNullable<ProducerOptions<Buffer, Buffer, Buffer, Buffer>['serializers']>,
    ...(settings.tls ? { tls, tlsServerName: brokers.every((broker) => isIP(broker.replace(/:\d+$/, '')) === 0) } : {}),
    ...(settings.sasl === 'none' ? {} : { sasl: mechanism === 'OAUTHBEARER' ? { mechanism, token: password } : { mechanism, username, password } }),
  }
}

function unlessAborted(sent: Promise<unknown>, signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(new DeliveryFailed('unknown', 'the brokers took too long'))
    signal.addEventListener('abort', abort, { once: true })
    sent.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

const unauthorized = new Set(['SASL_AUTHENTICATION_FAILED', 'UNSUPPORTED_SASL_MECHANISM', 'TOPIC_AUTHORIZATION_FAILED', 'CLUSTER_AUTHORIZATION_FAILED', 'PLT_KFK_AUTHENTICATION'])
const tooLarge = new Set(['MESSAGE_TOO_LARGE', 'RECORD_LIST_TOO_LARGE'])
const refused = new Set(['INVALID_RECORD', 'INVALID_TIMESTAMP'])
/** Nothing was written: the brokers could not be reached, do not know the topic, or did not take it before they wrote. */
const busy = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UNKNOWN_TOPIC_OR_PARTITION', 'NOT_ENOUGH_REPLICAS', 'THROTTLING_QUOTA_EXCEEDED', 'PLT_KFK_USER'])

function failureOf(error: unknown, brokers: readonly string[]): DeliveryFailed {
  if (error instanceof DeliveryFailed) return error
  const names = namesOf(error)
  const found = (among: ReadonlySet<string>): string | undefined => [...names].find((name) => among.has(name))
  const stop = found(unauthorized)
  if (stop !== undefined) return new DeliveryFailed('unauthorized', wordsOf(stop, brokers))
  const large = found(tooLarge)
  if (large !== undefined) return new DeliveryFailed('too_large', large)
  const bad = found(refused)
  if (bad !== undefined) return new DeliveryFailed('refused', bad)
  const later = found(busy)
  return later === undefined ? new DeliveryFailed('unknown', [...names].join(' ').slice(0, 100)) : new DeliveryFailed('busy', wordsOf(later, brokers))
}

const meanings: Readonly<Record<string, string>> = {
  SASL_AUTHENTICATION_FAILED: 'the brokers do not accept the credentials', PLT_KFK_AUTHENTICATION: 'the brokers do not accept the credentials', UNSUPPORTED_SASL_MECHANISM: 'the brokers do not know this way to log in',
  TOPIC_AUTHORIZATION_FAILED: 'this user may not write to the topic', CLUSTER_AUTHORIZATION_FAILED: 'this user may not write here', UNKNOWN_TOPIC_OR_PARTITION: 'the brokers do not know the topic',
  NOT_ENOUGH_REPLICAS: 'too few replicas are in sync', THROTTLING_QUOTA_EXCEEDED: 'over a quota',
}

function wordsOf(code: string, brokers: readonly string[]): string {
  const meaning = meanings[code]
  if (meaning !== undefined) return `${meaning} (${code})`
  const [first = ''] = brokers
  // Where to begin; nothing that somebody may have put before an @.
  return codeWords(code, `${first.replace(/^.*@/, '').slice(0, 100)}${brokers.length > 1 ? ` or ${brokers.length - 1} more` : ''}`)
}

/** What the client calls an error, its causes and its parts: codes of the protocol and of the system, never a broker's words. */
function namesOf(error: unknown, into = new Set<string>()): Set<string> {
  if (!(error instanceof Error)) return into
  if ('apiId' in error && typeof error.apiId === 'string') into.add(error.apiId)
  else if ('code' in error && typeof error.code === 'string') into.add(error.code)
  if ('errors' in error && Array.isArray(error.errors)) for (const part of error.errors) namesOf(part, into)
  return namesOf(error.cause, into)
}
