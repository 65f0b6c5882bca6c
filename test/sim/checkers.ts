import { eventId, toUsageEvent, type OutboxRecord, type UsageEvent } from '../../src/metering/event.ts'
import { timeOfId } from '../../src/metering/id.ts'
import type { Limit } from '../../src/metering/limits/limit.ts'
import { amountOf, meterName, type Quantities } from '../../src/metering/meter.ts'
import type { ClientCall } from './actors.ts'
import type { Standing } from './books.ts'
import { limitsOf } from './scenario.ts'
import type { World } from './world.ts'

/** What must be true of a world that has come to rest. What must be true after every step is in books.ts. */
export function checkAtRest(world: World): void {
  const records = world.disk.events.map(({ record }) => record)
  const booked = bookedById(records)
  everyExchangeEnds(world, records)
  eventsAreTheCounters(world, records)
  everySinkHasEverything(world, records)
  nothingIsPending(world)
  for (const call of world.calls) {
    refusedIsUnbilled(world, call, booked)
    completeIsBilled(world, call, booked)
    headersAreTrue(world, call)
  }
  slidingWindowsHold(world, booked)
}

interface Booked {
  readonly events: UsageEvent[]
  readonly records: OutboxRecord[]
  /** First event and corrections together. */
  readonly sum: Map<string, number>
}

const dimensions = ['requests', 'input_tokens', 'cached_input_tokens', 'cache_write_tokens', 'output_tokens', 'reasoning_tokens', 'total_tokens', 'compute_ms', 'bytes_in', 'bytes_out'] as const

function bookedById(records: readonly OutboxRecord[]): Map<string, Booked> {
  const booked = new Map<string, Booked>()
  for (const record of records) {
    const one = booked.get(record.id) ?? { events: [], records: [], sum: new Map<string, number>() }
    booked.set(record.id, one)
    const event = toUsageEvent(record)
    one.events.push(event)
    one.records.push(record)
    for (const name of dimensions) one.sum.set(name, (one.sum.get(name) ?? 0) + Number(event.data[name] ?? 0))
    one.sum.set('cost', (one.sum.get('cost') ?? 0) + nanos(event.data['cost']))
  }
  return booked
}

function nanos(text: unknown): number {
  return text === undefined ? 0 : Math.round(Number(text) * 1e9)
}

/** 2: settled, voided or expired; an event for what was booked, none for what was not; corrections one after the other. */
function everyExchangeEnds(world: World, records: readonly OutboxRecord[]): void {
  const events = new Map<string, number[]>()
  for (const { id, correction } of records) events.set(id, [...events.get(id) ?? [], correction])
  for (const [id, corrections] of events) {
    if (corrections.some((correction, i) => correction !== i)) world.violate(2, `the events of ${id} are numbered ${corrections.join(', ')}`)
    if (!world.books.reservations.has(id)) world.violate(2, `there is an event of ${id}, which was never admitted`)
  }
  for (const { id, state, records: own } of world.books.reservations.values()) {
    if (state === 'open') world.violate(2, `${id} has not ended`)
    if (state === 'voided' && own.length > 0) world.violate(2, `${id} was voided and billed`)
    if ((state === 'settled' || state === 'expired') && (events.get(id)?.length ?? 0) !== own.length) world.violate(3, `${id} was booked ${own.length} times and has ${events.get(id)?.length ?? 0} events`)
    if (state === 'expired' && blameless(world, id)) world.violate(2, `${id} expired, though its gateway lived and reached the store all the time`)
  }
}

/** Nothing happened that may let a reservation expire for good. */
function blameless(world: World, id: string): boolean {
  return world.handlers.get(id)?.alive === true && !world.faults.has('store_outage') && !world.faults.has('store_lost_before') && !world.faults.has('clock_jump')
}

