import { rm, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Writable } from 'node:stream'
import { withCalendars } from './accounts/calendars.ts'
import { PeriodEnds } from './accounts/period-ends.ts'
import { hashOfSecret, newSecret } from './accounts/secret.ts'
import { startAdminServer } from './admin/admin-server.ts'
import type { AdminToken } from './admin/admin-caller.ts'
import type { ReloadState } from './admin/route.ts'
import { toUrl } from './banner.ts'
import type { BannerFacts } from './banner.ts'
import { openBooks } from './books.ts'
import type { Books } from './books.ts'
import { productVersion } from './cli/version.ts'
import type { Clock } from './clock.ts'
import type { Address, Config } from './config/config.ts'
import type { LoadResult } from './config/load.ts'
import { toText } from './config/problem.ts'
import { withoutPassword } from './config/redis-url.ts'
import { ConfigReloader } from './config/reload.ts'
import type { ReloadResult } from './config/reload.ts'
import { isLoopback } from './config/scalars.ts'
import { Dashboard } from './dashboard/dashboard.ts'
import type { RunningDemoModel } from './demo/demo-model.ts'
import { listening, openFront } from './front.ts'
import type { Front } from './front.ts'
import type { Log } from './log.ts'
import { Metrics } from './metrics.ts'
import { Notices } from './notices/notices.ts'
import type { Random } from './random.ts'
import { openWorkers } from './workers.ts'

export interface AppOptions {
  /** What the process starts with. */
  readonly loaded: LoadResult
  /** Reads the configuration anew, beside the event loop. */
  load(): Promise<LoadResult>
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  /** For sinks that write there. */
  readonly stdout: Writable
  /** Make a first real key when there is none at all. */
  readonly makeFirstKey: boolean
  /** Start although the books on disk are older than what was once acknowledged. */
  readonly acceptLoss: boolean
}

export interface App {
  readonly gatewayUrl: string
  readonly adminUrl: string
  readonly banner: BannerFacts
  /** Uses the configuration as it is now on disk, all or nothing. */
  reload(): Promise<ReloadState>
  /** Drains: not ready, accept a little longer, finish what runs, settle all, deliver, close. Called again it cuts what runs. */
  stop(): Promise<void>
}

/** The configuration has mistakes; one line each. */
export class ConfigInvalid extends Error {
  override name = 'ConfigInvalid'
  readonly problems: readonly string[]
  constructor(problems: readonly string[]) {
    super(problems.join('\n'))
    this.problems = problems
  }
}

/** How long a drain waits for sinks; what they have not taken by then waits in the outbox for the next start. */
const flushMs = 5_000
/** The file in the data folder by which commands find the gateway that runs. */
export const doorPlateFile = 'gateway.json'

/**
 * Builds and joins everything: config → store → keys → gateway → ports. Nothing listens before the books are open. With workers, they answer callers, and
 * this process does what only one may do: the admin port, the sinks, watching the configuration. Throws ConfigInvalid, BooksUnavailable, AddressUnavailable or
 * WorkerFailed; then nothing is left open.
 */
export async function startApp(options: AppOptions): Promise<App> {
  const app = new RunningApp(options)
  try {
    await app.start()
    return app
  } catch (error) {
    await app.abandon()
    throw error
  }
}

class RunningApp implements App {
  readonly #options: AppOptions
  readonly #metrics = new Metrics()
  readonly #dashboard = new Dashboard()
  readonly #startedMs: number
  #config: Config
  #books: Books | null = null
  #notices: Notices | null = null
  #periodEnds: PeriodEnds | null = null
  #front: Front | null = null
  #admin: { readonly address: Address; close(): Promise<void> } | null = null
  #demo: { readonly model: RunningDemoModel; readonly secret: string } | null = null
  #firstKey: BannerFacts['firstKey'] = null
  #adminToken: string | null = null
  readonly #reloader: ConfigReloader
  #reloads: ReloadState
  #stopping: Promise<void> | null = null

