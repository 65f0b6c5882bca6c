import { comparePlaces, eventIdText, toEventId, toPlace } from '../stores/redis/event-position.ts'
import type { EventPlace, StreamEntry } from '../stores/redis/event-position.ts'
import type { KeyNames } from '../stores/redis/keys.ts'
import type { LinkCommand, RedisLink } from '../stores/redis/link.ts'
import { scanKeys } from '../stores/redis/scan-keys.ts'
import { loadScript } from '../stores/redis/scripts.ts'
import { RowsRefused } from '../stores/rows.ts'
import { StaleFence, StoreUnavailable } from '../stores/store.ts'
import { Answering, RefusalAnswering } from './answering.ts'
import { histogramText, SUMS } from './counts.ts'
import type { Adding, Sum } from './counts.ts'
import { COMBINED, gathered, keptIn, MODELS_MAX, OTHER, SEPARATOR, sourceOf, tableRows } from './gathering.ts'
import type { Table, TableRow } from './gathering.ts'
import { bucketOf, bucketsBetween, DIMENSIONS, nextBucket, REFUSAL_DIMENSIONS, REFUSAL_UNITS, segmentsOf, UNITS } from './rollups.ts'
import type { Counted, Dimension, Increment, Kept, RefusalCount, RefusalQuestion, RefusalRow, Rollups, Segment, Unit, UsageQuestion, UsageRow } from './rollups.ts'
import { aroundOf, TopSearch } from './top-search.ts'

export interface RedisRollupsParts {
  readonly link: RedisLink
  readonly keys: KeyNames
  kept(): Kept
}

const countScript = loadScript('rollups-count', ['rollups-count.lua'])
const refuseScript = loadScript('rollups-refuse', ['rollups-refuse.lua'])
const rowsScript = loadScript('rollups-rows', ['rollups-rows.lua'], ['no-writes'])

/** Events of one script call: a long one would hold up everybody's calls. */
const EVENTS_AT_ONCE = 100
const REFUSALS_AT_ONCE = 500
/** Of one hash. */
const REFUSAL_ROWS_MAX = 2_000
const PARTITIONS_AT_ONCE = 16
const READS_AT_ONCE = 500
/** Hashes that are read as one text. */
const ROWS_AT_ONCE = 20
/** In such a text. */
const BETWEEN_ROWS = '\u001e'
const UNLINKED_AT_ONCE = 500
const DEADLINE = { deadlineMs: 5_000 }
const TRIES = 4
/** Keys go by themselves so long after they could have been removed. */
const MARGIN_MS = 2 * 86_400_000
const ACCOUNT_DAYS_KEPT = 20_000

/**
 * A table's rows, of which `accounts` lies in three: what all accounts come to by itself, because looking at it must not read what each of them comes to; and their
 * latencies, because looking for the accounts that have most must not read those.
 */
type Kind = Table | 'totals' | 'latencies'
const LETTER: Readonly<Record<Kind, string>> = { usage: 'u', accounts: 'a', latencies: 'l', totals: 't', mix: 'x' }

function kindOf(table: Table, account: string | undefined): Kind {
  return table === 'accounts' && account === '' ? 'totals' : table
}

const LONGER = { minute: 'hour', hour: 'day', day: 'month', month: 'month' } as const satisfies Record<Unit, Unit>

/** Rows of all buckets of the next longer unit lie in one hash. Those of accounts are many, and are looked at to find the ones that have most: each bucket has a hash. */
function hashUnit(kind: Kind, unit: Unit): Unit {
  return kind === 'accounts' || kind === 'latencies' ? unit : LONGER[unit]
}

/** What is known of a partition. */
interface Known {
  /** '': nothing is counted. */
  mark: string
  /** `day account` → its models. */
  readonly models: Map<string, Set<string>>
}

/**
 * Roll-ups of all gateways on one Redis. Every partition has rows of its own events under its hash tag, and a mark of how far they are counted, which one script
 * moves together with them: a server has both or neither, whatever it lost. Totals are added up over the partitions when they are asked for.
 * Making them again begins another generation of keys; what still writes to the one before does no harm.
 */
