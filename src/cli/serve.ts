import { CommandFailed, print } from './command.ts'
import type { Command } from './command.ts'
import { configOption, configSource } from './config-file.ts'

/** Signals closer together than this are one. */
const oneSignalMs = 500

export const serveCommand: Command = {
  name: 'serve', summary: 'the gateway (what `npm start` runs)',
  options: [
    configOption,
    { flags: '--listen <address>', about: 'where callers come in, such as 0.0.0.0:8080; also TALLYGATE_LISTEN' },
    { flags: '--admin-listen <address>', about: 'the admin port, such as 127.0.0.1:8081; also TALLYGATE_ADMIN_LISTEN' },
    { flags: '--accept-loss', about: 'start although the store is older than what it once acknowledged, as after restoring a backup; what is missing stays missing' },
  ],
  examples: ['tallygate serve', 'UPSTREAM_URL=http://127.0.0.1:8000 tallygate serve --listen 0.0.0.0:8080'],
  async run(input, around) {
    const { env, clock, random, stdout } = around
    const level = env['TALLYGATE_LOG_LEVEL'] ?? 'info'
    const { isWorker, runWorker } = await import('../worker.ts')
    // Everything else it is told by the process that started it.
    if (isWorker()) return await runWorker({ clock, random, stdout, logLevel: level, onSignal: around.onSignal })
    const source = configSource(input, around)
    const [{ startApp, ConfigInvalid }, { AddressUnavailable }, { BooksUnavailable }, { WorkerFailed }, { openLog }, { toBanner }, { loadConfig }, { loadAside }, { StoreUnavailable }] = await Promise.all([
      import('../app.ts'), import('../front.ts'), import('../books.ts'), import('../workers.ts'), import('../log.ts'), import('../banner.ts'), import('../config/load.ts'), import('../config/load-aside.ts'), import('../stores/store.ts'),
    ])
    if (!['trace', 'debug', 'info', 'warn', 'error', 'silent'].includes(level)) throw new CommandFailed(`TALLYGATE_LOG_LEVEL is "${level}"; it may be trace, debug, info, warn, error or silent`, 2)
    const log = openLog(level)
    // Asked to stop while starting: the start is finished, then undone.
    let stop = (): void => { stopEarly = true }
    let stopEarly = false
    let askedMs = -Infinity
    around.onSignal('stop', () => {
      // One Ctrl-C arrives twice under npm, from the terminal and from npm: only a later one means impatience.
      const nowMs = clock.monotonicMs()
      if (nowMs - askedMs > oneSignalMs) stop()
      askedMs = nowMs
    })
    let app
    try {
      app = await startApp({ loaded: loadConfig(source), load: () => loadAside(source, clock), clock, random, log, stdout, makeFirstKey: (env['UPSTREAM_URL'] ?? '') !== '', acceptLoss: input.flag('accept-loss') })
    } catch (error) {
      if (error instanceof ConfigInvalid) throw new CommandFailed(error.message, 2)
      if ([BooksUnavailable, AddressUnavailable, WorkerFailed, StoreUnavailable].some((kind) => error instanceof kind) && error instanceof Error) throw new CommandFailed(error.message)
      throw error
    }
    const running = app
    print(around, toBanner(running.banner))
    around.onSignal('reload', () => void running.reload())
    await new Promise<void>((resolve, reject) => {
      stop = () => void running.stop().then(resolve, reject)
      if (stopEarly) stop()
    })
    return 0
  },
}
