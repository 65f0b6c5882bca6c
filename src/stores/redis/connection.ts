import type { Clock } from '../../clock.ts'
import type { Log } from '../../log.ts'
import type { Random } from '../../random.ts'
import { StoreUnavailable } from '../store.ts'
import { hostOf, parseRedisUrl } from './address.ts'
import { Cluster } from './cluster.ts'
import { Deadlines, type Deadline } from './deadlines.ts'
import { readErrorReply } from './error-reply.ts'
import { parseInfo } from './info.ts'
import type { Confirm, LinkCommand, LinkOptions, RedisLink, Script } from './link.ts'
import { Sentinels } from './sentinels.ts'
import { Server, WaitaofMissing, type ServerParts } from './server.ts'
import { ErrorAnswer, type Copies, type Wire } from './wire.ts'

export interface OpenLinkOptions {
  readonly url: string
  /** How long a call may take at most unless it says otherwise, ms. */
  readonly deadlineMs: number
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  /** What calls will ask to be confirmed: a server that cannot do it is refused. */
  readonly confirm?: Confirm
  /** Called whenever `up` changes, with the reason when it became false. */
  readonly onState?: (up: boolean, reason: string | null) => void
}

/**
 * The way to Redis. Resolves once every server has been tried once, whether or not it was there: a link is made to outlive its servers, and goes on trying.
 * Rejects when the URL makes no sense, or when a server that was reached is too old for `confirm`.
 */
export async function openLink(options: OpenLinkOptions): Promise<RedisLink> {
  const link = new Link(options)
  await link.start()
  return link
}

type Args = readonly (string | number | Buffer)[]

/** One command on its way, over all its redirections. */
interface Call {
  readonly key: string
  readonly script: Script | null
  readonly confirm: Confirm | null
  readonly endMs: number
  readonly deadline: Deadline
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: Error) => void
  done: boolean
  /** The reply is here; only the confirmation is not. */
  replied: boolean
  name: string
  args: Args
  /** Where another server has sent it to; null: to the owner of its key. */
  target: Server | null
  asking: boolean
  redirections: number
  /** Where it was sent last. */
  server: Server | null
  wire: Wire | null
}

class Link implements RedisLink {
  readonly clustered: boolean
  readonly #options: OpenLinkOptions
  readonly #deadlines: Deadlines
  readonly #cluster: Cluster | null
  readonly #sentinels: Sentinels | null
  /** The only one; null in a cluster. */
  readonly #server: Server | null
  readonly #listeners = new Set<() => void>()
  #up = false
  #pending = 0
  #closed = false
  #whenIdle = (): void => {}
  #cancelWatch = (): void => {}

