import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { SinkConfig } from '../../src/config/config.ts'
import { kindOf } from '../../src/sinks/index.ts'
import { recordsOf } from '../../src/sinks/mapping.ts'
import { SeededRandom } from '../sim/seeded-random.ts'
import { embeddedIn } from '../stores/embedded-fixture.ts'
import type { Books } from '../sinks/kit/books.ts'
import { sum } from '../sinks/kit/books.ts'
import { eventOf, settleAll, settlements, type Many } from './exchanges.ts'
import type { Course, Receiver } from './receivers.ts'

export interface Figures {
  readonly name: string
  readonly events: number
  readonly records: number
  readonly requests: number | null
  /** Failed looks at the outbox, after which it waited and began again. */
  readonly retries: number
  /** Records whose outcome was not known at some time. */
  readonly ambiguous: number
  /** Records that came again and were known: told by the receiver's books, not by its answers. */
  readonly duplicates: number
  readonly kills: number
  readonly seconds: number
  readonly dead: number
  readonly quarantined: number
  /** Each sentence is something that is not as it has to be. */
  readonly wrong: readonly string[]
}

const sinkName = 'sink'
/** Each process reads the same source: that takes longer than its work. */
const compiled = fileURLToPath(new URL('../../node_modules/.cache/tallygate', import.meta.url))
const killedWithinMs = 10

const pause = (ms: number): Promise<void> => new Promise((resolve) => { setTimeout(resolve, ms) })

/** A folder with a store that has settled all of them, to be copied for each receiver. */
export async function fill(dir: string, many: Many): Promise<void> {
  const store = await embeddedIn(dir)
  await settleAll(store, many)
  await store.close()
}

/** Delivers a copy of `filled` to a receiver, by processes that are killed again and again, and looks at its books. */
export async function killAndCount(course: Course, filled: string, dir: string, many: Many, kills: number): Promise<Figures> {
  const began = performance.now()
  const random = new SeededRandom(many.seed, course.name)
  const data = join(dir, 'data')
  cpSync(filled, data, { recursive: true })
  const receiver = await course.start(random.int(1, 1_000_000), dir)
  const sink: SinkConfig = { name: sinkName, type: course.kind.type, settings: receiver.settings, mapping: course.mapping }
  // By how much has come when a process is killed; which step it is in then is chance. Before the last tenth: what is almost done may be done before it is killed.
  const whole = course.whole(many.count)
  const killsAt = Array.from({ length: kills }, (_, n) => 0.9 * (n + random.fraction()) / kills)
  let killed = 0
  const told = { retries: 0, ambiguous: 0 }
  let last = ''
  let left = many.count
  while (!last.startsWith('done')) {
    const shipper = new Shipper(data, sink, receiver)
    const running = shipper.finished
    while (!shipper.ended) {
      const share = whole === null ? 1 - Math.min(left, shipper.left) / many.count : receiver.come() / whole
      if (killsAt[0] !== undefined && share >= killsAt[0]) {
        killsAt.shift()
        await pause(random.int(0, killedWithinMs))
        // A process that has just ended of itself was not killed.
        if (shipper.kill()) killed += 1
        break
      }
      await pause(1)
    }
    await running
    last = shipper.last
    told.retries += shipper.retries
    told.ambiguous += shipper.ambiguous
    if (!last.startsWith('done') && !shipper.killed) throw new Error(`the shipper ended by itself: ${last}`)
    if (shipper.left > left && shipper.left !== Infinity) throw new Error('a cursor moved back')
    left = Math.min(left, shipper.left)
  }
  const duplicates = receiver.books.duplicates
  const { requests } = receiver
  await receiver.close()
  const [, dead = '0', quarantined = '0'] = last.split(' ')
  const wrong = problemsOf(course, sink, receiver.books, many)
  if (Number(dead) + Number(quarantined) > 0) wrong.push(`${dead} dead, ${quarantined} in quarantine`)
  rmSync(data, { recursive: true, force: true })
  return {
    name: course.name, events: many.count, records: receiver.books.size, requests, ...told, duplicates, kills: killed, seconds: (performance.now() - began) / 1_000,
    dead: Number(dead), quarantined: Number(quarantined), wrong,
  }
}

/** What the books should be, made from the events once more. */
function problemsOf({ mapping }: Course, sink: SinkConfig, books: Books, many: Many): string[] {
  const wrong: string[] = []
  const kind = kindOf(sink)
  let missing = 0
  let expected = 0
  const totals = new Map<string, string[]>()
  for (const move of settlements(many)) {
    for (const record of recordsOf(eventOf(move), kind, mapping).records) {
      expected += 1
      if (record.is === 'meter') {
        const key = JSON.stringify([record.code, record.customer])
        totals.set(key, [...totals.get(key) ?? [], record.value])
      }
      const [booking] = books.of(record.id)
      if (mapping?.rollup !== null && mapping !== null) continue
      if (booking === undefined) missing += 1
      else if (record.is === 'meter' && booking.received.value !== record.value) wrong.push(`${record.id} is ${booking.received.value}, not ${record.value}`)
    }
  }
  if (missing > 0) wrong.push(`${missing} records are missing`)
  if ((mapping?.rollup ?? null) === null && books.size !== expected) wrong.push(`${books.size} records in place of ${expected}`)
  const doubled = books.bookings().filter(({ copies }) => copies !== 1)
  if (doubled.length > 0) wrong.push(`${doubled.length} records count more or less than once: ${doubled.slice(0, 3).map(({ received: { id }, copies }) => `${id} ${copies} times`).join(', ')}`)
  if (books.changed.length > 0) wrong.push(`${books.changed.length} records came again with another time or value`)
  const theirs = new Map<string, string[]>()
  for (const { received: { code, customer, value } } of books.bookings()) {
    const key = JSON.stringify([code, customer])
    theirs.set(key, [...theirs.get(key) ?? [], value])
  }
  for (const [key, values] of totals) {
    const ours = sum(values)
    const their = sum(theirs.get(key) ?? [])
    if (ours !== their) wrong.push(`${key}: ${their} in place of ${ours}`)
  }
  return wrong.length > 10 ? [...wrong.slice(0, 10), `and ${wrong.length - 10} more`] : wrong
}

class Shipper {
  left = Infinity
  retries = 0
  ambiguous = 0
  last = ''
  ended = false
  killed = false
  readonly finished: Promise<void>
  readonly #child: ChildProcess

  constructor(data: string, sink: SinkConfig, receiver: Receiver) {
    const script = fileURLToPath(new URL('./shipper.ts', import.meta.url))
    this.#child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, data, JSON.stringify(sink)], { stdio: ['ignore', 'pipe', 'inherit', 'pipe'], env: { ...process.env, NODE_COMPILE_CACHE: compiled } })
    const child = this.#child
    const died = (): void => { child.kill('SIGKILL') }
    process.once('exit', died)
    const lines = createInterface({ input: child.stdout! })
    lines.on('line', (line) => receiver.line?.(line))
    const words = createInterface({ input: child.stdio[3] as Readable })
    words.on('line', (line) => {
      this.last = line
      const [word, left, retries, ambiguous] = line.split(' ')
      if (word === 'L') [this.left, this.retries, this.ambiguous] = [Number(left), Number(retries), Number(ambiguous)]
    })
    this.finished = Promise.all([once(child, 'exit'), once(lines, 'close'), once(words, 'close')]).then(() => {
      process.off('exit', died)
      this.ended = true
    })
  }

  /** False: it had ended. */
  kill(): boolean {
    this.killed = this.#child.exitCode === null && this.#child.signalCode === null && this.#child.kill('SIGKILL')
    return this.killed
  }
}
