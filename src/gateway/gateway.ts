import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Config } from '../config/config.ts'
import { GatewayError } from '../errors.ts'
import { exchangeId } from '../metering/id.ts'
import { standingHeaders } from './answer-head.ts'
import { KeyRefused } from './authenticate.ts'
import { DownstreamGone, type Downstream } from './downstream.ts'
import { Exchange } from './exchange.ts'
import { Forwarder } from './forward.ts'
import { handle } from './handle.ts'
import { Lease } from './lease.ts'
import { ModelLists } from './models.ts'
import { Outage } from './outage.ts'
import { defaultBounds, type Bounds, type GatewayParts, type Workings } from './parts.ts'
import { beginSeries, record } from './record.ts'
import { RefusalMemory } from './refusal-memory.ts'
import { presentable, respondError, statusOf } from './respond.ts'
import { Roster } from './roster.ts'
import { RouteTable } from './route.ts'
import { Seats } from './seats.ts'
import { Settler } from './settler.ts'
import { tellEnded, tellRefused } from './told.ts'
import { Tunnel } from './tunnel.ts'
import { connectionOf } from './upstream-request.ts'
import { UpstreamMemory } from './upstream-memory.ts'
import { HistoryTurns } from './usage-history.ts'

/** Exchanges in, answers out. One per process; `server.ts` hands it what clients send. */
export class Gateway {
  readonly #parts: GatewayParts
  readonly #limits: Bounds
  readonly #workings: Workings & { stopping: boolean }
  readonly #open = new Roster<Exchange>()
  readonly #tunnels = new Set<Tunnel>()
  #config: Config
  #whenIdle: (() => void)[] = []