  constructor(options: OpenLinkOptions) {
    const { clock, random, log, deadlineMs, confirm } = options
    const address = parseRedisUrl(options.url)
    this.#options = options
    this.#deadlines = new Deadlines(clock)
    this.clustered = address.kind === 'cluster'
    const parts: ServerParts = { address, deadlineMs, needsWaitaof: confirm?.fsync === true, clock, random, log, deadlines: this.#deadlines }
    const events = {
      onUp: (_: Server, changed: boolean): void => {
        this.#noteState()
        if (changed) for (const listener of this.#listeners) listener()
      },
      onDown: (): void => this.#noteState(),
    }
    this.#sentinels = address.kind === 'sentinel' ? new Sentinels(address, this.#deadlines) : null
    this.#cluster = this.clustered ? new Cluster(parts, events) : null
    const [host] = address.hosts
    const find = this.#sentinels === null ? () => Promise.resolve(host!) : () => this.#sentinels!.find()
    this.#server = this.clustered ? null : new Server(address.shown, find, parts, events)
  }

  async start(): Promise<void> {
    await (this.#cluster ?? this.#server)?.start()
    const tooOld = this.#servers().find((server) => server.tooOld !== null)?.tooOld
    if (tooOld instanceof WaitaofMissing) {
      await this.close()
      throw tooOld
    }
    if (this.#sentinels !== null) this.#watchSentinels(this.#sentinels)
  }

  get up(): boolean {
    return this.#up && !this.#closed
  }

  get reason(): string | null {
    if (this.#closed) return CLOSED
    return this.#up ? null : this.#servers()[0]?.reason ?? this.#cluster?.reason ?? null
  }

  command(key: string, name: string, args: Args, options?: LinkOptions): Promise<unknown> {
    return this.#call(key, null, name.toUpperCase(), args, options)
  }

  script(script: Script, keys: readonly string[], args: readonly (string | number)[], options?: LinkOptions): Promise<unknown> {
    return this.#call(keys[0] ?? '', script, 'EVALSHA', [script.sha1, keys.length, ...keys, ...args], options)
  }

  commands(list: readonly LinkCommand[], options?: LinkOptions): Promise<readonly (unknown | Error)[]> {
    return Promise.all(list.map(({ key, name, args }) => this.command(key, name, args, options).catch((error: unknown) => error)))
  }

  onServerChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  async info(): Promise<readonly { readonly address: string; readonly info: ReadonlyMap<string, string> }[]> {
    const servers = this.#servers()
    if (servers.length === 0) throw new StoreUnavailable(this.#cluster!.reason)
    return Promise.all(servers.map(async (server) => ({ address: server.name, info: parseInfo(String(await this.#callAt(server, 'INFO', []))) })))
  }

  async configuration(names: readonly string[]): Promise<readonly { readonly address: string; readonly configuration: ReadonlyMap<string, string> | null }[]> {
    return Promise.all(this.#servers().map(async (server) => {
      const answers = await Promise.all(names.map((name) => this.#callAt(server, 'CONFIG', ['GET', name]).catch((error: unknown) => {
        // Hosted servers deny it, or have taken the command away; a server that is not there is another matter.
        if (server.up) return null
        throw error
      })))
      if (answers.every((answer) => answer === null)) return { address: server.name, configuration: null }
      const pairs = answers.filter((answer): answer is [string, string] => Array.isArray(answer) && answer.length === 2)
      return { address: server.name, configuration: new Map(pairs) }
    }))
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#cancelWatch()
    if (this.#pending > 0) await new Promise<void>((idle) => { this.#whenIdle = idle })
    this.#cluster?.close()
    this.#server?.close()
    this.#sentinels?.close()
  }

  #servers(): readonly Server[] {
    return this.#cluster?.owners() ?? [this.#server!]
  }

  #noteState(): void {
    const up = this.#servers().some((server) => server.up || server.reviving)
    if (up === this.#up) return
    this.#up = up
    this.#options.onState?.(up, this.reason)
  }

  #watchSentinels(sentinels: Sentinels): void {
    const { clock, random } = this.#options
    this.#cancelWatch = clock.after(SENTINELS_MS * (0.75 + 0.5 * random.fraction()), async () => {
      // Cut off from the others, a former primary takes writes that nobody will ever see: no error tells, only the sentinels do.
      if (this.#server!.up && await sentinels.hasMoved()) this.#server!.replace('the sentinels name another primary')
      if (!this.#closed) this.#watchSentinels(sentinels)
    }, { unref: true })
  }

  #call(key: string, script: Script | null, name: string, args: Args, options: LinkOptions | undefined, target: Server | null = null): Promise<unknown> {
    if (this.#closed) return Promise.reject(new StoreUnavailable(CLOSED))
    return new Promise((resolve, reject) => {
      const deadlineMs = options?.deadlineMs ?? this.#options.deadlineMs
      const confirm = options?.confirm
      const deadline = this.#deadlines.start(deadlineMs, () => {
        if (call.replied) return this.#fail(call, `the write was made, but not confirmed within ${deadlineMs} ms`)
        const words = `Redis gave no answer within ${deadlineMs} ms`
        if (call.wire !== null) call.server?.timedOut(call.wire, words)
        this.#fail(call, words)
      })
      const call: Call = {
        key, script, name, args, target, deadline, resolve, reject,
        confirm: confirm === undefined || (confirm.replicas === 0 && !confirm.fsync) ? null : confirm,
        endMs: this.#options.clock.monotonicMs() + deadlineMs,
        done: false, replied: false, asking: false, redirections: 0, server: null, wire: null,
      }
      this.#pending += 1
      this.#dispatch(call)
    })
  }

  #callAt(server: Server, name: string, args: Args): Promise<unknown> {
    return this.#call('', null, name, args, { deadlineMs: Math.max(1000, this.#options.deadlineMs) }, server)
  }

  #dispatch(call: Call): void {
    const server = call.target ?? this.#server ?? this.#cluster!.serverOf(call.key)
    if (server === null) return this.#fail(call, this.#cluster!.reason)
    const { wire } = server
    if (wire === null || !server.up) return server.reviving ? this.#dispatchOnceUp(call, server) : this.#fail(call, server.reason)
    call.server = server
    call.wire = wire
    // Refused, it leaves the command to be refused as well, which tells.
    if (call.asking) wire.send('ASKING', []).catch(() => undefined)
    const sent = wire.send(call.name, call.args)
    const copies = call.confirm === null ? null : wire.confirm(call.confirm, () => call.endMs - this.#options.clock.monotonicMs())
    sent.then((reply) => this.#answered(call, reply, copies), (error: unknown) => this.#refused(call, server, wire, error as Error))
  }

  #answered(call: Call, reply: unknown, copies: Promise<Copies> | null): void {
    if (call.done) return
    call.server?.answered()
    if (copies === null) return this.#end(call, () => call.resolve(reply))
    call.replied = true
    void copies.then((made) => {
      const missing = shortOf(call.confirm!, made)
      if (missing === null) this.#end(call, () => call.resolve(reply))
      else this.#fail(call, `the write was made, but ${missing}`)
    })
  }

  #refused(call: Call, server: Server, wire: Wire, error: Error): void {
    if (call.done) return
    if (!(error instanceof ErrorAnswer)) return this.#fail(call, error.message)
    const reply = readErrorReply(error.message)
    switch (reply.kind) {
      case 'noscript':
        if (call.script === null || call.name === 'EVAL') return this.#fail(call, 'Redis does not keep scripts')
        call.name = 'EVAL'
        call.args = [call.script.source, ...call.args.slice(1)]
        return this.#dispatch(call)
      case 'moved':
      case 'ask':
        server.answered()
        return this.#redirect(call, server, reply)
      case 'wrong':
        server.answered()
        return this.#end(call, () => call.reject(reply.error))
      default:
        server.refused(wire, reply)
        if (reply.code === 'CLUSTERDOWN' || reply.kind === 'connection') this.#cluster?.refreshSoon()
        this.#fail(call, reply.words)
    }
  }

  #redirect(call: Call, from: Server, to: { readonly kind: 'moved' | 'ask'; readonly slot: number; readonly host: string; readonly port: number }): void {
    if (this.#cluster === null) return this.#fail(call, 'this Redis is part of a cluster: the store\'s URL must begin with redis+cluster:// (MOVED)')
    call.redirections += 1
    if (call.redirections > REDIRECTIONS_MAX) return this.#fail(call, 'the servers of the Redis cluster send a call around in circles (MOVED)')
    const host = to.host === '' ? hostOf(from.name) : to.host
    const target = to.kind === 'moved' ? this.#cluster.moved(to.slot, { host, port: to.port }) : this.#cluster.at({ host, port: to.port })
    call.target = target
    call.asking = to.kind === 'ask'
    call.wire = null
    if (target.up) return this.#dispatch(call)
    this.#dispatchOnceUp(call, target)
  }

  #dispatchOnceUp(call: Call, server: Server): void {
    server.whenUp().then(() => {
      if (!call.done) this.#dispatch(call)
    }, (error: unknown) => this.#fail(call, (error as Error).message))
  }

  #fail(call: Call, words: string): void {
    this.#end(call, () => call.reject(new StoreUnavailable(words)))
  }

  #end(call: Call, tell: () => void): void {
    // Of the deadline and the answer only the first counts.
    if (call.done) return
    call.done = true
    call.deadline.met = true
    this.#pending -= 1
    tell()
    if (this.#pending === 0) this.#whenIdle()
  }
}

function shortOf({ replicas, fsync }: Confirm, made: Copies): string | null {
  if (made instanceof Error) return 'Redis could not say how many copies there are'
  if (made.replicas < replicas) return `only ${made.replicas} of ${replicas} replicas had it in time`
  return fsync && made.local === 0 ? 'it was not on disk in time' : null
}

const CLOSED = 'the connection to the store is closed'
const REDIRECTIONS_MAX = 3
const SENTINELS_MS = 1000
