import type { Clock } from '../../clock.ts'
import { RowsRefused, type ContentRow } from '../rows.ts'
import { StoreUnavailable } from '../store.ts'
import { toClosedRow } from './closed-text.ts'
import { toEventId, toPlace } from './event-position.ts'
import type { KeyNames } from './keys.ts'
import type { LinkCommand, RedisLink } from './link.ts'
import { MARGIN_MS } from './moves.ts'
import type { RedisOutbox } from './outbox.ts'
import { scanKeys } from './scan-keys.ts'

export interface ExportParts {
  readonly link: RedisLink
  readonly keys: KeyNames
  readonly outbox: RedisOutbox
  readonly clock: Clock
  /** The store's time, ms since 1970. */
  readonly nowMs: () => number
  readonly forgetAfterMs: number
  /** Ends seats that linger: nobody sits on them, and no gateway is left that would sweep them. */
  readonly endSeats: () => Promise<void>
}

const EVENTS_PAGE = 1_000
const FIELDS_PAGE = 500
const LOOK_MS = 500

/** Everything in a store that nobody uses, in pages. Throws RowsRefused when somebody does, or what is there cannot be read in full; StoreUnavailable. */
export async function* exportRows(parts: ExportParts): AsyncGenerator<ContentRow> {
  await nobodyUses(parts)
  const before = await stateOf(parts)
  const consumers = await consumersOf(parts)
  for (const name of consumers) yield { t: 'consumer', name }
  yield* documentsOf(parts)
  yield* deadOf(parts)
  for await (const page of scanKeys(parts.link, parts.keys)) yield* await rowsOf(parts, page)
  yield* eventsOf(parts, consumers)
  await nobodyUses(parts)
  if (await stateOf(parts) !== before) throw new RowsRefused('somebody has used this store meanwhile: stop every gateway on it, and begin again')
}

/** A gateway that runs renews its leases; one that was killed leaves them to run out, within half a minute. */
async function nobodyUses(parts: ExportParts): Promise<void> {
  const { link, keys, clock, nowMs } = parts
  const leases = [keys.lease('housekeeping'), ...(await consumersOf(parts)).map((name) => keys.lease(`consumer:${name}`))]
  const untils = async (): Promise<readonly number[]> => (await all(link, leases.map((key) => ({ key, name: 'HGET', args: [key, 'until'] })))).map((until) => Number(until ?? 0))
  const first = await untils()
  for (let last = first; last.some((until) => until > nowMs()); last = await untils()) {
    if (last.some((until, i) => until > first[i]!)) throw new RowsRefused('a gateway uses this store: stop every gateway on it first')
    await clock.sleep(LOOK_MS)
  }
  await parts.endSeats()
  const open = await all(link, partitionsOf(keys).map((p) => ({ key: keys.due(p), name: 'ZCARD', args: [keys.due(p)] })))
  const count = open.reduce<number>((sum, one) => sum + Number(one), 0)
  if (count > 0) throw new RowsRefused(`${count} calls are still open in this store, of a gateway that has not ended them: start one for half a minute, which ends them, then stop it`)
}

/** Whatever changes when a move is made. */
async function stateOf({ link, keys }: ExportParts): Promise<string> {
  const partitions = partitionsOf(keys)
  const lasts = await all(link, partitions.map((p) => ({ key: keys.lastEvent(p), name: 'GET', args: [keys.lastEvent(p)] })))
  const changes = await link.command(keys.changes(), 'XREVRANGE', [keys.changes(), '+', '-', 'COUNT', 1])
  return JSON.stringify([lasts, changes])
}

async function consumersOf({ link, keys }: ExportParts): Promise<readonly string[]> {
  return (await link.command(keys.consumers(), 'HKEYS', [keys.consumers()]) as readonly string[]).toSorted()
}

async function* documentsOf({ link, keys }: ExportParts): AsyncGenerator<ContentRow> {
  const start = keys.records('')
  const kinds = new Set<string>()
  for await (const page of scanKeys(link, keys)) for (const name of page) if (name.startsWith(start)) kinds.add(name.slice(start.length))
  for (const kind of [...kinds].sort()) {
    for await (const [id, text] of fieldsOf(link, keys.records(kind))) yield { t: 'document', kind, id, value: JSON.parse(text) as Readonly<Record<string, unknown>> }
  }
}