export class RedisRollups implements Rollups {
  readonly #parts: RedisRollupsParts
  readonly #known = new Map<number, Known>()
  #generation: string | null = null
  /** The generation that this process is making. */
  #making: string | null = null
  #sweeping: Promise<void> = Promise.resolve()
  #closed = false
  readonly #stopListening: () => void

  constructor(parts: RedisRollupsParts) {
    this.#parts = parts
    this.#stopListening = parts.link.onServerChange(() => this.#known.clear())
  }

  generation(): Promise<string> {
    return this.#look()
  }

  async count(batch: readonly Counted[], generation: string): Promise<void> {
    // What is known of the marks is of that one.
    if (generation !== this.#generation) throw new StaleFence('the roll-ups are made anew; what was read before comes again')
    const byPartition = new Map<number, { readonly place: EventPlace; readonly increment: Increment }[]>()
    for (const { position, increment } of batch) {
      const place = toPlace(position)
      const list = byPartition.get(place.partition)
      if (list === undefined) byPartition.set(place.partition, [{ place, increment }])
      else list.push({ place, increment })
    }
    await this.#inParallel([...byPartition], async ([partition, entries]) => {
      entries.sort((a, b) => comparePlaces(a.place, b.place))
      for (let at = 0; at < entries.length; at += EVENTS_AT_ONCE) await this.#countSome(generation, partition, entries.slice(at, at + EVENTS_AT_ONCE))
    })
  }

  async countArchived(batch: readonly Increment[]): Promise<void> {
    const generation = this.#making
    if (generation === null) throw new StoreUnavailable('the roll-ups are made by another gateway now')
    const byPartition = Map.groupBy(batch, ({ dimensions }) => this.#parts.keys.partitionOf(dimensions.account))
    await this.#inParallel([...byPartition], async ([partition, increments]) => {
      const known = this.#knownOf(partition)
      for (let at = 0; at < increments.length; at += EVENTS_AT_ONCE) {
        await this.#load(generation, partition, known, increments.slice(at, at + EVENTS_AT_ONCE))
        await this.#add(generation, partition, known, increments.slice(at, at + EVENTS_AT_ONCE), null)
      }
    })
  }

  async countRefusals(batch: readonly RefusalCount[]): Promise<void> {
    const hashes = new Map<string, { readonly unit: Unit; readonly period: number; readonly args: (string | number)[] }>()
    for (const { atMs, dimensions, refused } of batch) {
      for (const unit of REFUSAL_UNITS) {
        const bucket = bucketOf(unit, atMs)
        const period = bucketOf(LONGER[unit], bucket)
        const key = this.#refusalKey(this.#parts.keys.partitionOf(dimensions.account), unit, period)
        let hash = hashes.get(key)
        if (hash === undefined) hashes.set(key, hash = { unit, period, args: [] })
        const { account, key: callerKey, limit, reason, model } = dimensions
        hash.args.push([bucket, account, callerKey, limit, reason, model].join(SEPARATOR), [bucket, OTHER, OTHER, limit, reason, OTHER].join(SEPARATOR), refused)
      }
    }
    await this.#inParallel([...hashes], async ([key, { unit, period, args }]) => {
      for (let at = 0; at < args.length; at += REFUSALS_AT_ONCE * 3) {
        await this.#parts.link.script(refuseScript, [key], [this.#endOf(unit, nextBucket(LONGER[unit], period)), REFUSAL_ROWS_MAX, ...args.slice(at, at + REFUSALS_AT_ONCE * 3)], DEADLINE)
      }
    })
  }

  async usage(question: UsageQuestion): Promise<readonly UsageRow[]> {
    const generation = await this.#look()
    const answering = new Answering(question)
    const best = await this.#best(generation, question)
    const add = ({ bucket, names, currency, value }: Row): void => answering.add(bucket, names, currency, readValue(value, question.latencies))
    await (best === null ? this.#eachRow(generation, question, add) : this.#eachRowOf(generation, question, best, add))
    return answering.rows()
  }

  async refusals(question: RefusalQuestion): Promise<readonly RefusalRow[]> {
    const { fromMs, untilMs, by, only } = question
    const unit = question.unit === 'month' ? 'day' : question.unit
    const partitions = only.account === undefined ? this.#partitions() : [...new Set([this.#parts.keys.partitionOf(only.account), this.#parts.keys.partitionOf(OTHER)])]
    const keys = partitions.flatMap((partition) => periodsBetween(LONGER[unit], fromMs, untilMs).map((period) => ({ key: this.#refusalKey(partition, unit, period), partition })))
    const answering = new RefusalAnswering(question)
    await this.#eachField(keys, (name, value) => {
      const [bucketText = '', ...values] = name.split(SEPARATOR)
      const bucket = Number(bucketText)
      if (bucket < fromMs || bucket >= untilMs) return
      if (REFUSAL_DIMENSIONS.some((dimension, index) => only[dimension] !== undefined && values[index] !== only[dimension])) return
      answering.add(bucket, by.map((dimension) => values[REFUSAL_DIMENSIONS.indexOf(dimension)] ?? ''), Number(value))
    })
    return answering.rows()
  }

  async isNew(): Promise<boolean> {
    const [complete] = await this.#state('complete')
    return complete !== '1'
  }

  async reset(): Promise<void> {
    const key = this.#parts.keys.rollups()
    const [before] = await this.#state('generation')
    await this.#parts.link.command(key, 'HSET', [key, 'complete', '0', ...UNITS.flatMap((unit) => [`whole:${unit}`, 0, `kept:${unit}`, this.#parts.kept()[unit]])])
    this.#making = String(await this.#parts.link.command(key, 'HINCRBY', [key, 'generation', 1]))
    this.#known.clear()
    if (before !== null) this.#sweeping = this.#remove((key) => /:roll:(\d+):/.exec(key)?.[1] === before)
  }

  async complete(): Promise<void> {
    const [generation] = await this.#state('generation')
    if (this.#making !== null && generation !== this.#making) throw new StoreUnavailable('the roll-ups are made by another gateway now')
    const key = this.#parts.keys.rollups()
    await this.#parts.link.command(key, 'HSET', [key, 'complete', '1'])
    this.#making = null
  }

  /** A hash goes by itself, as long after its end as was said when it was written. Who keeps longer from now on has everything from now on. */
  async wholeSince(): Promise<Readonly<Record<Unit, number>>> {
    const fields = await this.#state(...UNITS.flatMap((unit) => [`kept:${unit}`, `whole:${unit}`]))
    const kept = this.#parts.kept()
    return Object.fromEntries(UNITS.map((unit, index) => {
      const before = fields[index * 2]
      return [unit, before !== null && before !== undefined && Number(before) < kept[unit] ? Infinity : Number(fields[index * 2 + 1] ?? 0)]
    })) as Record<Unit, number>
  }

  async prune(nowMs: number, kept: Kept): Promise<void> {
    const key = this.#parts.keys.rollups()
    for (const unit of UNITS) {
      const [before] = await this.#state(`kept:${unit}`)
      if (before === String(kept[unit])) continue
      const isLonger = before !== null && before !== undefined && Number(before) < kept[unit]
      await this.#parts.link.command(key, 'HSET', [key, `kept:${unit}`, kept[unit], ...(isLonger ? [`whole:${unit}`, nowMs] : [])])
    }
    await this.#remove((key) => {
      const [, letter, unitText, period] = /:roll:(?:\d+|f):(?:([ualxt]):)?(minute|hour|day|month):(\d+)/.exec(key) ?? []
      const models = /:roll:\d+:m:(\d+)$/.exec(key)?.[1]
      if (models !== undefined) return Number(models) < nowMs - 3 * 86_400_000
      if (unitText === undefined || (letter === undefined && !key.includes(':roll:f:'))) return false
      const unit = unitText as Unit
      return nextBucket(letter === LETTER.accounts || letter === LETTER.latencies ? unit : LONGER[unit], Number(period)) <= nowMs - kept[unit]
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#stopListening()
    await this.#sweeping
  }

  // === Counting ===

  async #countSome(generation: string, partition: number, entries: readonly { readonly place: EventPlace; readonly increment: Increment }[]): Promise<void> {
    for (let tries = 0; tries < TRIES; tries++) {
      const first = entries[0]?.place.ordinal ?? 0
      const remembered = this.#known.get(partition)?.mark ?? ''
      // Some of it seems to be counted: that is for the server to say, which may have lost what it knew, and is counting the same ordinals again.
      if (remembered !== '' && toEventId(remembered).ordinal >= first) this.#known.delete(partition)
      const known = this.#knownOf(partition)
      await this.#load(generation, partition, known, entries.map(({ increment }) => increment))
      const counted = known.mark === '' ? null : toEventId(known.mark)
      const fresh = counted === null ? entries : entries.filter(({ place }) => place.ordinal > counted.ordinal)
      const [next] = fresh
      const last = fresh.at(-1)
      if (next === undefined || last === undefined) return
      if (counted !== null && next.place.ordinal > counted.ordinal + 1) await this.#mustBeGone(partition, next.place.ordinal)
      const answer = await this.#add(generation, partition, known, fresh.map(({ increment }) => increment), eventIdText(last.place))
      if (answer === 'done') {
        known.mark = eventIdText(last.place)
        return
      }
      // Another gateway has counted meanwhile; or a server that knows less has taken over, and then what is to be counted is to be read anew.
      const actual = answer === '-' ? '' : answer
      const isLess = counted !== null && (actual === '' || toEventId(actual).ordinal < counted.ordinal)
      this.#known.delete(partition)
      if (isLess) throw new StoreUnavailable('the roll-ups do not stand where they were left; their events are read again')
    }
    throw new StoreUnavailable('another gateway counts the same events')
  }

  /** Events before what is to be counted must have been removed: others were not read yet, and would never be counted. */
  async #mustBeGone(partition: number, ordinal: number): Promise<void> {
    const key = this.#parts.keys.events(partition)
    const [oldest] = await this.#parts.link.command(key, 'XRANGE', [key, '-', '+', 'COUNT', 1]) as readonly StreamEntry[]
    if (oldest === undefined || toEventId(oldest[0]).ordinal >= ordinal) return
    this.#known.delete(partition)
    throw new StoreUnavailable('events before these are not counted yet; they are read again')
  }

  /** Learns the mark, and the models that these accounts have named on these days. */
  async #load(generation: string, partition: number, known: Known, increments: readonly Increment[]): Promise<void> {
    const wanted = new Map<string, { readonly day: number; readonly account: string }>()
    for (const { atMs, dimensions: { account } } of increments) {
      const day = bucketOf('day', atMs)
      for (const each of [account, '']) if (!known.models.has(modelsText(day, each))) wanted.set(modelsText(day, each), { day, account: each })
    }
    const isNew = !this.#known.has(partition)
    if (!isNew && wanted.size === 0) return
    const { link } = this.#parts
    const markKey = this.#markKey(generation, partition)
    const [mark, ...lists] = (await link.commands([
      { key: markKey, name: 'GET', args: [markKey] },
      ...[...wanted.values()].map(({ day, account }): LinkCommand => ({ key: this.#modelsKey(generation, partition, day), name: 'HGET', args: [this.#modelsKey(generation, partition, day), account] })),
    ], DEADLINE)).map(orThrow)
    if (isNew) known.mark = typeof mark === 'string' ? mark : ''
    if (known.models.size > ACCOUNT_DAYS_KEPT / 16) known.models.clear()
    for (const [index, text] of [...wanted.keys()].entries()) {
      const list = lists[index]
      known.models.set(text, new Set(typeof list === 'string' ? list.split('\n') : []))
    }
    this.#known.set(partition, known)
  }

  /** In one script: rows, models that are new, and the mark. */
  async #add(generation: string, partition: number, known: Known, increments: readonly Increment[], mark: string | null): Promise<string> {
    const named = new Map<string, { readonly day: number; readonly account: string; readonly models: Set<string> }>()
    const modelOf = (day: number, account: string, model: string): string => {
      const text = modelsText(day, account)
      const models = named.get(text)?.models ?? known.models.get(text) ?? new Set<string>()
      if (models.has(model) || model === OTHER) return model
      if (models.size >= MODELS_MAX) return OTHER
      // What is known stays as it is until the script says that it was done.
      const more = named.has(text) ? models : new Set(models)
      named.set(text, { day, account, models: more.add(model) })
      return model
    }
    const hashes = new Map<string, { readonly lifetime: number | ''; readonly has: 'sums' | 'latencies' | 'texts'; readonly rows: string[] }>()
    const add = (kind: Kind, row: TableRow, value: string): void => {
      const wide = hashUnit(kind, row.unit)
      const period = bucketOf(wide, row.bucket)
      const key = this.#hashKey(generation, partition, kind, row.unit, period, row.account)
      let hash = hashes.get(key)
      if (hash === undefined) hashes.set(key, hash = { lifetime: this.#endOf(row.unit, nextBucket(wide, period)), has: kind === 'latencies' ? kind : 'sums', rows: [] })
      hash.rows.push(nameOf(row), value)
    }
    for (const row of tableRows(gathered(increments), modelOf)) {
      const kind = kindOf(row.table, row.account)
      if (kind !== 'accounts') add(kind, row, `${sumsText(row.adding)}|${latenciesText(row.adding)}`)
      else {
        add(kind, row, `${sumsText(row.adding)}||`)
        if (row.adding.latency !== null || row.adding.firstToken !== null) add('latencies', row, latenciesText(row.adding))
      }
    }
    for (const { day, account, models } of named.values()) {
      const key = this.#modelsKey(generation, partition, day)
      let hash = hashes.get(key)
      if (hash === undefined) hashes.set(key, hash = { lifetime: '', has: 'texts', rows: [] })
      hash.rows.push(account, [...models].join('\n'))
    }
    const args: (string | number)[] = [known.mark, mark ?? '']
    for (const { lifetime, has, rows } of hashes.values()) args.push(lifetime, has, rows.length / 2, ...rows)
    const answer = String(await this.#parts.link.script(countScript, [this.#markKey(generation, partition), ...hashes.keys()], args, DEADLINE).catch((error: unknown) => {
      // Done or not: it is asked for before anything else is counted.
      this.#known.delete(partition)
      known.models.clear()
      throw error
    }))
    if (answer === 'done') for (const [text, { models }] of named) known.models.set(text, models)
    return answer
  }

  #knownOf(partition: number): Known {
    return this.#known.get(partition) ?? { mark: '', models: new Map() }
  }

  /** Which generation is in use. Another one than before: nothing is known of it. */
  async #look(): Promise<string> {
    const [generation] = await this.#state('generation')
    const text = generation ?? '0'
    if (text !== this.#generation) this.#known.clear()
    this.#generation = text
    return text
  }

  async #state(...names: readonly string[]): Promise<readonly (string | null)[]> {
    const key = this.#parts.keys.rollups()
    return await this.#parts.link.command(key, 'HMGET', [key, ...names]) as readonly (string | null)[]
  }

  /** All of them are tried; then the first failure is thrown. */
  async #inParallel<Item>(items: readonly Item[], task: (item: Item) => Promise<void>): Promise<void> {
    const failures: unknown[] = []
    const left = items.values()
    await Promise.all(Array.from({ length: Math.min(PARTITIONS_AT_ONCE, items.length) }, async () => {
      for (const item of left) await task(item).catch((error: unknown) => { failures.push(error) })
    }))
    if (failures.length > 0) throw failures[0]
  }

  // === Reading ===

  /** What a question is about, of all accounts or of the one that it names. */
  async #eachRow(generation: string, { unit: asked, fromMs, untilMs, by, only, series, latencies }: UsageQuestion, take: (row: Row) => void): Promise<void> {
    const named = [...new Set([...by, ...DIMENSIONS.filter((dimension) => only[dimension] !== undefined)])]
    const source = sourceOf(asked, named)
    // Rows of one account lie by themselves.
    const table = source.table === 'accounts' && only.account !== undefined && source.unit !== 'month' ? 'usage' : source.table
    const account = table === 'accounts' && named.length === 0 ? '' : only.account
    for (const segment of segmentsIn(keptIn(table, account), source.unit, fromMs, untilMs, series)) {
      await this.#eachField(await this.#keysOf(generation, table, segment, account, latencies), (name, value, partition) => {
        const bucket = Number.parseInt(name, 10)
        if (bucket < segment.fromMs || bucket >= segment.untilMs) return
        const [, ...rest] = name.split(SEPARATOR)
        const currency = rest.pop() ?? ''
        const owner = table === 'mix' ? '' : rest.shift() ?? ''
        if (table === 'accounts' && (account === undefined ? owner === '' : owner !== account)) return
        const valueOf = (dimension: Dimension): string => (dimension === 'account' ? owner : rest[COMBINED.indexOf(dimension)] ?? '')
        if (named.every((dimension) => only[dimension] === undefined || valueOf(dimension) === only[dimension])) take({ bucket, names: by.map(valueOf), currency, value, partition })
      })
    }
  }

  /** The accounts that have most, without reading what all have in every bucket; null: that is not asked for. */
  async #best(generation: string, question: UsageQuestion): Promise<Places | null> {
    const { by, only, top } = question
    if (top === null || by.length !== 1 || by[0] !== 'account' || Object.keys(only).length > 0) return null
    const { of, count } = top
    // Only one number of each row is looked at. By the minute what needs no search is of whole hours.
    const around = aroundOf(question) ?? { ...question, unit: question.unit === 'minute' ? 'hour' : question.unit }
    const most = new Map<string, number>()
    const places = new Map<string, Place[]>()
    await this.#eachSum(generation, around, of, (account, partition, currency, sum) => {
      most.set(account, (most.get(account) ?? 0) + sum)
      const own = places.get(account)
      if (own === undefined) places.set(account, [{ partition, currency }])
      else if (own.every((place) => place.partition !== partition || place.currency !== currency)) own.push({ partition, currency })
    })
    const bounds = [...most].sort(([, a], [, b]) => b - a)
    const placesOf = (accounts: readonly string[]): Places => new Map(accounts.map((account) => [account, places.get(account) ?? []]))
    const search = new TopSearch(count)
    while (!search.isOver) {
      const sums = new Map<string, number>()
      await this.#eachRowOf(generation, { ...question, series: false, latencies: false }, placesOf(search.next(bounds)), ({ names: [account = ''], value }) => sums.set(account, (sums.get(account) ?? 0) + sumIn(value, of)))
      search.tell([...sums])
    }
    return placesOf(search.best)
  }

  /** What every account comes to by one number, in each partition and currency. */
  async #eachSum(generation: string, { unit, fromMs, untilMs }: UsageQuestion, of: Sum | 'cost_nanos', take: (account: string, partition: number, currency: string, sum: number) => void): Promise<void> {
    const segments = segmentsIn(keptIn('accounts', undefined), unit, fromMs, untilMs, false)
    await this.#inParallel(this.#partitions(), async (partition) => {
      const keys = segments.flatMap((segment) => this.#hashKeys(generation, partition, 'accounts', segment).map(({ key }) => key))
      for (let at = 0; at < keys.length; at += ROWS_AT_ONCE) {
        for (const text of await this.#parts.link.script(rowsScript, keys.slice(at, at + ROWS_AT_ONCE), [], DEADLINE) as readonly string[]) {
          const parts = text.split(BETWEEN_ROWS)
          for (let i = 0; i + 1 < parts.length; i += 2) {
            const [, account = '', currency = ''] = parts[i]!.split(SEPARATOR)
            take(account, partition, currency, sumIn(parts[i + 1]!, of))
          }
        }
      }
    })
  }

  /** Rows of some accounts, by account. */
  async #eachRowOf(generation: string, { unit: asked, fromMs, untilMs, series, latencies }: UsageQuestion, places: Places, take: (row: Row) => void): Promise<void> {
    const { table, unit } = sourceOf(asked, ['account'])
    for (const segment of segmentsIn(keptIn(table, undefined), unit, fromMs, untilMs, series)) {
      if (table === 'usage') {
        const keys = [...places].flatMap(([account, own]) => own.flatMap(({ partition }) => this.#hashKeys(generation, partition, table, segment, [account])))
        await this.#eachField([...new Map(keys.map((key) => [key.key, key])).values()], (name, value, partition) => {
          const [bucketText = '', account = '', ...rest] = name.split(SEPARATOR)
          const bucket = Number(bucketText)
          if (bucket >= segment.fromMs && bucket < segment.untilMs) take({ bucket, names: [account], currency: rest.at(-1) ?? '', value, partition })
        })
        continue
      }
      const kinds: readonly Kind[] = latencies ? ['accounts', 'latencies'] : ['accounts']
      const hashes = new Map<string, { readonly partition: number; readonly rows: { readonly bucket: number; readonly account: string; readonly currency: string }[] }>()
      for (const bucket of bucketsBetween(segment.unit, segment.fromMs, segment.untilMs)) {
        for (const [account, own] of places) {
          for (const { partition, currency } of own) {
            for (const kind of kinds) {
              const key = this.#hashKey(generation, partition, kind, segment.unit, bucketOf(hashUnit(kind, segment.unit), bucket), account)
              const hash = hashes.get(key) ?? { partition, rows: [] }
              hash.rows.push({ bucket, account, currency })
              hashes.set(key, hash)
            }
          }
        }
      }
      const pages = await this.#parts.link.commands([...hashes].map(([key, { rows }]) => (
        { key, name: 'HMGET', args: [key, ...rows.map(({ bucket, account, currency }) => [bucket, account, currency].join(SEPARATOR))] })), DEADLINE)
      for (const [index, { partition, rows }] of [...hashes.values()].entries()) {
        for (const [at, value] of (orThrow(pages[index]) as readonly (string | null)[]).entries()) {
          const { bucket, account, currency } = rows[at]!
          if (value !== null) take({ bucket, names: [account], currency, value, partition })
        }
      }
    }
  }

  /** `account` undefined: of each. */
  async #keysOf(generation: string, table: Table, segment: Segment, account: string | undefined, latencies: boolean): Promise<readonly HashKey[]> {
    const kind = kindOf(table, account)
    if (kind !== 'usage') {
      const kinds: readonly Kind[] = kind === 'accounts' && latencies ? [kind, 'latencies'] : [kind]
      return this.#partitions().flatMap((partition) => kinds.flatMap((each) => this.#hashKeys(generation, partition, each, segment)))
    }
    // An account may have been under another root once.
    if (account !== undefined) return this.#partitions().flatMap((partition) => this.#hashKeys(generation, partition, kind, segment, [account]))
    const wide: Unit = segment.unit === 'minute' ? 'hour' : segment.unit
    const perPartition = await Promise.all(this.#partitions().map(async (partition) => {
      const accounts = new Set<string>()
      const keys = this.#hashKeys(generation, partition, 'accounts', { unit: wide, fromMs: bucketOf(wide, segment.fromMs), untilMs: segment.untilMs })
      await this.#eachField(keys, (name) => accounts.add(name.split(SEPARATOR)[1] ?? ''))
      return this.#hashKeys(generation, partition, kind, segment, [...accounts])
    }))
    return perPartition.flat()
  }

  /** `accounts`: of `usage`, whose rows lie by account. */
  #hashKeys(generation: string, partition: number, kind: Kind, { unit, fromMs, untilMs }: Segment, accounts: readonly string[] = ['']): HashKey[] {
    const periods = periodsBetween(hashUnit(kind, unit), fromMs, untilMs)
    return accounts.flatMap((account) => periods.map((period) => ({ key: this.#hashKey(generation, partition, kind, unit, period, account), partition })))
  }

  async #eachField(keys: readonly HashKey[], take: (name: string, value: string, partition: number) => void): Promise<void> {
    for (let at = 0; at < keys.length; at += READS_AT_ONCE) {
      const some = keys.slice(at, at + READS_AT_ONCE)
      const pages = await this.#parts.link.commands(some.map(({ key }) => ({ key, name: 'HGETALL', args: [key] })), DEADLINE)
      for (const [index, page] of pages.entries()) {
        const pairs = orThrow(page) as readonly string[]
        for (let i = 0; i + 1 < pairs.length; i += 2) take(pairs[i]!, pairs[i + 1]!, some[index]!.partition)
      }
    }
  }

  /** In the background, or as often as the servers stay the same for that long. */
  async #remove(isOld: (key: string) => boolean): Promise<void> {
    const { link, keys } = this.#parts
    try {
      for await (const page of scanKeys(link, keys)) {
        if (this.#closed) return
        const old = page.filter(isOld)
        for (let at = 0; at < old.length; at += UNLINKED_AT_ONCE) await link.commands(old.slice(at, at + UNLINKED_AT_ONCE).map((key) => ({ key, name: 'UNLINK', args: [key] })))
      }
    } catch (error) {
      // What is left goes by itself when its time is over.
      if (!(error instanceof RowsRefused || error instanceof StoreUnavailable)) throw error
    }
  }

  #partitions(): number[] {
    return Array.from({ length: this.#parts.keys.partitions }, (_, partition) => partition)
  }

  /** When a hash goes by itself. `untilMs`: where its buckets end. */
  #endOf(unit: Unit, untilMs: number): number {
    return untilMs + this.#parts.kept()[unit] + MARGIN_MS
  }

  #markKey(generation: string, partition: number): string {
    return this.#parts.keys.rollup(partition, `${generation}:counted`)
  }

  #modelsKey(generation: string, partition: number, day: number): string {
    return this.#parts.keys.rollup(partition, `${generation}:m:${day}`)
  }

  #hashKey(generation: string, partition: number, kind: Kind, unit: Unit, period: number, account: string): string {
    return this.#parts.keys.rollup(partition, `${generation}:${LETTER[kind]}:${unit}:${period}${kind === 'usage' ? `:${account}` : ''}`)
  }

  #refusalKey(partition: number, unit: Unit, period: number): string {
    return this.#parts.keys.rollup(partition, `f:${unit}:${period}`)
  }
}

