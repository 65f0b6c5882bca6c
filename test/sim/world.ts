import { createHash } from 'node:crypto'
import type { Config } from '../../src/config/config.ts'
import { Gateway } from '../../src/gateway/gateway.ts'
import type { Log } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { httpEndpoint, providers } from '../../src/providers/index.ts'
import { tokenizer } from '../../src/providers/tokenizer.ts'
import { Delivery } from '../../src/sinks/deliver.ts'
import type { ClientCall, Receiver } from './actors.ts'
import { SimulatedSink, Upstream, UpstreamLink } from './actors.ts'
import { Books } from './books.ts'
import { ScenarioKeys, drawScenario, edited, type FaultKind, type Scenario } from './scenario.ts'
import { SeededRandom } from './seeded-random.ts'
import { SimulatedSpool, SpoolDisk } from './simulated-spool.ts'
import { Disk, SimulatedStore, StoreLink } from './simulated-store.ts'
import { ProcessClock, Timeline } from './virtual-clock.ts'

/** A bug to plant, so that it is known that the checkers would see it. */
export type Bug =
  | 'over_admit' | 'abort_not_settled' | 'settle_twice' | 'lose_event' | 'lose_delivery' | 'change_event' | 'never_swept' | 'void_keeps_hold' | 'refusal_counts'
  | 'bills_half' | 'ack_before_durable' | 'stale_standing' | 'sliding_is_short' | 'spool_forgets'

export interface Violation {
  readonly invariant: number
  readonly what: string
}

export interface GatewayProcess {
  readonly name: string
  alive: boolean
  /** Being drained: new clients go elsewhere. */
  leaving: boolean
  readonly clock: ProcessClock
  readonly gateway: Gateway
  readonly store: SimulatedStore
  /** null: this world's gateways have none. */
  readonly spool: SimulatedSpool | null
  readonly upstream: UpstreamLink
  readonly calls: Set<ClientCall>
  readonly deliveries: readonly Delivery[]
}

interface LinkFault {
  readonly kind: 'none' | 'lost_before' | 'lost_answer' | 'sent_again'
  readonly thereMs: number
  readonly backMs: number
  readonly againMs: number
}

// Registering a hundred metrics anew for every world would take longer than the world.
const metrics = new Metrics()

/** Everything that one seed makes. */
export class World {
  readonly seed: number
  readonly bug: Bug | null
  readonly random: SeededRandom
  readonly scenario: Scenario
  readonly timeline = new Timeline()
  readonly books: Books
  readonly upstream: Upstream
  readonly receivers: ReadonlyMap<string, Receiver>
  readonly disk = new Disk()
  readonly spoolRandom: SeededRandom
  /** Gateways over a shared store have a disk of their own, by name; null: they have none. */
  readonly spools: Map<string, SpoolDisk> | null
  /** With so many entries a spool is full. */
  readonly spoolMax: number
  readonly faults = new Map<FaultKind, number>()
  readonly violations: Violation[] = []
  readonly calls: ClientCall[] = []
  processes: GatewayProcess[] = []
  config: Config
  edits = 0
  /** Nothing goes wrong any more: the world comes to rest. */
  calm = false
  /** Which process an exchange was handled by, and which processes have died. */
  readonly deaths: { readonly process: string; readonly atMs: number }[] = []
  /** Which process reserved for an exchange. */
  readonly handlers = new Map<string, GatewayProcess>()
  /** Whole answers whose settlement died with their gateway, because the store was away for longer than their end waits. */
  lostAfterRelease = 0
  /** Settlements that went to a spool, and those that were in one when their gateway died. */
  spooled = 0
  spooledThroughDeath = 0
  readonly #link: SeededRandom
  readonly #lines: string[] | null
  #shared: SimulatedStore | null = null
  #outageUntilMs = 0
  #journalFailures = 0
  #generation = 0
  #strikes = 0
  #starting = 0

