import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
import type { Clock } from '../clock.ts'
import type { Config } from './config.ts'
import { loadConfig } from './load.ts'
import type { LoadOptions, LoadResult } from './load.ts'
import { PiecedConfig, toPieces } from './pieces.ts'
import type { Piece } from './pieces.ts'

/**
 * Loads in a thread of its own, so that reading a hundred thousand keys stalls no stream, and a file that cannot be read in time
 * ends that thread and nothing else. The long lists are handed over in pieces for the same reason.
 */
export function loadAside(options: LoadOptions, clock: Clock, timeoutMs = 120_000): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: { purpose, options }, env: {}, execArgv: ['--disable-warning=ExperimentalWarning'] })
    const cancel = clock.after(timeoutMs, () => settle(() => reject(new Error(`reading the configuration took longer than ${timeoutMs / 1000} s`))))
    const pieces = new PiecedConfig()
    let config: Config | null = null
    const settle = (finish: () => void): void => {
      cancel()
      worker.removeAllListeners()
      worker.terminate().then(finish, reject)
    }
    worker.on('message', ({ piece, result }: Part) => {
      if (piece !== null) config = pieces.add(piece) ?? config
      if (result === null) worker.postMessage('next')
      else settle(() => resolve({ ...result, config }))
    })
    worker.on('error', (error) => settle(() => reject(error)))
    worker.on('exit', (code) => settle(() => reject(new Error(`reading the configuration ended early (${code})`))))
  })
}

interface Part {
  readonly piece: Piece | null
  /** At the end, without the config. */
  readonly result: LoadResult | null
}

const purpose = 'load the configuration'

function* parts(result: LoadResult): Generator<Part> {
  if (result.config !== null) for (const piece of toPieces(result.config)) yield { piece, result: null }
  yield { piece: null, result: { ...result, config: null } }
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