function nameOf({ table, bucket, account, names, currency }: TableRow): string {
  switch (table) {
    case 'usage': return [bucket, account, ...names, currency].join(SEPARATOR)
    case 'accounts': return [bucket, account, currency].join(SEPARATOR)
    case 'mix': return [bucket, ...names, currency].join(SEPARATOR)
  }
}

const NANOS = 1_000_000_000n

function sumsText({ sums, costNanos }: Adding): string {
  return `${sums.join(',')},${costNanos / NANOS},${costNanos % NANOS}`
}

function latenciesText({ latency, firstToken }: Adding): string {
  return `${histogramText(latency)}|${histogramText(firstToken)}`
}

interface HashKey {
  readonly key: string
  readonly partition: number
}

interface Row {
  readonly bucket: number
  /** In the order of the question's `by`. */
  readonly names: readonly string[]
  readonly currency: string
  /** As rollups-count.lua has it. */
  readonly value: string
  readonly partition: number
}

interface Place {
  readonly partition: number
  readonly currency: string
}

/** Where rows of accounts lie. */
type Places = ReadonlyMap<string, readonly Place[]>

/** In the longest units that lie within the time, unless each bucket has a row of its own. */
function segmentsIn(kept: readonly Unit[], finest: Unit, fromMs: number, untilMs: number, series: boolean): readonly Segment[] {
  return segmentsOf(series ? [finest] : UNITS.slice(UNITS.indexOf(finest)).filter((unit) => kept.includes(unit)), fromMs, untilMs)
}