/** 3: what the events say is what the counters were booked, per counter. */
function eventsAreTheCounters(world: World, records: readonly OutboxRecord[]): void {
  for (const process of world.processes) world.books.compare(process.store.watched)
  const limits = [...limitsOf(world.scenario.config).values()]
  const sums = new Map<string, number>()
  for (const [slot, amount] of world.books.settled) {
    const base = slot.slice(0, slot.lastIndexOf('|'))
    sums.set(base, (sums.get(base) ?? 0) + amount)
  }
  const parents = new Map([...world.scenario.config.accounts.values()].map((account) => [account.id, account.parent]))
  const told = new Map<string, number>()
  for (const record of records) {
    const { data } = toUsageEvent(record)
    const quantities: Quantities = {
      requests: number(data['requests']), input_tokens: number(data['input_tokens']), output_tokens: number(data['output_tokens']), total_tokens: number(data['total_tokens']),
      compute_seconds: number(data['compute_ms']), bytes_in: number(data['bytes_in']), bytes_out: number(data['bytes_out']), cost: nanos(data['cost']),
    }
    for (const base of sums.keys()) {
      const [scope = '', meter = '', selector = ''] = base.split('|')
      const limit = limits.find((one) => meterPart(one) === meter)
      if (limit === undefined || !inScope(scope, data, parents) || (selector.startsWith('each=') && selector !== `each=${String(data['model'])}`)) continue
      told.set(base, (told.get(base) ?? 0) + amountOf(limit.meter, quantities))
    }
  }
  for (const [base, settled] of sums) {
    if (!base.includes('|concurrency|') && settled !== (told.get(base) ?? 0)) world.violate(3, `${base} was settled ${settled}, and its events say ${told.get(base) ?? 0}`)
  }
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : 0
}

function meterPart({ meter }: Limit): string {
  return meter.kind === 'builtin' ? meter.name : `=${meterName(meter)}`
}

function inScope(scope: string, data: UsageEvent['data'], parents: ReadonlyMap<string, string | null>): boolean {
  const [kind = '', name = ''] = scope.split(':')
  if (kind === 'key') return data['key'] === name
  if (kind === 'account') {
    for (let id: string | null = String(data['account']); id !== null; id = parents.get(id) ?? null) if (id === name) return true
    return false
  }
  const user = (data['caller'] as { user: string | null }).user
  return name === (user === null ? data['key'] : `${String(data['key'])}/${user.replace('|', '%7C')}`)
}

/** 4: every event reached every sink, or is among that sink's dead because the sink refused it. */
function everySinkHasEverything(world: World, records: readonly OutboxRecord[]): void {
  for (const receiver of world.receivers.values()) {
    const dead = new Set([...world.disk.dead.values()].filter(({ consumer }) => consumer === receiver.name).map(({ record }) => eventId(record.id, record.correction)))
    const written = new Set<string>()
    for (const record of records) {
      const event = toUsageEvent(record)
      written.add(event.id)
      const got = receiver.got.get(event.id)
      if (got === undefined && !dead.has(event.id)) world.violate(4, `${event.id} never reached ${receiver.name}`)
      if (got !== undefined && got !== JSON.stringify(event)) world.violate(4, `${event.id} reached ${receiver.name} otherwise than it was written: ${got} / ${JSON.stringify(event)}`)
    }
    for (const id of receiver.got.keys()) if (!written.has(id)) world.violate(4, `${receiver.name} got ${id}, which was never written`)
  }
}

/** 5 */
function nothingIsPending(world: World): void {
  const open = world.calls.filter((call) => call.over === 'open')
  for (const call of open) world.violate(5, `client ${call.plan.number} still waits for ${call.id}`)
  for (const process of world.processes) {
    if (process.gateway.openExchanges > 0) world.violate(5, `${process.name} has ${process.gateway.openExchanges} open exchanges`)
    if (process.gateway.unsettled > 0) world.violate(5, `${process.name} has ${process.gateway.unsettled} moves waiting for the store`)
    const held = process.store.watched.open()
    if (held.length > 0) world.violate(5, `pending: ${held.join(', ')}`)
  }
  for (const [name, { entries }] of world.spools ?? []) if (entries.size > 0) world.violate(5, `${entries.size} settlements are in the spool of ${name}`)
  for (const [slot, amount] of world.books.pending) if (amount !== 0) world.violate(5, `${slot} holds ${amount}`)
}

