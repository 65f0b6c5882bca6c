// test: timeout 180 s
// What a simulation says of a recorded month is what a live gateway does with the same calls under that plan: call by call, limit by limit.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { systemClock } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import type { UsageEvent } from '../../src/metering/event.ts'
import { providers } from '../../src/providers/index.ts'
import { bytesOf, inOrderOfAdmission } from '../../src/simulation/event-order.ts'
import { systemRandom } from '../../src/random.ts'
import { Simulation, type SimulationReport } from '../../src/simulation/simulation.ts'
import { file as fileSink } from '../../src/sinks/file.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { SeededRandom } from '../sim/seeded-random.ts'
import { configured, ordinalOf, plannedCalls, record, type PlannedCall, type SeenRefusal } from './month.ts'

const accounts = `
accounts:
  group: { plan: parent, billing: { timezone: America/New_York } }
  acme: { plan: team, parent: group, billing: { timezone: Europe/Berlin, anchor: 2026-01-31 } }
  lab: { plan: research, billing: { timezone: Asia/Kolkata } }
keys:
  - { id: acme-a, account: acme, secret: sk-of-this-very-month-acme-a, end_user_from: body:user }
  - { id: acme-b, account: acme, secret: sk-of-this-very-month-acme-b, limits: [{ name: own, meter: requests, limit: OWN, window: 1h }] }
  - { id: lab, account: lab, secret: sk-of-this-very-month-lab }
  - { id: solo, plan: single, secret: sk-of-this-very-month-solo }
`
const prices = '{ currency: USD, version: v1, models: { "*": { input_tokens: 1/M, cached_input_tokens: 0.5/M, output_tokens: 4/M } } }'
const generous = `
plans:
  parent: { limits: [] }
  team: { prices: ${prices}, policy: { output_default: 1200 }, limits: [{ name: daily, meter: total_tokens, limit: 100M, window: day }] }
  research: { prices: ${prices}, policy: { output_default: 1500 } }
  single: { prices: ${prices} }
`

/** Ceilings are drawn, so that each seed is another plan. */
function strict(random: SeededRandom): string {
  const between = (least: number, most: number): number => random.int(least, most)
  return `
plans:
  parent: { limits: [{ name: all, meter: output_tokens, limit: ${between(20_000, 80_000)}, window: week }, { name: burst, meter: requests, limit: ${between(6, 12)}, window: 30s }] }
  team:
    prices: ${prices}
    policy: { output_default: ${between(300, 1200)}, clamp_floor: 50, wait: ${random.pick(['0s', '2s'])} }
    entitlements: { max_output_tokens: 800 }
    limits:
      - { name: daily, meter: total_tokens, limit: ${between(8_000, 20_000)}, window: day }
      - { name: monthly, meter: cost, limit: ${between(40, 150) / 100}, window: billing_period }
      - { name: rpm, meter: requests, limit: ${between(4, 8)}, window: 1m, per: key }
      - { name: tpm, meter: total_tokens, limit: ${between(2_500, 6_000)}, window: 1m }
      - { name: person, meter: requests, limit: ${between(3, 6)}, window: 10m, kind: fixed, per: end_user }
      - { name: parallel, meter: concurrency, limit: ${between(1, 4)} }
      - { name: tried, meter: requests, limit: 5, window: day, mode: shadow }
  research:
    prices: ${prices}
    policy: { on_insufficient: refuse, output_default: 700 }
    entitlements: { models: [small, large], max_context_tokens: ${between(900, 3_000)} }
    limits:
      - { name: calls, meter: requests, limit: ${between(4, 9)}, window: hour }
      - { name: tokens, meter: input_tokens, limit: ${between(1_500, 6_000)}, window: day, each: model }
      - { name: thinking, meter: reasoning_tokens, limit: 100k, window: month }
      - { name: rolling, meter: total_tokens, limit: ${between(3_000, 9_000)}, window: 24h, overdraft: 10% }
  single:
    prices: ${prices}
    limits:
      - { name: life, meter: requests, limit: ${between(150, 300)}, window: lifetime }
      - { name: spend, meter: cost, limit: ${between(2, 9) / 100}, window: day }
      - { name: chats, meter: output_tokens, limit: ${between(1_000, 3_000)}, window: 1h, for: { endpoints: [chat.completions] } }
`
}

async function simulate(current: Config, candidate: Config, events: readonly Pick<UsageEvent, 'id' | 'time' | 'data'>[]): Promise<SimulationReport> {
  const sides = []
  for (const config of [current, candidate]) {
    const store = await openMemory({ clock: systemClock, forgetAfterMs: 0, hotMs: 0 })
    sides.push({ config, directory: await StoredKeyDirectory.open(store.records, config, systemClock), store })
  }
  const [now, then] = sides as [(typeof sides)[number], (typeof sides)[number]]
  const simulation = new Simulation({
    current: now, candidate: then, sinceMs: null, account: null, listed: true,
    offer: { defaultEndpoints: new Set(providers.flatMap(({ endpoints }) => endpoints.filter(({ byDefault }) => byDefault).map(({ name }) => name))), countsExactly: () => false, forgetAfterMs: 7_200_000 },
  })
  for (const event of events) simulation.take(event)
  const report = simulation.finish()
  for (const { directory, store } of sides) {
    directory.close()
    await store.close()
  }
  return report
}

