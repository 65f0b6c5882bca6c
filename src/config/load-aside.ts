import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
import type { Clock } from '../clock.ts'
import type { Account, Config } from './config.ts'
import { loadConfig } from './load.ts'
import type { LoadOptions, LoadResult } from './load.ts'
import { freeze } from './parse.ts'

/**
 * Loads in a thread of its own, so that reading a hundred thousand keys stalls no stream, and a file that cannot be read in time
 * ends that thread and nothing else. The long lists are handed over in pieces for the same reason.
 */
export function loadAside(options: LoadOptions, clock: Clock, timeoutMs = 120_000): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: { purpose, options }, env: {}, execArgv: ['--disable-warning=ExperimentalWarning'] })
    const cancel = clock.after(timeoutMs, () => settle(() => reject(new Error(`reading the configuration took longer than ${timeoutMs / 1000} s`))))
    const keys: Config['keys'][number][] = []
    const accounts = new Map<string, Account>()
    const settle = (finish: () => void): void => {
      cancel()
      worker.removeAllListeners()
      worker.terminate().then(finish, reject)
    }
    worker.on('message', (part: Part) => {
      for (const key of part.keys) keys.push(freeze(key))
      for (const [id, account] of part.accounts) accounts.set(id, freeze(account))
      const { rest } = part
      if (rest === null) worker.postMessage('next')
      else settle(() => resolve({ ...rest, config: rest.config === null ? null : freeze({ ...rest.config, keys, accounts }) }))
    })
    worker.on('error', (error) => settle(() => reject(error)))
    worker.on('exit', (code) => settle(() => reject(new Error(`reading the configuration ended early (${code})`))))
  })
}

interface Part {
  readonly keys: Config['keys']
  readonly accounts: readonly (readonly [string, Account])[]
  /** With the last part. */
  readonly rest: LoadResult | null
}

const purpose = 'load the configuration'
const pieceMax = 2_000

function* parts(result: LoadResult): Generator<Part> {
  const { config } = result
  if (config !== null) {
    for (let at = 0; at < config.keys.length; at += pieceMax) yield { keys: config.keys.slice(at, at + pieceMax), accounts: [], rest: null }
    const accounts = [...config.accounts]
    for (let at = 0; at < accounts.length; at += pieceMax) yield { keys: [], accounts: accounts.slice(at, at + pieceMax), rest: null }
  }
  yield { keys: [], accounts: [], rest: { ...result, config: config === null ? null : { ...config, keys: [], accounts: new Map() } } }
}

const given: unknown = workerData
if (!isMainThread && parentPort !== null && typeof given === 'object' && given !== null && 'purpose' in given && given.purpose === purpose && 'options' in given) {
  // Only `loadAside` above starts a thread for this purpose.
  const all = parts(loadConfig(given.options as LoadOptions))
  const port = parentPort
  const send = (): void => {
    const next = all.next()
    if (next.done !== true) port.postMessage(next.value)
  }
  port.on('message', send)
  send()
}
