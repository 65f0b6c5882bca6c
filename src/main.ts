import { existsSync } from 'node:fs'
import { enableCompileCache, flushCompileCache } from 'node:module'
import { join } from 'node:path'
import { systemClock } from './clock.ts'
import { systemRandom } from './random.ts'

// Arguments, signals and exit codes. The environment is read here and nowhere else.

/** A bug that nothing caught: say so loudly and end, so that a supervisor starts afresh. The books are safe, they survive any death. */
function endAfterBug(error: unknown): void {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
  process.stderr.write(`${JSON.stringify({ level: 'fatal', msg: 'bug: nothing caught this; the process ends and may be started again', stack: text })}\n`)
  process.exit(1)
}

/**
 * Keeps what Node made of the sources, beside the packages and with the same owner. Without it the compiler of types is loaded at every
 * start: half a second of work and 35 MB that stay. A place that cannot be written is no failure.
 */
function keepCompiled(): void {
  const packages = join(import.meta.dirname, '../node_modules')
  if (process.env['NODE_COMPILE_CACHE'] !== undefined || !existsSync(packages)) return
  const dir = `${packages}/.cache/tallygate`
  enableCompileCache(dir)
  // Threads look here.
  process.env['NODE_COMPILE_CACHE'] = dir
  // A process that is killed would keep nothing.
  systemClock.after(2_000, flushCompileCache, { unref: true })
}

process.on('uncaughtException', endAfterBug)
process.on('unhandledRejection', endAfterBug)
/** True for commands that run until they are told to stop. */
let untilStopped = false
// The reader of a pipe (`| head`) may leave whenever it likes; a gateway works on without one.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') endAfterBug(error)
    else if (stream === process.stdout && !untilStopped) process.exit(0)
  })
}

const signals = { stop: ['SIGTERM', 'SIGINT'], reload: ['SIGHUP'] } as const

keepCompiled()
// Everything else only now, so that it is kept too.
const { runCommandLine } = await import('./cli/cli.ts')
const exitCode = await runCommandLine(process.argv.slice(2), {
  env: { ...process.env },
  clock: systemClock,
  random: systemRandom,
  stdout: process.stdout,
  stderr: process.stderr,
  onSignal(signal, listener) {
    untilStopped = true
    for (const name of signals[signal]) process.on(name, listener)
  },
})
// A reader of a pipe takes its time, and what was written waits for him.
for (const stream of [process.stdout, process.stderr]) await new Promise((resolve) => stream.write('', resolve))
process.exit(exitCode)
