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
  return openLogTo(pino.destination({ dest: 1, sync: true }), level, worker)
}

/** The same to another place, which is given whole lines. */
export function openLogTo(place: { write(line: string): unknown }, level: string, worker?: number): Log {
  const own = pino({
    level, base: worker === undefined ? null : { worker }, timestamp: timeField, formatters: { level: (label) => ({ level: label }) },
  }, { write: (line) => { place.write(harmless(line)) } })
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
    return `{"level":"info"${time}${from}${json === '{}' ? '' : `,${json.slice(1, -1)}`},"msg":${JSON.stringify(message)}}\n`
  }
  Reflect.set(own, asJsonSym, quick)
  return own
}

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
