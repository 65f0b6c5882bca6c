import { once } from 'node:events'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { kafka } from '../../../src/sinks/kafka.ts'
import { Books, type Received } from './books.ts'
import type { Fake, Subject } from './fake.ts'
import { Faults, type Fault, type Rates } from './faults.ts'

/** What a broker's log holds of one message. */
export interface LogEntry {
  readonly partition: number
  readonly key: string | null
  readonly value: string
  readonly headers: Readonly<Record<string, string>>
  readonly timestampMs: number
}

const topicName = 'usage'
const partitionCount = 3
const user = { username: 'tallygate', password: 'right-password' }

/** As the protocol numbers them. */
const api = { produce: 0, metadata: 3, saslHandshake: 17, apiVersions: 18, initProducerId: 22, saslAuthenticate: 36 } as const
const versions: readonly (readonly [key: number, min: number, max: number])[] = [[api.produce, 3, 7], [api.metadata, 3, 8], [api.saslHandshake, 0, 1], [api.apiVersions, 0, 3], [api.initProducerId, 0, 1], [api.saslAuthenticate, 0, 1]]
export const errorCode = {
  none: 0, corrupt: 2, unknownTopic: 3, notLeader: 6, timedOut: 7, messageTooLarge: 10, notEnoughReplicas: 19, topicUnauthorized: 29, unsupportedVersion: 35, outOfOrder: 45, storage: 56, saslFailed: 58, unknownProducer: 59, invalidRecord: 87,
} as const

/** The client itself sends a request three times; a fault that it shall not hide lasts as long. */
const clientTries = 3

export const kafkaSubject: Subject = {
  name: 'kafka',
  kind: kafka,
  contract: kafka.contract,
  faults: ['broken_before', 'broken_after', 'reset_before', 'reset_after', 'cut', 'slow'],
  locked: true,
  start: (options = {}) => FakeKafka.start(options.port ?? 0),
}

interface Batch {
  readonly firstSequence: number
  readonly lastSequence: number
  readonly baseOffset: bigint
}

/**
 * One broker that speaks as much of Kafka's protocol as a producer asks for: versions, metadata, SASL PLAIN, producer ids, and record batches (format 2), whose
 * checksums, epochs and sequences it checks as a broker does. Its books count each event's id once, as whoever reads the topic has to.
 */
export class FakeKafka implements Fake {
  readonly books = new Books()
  readonly log: LogEntry[] = []
  /** Batches that the client sent again and that were known by their sequence. */
  repeated = 0
  requests = 0
  slowMs = 20
  retryAfterSeconds = 1
  url = ''
  /** What the next produce requests answer, before anything is written; outlives one request only as often as it stands here. */
  readonly answers: number[] = []
  bytesMax = 1_048_588
  judge: (received: Received) => string | null = () => null
  readonly #server: Server
  readonly #faults = new Faults()
  readonly #sockets = new Set<Socket>()
  #nextProducerId = 1_000n
  /** By producer id, epoch and partition: the last five batches. */
  readonly #batches = new Map<string, Batch[]>()
  readonly #offsets = Array.from({ length: partitionCount }, () => 0n)
  readonly #problems: string[] = []