  constructor(parts: GatewayParts) {
    const { store, clock, random, log, metrics } = parts
    this.#parts = parts
    this.#limits = { ...defaultBounds, ...parts.bounds }
    const { leaseMs, renewMs, settleMs, settlementsMax } = this.#limits
    this.#config = parts.config()
    const lease = new Lease({ store, clock, log, leaseMs, renewMs })
    this.#workings = {
      ...parts,
      limits: this.#limits,
      routes: new RouteTable(parts.providers),
      forwarder: parts.forwarder ?? new Forwarder(),
      settler: new Settler({ store, spool: parts.spool ?? null, clock, random, log, metrics, settleMs, queueMax: settlementsMax }),
      lease,
      seats: new Seats({ store, clock, random, lease, leaseMs, patienceMs: this.#limits.reserveMs }),
      refusals: new RefusalMemory(),
      outage: new Outage({ log, clock }),
      upstreams: new UpstreamMemory(),
      modelLists: new ModelLists(),
      historyTurns: new HistoryTurns(),
      drains: { running: 0 },
      stopping: false,
    }
    beginSeries(metrics, parts.providers)
    metrics.beforeReading.push(() => {
      metrics.open.set(this.#open.size)
      metrics.reservations.set(this.#workings.lease.size)
    })
  }

  /** Exchanges in flight, tunnels included. */
  get openExchanges(): number {
    return this.#open.size
  }

  /** Those of them that are answered as a stream. */
  get openStreams(): number {
    return this.#open.list().reduce((sum, { facts, draft }) => sum + (facts?.streamed === true && draft !== null ? 1 : 0), 0)
  }

  /** Settlements that are not durable yet. */
  get unsettled(): number {
    return this.#workings.settler.waiting
  }

  /** Why calls are refused although the store admits: what they use could not be kept. null: they are not. */
  get unbillable(): string | null {
    return this.#workings.settler.full
  }

  /** Answers one request, whatever happens. Never rejects. */
  async handle(d: Downstream): Promise<void> {
    const x = this.#begin(d)
    try {
      if (this.#workings.stopping) throw draining()
      await handle(x, this.#workings)
    } catch (thrown) {
      this.#answerError(x, thrown)
    } finally {
      this.#leave(x)
    }
  }

  /** Answers one WebSocket handshake: refused like any request, or tunnelled until either side ends it. Never rejects. */
  async handleUpgrade(d: Downstream, request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    const x = this.#begin(d)
    const tunnel = new Tunnel(x, this.#workings, request, socket, head)
    this.#tunnels.add(tunnel)
    try {
      if (this.#workings.stopping) throw draining()
      await tunnel.run()
    } catch (thrown) {
      this.#answerError(x, thrown)
    } finally {
      this.#tunnels.delete(tunnel)
      this.#leave(x)
    }
  }

  /** The drain's time is over: every answer ends now, with what was counted settled, and nothing more is admitted. */
  cutAll(): void {
    this.#workings.stopping = true
    for (const x of this.#open.list()) x.answer?.stop()
    for (const tunnel of this.#tunnels) tunnel.stop()
  }

  /** Resolves when no exchange is open and every settlement is durable, in the store or in the spool. */
  async idle(): Promise<void> {
    if (this.#open.size > 0) await new Promise<void>((resolve) => { this.#whenIdle.push(resolve) })
    await this.#workings.settler.idle()
  }

  /** Lets go of timers and upstream connections. After `idle`. */
  async close(): Promise<void> {
    this.#workings.stopping = true
    this.#workings.seats.close()
    this.#workings.lease.close()
    this.#workings.settler.close()
    await this.#workings.forwarder.close()
  }

  #begin(d: Downstream): Exchange {
    const { clock, random, telemetry } = this.#parts
    const config = this.#parts.config()
    if (config !== this.#config) this.#onReload(config)
    const nowMs = clock.nowMs()
    const x = new Exchange(d, config, exchangeId(nowMs, random.bytes(10)), nowMs, clock.monotonicMs())
    if (telemetry !== undefined && telemetry !== null) x.trace = telemetry.begin(d.headers)
    this.#open.add(x)
    return x
  }

  #onReload(config: Config): void {
    this.#config = config
    const { connectMs } = config.server.timeouts
    this.#workings.forwarder.keepOnly([...config.upstreams.values()].map((upstream) => connectionOf(upstream, connectMs)))
    this.#workings.refusals.forget()
  }

  #answerError(x: Exchange, thrown: unknown): void {
    const { d } = x
    if (thrown instanceof KeyRefused) x.owner = thrown.owner
    if (thrown instanceof DownstreamGone || d.gone) {
      x.end = 'client_gone'
      x.status = 499
      if (!d.gone) d.cut()
      return
    }
    const error = presentable(thrown)
    if (!(thrown instanceof GatewayError)) {
      const kind = thrown instanceof Error ? thrown : null
      this.#parts.log.error({ id: x.id, err: kind?.name ?? typeof thrown, at: kind?.stack?.split('\n').slice(1, 6).map((line) => line.trim()).join(' | ') }, 'an exchange failed')
    }
    x.end = x.draft !== null && error.source === 'downstream' ? 'refused' : 'error'
    x.failure ??= error.code
    if (d.headSent) return d.cut()
    x.status = statusOf(error.code)
    if (x.status !== 500) tellRefused(x, this.#parts, error, this.#parts.clock.nowMs())
    // Only what a reservation was refused for has a standing to tell.
    respondError(d, error, x.route?.provider ?? null, { requestId: x.id, headers: standingHeaders(x, this.#workings, null) })
  }

  /** Every exchange comes here, however it ended. */
  #leave(x: Exchange): void {
    const { clock } = this.#parts
    if ((x.holding || x.unheld) && x.principal !== null) {
      // It failed between its reservation and its outcome: nothing was forwarded, or nothing is known of it.
      x.holding = false
      x.unheld = false
      this.#workings.lease.remove(x.living)
      void this.#workings.settler.void({ id: x.id, nowMs: clock.nowMs(), home: x.principal.home })
    }
    this.#workings.seats.leave(x)
    this.#open.remove(x)
    tellEnded(x, this.#parts)
    record(x, this.#parts, clock.monotonicMs() - x.startedMs)
    if (this.#open.size === 0) for (const resolve of this.#whenIdle.splice(0)) resolve()
  }
}

function draining(): GatewayError {
  return new GatewayError('draining', 'The gateway is restarting. Please try again.', { source: 'gateway' })
}