  constructor(seed: number, bug: Bug | null, tracing: boolean) {
    this.seed = seed
    this.bug = bug
    this.#lines = tracing ? [] : null
    this.random = new SeededRandom(seed, 'world')
    this.scenario = drawScenario(this.random.fork('scenario'))
    this.config = this.scenario.config
    this.#link = this.random.fork('link')
    this.spoolRandom = new SeededRandom(seed, 'spool')
    this.spools = this.scenario.shared && this.spoolRandom.chance(0.8) ? new Map() : null
    this.spoolMax = this.spoolRandom.pick([3, 1_000, 1_000])
    this.books = new Books(this)
    this.upstream = new Upstream(this)
    this.receivers = new Map(this.scenario.sinks.map((name) => [name, { name, got: new Map(), refused: new Set(), deliveries: 0, deadUntilMs: 0 }]))
  }

  /** Milliseconds since 1970, as a clock has it that is right. */
  wallMs(): number {
    return Math.floor(this.scenario.startMs + this.timeline.nowMs)
  }

  /** Lines are made only where somebody will read them, or their hash. */
  trace(line: () => string): void {
    this.#lines?.push(`${this.timeline.nowMs.toFixed(3)} ${line()}`)
  }

  lines(): readonly string[] {
    return this.#lines ?? []
  }

  traceHash(): string {
    return createHash('sha256').update(this.lines().join('\n')).digest('hex')
  }

  violate(invariant: number, what: string): void {
    this.violations.push({ invariant, what })
    this.trace(() => `VIOLATION ${invariant}: ${what}`)
    this.timeline.stop()
  }

  // === What goes wrong ===

  fault(kind: FaultKind, what: string): void {
    this.faults.set(kind, (this.faults.get(kind) ?? 0) + 1)
    this.trace(() => `! ${kind}: ${what}`)
  }

  strikes(kind: FaultKind, random: SeededRandom): boolean {
    const rate = this.scenario.faults[kind]
    return rate !== undefined && !this.calm && random.chance(rate)
  }

  /** A planted bug that is always there would be too easy. */
  bugStrikes(): boolean {
    this.#strikes += 1
    return this.#strikes % 7 === 0
  }

  killsAtMove(): boolean {
    return this.strikes('kill_at_move', this.random)
  }