  private constructor() {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket)
      socket.on('close', () => this.#sockets.delete(socket))
      socket.on('error', () => socket.destroy())
      new BrokerConnection(socket, this).listen()
    })
  }

  static async start(port = 0): Promise<FakeKafka> {
    const fake = new FakeKafka()
    fake.#server.listen(port, '127.0.0.1')
    await once(fake.#server, 'listening')
    fake.url = `127.0.0.1:${(fake.#server.address() as AddressInfo).port}`
    return fake
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  settings(right = true): Readonly<Record<string, unknown>> {
    return {
      brokers: [this.url], topic: topicName, mode: 'structured', compression: 'none', client_id: 'tallygate', tls: false, tls_ca_file: null, tls_cert_file: null, tls_key_file: null,
      sasl: 'plain', username: user.username, password: right ? user.password : 'wrong-password',
    }
  }

  faults(seed: number, rates: Rates): void {
    this.#faults.byChance(seed, rates)
  }

  next(...faults: readonly Fault[]): void {
    for (const fault of faults) this.#faults.next(...Array.from({ length: clientTries }, () => fault))
  }

  take(): Fault | null {
    return this.#faults.take()
  }

  /** What a client did that no client may; a test that sees some has found a fault of ours. */
  get problems(): readonly string[] {
    return this.#problems
  }

  problem(text: string): void {
    this.#problems.push(text)
  }

  producerId(): bigint {
    this.#nextProducerId += 1n
    return this.#nextProducerId
  }

  async stop(): Promise<void> {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
    if (this.#server.listening) await once(this.#server, 'close')
  }

  /** Appends a batch to a partition as a broker does: the next in its producer's sequence, or one that is known. */
  append(partition: number, records: Buffer): { code: number; baseOffset: bigint } {
    const wrong = (code: number, text?: string): { code: number; baseOffset: bigint } => {
      if (text !== undefined) this.problem(text)
      return { code, baseOffset: -1n }
    }
    if (records.length > this.bytesMax) return wrong(errorCode.messageTooLarge)
    const batch = readBatch(records)
    if (batch === null) return wrong(errorCode.corrupt, 'a batch that cannot be read')
    const { producerId, epoch, firstSequence, entries } = batch
    const key = `${producerId} ${epoch} ${partition}`
    const known = this.#batches.get(key) ?? []
    const lastSequence = firstSequence + entries.length - 1
    const copy = known.find((each) => each.firstSequence === firstSequence && each.lastSequence === lastSequence)
    if (copy !== undefined) {
      this.repeated += 1
      return { code: errorCode.none, baseOffset: copy.baseOffset }
    }
    const last = known.at(-1)
    if (last === undefined && firstSequence !== 0) return wrong(errorCode.unknownProducer)
    if (last !== undefined && firstSequence !== last.lastSequence + 1) return wrong(errorCode.outOfOrder, `sequence ${firstSequence} behind ${last.lastSequence}`)
    const messages = entries.map((entry) => ({ ...entry, partition }))
    const received = messages.map(receivedOf)
    if (received.some((one) => one.bad !== null || this.judge(one) !== null)) return wrong(errorCode.invalidRecord)
    const baseOffset = this.#offsets[partition] ?? 0n
    this.#offsets[partition] = baseOffset + BigInt(entries.length)
    this.#batches.set(key, [...known.slice(-4), { firstSequence, lastSequence, baseOffset }])
    this.log.push(...messages)
    for (const one of received) this.books.book(one, 'forever', Date.now())
    return { code: errorCode.none, baseOffset }
  }
}

/** Either mode of the CloudEvents binding. */
function receivedOf({ key, value, headers, timestampMs }: LogEntry): Received {
  const event = JSON.parse(value) as { id?: string; subject?: string }
  const [id, subject] = headers['content-type'] === 'application/cloudevents+json' ? [event.id, event.subject] : [headers['ce_id'], headers['ce_subject']]
  return { key: id ?? '', id: id ?? '', code: 'event', customer: subject ?? '', timeMs: timestampMs, value: '1', bad: id === undefined || key !== subject ? 'no event, or under another key than its subject' : null }
}

class BrokerConnection {
  readonly #socket: Socket
  readonly #broker: FakeKafka
  #loggedIn = false
  #buffered = Buffer.alloc(0)
  #last: Promise<void> = Promise.resolve()

  constructor(socket: Socket, broker: FakeKafka) {
    this.#socket = socket
    this.#broker = broker
  }

  listen(): void {
    this.#socket.on('data', (chunk: Buffer) => {
      this.#buffered = Buffer.concat([this.#buffered, chunk])
      while (this.#buffered.length >= 4 && this.#buffered.length >= 4 + this.#buffered.readInt32BE(0)) {
        const end = 4 + this.#buffered.readInt32BE(0)
        const request = this.#buffered.subarray(4, end)
        this.#buffered = this.#buffered.subarray(end)
        this.#last = this.#last.then(() => this.#serve(new Input(request))).catch((error: unknown) => {
          this.#broker.problem(error instanceof Error ? error.message : String(error))
          this.#socket.destroy()
        })
      }
    })
  }

  async #serve(input: Input): Promise<void> {
    this.#broker.requests += 1
    const [key, version, correlation] = [input.int16(), input.int16(), input.int32()]
    input.string()
    const output = new Output().int32(correlation)
    if (key === api.apiVersions) return this.#answer(versionsAnswer(output, version))
    if (key === api.saslHandshake) return this.#answer(output.int16(input.string() === 'PLAIN' ? 0 : 33).int32(1).string('PLAIN'))
    if (key === api.saslAuthenticate) {
      const text = input.bytes().toString('utf8')
      this.#loggedIn = text === `\0${user.username}\0${user.password}`
      output.int16(this.#loggedIn ? 0 : errorCode.saslFailed).string(this.#loggedIn ? null : 'no such user').bytes(Buffer.alloc(0))
      return this.#answer(version === 0 ? output : output.int64(0n))
    }
    // A real broker closes the connection of whoever skips the login.
    if (!this.#loggedIn) return void this.#socket.destroy()
    if (key === api.metadata) return this.#answer(metadataAnswer(output, version, input, this.#broker.port))
    if (key === api.initProducerId) return this.#answer(output.int32(0).int16(0).int64(this.#broker.producerId()).int16(0))
    if (key === api.produce) return await this.#produce(input, output, version)
    this.#broker.problem(`unexpected api ${key} version ${version}`)
    this.#socket.destroy()
  }

  async #produce(input: Input, output: Output, version: number): Promise<void> {
    const fault = this.#broker.take()
    if (fault === 'cut' || fault === 'reset_before') return void this.#socket.resetAndDestroy()
    input.string()
    if (input.int16() !== -1) this.#broker.problem('not acks=all')
    input.int32()
    const planned = this.#broker.answers.shift() ?? (fault === 'broken_before' ? errorCode.storage : null)
    output.array(input.array(() => ({ name: input.string(), partitions: input.array(() => ({ index: input.int32(), records: input.bytes() })) })), ({ name, partitions }) => {
      output.string(name)
      output.array(partitions, ({ index, records }) => {
        const done = planned !== null ? { code: planned, baseOffset: -1n } : name === topicName ? this.#broker.append(index, records) : { code: errorCode.unknownTopic, baseOffset: -1n }
        output.int32(index).int16(fault === 'broken_after' && done.code === 0 ? errorCode.timedOut : done.code).int64(done.baseOffset).int64(-1n)
        if (version >= 5) output.int64(0n)
      })
    })
    output.int32(0)
    if (fault === 'reset_after') return void this.#socket.resetAndDestroy()
    if (fault === 'slow') await sleep(this.#broker.slowMs, undefined, { ref: false })
    this.#answer(output)
  }

  #answer(output: Output): void {
    if (!this.#socket.destroyed) this.#socket.write(output.framed())
  }
}

