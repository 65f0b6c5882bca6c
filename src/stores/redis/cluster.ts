import { hostOf, showHost, type HostPort } from './address.ts'
import { authenticate, greetingWords, Server, type ServerEvents, type ServerParts } from './server.ts'
import { SLOTS, slotOf } from './slot.ts'
import { Wire } from './wire.ts'

/**
 * Which primary of a cluster owns which slot, and a `Server` for each of them. A primary that is down takes its own slots down and no others. ioredis' own
 * cluster client is not used: it sends commands again by itself, knows no breaker per server, and cannot put a WAIT behind a command on the same connection.
 */
export class Cluster {
  readonly #parts: ServerParts
  readonly #events: ServerEvents
  readonly #servers = new Map<string, Server>()
  readonly #slots: (Server | null)[] = Array.from({ length: SLOTS }, () => null)
  readonly #slotOfTag = new Map<string, number>()
  #reason = 'not connected yet'
  #told: string | null = null
  #mapped = false
  #moved = false
  #closed = false
  #refreshing: Promise<void> | null = null
  #refreshedAtMs = -Infinity
  #stale = false
  #cancelTimer = (): void => {}

  constructor(parts: ServerParts, events: ServerEvents) {
    this.#parts = parts
    this.#events = {
      onUp: (server, changed) => {
        const moved = this.#moved && this.owners().every(({ up }) => up)
        if (moved) this.#moved = false
        events.onUp(server, changed || moved)
      },
      onDown: (server) => {
        this.refreshSoon()
        events.onDown(server)
      },
    }
  }

  /** Resolves when every primary has been tried once, or none was found. */
  async start(): Promise<void> {
    await this.#refresh()
    await Promise.all(this.owners().map((server) => server.whenUp().catch(() => undefined)))
  }

  /** The server that owns the key's slot as far as is known. */
  serverOf(key: string): Server | null {
    // Keys are made for ever, hash tags are few: only these are worth remembering.
    const open = key.indexOf('{')
    const close = open === -1 ? -1 : key.indexOf('}', open + 1)
    if (close <= open + 1) return this.#slots[slotOf(key)] ?? null
    const tag = key.slice(open, close + 1)
    let slot = this.#slotOfTag.get(tag)
    if (slot === undefined) {
      slot = slotOf(tag)
      if (this.#slotOfTag.size < TAGS_MAX) this.#slotOfTag.set(tag, slot)
    }
    return this.#slots[slot] ?? null
  }

  /** Why nothing can be sent for a key whose server is not known. */
  get reason(): string {
    return this.#mapped ? 'no server of the Redis cluster owns this slot' : this.#reason
  }

  /** A server said that another owns the slot. */
  moved(slot: number, to: HostPort): Server {
    const server = this.at(to)
    this.#slots[slot] = server
    this.#moved = true
    this.refreshSoon()
    return server
  }

  at(target: HostPort): Server {
    const name = showHost(target)
    let server = this.#servers.get(name)
    if (server === undefined) {
      server = new Server(name, () => Promise.resolve(target), this.#parts, this.#events)
      this.#servers.set(name, server)
      void server.start()
    }
    return server
  }

  owners(): readonly Server[] {
    return [...new Set(this.#slots)].filter((server) => server !== null)
  }

  refreshSoon(): void {
    this.#stale = true
    if (this.#refreshing === null) this.#plan()
  }

  close(): void {
    this.#closed = true
    this.#cancelTimer()
    for (const server of this.#servers.values()) server.close()
  }

  #plan(): void {
    if (this.#closed) return
    const { clock, random } = this.#parts
    const troubled = !this.#mapped || this.owners().some(({ up }) => !up)
    const pauseMs = this.#stale ? STALE_MS : troubled ? TROUBLED_MS : CALM_MS
    const dueMs = this.#refreshedAtMs + pauseMs * (0.75 + 0.5 * random.fraction())
    this.#cancelTimer()
    this.#cancelTimer = clock.after(Math.max(1, dueMs - clock.monotonicMs()), () => void this.#refresh(), { unref: true })
  }

  #refresh(): Promise<void> {
    this.#refreshing ??= this.#refreshOnce().finally(() => {
      this.#refreshing = null
      this.#refreshedAtMs = this.#parts.clock.monotonicMs()
      this.#plan()
    })
    return this.#refreshing
  }

  async #refreshOnce(): Promise<void> {
    this.#stale = false
    try {
      this.#take(await this.#askSlots())
      this.#told = null
    } catch (error) {
      this.#reason = (error as Error).message
      if (this.#told === this.#reason || this.#closed) return
      this.#told = this.#reason
      this.#parts.log.warn({ redis: this.#parts.address.shown, reason: this.#reason }, 'nobody tells which server owns what')
    }
  }

  /** Any server that is up tells; while none is, every one that was ever heard of is asked over a connection of its own. */
  async #askSlots(): Promise<readonly Range[]> {
    for (const server of this.owners()) {
      if (!server.up || server.wire === null) continue
      try {
        return readRanges(await this.#within(server.wire, askRanges(server.wire)), hostOf(server.name))
      } catch {
        // The next one is asked: what is wrong with this one its own calls will find out.
        continue
      }
    }
    const targets = new Map(this.#parts.address.hosts.map((target) => [showHost(target), target]))
    try {
      return await Promise.any([...targets.values()].map((target) => this.#askSeed(target)))
    } catch (error) {
      throw error instanceof AggregateError ? error.errors[0] as Error : error
    }
  }

  async #askSeed(target: HostPort): Promise<readonly Range[]> {
    const { address } = this.#parts
    const wire = new Wire({ ...target, tls: address.tls, connectMs: ASK_MS }, () => {})
    try {
      return readRanges(await this.#within(wire, (async () => {
        await wire.connect()
        await authenticate(wire, address.user, address.password)
        return askRanges(wire)
      })()), target.host)
    } catch (error) {
      throw new Error(`${showHost(target)}: ${greetingWords(error as Error)}`)
    } finally {
      wire.destroy()
    }
  }

  #within<T>(wire: Wire, asked: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const deadline = this.#parts.deadlines.start(ASK_MS, () => reject(new Error(`no answer within ${ASK_MS} ms`)))
      asked.then(resolve, reject).finally(() => { deadline.met = true })
    })
  }

  #take(ranges: readonly Range[]): void {
    if (this.#closed) return
    const before = [...this.#slots]
    this.#slots.fill(null)
    for (const { from, to, owner } of ranges) this.#slots.fill(this.at(owner), from, to + 1)
    if (this.#mapped && this.#slots.some((server, slot) => server !== before[slot])) this.#moved = true
    this.#mapped = true
    const owners = new Set(this.owners())
    for (const [name, server] of this.#servers) {
      if (owners.has(server)) continue
      this.#servers.delete(name)
      server.close()
    }
    // The new owners may all have been connected long since: then nothing else would tell.
    const [first] = owners
    if (this.#moved && first !== undefined && [...owners].every(({ up }) => up)) this.#events.onUp(first, false)
  }
}

interface Range {
  readonly from: number
  readonly to: number
  readonly owner: HostPort
}

function askRanges(wire: Wire): Promise<unknown> {
  return wire.send('CLUSTER', ['SLOTS'])
}

/** Throws when it is no cluster, or one without slots. `askedHost` stands in where a server does not know its own address. */
function readRanges(answer: unknown, askedHost: string): readonly Range[] {
  const ranges = (answer as readonly (readonly unknown[])[]).map(([from, to, primary]): Range => {
    const [host, port] = primary as readonly [string | null, number]
    return { from: Number(from), to: Number(to), owner: { host: host === null || host === '' ? askedHost : host, port: Number(port) } }
  }).filter(({ owner }) => owner.host !== '?')
  if (ranges.length === 0) throw new Error('the Redis cluster has no slots assigned')
  return ranges
}

const ASK_MS = 500
/** Between two looks at who owns what: after a hint that it has changed, while a server is down, and else. */
const STALE_MS = 200
const TROUBLED_MS = 800
const CALM_MS = 10_000
const TAGS_MAX = 10_000