  takesJournalFailure(): boolean {
    if (this.calm || this.#starting > 0 || this.#journalFailures === 0) return false
    this.#journalFailures -= 1
    return true
  }

  linkFault(what: string): LinkFault {
    const random = this.#link
    let kind: LinkFault['kind'] = 'none'
    let thereMs = 0.1 + random.fraction()
    let backMs = 0.1 + random.fraction()
    if (this.timeline.nowMs < this.#outageUntilMs) {
      kind = random.chance(0.8) ? 'lost_before' : 'lost_answer'
      backMs = random.pick([1, 100, 1_000])
    } else if (this.strikes('store_lost_before', random)) {
      kind = 'lost_before'
      this.fault('store_lost_before', what)
    } else if (this.strikes('store_lost_answer', random)) {
      kind = 'lost_answer'
      this.fault('store_lost_answer', what)
    } else if (this.strikes('store_sent_again', random)) {
      kind = 'sent_again'
      this.fault('store_sent_again', what)
    }
    if (this.strikes('store_late', random)) {
      if (random.chance(0.7)) thereMs += random.skewed(1, 900)
      else backMs += random.skewed(1, 2_500)
      this.fault('store_late', what)
    }
    return { kind, thereMs, backMs, againMs: random.skewed(0.1, 1_500) }
  }

  // === Processes ===

  begin(): void {
    if (this.scenario.shared) this.#shared = new SimulatedStore(this, this.disk, null)
    for (let i = 0; i < this.scenario.processes; i++) void this.#start(`gateway${i}`)
    this.#planDisasters()
  }

  async #start(name: string): Promise<void> {
    const { random, timeline, scenario } = this
    const skewMs = scenario.shared && scenario.faults.clock_skew !== undefined ? random.int(-400, 400) : 0
    const clock = new ProcessClock(timeline, scenario.startMs + skewMs)
    const commitMs = random.fork('commit')
    const store = this.#shared ?? new SimulatedStore(this, this.disk, () => 0.2 + commitMs.skewed(0, 8))
    this.#generation += 1
    const generation = this.#generation
    if (this.#shared === null) {
      this.#starting += 1
      await store.expireAll(clock.nowMs())
      this.#starting -= 1
    }
    const own = random.fork(`process ${generation}`)
    const log: Log = {
      debug: () => undefined,
      info: (fields, message) => this.trace(() => `  ${name} ${message} ${JSON.stringify(fields)}`),
      warn: (fields, message) => this.trace(() => `  ${name} warns: ${message} ${JSON.stringify(fields)}`),
      error: (fields, message) => this.#onError(name, fields, message),
    }
    const upstream = new UpstreamLink(this)
    const process = { name, alive: true, leaving: false, clock, store, spool: null, upstream, calls: new Set<ClientCall>() } as unknown as { -readonly [K in keyof GatewayProcess]: GatewayProcess[K] }
    upstream.process = process
    if (this.spools !== null) {
      const disk = this.spools.get(name) ?? new SpoolDisk()
      this.spools.set(name, disk)
      process.spool = new SimulatedSpool(this, process, disk)
    }
    const link = new StoreLink(this, process, store)
    process.gateway = new Gateway({
      config: () => this.config, keys: new ScenarioKeys(() => this.config), store: link, spool: process.spool, providers, httpEndpoint, clock, random: own, log, metrics,
      guard: { charge: async (_address, unknown) => unknown },
      tokenizer,
      forwarder: upstream,
    })
    process.deliveries = [...this.receivers.values()].map((receiver) => {
      const sink = new SimulatedSink(this, process, receiver, own.fork(receiver.name))
      return new Delivery({ name: receiver.name, kind: sink.kind, mapping: null, sink, outbox: link.outbox, clock, random: own.fork('delivery'), log, metrics, holder: `${name} ${generation}` })
    })
    for (const delivery of process.deliveries) delivery.start()
    this.processes.push(process)
    this.trace(() => `${name} has started`)
  }