function versionsAnswer(output: Output, version: number): Output {
  output.int16(0)
  if (version < 3) {
    output.array(versions, ([key, min, max]) => output.int16(key).int16(min).int16(max))
    return version === 0 ? output : output.int32(0)
  }
  output.byte(versions.length + 1)
  for (const [key, min, max] of versions) output.int16(key).int16(min).int16(max).byte(0)
  return output.int32(0).byte(0)
}

function metadataAnswer(output: Output, version: number, input: Input, port: number): Output {
  const asked = input.array(() => input.string())
  output.int32(0).array([0], () => output.int32(1).string('127.0.0.1').int32(port).string(null)).string('fake').int32(1)
  output.array(asked, (name) => {
    const known = name === topicName
    output.int16(known ? 0 : errorCode.unknownTopic).string(name).byte(0).array(known ? Array.from({ length: partitionCount }, (_, index) => index) : [], (index) => {
      output.int16(0).int32(index).int32(1)
      if (version >= 7) output.int32(0)
      output.array([1], (node) => output.int32(node)).array([1], (node) => output.int32(node))
      if (version >= 5) output.int32(0)
    })
    if (version >= 8) output.int32(-2_147_483_648)
  })
  return version >= 8 ? output.int32(-2_147_483_648) : output
}

interface ReadBatch {
  readonly producerId: bigint
  readonly epoch: number
  readonly firstSequence: number
  readonly entries: readonly Omit<LogEntry, 'partition'>[]
}

