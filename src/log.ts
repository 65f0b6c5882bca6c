import { pino } from 'pino'

/** Structured logging: one JSON object a line, on standard output. Never a key, a prompt, an answer or an upstream's words. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** `level`: trace, debug, info, warn, error, silent. `worker`: the number of a process that shares its output with others. */
export function openLog(level: string, worker?: number): Log {
  return pino({ level, base: worker === undefined ? null : { worker }, timestamp: pino.stdTimeFunctions.isoTime })
}

export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {} }