const inOrder = (events: readonly UsageEvent[]): UsageEvent[] => [...events].sort((one, other) => (one.time < other.time ? -1 : one.time > other.time ? 1 : one.id < other.id ? -1 : 1))

function named(report: SimulationReport, events: readonly UsageEvent[]): readonly SeenRefusal[] {
  const ordinals = new Map(events.map(({ id, data }) => [id, ordinalOf(data)]))
  return (report.refusals ?? []).map(({ id, limit, reason }) => ({ ordinal: ordinals.get(id) ?? -1, limit, reason })).sort((one, other) => one.ordinal - other.ordinal)
}

const seeds = (process.env['SIMULATION_SEEDS'] ?? '1,2,3,4,5,6').split(',').map(Number)
const count = Number(process.env['SIMULATION_CALLS'] ?? 1_500)
const reasons = new Map<string, number>()

for (const seed of seeds) {
  t.test(`seed ${seed}: the simulation names exactly the calls that a live gateway refuses under the plan, each by the same limit and for the same reason`, async (t) => {
    const random = new SeededRandom(seed, 'plan')
    const own = accounts.replace('OWN', String(random.int(3, 9)))
    const before = configured(generous, accounts.replace('OWN', '1M'))
    const after = configured(strict(random), own)
    const calls: readonly PlannedCall[] = plannedCalls(seed, count)
    const recorded = await record(before, calls, seed)
    const live = await record(after, calls, seed + 1_000)
    t.same(recorded.refusals, [], 'the recording plan refuses nothing')
    t.equal(recorded.events.length, calls.length)
    const events = inOrder(recorded.events)
    const report = await simulate(before, after, events)
    for (const { reason } of live.refusals) reasons.set(reason, (reasons.get(reason) ?? 0) + 1)
    t.ok(live.refusals.length > 100 && live.served > 100, `${live.refusals.length} refused, ${live.served} served`)
    t.strictSame(named(report, events), live.refusals)
    t.equal(report.refused, live.refusals.length)
    t.equal(report.guessed, 0, 'nothing was guessed')

    // What was served was used alike: the same money, the same lowered bounds, the same shadows.
    const lowered = live.events.filter(({ data }) => data['output_bound'] !== undefined)
    t.equal(report.clamped, lowered.length, `${lowered.length} bounds lowered`)
    const nanos = live.events.filter(({ data }) => data['account'] === 'acme').reduce((sum, { data }) => sum + BigInt(String(data['cost']).replace('.', '')), 0n)
    const acme = report.accounts.find(({ account }) => account === 'acme')
    t.equal(acme?.revenue[0]?.after.usage.replace('.', '').replace(/^0+(?=\d)/, ''), String(nanos))
    t.equal(acme?.shadow['tried'] ?? 0, live.events.filter(({ data }) => ((data['shadow'] ?? []) as string[]).includes('tried')).length)
    t.same(report.boundaries.problems, [])

    t.strictSame((await simulate(before, before, events)).refusals, [], 'the plan that was in force refuses nothing of what it let in')
    t.strictSame((await simulate(after, after, inOrder(live.events))).refusals, [], 'nor does the other one')
  })
}

t.test('every kind of refusal was there', async (t) => {
  t.same(['capacity_reserved', 'concurrency_limit', 'feature_unavailable', 'rate_limited', 'request_too_large', 'usage_limit_reached'].filter((reason) => !reasons.has(reason)), [], JSON.stringify([...reasons]))
})

t.test('from the file that a file sink wrote, in whatever order its lines are, the same is named', async (t) => {
  const dir = tmpDir(t)
  const before = configured(generous, accounts.replace('OWN', '1M'))
  const after = configured(strict(new SeededRandom(7, 'plan')), accounts.replace('OWN', '5'))
  const calls = plannedCalls(7, 600)
  const recorded = await record(before, calls, 7)
  const live = await record(after, calls, 8)
  const sink = await fileSink.open('file', { path: join(dir, 'events.ndjson'), max_bytes: 1e9, daily: false, keep: null }, { clock: systemClock, random: systemRandom, stdout: process.stdout, instance: 'test' })
  const written = recorded.events.map((event) => ({ is: 'event', id: event.id, timeMs: Date.parse(event.time), event }) as const)
  await sink.deliver(written.slice(0, 300), new AbortController().signal)
  await sink.deliver(written.slice(300), new AbortController().signal)
  await sink.close()
  const lines = recorded.events.map((event) => JSON.stringify(event)).sort((one, other) => (one.slice(-40) < other.slice(-40) ? -1 : 1))
  writeFileSync(join(dir, 'shuffled.ndjson'), `${lines.join('\n')}\nno event\n`)
  for (const [file, atOnce] of [['events.ndjson', 1 << 26], ['shuffled.ndjson', 1 << 26], ['shuffled.ndjson', 50_000]] as const) {
    const ordered = inOrderOfAdmission(bytesOf([join(dir, file)]), atOnce)
    const events: UsageEvent[] = []
    for await (const batch of ordered) for (const line of batch) events.push(JSON.parse(line.toString('utf8')) as UsageEvent)
    t.same(events.map(({ time }) => time), inOrder(recorded.events).map(({ time }) => time), `${file}, ${atOnce} bytes at once`)
    t.equal(ordered.unreadable, file === 'shuffled.ndjson' ? 1 : 0)
    t.strictSame(named(await simulate(before, after, events), events), live.refusals)
  }
})