/** Record batch, format 2. Null: it is damaged. */
function readBatch(records: Buffer): ReadBatch | null {
  const input = new Input(records)
  input.int64()
  const length = input.int32()
  input.int32()
  const magic = input.byte()
  const crc = input.int32() >>> 0
  if (length !== records.length - 12 || magic !== 2 || crc !== crc32c(records.subarray(21))) return null
  const compression = input.int16() & 7
  input.int32()
  const firstMs = input.int64()
  input.int64()
  const [producerId, epoch, firstSequence, count] = [input.int64(), input.int16(), input.int32(), input.int32()]
  const rest = input.rest()
  const body = new Input(compression === 1 ? gunzipSync(rest) : compression === 4 ? zstdDecompressSync(rest) : rest)
  const entries = Array.from({ length: count }, () => {
    body.varint()
    body.byte()
    const timestampMs = Number(firstMs + BigInt(body.varint()))
    body.varint()
    const key = body.varbytes()
    const value = body.varbytes()
    const headers = Object.fromEntries(Array.from({ length: body.varint() }, () => [String(body.varbytes()), String(body.varbytes())]))
    return { key: key === null ? null : key.toString('utf8'), value: String(value), headers, timestampMs }
  })
  return { producerId, epoch, firstSequence, entries }
}

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc >>> 0
})

function crc32c(bytes: Buffer): number {
  let crc = 0xffffffff
  for (const byte of bytes) crc = (crcTable[(crc ^ byte) & 255] ?? 0) ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}

/** Reads what is not in the protocol's compact form. */
class Input {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  #skip(count: number): number {
    this.#at += count
    return this.#at - count
  }

  byte(): number { return this.#bytes.readInt8(this.#skip(1)) }
  int16(): number { return this.#bytes.readInt16BE(this.#skip(2)) }
  int32(): number { return this.#bytes.readInt32BE(this.#skip(4)) }
  int64(): bigint { return this.#bytes.readBigInt64BE(this.#skip(8)) }
  rest(): Buffer { return this.#bytes.subarray(this.#at) }

  string(): string {
    const length = this.int16()
    return length < 0 ? '' : this.#bytes.toString('utf8', this.#skip(length), this.#at)
  }

  bytes(): Buffer {
    const length = this.int32()
    return length < 0 ? Buffer.alloc(0) : this.#bytes.subarray(this.#skip(length), this.#at)
  }

  array<T>(read: () => T): T[] {
    return Array.from({ length: Math.max(0, this.int32()) }, read)
  }

  /** Zigzag; of no more than 53 bits. */
  varint(): number {
    let [value, shift] = [0n, 0n]
    for (let byte = 0x80; (byte & 0x80) !== 0; shift += 7n) {
      byte = this.#bytes.readUInt8(this.#skip(1))
      value |= BigInt(byte & 0x7f) << shift
    }
    return Number((value >> 1n) ^ -(value & 1n))
  }

  varbytes(): Buffer | null {
    const length = this.varint()
    return length < 0 ? null : this.#bytes.subarray(this.#skip(length), this.#at)
  }
}

class Output {
  readonly #parts: Buffer[] = []

  #add(size: number, write: (part: Buffer) => void): this {
    const part = Buffer.alloc(size)
    write(part)
    this.#parts.push(part)
    return this
  }

  byte(value: number): this { return this.#add(1, (part) => part.writeUInt8(value)) }
  int16(value: number): this { return this.#add(2, (part) => part.writeInt16BE(value)) }
  int32(value: number): this { return this.#add(4, (part) => part.writeInt32BE(value)) }
  int64(value: bigint): this { return this.#add(8, (part) => part.writeBigInt64BE(value)) }

  string(value: string | null): this {
    if (value === null) return this.int16(-1)
    this.int16(Buffer.byteLength(value)).#parts.push(Buffer.from(value))
    return this
  }

  bytes(value: Buffer): this {
    this.int32(value.length).#parts.push(value)
    return this
  }

  array<T>(items: readonly T[], write: (item: T) => void): this {
    this.int32(items.length)
    for (const item of items) write(item)
    return this
  }

  framed(): Buffer {
    const body = Buffer.concat(this.#parts)
    return Buffer.concat([new Output().int32(body.length).#parts[0] ?? Buffer.alloc(0), body])
  }
}