  #onError(name: string, fields: object, message: string): void {
    this.trace(() => `  ${name} complains: ${message} ${JSON.stringify(fields)}`)
    // An exchange that ends with an exception of ours is a bug, whatever the books say.
    if (message === 'an exchange failed') this.violate(10, `${message} ${JSON.stringify(fields)}`)
  }

  /** Nothing goes wrong any more, until the end. */
  rest(): void {
    this.calm = true
    this.#outageUntilMs = 0
    this.trace(() => 'calm')
  }

  /** Does a plan serve calls while the store is away? Then they are settled without having been held. */
  servesUnheld(): boolean {
    return [...this.config.plans.values()].some((plan) => plan.policy.storeDown.kind !== 'deny')
  }

  /** Nothing is left to do. If that does not come, the checkers say what is. */
  isAtRest(): boolean {
    return this.processes.length === this.scenario.processes
      && this.calls.every((call) => call.over !== 'open')
      && this.processes.every(({ gateway, store }) => gateway.openExchanges === 0 && gateway.unsettled === 0 && store.watched.open().length === 0)
      && [...this.spools?.values() ?? []].every(({ entries }) => entries.size === 0)
      && [...this.receivers.keys()].every((name) => (this.disk.cursors.get(name) ?? 0) === this.disk.events.length)
  }

  /** Whatever is still running must not run into the next world. */
  end(): void {
    for (const process of this.processes) this.kill(process, false)
    void this.#shared?.close()
  }

  /** Faults that may have lost an answer of the store's. */
  linkFaults(): number {
    return (['store_late', 'store_lost_before', 'store_lost_answer', 'store_sent_again', 'store_outage', 'journal_failure', 'kill', 'kill_at_move', 'drain'] as const)
      .reduce((sum, kind) => sum + (this.faults.get(kind) ?? 0), 0)
  }

  kill(process: GatewayProcess, restart = true): void {
    if (!process.alive) return
    process.alive = false
    process.clock.kill()
    this.spooledThroughDeath += process.spool?.count ?? 0
    if (!this.scenario.shared) process.store.kill()
    this.processes = this.processes.filter((other) => other !== process)
    this.deaths.push({ process: process.name, atMs: this.timeline.nowMs })
    this.trace(() => `${process.name} is dead`)
    process.upstream.kill()
    for (const call of process.calls) call.serverDied()
    if (restart) this.timeline.at(this.random.skewed(20, 12_000), () => { void this.#start(process.name) })
  }

  /** An alive process that takes clients; undefined: nobody answers. */
  somewhere(random: SeededRandom): GatewayProcess | undefined {
    const open = this.processes.filter((process) => !process.leaving)
    return open.length === 0 ? undefined : random.pick(open)
  }

  #planDisasters(): void {
    const { random, scenario } = this
    const somewhen = (): number => random.fraction() * (scenario.activeMs + 5_000)
    const happens = (kind: FaultKind, often: number): number[] => (scenario.faults[kind] === undefined ? [] : Array.from({ length: random.int(1, often) }, somewhen))
    for (const atMs of happens('kill', 3)) this.timeline.at(atMs, () => this.#disaster('kill', (process) => this.kill(process)))
    for (const atMs of happens('drain', 2)) this.timeline.at(atMs, () => this.#disaster('drain', (process) => { void this.#drain(process) }))
    for (const atMs of happens('clock_jump', 3)) {
      this.timeline.at(atMs, () => this.#disaster('clock_jump', (process) => process.clock.jump(random.int(-900, 900))))
    }
    for (const atMs of happens('config_edit', 4)) {
      this.timeline.at(atMs, () => {
        this.config = edited(this.config, random)
        this.edits += 1
        this.fault('config_edit', `version ${this.config.version}`)
      })
    }
    if (scenario.shared) {
      for (const atMs of happens('store_outage', 2)) this.timeline.at(atMs, () => this.#outage(random.skewed(100, 25_000)))
      // Where there are spools the store is away often: that is what they are for.
      const more = this.spools === null ? 0 : this.spoolRandom.pick([0, 2, 5])
      for (let i = 0; i < more; i++) {
        this.timeline.at(this.spoolRandom.fraction() * scenario.activeMs, () => this.#outage(this.spoolRandom.skewed(1_000, 15_000)))
      }
    } else for (const atMs of happens('journal_failure', 3)) this.timeline.at(atMs, () => { this.#journalFailures += 1 })
    for (const atMs of happens('sink_dead', 2)) {
      this.timeline.at(atMs, () => {
        const receiver = random.pick([...this.receivers.values()])
        receiver.deadUntilMs = this.timeline.nowMs + random.skewed(100, 60_000)
        this.fault('sink_dead', receiver.name)
      })
    }
  }

  #outage(ms: number): void {
    if (this.calm) return
    this.#outageUntilMs = this.timeline.nowMs + ms
    this.fault('store_outage', `until ${this.#outageUntilMs.toFixed(0)}`)
  }

  #disaster(kind: FaultKind, strike: (process: GatewayProcess) => void): void {
    const process = this.somewhere(this.random)
    if (this.calm || process === undefined) return
    this.fault(kind, process.name)
    strike(process)
  }

  /** As the product is stopped: no new clients, some time for the running ones, then the end. */
  async #drain(process: GatewayProcess): Promise<void> {
    process.leaving = true
    const { clock, gateway, deliveries } = process
    const idle = gateway.idle()
    await Promise.race([idle, clock.sleep(this.config.server.drain.timeoutMs)])
    gateway.cutAll()
    await Promise.race([gateway.idle(), clock.sleep(3_000)])
    await gateway.close()
    await Promise.all(deliveries.map((delivery) => delivery.stop()))
    this.kill(process)
  }
}