async function* deadOf({ link, keys }: ExportParts): AsyncGenerator<ContentRow> {
  for await (const [, text] of fieldsOf(link, keys.dead())) {
    const { consumer, reason, buried, record } = JSON.parse(text) as { consumer: string; reason: string; buried: number; record: Extract<ContentRow, { t: 'dead' }>['record'] }
    yield { t: 'dead', consumer, reason, buriedMs: buried, record }
  }
}

/** Each field of a hash once. */
async function* fieldsOf(link: RedisLink, key: string): AsyncGenerator<readonly [string, string]> {
  const seen = new Set<string>()
  let cursor = '0'
  do {
    const [next, pairs] = await link.command(key, 'HSCAN', [key, cursor, 'COUNT', FIELDS_PAGE]) as readonly [string, readonly string[]]
    for (let i = 0; i + 1 < pairs.length; i += 2) {
      if (seen.has(pairs[i]!)) continue
      seen.add(pairs[i]!)
      yield [pairs[i]!, pairs[i + 1]!]
    }
    cursor = next
  } while (cursor !== '0')
}

/** Counters and reservations among these keys. */
async function rowsOf({ link, keys, nowMs, forgetAfterMs }: ExportParts, page: readonly string[]): Promise<readonly ContentRow[]> {
  const form = /^\{p(\d+)\}:([srh]):(.+)$/s
  const wanted = page.flatMap((key) => {
    const [, partition, kind, name] = form.exec(key.slice(keys.prefix.length + 1)) ?? []
    return partition === undefined || name === undefined ? [] : [{ key, partition: Number(partition), kind, name }]
  })
  const answers = await link.commands(wanted.flatMap(({ key }): LinkCommand[] => [{ key, name: 'GET', args: [key] }, { key, name: 'PTTL', args: [key] }]))
  const atMs = nowMs()
  const rows: ContentRow[] = []
  for (const [i, { key, partition, kind, name }] of wanted.entries()) {
    const [text, ttl] = [answers[2 * i], answers[2 * i + 1]]
    if (text instanceof StoreUnavailable) throw text
    // Gone since it was listed: its time was over.
    if (text === null) continue
    if (typeof text !== 'string') throw unreadable(key)
    if (kind === 'h') {
      if (text !== '0') throw new RowsRefused(`the counter ${name} holds something for a reservation that is not there: the store is damaged`)
    } else if (kind === 's') {
      if (!/^-?\d{1,19}$/.test(text)) throw unreadable(key)
      const life = Number(ttl)
      if (Number(text) !== 0) rows.push({ t: 'counter', name, settled: text, ends: life < 0 ? null : Math.round(atMs + life - forgetAfterMs - MARGIN_MS), partition })
    } else {
      const row = toClosedRow(name, text)
      if (row === null) throw unreadable(key)
      rows.push({ ...row, partition })
    }
  }
  return rows
}

async function* eventsOf({ link, keys, outbox }: ExportParts, consumers: readonly string[]): AsyncGenerator<ContentRow> {
  const partitions = partitionsOf(keys)
  const done = new Map<string, number[]>()
  for (const name of consumers) {
    const cursors = await all(link, partitions.map((p) => ({ key: keys.cursor(p, name), name: 'HGET', args: [keys.cursor(p, name), 'id'] })))
    done.set(name, cursors.map((id) => (typeof id === 'string' ? toEventId(id).ordinal : 0)))
  }
  const lengths = await all(link, partitions.map((p) => ({ key: keys.events(p), name: 'XLEN', args: [keys.events(p)] })))
  let missing = lengths.reduce<number>((sum, one) => sum + Number(one), 0)
  for (let from: string | null = null; ;) {
    const entries = await outbox.scan(from, EVENTS_PAGE)
    for (const { position, record } of entries) {
      const { partition, ordinal } = toPlace(position)
      missing -= 1
      yield { t: 'event', record, done: consumers.filter((name) => done.get(name)![partition]! >= ordinal), partition }
    }
    from = entries.at(-1)?.position ?? null
    if (from === null) break
  }
  if (missing !== 0) throw new RowsRefused(`${missing} events cannot be read; the log of a gateway names their partition`)
}

function unreadable(key: string): RowsRefused {
  return new RowsRefused(`the key ${key} cannot be read: it is damaged, or of a newer release`)
}

function partitionsOf(keys: KeyNames): readonly number[] {
  return Array.from({ length: keys.partitions }, (_, p) => p)
}

/** All of them, or the first one's failure. */
async function all(link: RedisLink, list: readonly LinkCommand[]): Promise<readonly unknown[]> {
  const answers = await link.commands(list)
  for (const answer of answers) if (answer instanceof Error) throw answer
  return answers
}
