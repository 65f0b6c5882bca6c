import { createReadStream, existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { SinkMapping } from '../../src/config/config.ts'
import type { UsageEvent } from '../../src/metering/event.ts'
import { file } from '../../src/sinks/file.ts'
import type { SinkKind } from '../../src/sinks/sink.ts'
import { stdout } from '../../src/sinks/stdout.ts'
import { Books } from '../sinks/kit/books.ts'
import type { Dialect } from '../sinks/kit/dialect.ts'
import { amberfloDialect } from '../sinks/kit/dialects/amberflo.ts'
import { clickhouseDialect } from '../sinks/kit/dialects/clickhouse.ts'
import { flexpriceDialect } from '../sinks/kit/dialects/flexprice.ts'
import { lagoClickhouse, lagoPostgres } from '../sinks/kit/dialects/lago.ts'
import { m3terDialect } from '../sinks/kit/dialects/m3ter.ts'
import { metronomeDialect } from '../sinks/kit/dialects/metronome.ts'
import { openmeterV1, openmeterV3 } from '../sinks/kit/dialects/openmeter.ts'
import { orbDialect } from '../sinks/kit/dialects/orb.ts'
import { polarDialect } from '../sinks/kit/dialects/polar.ts'
import { stripeStream, stripeV1, stripeV2 } from '../sinks/kit/dialects/stripe.ts'
import { webhookBatched, webhookStructured } from '../sinks/kit/dialects/webhook.ts'
import { kafkaSubject } from '../sinks/kit/fake-kafka.ts'
import type { Subject } from '../sinks/kit/fake.ts'
import { equally } from '../sinks/kit/faults.ts'
import { httpSubject } from '../sinks/kit/http-fake.ts'
import { mappingOf } from '../sinks/sample-events.ts'
import { accounts } from './exchanges.ts'

/** What a shipper delivers to while it is killed. */
export interface Receiver {
  readonly books: Books
  /** How much has come, in the order of `whole`; it only grows. */
  come(): number
  /** null: it speaks no requests. */
  readonly requests: number | null
  readonly settings: Readonly<Record<string, unknown>>
  /** What the shipper writes to its output. */
  line?(line: string): void
  /** Before the books are looked at. */
  close(): Promise<void>
}

export interface Course {
  readonly name: string
  readonly kind: SinkKind
  readonly mapping: SinkMapping | null
  /** What `come` is when all of so many events are there; null: nobody knows. */
  whole(events: number): number | null
  start(seed: number, dir: string): Promise<Receiver>
}

const share = 0.2
/** Of an event, about. */
const lineBytes = 700

function overFake(subject: Subject, rollup: SinkMapping['rollup'] = null): Course {
  return {
    name: rollup === null ? subject.name : `${subject.name}, sums of a ${rollup}`,
    kind: subject.kind,
    mapping: mappingFor(subject.kind, rollup),
    // Of sums there are as many as there are chunks.
    whole: (events) => (rollup === null ? events : null),
    async start(seed) {
      const fake = await subject.start()
      // Enough to be noticed, and not to be waited for.
      fake.retryAfterSeconds = 0
      fake.slowMs = 10
      fake.faults(seed, equally(share, subject.faults))
      return { books: fake.books, come: () => fake.books.size, get requests() { return fake.requests }, settings: fake.settings(), close: () => fake.stop() }
    },
  }
}

function mappingFor(kind: SinkKind, rollup: SinkMapping['rollup']): SinkMapping | null {
  if (kind.takes === 'events') return null
  return mappingOf((kind.meters ?? []).filter(({ quantity }) => quantity.startsWith('input_tokens')), { rollup, customers: Object.fromEntries(accounts.map((account) => [account, `cus-${account}`])) })
}

function booked(books: Books, line: string): void {
  const { id, subject, time } = JSON.parse(line) as UsageEvent
  books.book({ key: id, id, code: 'event', customer: subject, timeMs: Date.parse(time), value: '1', bad: null }, 'forever', Date.now())
}

/** Lines on disk; nothing goes wrong with them but that their writer dies. An id that is there twice counts twice. */
const files: Course = {
  name: 'file', kind: file, mapping: null,
  whole: (events) => events * lineBytes,
  async start(_seed, dir) {
    const books = new Books()
    const folder = join(dir, 'out')
    return {
      books, requests: null,
      // One may get another name between the two looks.
      come: () => (existsSync(folder) ? readdirSync(folder).reduce((bytes, name) => bytes + (statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0), 0) : 0),
      settings: { path: join(folder, 'usage.ndjson'), max_bytes: 8 * 1_048_576, daily: true, keep: null },
      async close() {
        for (const name of readdirSync(folder)) {
          for await (const line of createInterface({ input: createReadStream(join(folder, name)) })) {
            const before = (JSON.parse(line) as UsageEvent).id
            booked(books, line)
            if (books.duplicates > 0) books.plantDouble(before)
            books.duplicates = 0
          }
        }
      },
    }
  },
}

/** Whoever reads the lines has to count each id once; a line that its writer died in is none. */
const lines: Course = {
  name: 'stdout', kind: stdout, mapping: null,
  whole: (events) => events,
  async start() {
    const books = new Books()
    return {
      books, requests: null, settings: {}, come: () => books.size,
      line(line) {
        try {
          booked(books, line)
        } catch (error) {
          if (!(error instanceof SyntaxError)) throw error
        }
      },
      close: async () => undefined,
    }
  },
}

const dialects: readonly Dialect[] = [
  amberfloDialect, clickhouseDialect(), flexpriceDialect, lagoPostgres, lagoClickhouse, m3terDialect, metronomeDialect, openmeterV1, openmeterV3, orbDialect, polarDialect, stripeV1, stripeV2, stripeStream,
  webhookBatched, webhookStructured,
]

export const courses: readonly Course[] = [
  files, lines, overFake(kafkaSubject), ...dialects.map((dialect) => overFake(httpSubject(dialect))), overFake(httpSubject(lagoPostgres), 'minute'), overFake(httpSubject(stripeStream), 'minute'),
]
