import type { Clock } from '../../clock.ts'
import type { Log } from '../../log.ts'
import type { OutboxRecord } from '../../metering/event.ts'
import type { Random } from '../../random.ts'
import { StaleFence, StoreUnavailable, type DeadEntry, type DeadPlace, type Fence, type Outbox, type OutboxEntry, type Position } from '../store.ts'
import {
  comparePlaces, eventIdText, placeBefore, rangeEnd, toEntry, toEventId, toPlace, toPosition, type EventId, type StreamEntry,
} from './event-position.ts'
import { EventUnreadable } from './event-record.ts'
import type { KeyNames } from './keys.ts'
import type { LinkCommand, RedisLink } from './link.ts'
import { scanEvents } from './outbox-scan.ts'
import { loadScript } from './scripts.ts'

export interface RedisOutboxParts {
  readonly link: RedisLink
  readonly keys: KeyNames
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
}

/** Delivery is what makes room again, so all of it works although memory is short. */
const always = ['allow-oom']
export const leaseScript = loadScript('outbox-lease', ['outbox-lease.lua'], always)
export const freeScript = loadScript('outbox-free', ['outbox.lua', 'outbox-free.lua'], always)
const claimScript = loadScript('outbox-claim', ['outbox.lua', 'outbox-claim.lua'], always)
const advanceScript = loadScript('outbox-advance', ['outbox.lua', 'outbox-advance.lua'], always)
const rewindScript = loadScript('outbox-rewind', ['outbox.lua', 'outbox-rewind.lua'], always)
const followScript = loadScript('outbox-follow', ['outbox.lua', 'outbox-follow.lua'], always)
const buryScript = loadScript('outbox-bury', ['outbox-bury.lua'], always)
const exhumeScript = loadScript('outbox-exhume', ['outbox-exhume.lua'], always)
const deadCountScript = loadScript('outbox-dead-count', ['outbox-dead-count.lua'], always)
const deadScript = loadScript('outbox-dead', ['outbox-dead-names.lua', 'outbox-dead.lua'], always)
const deadOrderScript = loadScript('outbox-dead-order', ['outbox-dead-names.lua', 'outbox-dead-order.lua'], always)

const READ_MAX = 1_000
/** Asked of a partition at least, if it has that many: every partition of a batch costs a command and a script. */
const SHARE_LEAST = 8
/** How often other replicas' events are looked for. */
const POLL_MS = 1_000
/** Dead events of one step, and their bytes: everything else on the server waits for it. */
const DEAD_PAGE = 500
const DEAD_BYTES_MAX = 1024 * 1024
const ORDER_PAGE = 200
/** The order of the dead is made good this often at most: while a release that knows none is at work beside this one, it is never right for long. */
const ORDER_MS = 60_000
/** A damaged event is told again this often, until somebody removes it. */
const TELL_DAMAGE_MS = 60_000
/** A consumer that no replica has had configured for this long holds back trimming no more. Longer than a rollout's replicas take to replace each other. */
export const HOLDS_MS = 10 * 60_000

/** What a holder of a lease knows of its cursors. */
interface Claim {
  readonly token: number
  /** The last event that is done, of partitions that obey the token. */
  readonly cursors: Map<number, EventId>
  /** Of partitions with news, the next read begins with this one or the first behind it. */
  turn: number
}

/**
 * Events of all replicas, one stream per partition. A consumer has one lease, and one cursor per partition, which obeys the highest lease token it has seen: a
 * holder that was paused and comes back can move nothing. The events of one root account are in order; those of several come as they were written, about.
 */
export class RedisOutbox implements Outbox {
  readonly #link: RedisLink
  readonly #keys: KeyNames
  readonly #clock: Clock
  readonly #log: Log
  /** Makes holders of several processes different, although they may be named alike. */
  readonly instance: string
  readonly #claims = new Map<string, Claim>()
  readonly #listeners = new Set<() => void>()
  readonly #gaps = new Map<string, number>()
  readonly #toldDamage = new Map<number, number>()
  readonly #stopListening: () => void
  #configured: readonly string[] | null = null
  /** Making good the order of the dead, while it lasts, and when it was made last, by the monotonic clock. */
  #ordering: Promise<void> | null = null
  #orderedMs = -Infinity
  #stopPolling: (() => void) | null = null
  #polling = false
  /** Ids of the last events as the last poll saw them. */
  #seen: readonly (string | null | Error)[] = []