/** 6: what the gateway itself refused is nowhere in the books. */
function refusedIsUnbilled(world: World, call: ClientCall, booked: ReadonlyMap<string, Booked>): void {
  if (call.status === 500) world.violate(10, `client ${call.plan.number} saw 500: ${call.body}`)
  if (call.status < 400 || call.answerHeader('x-tallygate-error') !== 'gateway' || call.body.includes('upstream_')) return
  // Forwarded, and cut when the gateway was stopped, or when the whole answer would not fit: the upstream's work is billed.
  if (call.body.includes('"draining"') || booked.get(call.id)?.events.at(-1)?.data['end'] === 'quota_stop') return
  // What was perhaps held when the gateway died has expired with nothing in it.
  if ([...booked.get(call.id)?.sum.values() ?? []].some((amount) => amount !== 0)) world.violate(6, `${call.id} was refused with ${call.status} and billed`)
  const state = world.books.reservations.get(call.id)?.state
  if (state !== undefined && state !== 'voided' && state !== 'expired') world.violate(6, `${call.id} was refused with ${call.status} and is ${state}`)
}

/** The client has the whole answer, by the protocol's own measure. */
function sawTheEnd(call: ClientCall): boolean {
  if (call.status !== 200 || call.over !== 'ended') return false
  const { body } = call
  if (call.plan.streamed) return body.endsWith('data: [DONE]\n\n')
  return body.endsWith('}')
}

/** 7: a whole answer is billed once, with what the upstream itself counted. */
function completeIsBilled(world: World, call: ClientCall, booked: ReadonlyMap<string, Booked>): void {
  if (!sawTheEnd(call)) return
  const { id } = call
  const one = booked.get(id)
  const last = one?.events.at(-1)
  // Without a spool, and with a plan that serves whatever the store does: it was away for longer than the end of an answer waits, and the gateway died before it came back.
  if (one === undefined || last?.data['end'] === 'expired') {
    const ended = world.upstream.truths.get(id)?.endedMs ?? Infinity
    if (world.spools !== null || !world.servesUnheld() || world.deaths.length === 0 || call.endedMs - ended < 1_999) world.violate(7, `${id} was answered whole and ${one === undefined ? 'is not billed' : 'is billed as expired'}`)
    else world.lostAfterRelease += 1
    return
  }
  if (one.sum.get('requests') !== 1) return world.violate(7, `${id} was answered whole and is billed ${one.sum.get('requests')} times`)
  const truth = world.upstream.truths.get(id)
  if (last?.data['end'] !== 'complete' || truth === undefined) return
  if (truth.reported === null) {
    if (last.data['usage_source'] === 'upstream') world.violate(7, `${id} is billed as the upstream counted, which counted nothing`)
    if ((one.sum.get('output_tokens') ?? 0) <= 0) world.violate(7, `${id} was answered and not billed for any output`)
    return
  }
  if (!truth.whole) return
  if (one.sum.get('input_tokens') !== truth.reported.input || one.sum.get('output_tokens') !== truth.reported.output) {
    world.violate(7, `${id} is billed ${one.sum.get('input_tokens')} + ${one.sum.get('output_tokens')}, and the upstream counted ${truth.reported.input} + ${truth.reported.output}`)
  }
}

