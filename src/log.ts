import { pino } from 'pino'
import { harmlessJson } from './acting-characters.ts'
import { systemClock } from './clock.ts'

/** Structured logging: one JSON object a line, on standard output. Never a key, a prompt, an answer or an upstream's words. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** `level`: trace, debug, info, warn, error, silent. `worker`: the number of a process that shares its output with others. */
export function openLog(level: string, worker?: number): Log {
  const output = pino.destination({ dest: 1, sync: true })
  let waiting = ''
  let bytes = 0
  const write = (): void => {
    if (waiting === '') return
    const text = harmlessJson(waiting)
    // Escapes are longer than what they stand for.
    if (text === waiting) output.write(text)
    else for (const line of text.split('\n').slice(0, -1)) output.write(`${line}\n`)
    waiting = ''
    bytes = 0
  }
  process.once('exit', write)
  return logTo((given) => {
    const line = given.length > lineMax ? shortened(given) : given
    const more = Buffer.byteLength(line)
    if (bytes + more > AT_ONCE) write()
    // Under load many calls end in one turn of the event loop: one write for all of them. Whatever is worse than usual is out at once, and all that came before it.
    if (waiting === '') systemClock.afterTurn?.(write)
    waiting += line
    bytes += more
    if (!line.startsWith('{"level":"info"')) write()
  }, level, worker)
}

/** What a pipe takes as one piece, whoever else writes into it (on Linux). */
const AT_ONCE = 4_096

/** The same to another place, which is given whole lines. */
export function openLogTo(place: { write(line: string): unknown }, level: string, worker?: number): Log {
  return logTo((line) => { place.write(harmless(line)) }, level, worker)
}

function logTo(write: (line: string) => void, level: string, worker: number | undefined): Log {
  const own = pino({
    level, base: worker === undefined ? null : { worker }, timestamp: timeField, formatters: { level: (label) => ({ level: label }) },
  }, { write })
  const { asJsonSym } = pino.symbols
  const asJson = Reflect.get(own, asJsonSym) as AsJson
  const from = worker === undefined ? '' : `,"worker":${worker}`
  // Every call has a line: the engine's own JSON takes a third of the time. What that cannot write is left to pino, and so is every other level.
  const quick: AsJson = function quick(fields, message, number, time) {
    if (number !== INFO) return asJson.call(this, fields, message, number, time)
    let json: string
    try {
      json = JSON.stringify(fields)
    } catch {
      return asJson.call(this, fields, message, number, time)
    }
    const said = message === EXCHANGE ? EXCHANGE_JSON : JSON.stringify(message)
    return json === '{}' ? `{"level":"info"${time}${from},"msg":${said}}\n` : `{"level":"info"${time}${from},${json.slice(1, -1)},"msg":${said}}\n`
  }
  Reflect.set(own, asJsonSym, quick)
  return own
}

/** What nearly all lines say. */
const EXCHANGE = 'exchange'
const EXCHANGE_JSON = JSON.stringify(EXCHANGE)
const INFO = 30
type AsJson = (this: unknown, fields: object, message: string, level: number, time: string) => string

let second = NaN
let secondText = ''

/** As pino's own, but a second is written once: under load that is a fifth of what a line costs. */
function timeField(): string {
  const nowMs = systemClock.nowMs()
  const now = Math.floor(nowMs / 1_000)
  if (now !== second) {
    second = now
    secondText = `,"time":"${new Date(now * 1_000).toISOString().slice(0, -4)}`
  }
  return `${secondText}${String(nowMs - now * 1_000).padStart(3, '0')}Z"`
}

export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {} }

/** Longer lines are looked at: one of their texts may be a caller's. */
const lineMax = 4_096
const textMax = 1_024
const itemsMax = 32
const depthMax = 4

/** One line, whatever was in its fields: nothing that acts on a terminal, and no text so long that others are lost behind it. */
export function harmless(line: string): string {
  return harmlessJson(line.length > lineMax ? shortened(line) : line)
}

function shortened(line: string): string {
  return `${JSON.stringify(cut(JSON.parse(line), 0))}\n`
}

function cut(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return value.length > textMax ? `${value.slice(0, textMax)}… (${value.length} characters)` : value
  if (typeof value !== 'object' || value === null) return value
  if (depth >= depthMax) return '…'
  if (!Array.isArray(value)) return Object.fromEntries(Object.entries(value).slice(0, itemsMax).map(([name, each]) => [name.slice(0, textMax), cut(each, depth + 1)]))
  const items = value.slice(0, itemsMax).map((each) => cut(each, depth + 1))
  return value.length > itemsMax ? [...items, `… (${value.length} items)`] : items
}