  constructor(parts: RedisOutboxParts) {
    this.#link = parts.link
    this.#keys = parts.keys
    this.#clock = parts.clock
    this.#log = parts.log
    this.instance = Buffer.from(parts.random.bytes(8)).toString('hex')
    // Another server may never have heard of the last moves of our cursors.
    this.#stopListening = parts.link.onServerChange(() => {
      this.#claims.clear()
      this.#tell()
    })
  }

  async lease(consumer: string, holder: string, nowMs: number, untilMs: number): Promise<Fence | undefined> {
    const token = await this.#link.script(leaseScript, [this.#lease(consumer)], [`${holder} ${this.instance}`, nowMs, untilMs])
    return token === null ? undefined : { consumer, token: Number(token) }
  }

  async release(fence: Fence): Promise<void> {
    this.#claims.delete(fence.consumer)
    await this.#link.script(freeScript, [this.#lease(fence.consumer)], [fence.token, 0])
  }

  async read(fence: Fence, count: number): Promise<readonly OutboxEntry[]> {
    const [token, ...lasts] = await this.#look([this.#tokenOf(fence.consumer)])
    this.#obey(fence, token)
    const claim = this.#claimOf(fence)
    const failures: Error[] = []
    const known: { partition: number; last: EventId }[] = []
    for (const [partition, last] of lasts.entries()) {
      if (last instanceof Error) failures.push(last)
      else if (typeof last === 'string') known.push({ partition, last: toEventId(last) })
      else claim.cursors.delete(partition)
    }
    const fresh = known.filter(({ partition, last }) => {
      const cursor = claim.cursors.get(partition)
      // An end that is not the one it was, or is before what is done: another server, which knows less.
      return cursor === undefined || last.ordinal < cursor.ordinal || (last.ordinal === cursor.ordinal && last.ms !== cursor.ms)
    })
    await this.#claim(fence, claim, fresh.map(({ partition }) => partition), failures)
    const behind = new Map(known.filter(({ partition, last }) => (claim.cursors.get(partition)?.ordinal ?? Infinity) < last.ordinal).map(({ partition, last }) => [partition, last.ordinal]))
    const entries = await this.#readBehind(fence, claim, behind, Math.min(count, READ_MAX), failures)
    // What some partitions do not give must not look like the end of it.
    if (entries.length === 0 && failures.length > 0) throw failures[0]!
    return entries
  }

  async advance(fence: Fence, done: readonly OutboxEntry[]): Promise<void> {
    const upTo = new Map<number, EventId>()
    for (const { position } of done) {
      const { partition, ms, ordinal } = this.#placeOf(position)
      if (ordinal > (upTo.get(partition)?.ordinal ?? 0)) upTo.set(partition, { ms, ordinal })
    }
    this.#obey(fence, await this.#run(this.#tokenOf(fence.consumer)))
    const claim = this.#claimOf(fence)
    const failures: Error[] = []
    await this.#claim(fence, claim, [...upTo.keys()].filter((partition) => !claim.cursors.has(partition)), failures)
    await Promise.all([...upTo].map(async ([partition, to]) => {
      const from = claim.cursors.get(partition)
      if (from === undefined || to.ordinal <= from.ordinal) return
      try {
        const key = this.#keys.cursor(partition, fence.consumer)
        const answer = await this.#link.script(advanceScript, [key], [fence.token, eventIdText(from), eventIdText(to)])
        if (answer === 'stale') throw this.#stale(fence)
        if (answer === 'lost') throw new StoreUnavailable('a cursor does not stand where it was left; its events are delivered again')
        claim.cursors.set(partition, to)
      } catch (error) {
        // Moved or not: it is read again before the next event is.
        claim.cursors.delete(partition)
        failures.push(error as Error)
      }
    }))
    if (failures.length > 0) throw failures.find((failure) => failure instanceof StaleFence) ?? failures[0]!
  }

  async bury(fence: Fence, entry: OutboxEntry, reason: string, nowMs: number): Promise<void> {
    this.#placeOf(entry.position)
    const value: StoredDead = { v: 1, consumer: fence.consumer, position: entry.position, reason, buried: nowMs, record: entry.record }
    const kept = await this.#link.script(buryScript, [this.#lease(fence.consumer), this.#keys.dead(), this.#keys.deadOrder()], [
      fence.token, deadField(fence.consumer, entry.position), JSON.stringify(value), deadMember(fence.consumer, entry.position),
    ])
    if (kept !== 1) throw this.#stale(fence)
  }

  async dead(consumer?: string, after: DeadPlace | null = null, count = DEAD_PAGE): Promise<readonly DeadEntry[]> {
    const wanted = Math.min(count, DEAD_PAGE)
    if (wanted <= 0) return []
    if (after !== null) toPlace(after.position)
    const last = consumer === undefined ? '+' : `(${consumer}\x01`
    const first = consumer === undefined ? '-' : `[${consumer}\0`
    const behind = after === null || (consumer !== undefined && after.consumer < consumer) ? first : `(${deadMember(after.consumer, after.position)}`
    for (let from = behind; ;) {
      const [whole, ...pairs] = await this.#link.script(deadScript, this.#deadKeys(), [from, last, wanted, DEAD_BYTES_MAX]) as readonly [number, ...string[]]
      if (whole === 0 && await this.#order()) continue
      const page: DeadEntry[] = []
      for (let i = 0; i + 1 < pairs.length; i += 2) {
        // Exhumed by a release that knows no order.
        if (pairs[i + 1] === '') continue
        const one = parsed<StoredDead>(pairs[i + 1]!)
        if (one === undefined) this.#log.error({ event: pairs[i]!.replace('\0', ' ') }, 'a dead event cannot be read')
        else page.push({ consumer: one.consumer, position: one.position, reason: one.reason, buriedMs: one.buried, record: one.record })
      }
      if (page.length > 0 || pairs.length === 0) return page
      // None of these could be read: that is not the end.
      from = `(${pairs.at(-2)!}`
    }
  }

  async deadCount(consumer: string): Promise<number> {
    for (;;) {
      const [count, whole] = await this.#link.script(deadCountScript, this.#deadKeys(), [`[${consumer}\0`, `(${consumer}\x01`]) as readonly [number, number]
      if (whole === 1 || !await this.#order()) return count
    }
  }

  async exhume(ids: readonly DeadPlace[]): Promise<void> {
    for (let at = 0; at < ids.length; at += DEAD_PAGE) {
      const names = ids.slice(at, at + DEAD_PAGE).flatMap(({ consumer, position }) => [deadField(consumer, position), deadMember(consumer, position)])
      await this.#link.script(exhumeScript, this.#deadKeys(), names)
    }
  }

  async scan(from: Position | null, count: number): Promise<readonly OutboxEntry[]> {
    const place = from === null ? null : toPlace(from)
    const partitions: number[] = []
    for (const [partition, last] of (await this.#look([])).entries()) {
      if (last instanceof StoreUnavailable) throw last
      if (last instanceof Error) this.#tellDamage(partition, last)
      else if (typeof last === 'string' && (place === null || comparePlaces({ ...toEventId(last), partition }, place) > 0)) partitions.push(partition)
    }
    return scanEvents({
      link: this.#link, keys: this.#keys, partitions,
      read: (partition, entry) => this.#read(partition, entry),
      damaged: (partition, error) => this.#tellDamage(partition, error),
    }, place, Math.min(count, READ_MAX))
  }

  async positionAt(atMs: number): Promise<Position | null> {
    return atMs <= 0 ? null : toPosition(placeBefore(atMs))
  }

  async rewind(consumer: string, to: Position | null): Promise<void> {
    const place = to === null ? null : toPlace(to)
    const lasts = await this.#look([])
    // Whoever is delivering now would move the cursor forward again over what is to be repeated: his fence ends here. Who takes over before all cursors are
    // moved finds that they do not stand where he left them, and reads them again.
    await this.#link.script(freeScript, [this.#lease(consumer)], [0, 0])
    this.#claims.delete(consumer)
    await Promise.all(lasts.map(async (last, partition) => {
      if (last instanceof Error) throw last
      if (last === null) return
      const end = place === null ? '' : rangeEnd(partition, place)
      await this.#link.script(rewindScript, [this.#keys.cursor(partition, consumer), this.#keys.events(partition)], [end])
    }))
    this.#tell()
  }

  async follow(fence: Fence, other: string): Promise<void> {
    this.#obey(fence, await this.#run(this.#tokenOf(fence.consumer)))
    const claim = this.#claimOf(fence)
    const failures: Error[] = []
    // Obeying the fence first, so that whoever had it before moves nothing any more.
    await this.#claim(fence, claim, Array.from({ length: this.#keys.partitions }, (_, partition) => partition), failures)
    if (failures.length > 0) throw failures[0]!
    claim.cursors.clear()
    await Promise.all(Array.from({ length: this.#keys.partitions }, async (_, partition) => {
      await this.#link.script(followScript, [this.#keys.cursor(partition, fence.consumer), this.#keys.cursor(partition, other), this.#keys.events(partition), this.#keys.lastEvent(partition)], [fence.token])
    }))
  }

  async waiting(consumer: string, after: Position | null, count: number): Promise<readonly OutboxEntry[]> {
    const place = after === null ? null : toPlace(after)
    const written = (await this.#look([])).flatMap((last, partition) => {
      if (last instanceof StoreUnavailable) throw last
      return typeof last === 'string' ? [{ partition, last: toEventId(last) }] : []
    })
    const cursors = await this.#commands(written.map(({ partition }) => this.#hget(this.#keys.cursor(partition, consumer), 'id')))
    const through = new Map<number, EventId>()
    const partitions: number[] = []
    for (const [i, { partition, last }] of written.entries()) {
      const cursor = cursors[i]
      const done = typeof cursor === 'string' && cursor !== '' ? toEventId(cursor) : null
      if (done !== null) through.set(partition, done)
      if ((done?.ordinal ?? 0) < last.ordinal && (place === null || comparePlaces({ ...last, partition }, place) > 0)) partitions.push(partition)
    }
    return scanEvents({
      link: this.#link, keys: this.#keys, partitions, through,
      read: (partition, entry) => this.#read(partition, entry),
      damaged: (partition, error) => this.#tellDamage(partition, error),
    }, place, Math.min(count, READ_MAX))
  }

  async lag(consumer: string): Promise<{ readonly count: number; readonly oldestMs: number | null }> {
    const lasts = (await this.#look([])).map((last) => (typeof last === 'string' ? toEventId(last) : orThrow(last)))
    const waiting = lasts.flatMap((last, partition) => (last === null ? [] : [{ partition, last }]))
    const cursors = await this.#commands(waiting.map(({ partition }) => this.#hget(this.#keys.cursor(partition, consumer), 'id')))
    const behind = waiting.map((one, i) => ({ ...one, cursor: typeof cursors[i] === 'string' ? cursors[i] : null }))
      .filter(({ last, cursor }) => cursor === null || toEventId(cursor).ordinal < last.ordinal)
    const pages = await this.#commands(behind.map(({ partition, cursor }) => this.#range(partition, cursor === null ? '-' : `(${cursor}`, 1)))
    let count = 0
    let oldestMs: number | null = null
    for (const [i, { partition, last }] of behind.entries()) {
      const [first] = pages[i] as readonly StreamEntry[]
      if (first === undefined) continue
      const { ms, ordinal } = toEventId(first[0])
      if (ordinal > last.ordinal) continue
      count += last.ordinal - ordinal + 1
      oldestMs = Math.min(oldestMs ?? Infinity, this.#read(partition, first)?.record.atMs ?? ms)
    }
    return { count, oldestMs }
  }

  onAppend(listener: () => void): () => void {
    this.#listeners.add(listener)
    this.#stopPolling ??= this.#clock.every(POLL_MS, () => void this.#poll())
    return () => {
      this.#listeners.delete(listener)
      if (this.#listeners.size > 0) return
      this.#stopPolling?.()
      this.#stopPolling = null
    }
  }

  /** Redis may be away at this moment: then the housekeeping tells it later. */
  async setConsumers(names: readonly string[]): Promise<void> {
    this.#configured = [...names]
    try {
      await this.register()
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error
      this.#log.warn({ reason: error.message }, 'the store could not be told which sinks are configured; this is tried again')
    }
  }

  /** Other replicas say within a minute that they have it, if they do. */
  async letGo(consumer: string): Promise<void> {
    const key = this.#keys.consumers()
    await this.#link.command(key, 'HDEL', [key, consumer])
  }

  async completeSince(): Promise<number> {
    const written = (await this.#look([])).flatMap((last, partition) => {
      if (last instanceof StoreUnavailable) throw last
      return typeof last === 'string' ? [{ partition, last: toEventId(last) }] : []
    })
    const pages = written.length === 0 ? [] : await this.#link.commands(written.map(({ partition }) => this.#range(partition, '-', 1)))
    let since = 0
    for (const [i, { last }] of written.entries()) {
      const page = pages[i]
      if (page instanceof StoreUnavailable) throw page
      // A damaged stream has nothing to tell.
      if (page instanceof Error) continue
      const [first] = page as readonly StreamEntry[]
      const kept = first === undefined ? { ms: last.ms, ordinal: last.ordinal + 1 } : toEventId(first[0])
      // What was removed is not newer than what is left, but may be of the same millisecond.
      if (kept.ordinal > 1) since = Math.max(since, kept.ms + 1)
    }
    return since
  }

  // === For the store around it ===

  /** A move of this process has written an event. */
  appended(_partition: number): void {
    this.#tell()
  }

  /** Consumers that this replica has configured; null: it has not said. */
  get configured(): readonly string[] | null {
    return this.#configured
  }

  /** Notes that this replica has its consumers configured now. A consumer that nobody knew gets cursors before it is noted: so a gap is never taken for a beginning. */
  async register(): Promise<void> {
    const names = this.#configured ?? []
    if (names.length === 0) return
    const key = this.#keys.consumers()
    const known = await this.#link.command(key, 'HMGET', [key, ...names]) as readonly (string | null)[]
    for (const [i, name] of names.entries()) if (known[i] === null) await this.#introduce(name)
    const value = JSON.stringify({ v: 1, configured: this.#clock.nowMs() } satisfies StoredConsumer)
    await this.#link.command(key, 'HSET', [key, ...names.flatMap((name) => [name, value])])
  }

  /** Consumers that hold back trimming: those that some replica has had configured lately. */
  async holding(nowMs: number): Promise<readonly string[]> {
    const key = this.#keys.consumers()
    const pairs = await this.#link.command(key, 'HGETALL', [key]) as readonly string[]
    const names = new Set(this.#configured)
    for (let i = 0; i + 1 < pairs.length; i += 2) {
      // One that cannot be read holds back as well: trimming cannot be undone.
      if ((parsed<StoredConsumer>(pairs[i + 1]!)?.configured ?? nowMs) > nowMs - HOLDS_MS) names.add(pairs[i]!)
    }
    return [...names]
  }

  /** Consumers whose events were removed before they had them, as found since this process began, with how many they miss. */
  gaps(): readonly { readonly consumer: string; readonly events: number }[] {
    return [...this.#gaps].map(([consumer, events]) => ({ consumer, events }))
  }

  close(): void {
    this.#stopListening()
    this.#stopPolling?.()
    this.#stopPolling = null
    this.#listeners.clear()
  }

  // === Reading ===

  /** From partitions with news, given with their last ordinals, until enough is found. */
  async #readBehind(fence: Fence, claim: Claim, behind: ReadonlyMap<number, number>, wanted: number, failures: Error[]): Promise<OutboxEntry[]> {
    const found: OutboxEntry[] = []
    const gapped = new Set<number>()
    for (let open = behind; open.size > 0 && found.length < wanted;) {
      const shares = this.#shares(claim, open, wanted - found.length)
      const asked = [...shares].map(([partition, count]) => ({ partition, count, cursor: claim.cursors.get(partition)! }))
      const pages = await this.#link.commands(asked.map(({ partition, count, cursor }) => this.#range(partition, `(${eventIdText(cursor)}`, count)))
      const missing: number[] = []
      for (const [i, { partition, cursor }] of asked.entries()) {
        const page = pages[i]
        if (page instanceof Error) {
          failures.push(page)
          continue
        }
        const entries = page as readonly StreamEntry[]
        // Removed in the meantime: the cursor is to be moved and the gap told. Once is enough: a hole that stays is one that somebody made by hand.
        if ((entries[0] === undefined || toEventId(entries[0][0]).ordinal !== cursor.ordinal + 1) && !gapped.has(partition)) {
          gapped.add(partition)
          missing.push(partition)
          continue
        }
        for (const entry of entries) {
          const read = this.#read(partition, entry)
          if (read === undefined) {
            failures.push(new EventUnreadable(`partition ${partition} has an event that cannot be read`))
            break
          }
          found.push(read)
        }
      }
      await this.#claim(fence, claim, missing, failures)
      open = new Map(missing.filter((partition) => claim.cursors.has(partition)).map((partition) => [partition, behind.get(partition)!]))
    }
    return found.sort((a, b) => (a.position < b.position ? -1 : 1))
  }

  /** How many events to ask of each partition: as many as it has, but of each the same share before any gives more; and who got none comes first the next time. */
  #shares(claim: Claim, behind: ReadonlyMap<number, number>, wanted: number): Map<number, number> {
    const shares = new Map<number, number>()
    let left = wanted
    let open = [...behind].map(([partition, last]) => ({ partition, waiting: last - claim.cursors.get(partition)!.ordinal }))
    open = [...open.filter(({ partition }) => partition >= claim.turn), ...open.filter(({ partition }) => partition < claim.turn)]
    while (left > 0 && open.some(({ waiting }) => waiting > 0)) {
      open = open.filter(({ waiting }) => waiting > 0)
      const share = Math.max(SHARE_LEAST, Math.floor(left / open.length))
      for (const one of open) {
        const count = Math.min(share, one.waiting, left)
        if (count === 0) break
        shares.set(one.partition, (shares.get(one.partition) ?? 0) + count)
        one.waiting -= count
        left -= count
        claim.turn = one.partition + 1
      }
    }
    return shares
  }

  /** Makes cursors obey the fence and learns where they stand; what fails is added to `failures`. */
  async #claim(fence: Fence, claim: Claim, partitions: readonly number[], failures: Error[]): Promise<void> {
    let missed = 0
    let obeyed = 0
    await Promise.all(partitions.map(async (partition) => {
      claim.cursors.delete(partition)
      try {
        const [state, known, gap] = await this.#link.script(claimScript, this.#claimKeys(partition, fence.consumer), [fence.token, 0]) as readonly [string, string | number, number]
        if (state === 'stale') obeyed = Math.max(obeyed, Number(known))
        else claim.cursors.set(partition, toEventId(String(known)))
        missed += gap ?? 0
      } catch (error) {
        failures.push(error as Error)
      }
    }))
    if (missed > 0) {
      this.#gaps.set(fence.consumer, (this.#gaps.get(fence.consumer) ?? 0) + missed)
      this.#log.warn({ sink: fence.consumer, events: missed }, 'events were removed before this sink had them: it was not configured then, or they are lost')
    }
    if (obeyed === 0) return
    // Either another has taken over, and this changes nothing; or the lease was lost with a server and counts from lower than its cursors.
    await this.#link.script(freeScript, [this.#lease(fence.consumer)], [fence.token, obeyed])
    throw this.#stale(fence)
  }

  async #introduce(consumer: string): Promise<void> {
    await Promise.all(Array.from({ length: this.#keys.partitions }, (_, partition) =>
      this.#link.script(claimScript, this.#claimKeys(partition, consumer), [0, 1])))
  }

  #claimKeys(partition: number, consumer: string): string[] {
    return [this.#keys.cursor(partition, consumer), this.#keys.events(partition), this.#keys.lastEvent(partition)]
  }

  #claimOf(fence: Fence): Claim {
    let claim = this.#claims.get(fence.consumer)
    if (claim?.token !== fence.token) this.#claims.set(fence.consumer, claim = { token: fence.token, cursors: new Map(), turn: 0 })
    return claim
  }

  /** Answers to `before`, and ids of the last events of all partitions: one cheap look at whether there is anything new. */
  async #look(before: readonly LinkCommand[]): Promise<(string | null | Error)[]> {
    const names = Array.from({ length: this.#keys.partitions }, (_, partition) => this.#keys.lastEvent(partition))
    if (this.#link.clustered) {
      return await this.#link.commands([...before, ...names.map((key) => ({ key, name: 'GET', args: [key] }))]) as (string | null | Error)[]
    }
    const answers = await this.#link.commands([...before, { key: names[0]!, name: 'MGET', args: names }])
    const lasts = orThrow(answers.at(-1)) as readonly (string | null)[]
    return [...answers.slice(0, -1) as (string | null | Error)[], ...lasts]
  }

  async #poll(): Promise<void> {
    if (this.#polling || !this.#link.up) return
    this.#polling = true
    try {
      const lasts = await this.#look([])
      const news = lasts.some((last, partition) => typeof last === 'string' && last !== this.#seen[partition])
      this.#seen = lasts
      if (news) this.#tell()
    } catch (error) {
      // It is there again at one of the next polls; who reads or delivers meanwhile is told by his own calls.
      if (!(error instanceof StoreUnavailable)) this.#log.error({ error: String(error) }, 'new events cannot be looked for')
    } finally {
      this.#polling = false
    }
  }

  #tell(): void {
    for (const listener of this.#listeners) listener()
  }

  #read(partition: number, entry: StreamEntry): OutboxEntry | undefined {
    try {
      return toEntry(partition, entry)
    } catch (error) {
      if (!(error instanceof EventUnreadable)) throw error
      this.#tellDamage(partition, error, entry[0])
      return undefined
    }
  }

  #tellDamage(partition: number, error: Error, event?: string): void {
    const nowMs = this.#clock.monotonicMs()
    if (nowMs - (this.#toldDamage.get(partition) ?? -Infinity) < TELL_DAMAGE_MS) return
    this.#toldDamage.set(partition, nowMs)
    this.#log.error({ partition, event: event ?? null, reason: error.message }, 'events of one partition cannot be read; the others go on')
  }

  // === Small things ===

  /** Makes good the order of the dead, which releases before it did not keep. False: that was tried just now. */
  async #order(): Promise<boolean> {
    if (this.#ordering === null) {
      if (this.#clock.monotonicMs() - this.#orderedMs < ORDER_MS) return false
      this.#ordering = this.#makeOrder().finally(() => { this.#ordering = null })
    }
    await this.#ordering
    return true
  }

  async #makeOrder(): Promise<void> {
    for (const how of ['add', 'drop']) {
      let cursor = '0'
      do cursor = String(await this.#link.script(deadOrderScript, this.#deadKeys(), [how, cursor, ORDER_PAGE]))
      while (cursor !== '0')
      const [, whole] = await this.#link.script(deadCountScript, this.#deadKeys(), ['-', '+']) as readonly [number, number]
      if (whole === 1) break
    }
    this.#orderedMs = this.#clock.monotonicMs()
  }

  #deadKeys(): string[] {
    return [this.#keys.dead(), this.#keys.deadOrder()]
  }

  #obey(fence: Fence, token: unknown): void {
    if (token instanceof Error) throw token
    if (Number(token) !== fence.token) throw this.#stale(fence)
  }

  #stale(fence: Fence): StaleFence {
    this.#claims.delete(fence.consumer)
    return new StaleFence(`another holds the lease of ${fence.consumer}`)
  }

  #placeOf(position: Position): ReturnType<typeof toPlace> {
    const place = toPlace(position)
    if (place.partition >= this.#keys.partitions) throw new RangeError('not a position of this store')
    return place
  }

  #tokenOf(consumer: string): LinkCommand {
    return this.#hget(this.#lease(consumer), 'token')
  }

  /** Consumers are named by operators; what else has a lease is not. */
  #lease(consumer: string): string {
    return this.#keys.lease(`consumer:${consumer}`)
  }

  #hget(key: string, field: string): LinkCommand {
    return { key, name: 'HGET', args: [key, field] }
  }

  #range(partition: number, start: string, count: number): LinkCommand {
    const key = this.#keys.events(partition)
    return { key, name: 'XRANGE', args: [key, start, '+', 'COUNT', count] }
  }

  #run({ key, name, args }: LinkCommand): Promise<unknown> {
    return this.#link.command(key, name, args)
  }

  /** All of them, or the first one's failure. */
  async #commands(list: readonly LinkCommand[]): Promise<readonly unknown[]> {
    return list.length === 0 ? [] : (await this.#link.commands(list)).map(orThrow)
  }
}

interface StoredDead {
  readonly v: 1
  readonly consumer: string
  readonly position: Position
  readonly reason: string
  readonly buried: number
  readonly record: OutboxRecord
}

interface StoredConsumer {
  readonly v: 1
  /** When a replica last had it configured, ms. */
  readonly configured: number
}

export function deadField(consumer: string, position: Position): string {
  return `${position} ${consumer}`
}

/** Ordered by consumer, then by position: no name has a zero in it. */
export function deadMember(consumer: string, position: Position): string {
  return `${consumer}\0${position}`
}

function parsed<T>(text: string): T | undefined {
  try {
    return JSON.parse(text) as T
  } catch {
    return undefined
  }
}

function orThrow<Answer>(answer: Answer): Exclude<Answer, Error> {
  if (answer instanceof Error) throw answer
  return answer as Exclude<Answer, Error>
}