/** 8: what remains is never negative, and is limit − settled − reserved of the snapshot that the exchange was given. */
function headersAreTrue(world: World, call: ClientCall): void {
  const told = [call.answerHeader('ratelimit'), trailer(call)].filter((value) => value !== undefined)
  for (const text of told) {
    const remaining = parseRemaining(text)
    if ([...remaining.values()].some((value) => value < 0)) world.violate(8, `${call.id} was told of less than nothing: ${text}`)
    const own = world.books.standings.get(call.id) ?? []
    if (![...own, ...world.books.loose].some((standing) => tells(standing, remaining))) {
      world.violate(8, `${call.id} was told ${text}; the books say ${own.map(({ of, remaining: map }) => `${of}: ${[...map].map(([name, value]) => `${name} ${value}`).join(', ')}`).join('; ')}`)
    }
  }
  // A plain answer that was held until it was settled tells of the settlement, unless the store's answer was lost on its way.
  const own = world.books.standings.get(call.id) ?? []
  const settled = own.filter((standing) => standing.of === 'settle')
  const head = call.answerHeader('ratelimit')
  if (!call.plan.streamed && sawTheEnd(call) && head !== undefined && world.linkFaults() === 0 && settled.length > 0 && call.headMs >= settled[0]!.atMs) {
    if (!settled.some((standing) => tells(standing, parseRemaining(head)))) world.violate(8, `${call.id} was settled and was told of its reservation: ${head}`)
  }
}

function trailer(call: ClientCall): string | undefined {
  const at = call.trailers.indexOf('x-tallygate-remaining')
  return at === -1 ? undefined : call.trailers[at + 1]
}

/** By the limit's own name: a parent's is told with its account's name before it. */
function parseRemaining(text: string): Map<string, number> {
  const remaining = new Map<string, number>()
  for (const [, name = '', left = ''] of text.matchAll(/"([^"]*)";r=(-?\d+)/g)) remaining.set(name.slice(name.lastIndexOf('/') + 1), Number(left))
  return remaining
}

function tells(standing: Standing, remaining: ReadonlyMap<string, number>): boolean {
  for (const [name, value] of remaining) if (standing.remaining.get(name) !== value) return false
  return true
}

/** 9: in no real interval of a sliding window's length was more settled, by the instants of admission, than the limit. Brute force over the history. */
function slidingWindowsHold(world: World, booked: ReadonlyMap<string, Booked>): void {
  for (const limit of limitsOf(world.scenario.config).values()) {
    if (limit.window.kind !== 'sliding' || limit.mode !== 'enforce') continue
    const most = world.books.highest.get(limit.name)
    if (most === undefined || most === null) continue
    const lengthMs = limit.window.ms
    for (const [base, history] of historiesOf(world, limit, booked)) {
      history.sort((a, b) => a.atMs - b.atMs)
      let first = 0
      let sum = 0
      for (const { atMs, amount } of history) {
        sum += amount
        while (history[first]!.atMs <= atMs - lengthMs) sum -= history[first++]!.amount
        let beyond = 0
        for (const [slot, excess] of world.books.excess) if (slot.startsWith(base)) beyond += excess
        if (sum > most + beyond) {
          world.violate(9, `${limit.name} of ${most} per ${lengthMs} ms: ${sum} within ${lengthMs} ms before ${atMs} (${beyond} beyond what was held): ${history.slice(first).filter((one) => one.atMs <= atMs).map((one) => `${one.id.slice(-6)} ${one.atMs % 1e8} ${one.amount}`).join(', ')}`)
          return
        }
      }
    }
  }
}

/** What each counter of a limit was booked, by exchange. */
function historiesOf(world: World, limit: Limit, booked: ReadonlyMap<string, Booked>): Map<string, { id: string; atMs: number; amount: number }[]> {
  const histories = new Map<string, { id: string; atMs: number; amount: number }[]>()
  for (const [id, { records }] of booked) {
    const reservation = world.books.reservations.get(id)
    for (const check of reservation?.checks ?? []) {
      if (!check.ceilings.some((ceiling) => ceiling.limit === limit.name)) continue
      const slot = check.slots[check.at] ?? ''
      const base = slot.slice(0, slot.lastIndexOf('|') + 1)
      const amount = amountOf(limit.meter, records.at(-1)?.usage ?? {})
      const history = histories.get(base)
      if (history === undefined) histories.set(base, [{ id, atMs: timeOfId(id), amount }])
      else history.push({ id, atMs: timeOfId(id), amount })
    }
  }
  return histories
}