function sumIn(value: string, of: Sum | 'cost_nanos'): number {
  if (of === 'cost_nanos') return Number(readValue(value, false).costNanos)
  // Of ten thousand rows one number each.
  let at = 0
  for (let before = SUMS.indexOf(of); before > 0; before--) at = value.indexOf(',', at) + 1
  return Number.parseInt(value.slice(at, at + DIGITS_MAX), 10)
}

/** Of a number that is exact, and its sign. */
const DIGITS_MAX = 17

interface Value {
  readonly sums: readonly number[]
  readonly costNanos: bigint
  /** '' where they are not asked for. */
  readonly latency: string
  readonly firstToken: string
}

const NO_SUMS: readonly number[] = SUMS.map(() => 0)

function readValue(text: string, latencies: boolean): Value {
  const [one = '', two = '', three] = text.split('|')
  // Of latencies that lie by themselves there are two parts.
  if (three === undefined) return { sums: NO_SUMS, costNanos: 0n, latency: one, firstToken: two }
  const numbers = one.split(',')
  return {
    sums: numbers.slice(0, SUMS.length).map(Number), costNanos: BigInt(numbers[SUMS.length] ?? 0) * NANOS + BigInt(numbers[SUMS.length + 1] ?? 0),
    latency: latencies ? two : '', firstToken: latencies ? three : '',
  }
}

function modelsText(day: number, account: string): string {
  return `${day}${SEPARATOR}${account}`
}

/** Where the hashes begin that have rows of this time. */
function periodsBetween(wide: Unit, fromMs: number, untilMs: number): number[] {
  return bucketsBetween(wide, bucketOf(wide, Math.max(0, fromMs)), untilMs)
}

function orThrow<Answer>(answer: Answer): Exclude<Answer, Error> {
  if (answer instanceof Error) throw answer
  return answer as Exclude<Answer, Error>
}