  constructor(options: AppOptions) {
    this.#options = options
    const { config, problems, warnings } = options.loaded
    if (config === null) throw new ConfigInvalid(problems.map(toText))
    for (const warning of warnings) options.log.warn({ where: toText(warning) }, 'the configuration has a weakness')
    this.#config = config
    this.#startedMs = options.clock.nowMs()
    this.#reloads = { atMs: this.#startedMs, ok: true, problems: [] }
    this.#reloader = new ConfigReloader({
      first: { ...options.loaded, config }, load: () => options.load(), clock: options.clock,
      apply: (next) => this.#use(next),
      onResult: (result) => this.#tellOfReload(result),
    })
  }

  async start(): Promise<void> {
    const { clock, random, log, stdout, acceptLoss } = this.#options
    // Beside everything else, so that it is there for the first who looks.
    this.#dashboard.prepare()
    const metrics = this.#metrics
    this.#books = await openBooks(this.#config, { clock, random, log, metrics, stdout, acceptLoss, adminAddress: toUrl(this.#config.admin.listen) })
    const books = this.#books
    metrics.build.set({ version: productVersion() }, 1)
    metrics.lastReload.set(1)
    metrics.beforeReading.push(() => metrics.storeAdmitting.set(books.store.status().admitting ? 1 : 0))
    this.#notices = new Notices({ store: books.store, directory: books.directory, paces: books.paces, clock: books.clock, random, log, metrics })
    await this.#use(this.#config)
    await this.#makeFirstKey(books)
    this.#front = this.#config.server.workers === 1
      ? await openFront({ config: () => this.#config, books, clock, random, log, metrics, version: productVersion() })
      : await openWorkers({ config: this.#config, clock, log, metrics, traffic: (worker, report) => books.analytics.add(`worker ${worker}`, report) })
    await this.#openAdmin(books)
    this.#lookAtPeriodEnds(books)
    this.#reloader.start()
  }

  get gatewayUrl(): string {
    return toUrl(this.#front?.address ?? this.#config.server.listen, this.#config.server.tls === null ? 'http' : 'https')
  }

  get adminUrl(): string {
    return toUrl(this.#admin?.address ?? this.#config.admin.listen)
  }

  get banner(): BannerFacts {
    const { store, server, upstreams } = this.#config
    return {
      gateway: this.gatewayUrl, admin: this.adminUrl, adminToken: this.#adminToken, firstKey: this.#firstKey,
      store: store.kind === 'embedded' ? `${store.dir} (one gateway per folder)` : store.kind === 'memory' ? 'in memory, gone with this process' : withoutPassword(store.url),
      workers: server.workers,
      upstreams: [...upstreams.values()].map(({ origin, pathPrefix }) => `${origin}${pathPrefix}`),
      demo: this.#demo === null ? null : { secret: this.#demo.secret, file: store.kind === 'embedded' ? join(store.dir, 'demo-key') : null },
    }
  }

  async reload(): Promise<ReloadState> {
    await this.#reloader.reload()
    return this.#reloads
  }

  stop(): Promise<void> {
    if (this.#stopping === null) this.#stopping = this.#stop()
    // Impatience: what runs is cut, and settled with what it had.
    else void this.#front?.drain()
    return this.#stopping
  }

  /** After a failed start: closes whatever is open. */
  async abandon(): Promise<void> {
    this.#periodEnds?.close()
    await this.#notices?.stop()
    await this.#admin?.close()
    await this.#front?.close()
    await this.#books?.close()
    await this.#demo?.model.close()
  }

  async #stop(): Promise<void> {
    const { clock, log } = this.#options
    log.info({}, 'draining')
    this.#reloader.close()
    this.#periodEnds?.close()
    await this.#front?.drain()
    if (this.#books !== null && !(await this.#books.deliveries.flush(clock.nowMs() + flushMs))) {
      log.warn({}, 'some events were not taken by their sinks; they wait in the outbox for the next start')
    }
    await this.#notices?.stop()
    await this.#admin?.close()
    if (this.#config.store.kind === 'embedded') await rm(join(this.#config.store.dir, doorPlateFile), { force: true })
    await this.#front?.close()
    await this.#books?.close()
    await this.#demo?.model.close()
    log.info({}, 'stopped; everything is settled')
  }

  #tellOfReload({ outcome, version, problems, warnings, restart }: ReloadResult): void {
    const { log, clock } = this.#options
    this.#reloads = { atMs: clock.nowMs(), ok: outcome !== 'refused', problems: problems.map(toText) }
    this.#metrics.reloads.inc({ result: outcome })
    this.#metrics.lastReload.set(outcome === 'refused' ? 0 : 1)
    if (outcome === 'refused') {
      log.error({ problems: this.#reloads.problems }, 'the new configuration has mistakes; the old one stays in use')
      return
    }
    for (const warning of warnings) log.warn({ where: toText(warning) }, 'the configuration has a weakness')
    // Sinks are opened and closed as they change.
    const waiting = restart.filter((name) => name !== 'sinks')
    if (waiting.length > 0) log.warn({ settings: waiting }, 'these settings have changed and act after a restart')
    // Whoever reads it again may have mended what a sink waits for, though no setting has changed.
    this.#books?.deliveries.nudge()
    log.info({ version, outcome }, 'the configuration was read again')
  }

  /** Swaps config and keys in one step, so that no call sees a key of one and a plan of the other; then workers and the delivery loops follow. */
  async #use(read: Config): Promise<void> {
    if (this.#books === null) return
    const { clock } = this.#options
    // The store is the one that was opened at the start, whatever the file says by now.
    const acting = await withCalendars({ ...read, store: this.#config.store }, this.#books.store.records, clock.nowMs())
    const config = await this.#completed(acting)
    await this.#books.accounts.notePlans(config)
    const index = await this.#books.directory.prepare(config, clock)
    this.#config = config
    this.#books.directory.use(index)
    await this.#front?.use(config)
    await this.#books.deliveries.use(config)
    await this.#books.analytics.use(config)
    await this.#notices?.use(config)
  }

  /** Without an upstream: the demo model, and its key. */
  async #completed(config: Config): Promise<Config> {
    if (config.upstreams.size > 0) return config
    const { clock, random } = this.#options
    const [{ startDemoModel }, { demoKey }, { withDemo }] = await Promise.all([
      import('./demo/demo-model.ts'), import('./demo/demo-key.ts'), import('./demo/demo-config.ts'),
    ])
    this.#demo ??= {
      model: await startDemoModel({ host: '127.0.0.1', port: 0 }, clock),
      secret: await demoKey(config.store.kind === 'embedded' ? config.store.dir : null, random),
    }
    return withDemo(config, this.#demo.model.address, hashOfSecret(this.#demo.secret))
  }

  async #makeFirstKey(books: Books): Promise<void> {
    if (!this.#options.makeFirstKey || this.#demo !== null || this.#config.keys.length > 0 || books.directory.storedKeys.size > 0) return
    const { startingPlan } = await import('./demo/demo-config.ts')
    const plan = startingPlan(this.#config, 'free')
    if (plan === undefined) return
    const { id, secret } = await books.changes.createKey({ id: 'first', account: null, plan: plan.name, expiresMs: null }, 'first start')
    this.#firstKey = { id, secret, plan: plan.name }
  }

  /** What is left of a period goes on, and what is left of a grant is recorded. */
  #lookAtPeriodEnds({ store, directory, clock, forgetAfterMs }: Books): void {
    const { log } = this.#options
    this.#periodEnds = new PeriodEnds({
      store, directory, clock, forgetAfterMs,
      failed: (error) => log.warn({ why: error instanceof Error ? error.name : 'unknown' }, 'what periods and grants have left could not be looked at; it will be tried again'),
    })
    this.#periodEnds.start()
  }

  async #openAdmin(books: Books): Promise<void> {
    const { random, log } = this.#options
    const { admin, store } = this.#config
    const extraTokens: AdminToken[] = []
    // A port that others can reach is never open: without a token of the operator's, one is made for this run.
    if (admin.tokens.length === 0 && !isLoopback(admin.listen.host)) {
      this.#adminToken = newSecret(random)
      extraTokens.push({ name: 'generated', hash: hashOfSecret(this.#adminToken), role: 'admin' })
    }
    const local = store.kind === 'embedded' ? newSecret(random) : null
    const api = books.adminParts(() => this.#config, {
      startedMs: this.#startedMs, draining: () => this.#stopping !== null, reloads: () => this.#reloads, reload: () => this.reload(),
    })
    this.#admin = await listening(admin.listen, startAdminServer({
      listen: admin.listen, api, extraTokens, localToken: local === null ? null : { name: 'cli', hash: hashOfSecret(local), role: 'admin' }, dashboard: this.#dashboard, random, log,
      metrics: { text: async () => await this.#metrics.text(await this.#front?.snapshots() ?? []) },
    }))
    if (store.kind !== 'embedded' || local === null) return
    const path = join(store.dir, doorPlateFile)
    await writeFile(`${path}.new`, `${JSON.stringify({ pid: process.pid, address: this.adminUrl, token: local })}\n`, { mode: 0o600 })
    await rename(`${path}.new`, path)
  }
}
