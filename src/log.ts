import { pino } from 'pino'

/** Structured logging: one JSON object a line, on standard output. Never a key, a prompt, an answer or an upstream's words. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** `level`: trace, debug, info, warn, error, silent. */
export function openLog(level: string): Log {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime })
}

export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {} }
