import { setTimeout as sleep } from 'node:timers/promises'
import { waitFor } from '../fixtures/wait-for.ts'
import type { CountingModel } from './counting-model.ts'
import { countsTokens, keyOf, type Cell } from './entitlement.ts'
import { usageLines, type Fleet } from './fleet.ts'
import { fillToTheLastUnit } from './last-unit.ts'
import { runLoad, type Answers, type Load } from './load.ts'
import { linesOf, over, sameBooks, sumOf, worst, type Booked, type OutsideBooks, type Over } from './outside-books.ts'

/** What came of one run, judged from outside: by the callers, the model, Redis and the file. */
export interface Measured {
  readonly gateways: number
  readonly callers: number
  readonly answers: Answers
  readonly calls: number
  /** Calls that the model was asked for. */
  readonly admitted: number
  readonly completed: number
  /** Refusals by reason. */
  readonly refused: ReadonlyMap<string, number>
  /** Neither completed nor refused by a limit: no gateway answered, it could not meter (503), it was cut. */
  readonly failed: { readonly unanswered: number; readonly unmetered: number; readonly cut: number }
  readonly used: Booked
  /** Most calls of the load that were open at the model at one time. */
  readonly peak: number
  readonly over: Over
  /** How often the counters were looked at while it ran. */
  readonly looks: number
  readonly refusedThoughFitting: number
  readonly left: number
  readonly lost: number
  readonly doubled: number
  /** Completed answers that were billed otherwise than the model counted. */
  readonly misbilled: number
  readonly booksAgree: boolean
  readonly seconds: number
  readonly notes: readonly string[]
}

export interface Measurement {
  readonly fleet: Fleet
  readonly model: CountingModel
  readonly books: OutsideBooks
  readonly cell: Cell
  readonly load: Load
  readonly random: () => number
  /** Disturbs while the load runs, until it is told that it is over. */
  readonly faults?: (running: () => boolean) => Promise<void>
  /** How long reservations and events may take to be settled afterwards, ms. */
  readonly patienceMs?: number
}

/** How often Redis is asked for the counters. */
const lookEveryMs = 20
/** A lease, one more until somebody may sweep, and what a gateway needs to start and to notice. */
const afterFaultsMs = 60_000

export async function measure({ fleet, model, books, cell, load, random, faults, patienceMs = faults === undefined ? 20_000 : afterFaultsMs }: Measurement): Promise<Measured> {
  const startedAt = performance.now()
  const notes: string[] = []
  const spent = model.spent(cell.name)
  let exceeded: Over = new Map()
  let looks = 0
  let running = true
  const looking = (async () => {
    while (running) {
      try {
        const { used, held } = await books.look(cell)
        looks += 1
        exceeded = worst(exceeded, over(cell, {
          run: used.run + held.run, rest: used.rest + held.rest, tokens: used.tokens + held.tokens, cost: used.cost + held.cost, parallel: used.parallel + held.parallel,
        }))
      } catch (error) {
        // Redis is away, as it has to be in some runs.
        if (faults === undefined) notes.push(String(error))
      }
      await sleep(lookEveryMs)
    }
  })()
  let loading = true
  const disturbing = faults?.(() => loading)
  const { results, misjudged } = await runLoad(fleet, cell, load, random, spent)
  loading = false
  await disturbing
  const admitted = spent.answers.size
  const peak = spent.peak

  const nothingLeft = async (): Promise<boolean> => await books.left(cell).catch(() => 1) === 0
  await waitFor('every reservation to be let go', nothingLeft, { deadlineMs: patienceMs, everyMs: 100 }).catch((error: unknown) => notes.push(String(error)))
  // Settlements that waited on a gateway's disk come last.
  let events = await books.events(cell)
  if (faults !== undefined) {
    for (let same = 0; same < 10;) {
      await sleep(300)
      const now = await books.events(cell)
      same = now.ids.length === events.ids.length ? same + 1 : 0
      events = now
    }
  }
  const last = await fillToTheLastUnit(fleet, cell, model, books)
  notes.push(...last.notes)
  await waitFor('every reservation to be let go', nothingLeft, { deadlineMs: 20_000, everyMs: 50 }).catch((error: unknown) => notes.push(String(error)))
  running = false
  await looking
  const left = await books.left(cell)

  events = await books.events(cell)
  const fileHasAll = (): boolean => linesOf(cell, usageLines(fleet.dir)).length >= events.ids.length
  await waitFor('the file to have every event', fileHasAll, { deadlineMs: 40_000, everyMs: 200 }).catch((error: unknown) => notes.push(String(error)))
  const lines = linesOf(cell, usageLines(fleet.dir))
  const counters = (await books.look(cell)).used
  const inFile = sumOf(cell, lines)
  const all = [...results, ...last.results]
  const completed = all.filter((one) => one.complete)
  const booksAgree = sameBooks(counters, inFile) && sameBooks(events.booked, inFile)
  if (!booksAgree) notes.push(`counters ${JSON.stringify(counters)}, events ${JSON.stringify(events.booked)}, file ${JSON.stringify(inFile)}`)

  // Without faults the model has spent nothing that is not to be billed; with them, what it completed for somebody.
  const served = new Set(completed.map((one) => one.tag))
  const byModel = { run: 0, rest: 0, tokens: 0, cost: 0 }
  for (const answer of spent.answers.values()) {
    if (faults !== undefined && !served.has(answer.tag)) continue
    byModel[answer.key === keyOf(cell, 'run') ? 'run' : 'rest'] += 1
    if (countsTokens(answer.model)) byModel.tokens += answer.inputTokens + answer.outputTokens
    byModel.cost += answer.cost
  }
  if (faults === undefined && !sameBooks(byModel, inFile)) notes.push(`the model has spent ${JSON.stringify(byModel)}, the file says ${JSON.stringify(inFile)}`)
  const parallel = Math.max(peak, spent.peak)
  for (const used of [byModel, inFile, counters]) exceeded = worst(exceeded, over(cell, { ...used, parallel }))
  if (last.beyond > 0) exceeded.set('last', last.beyond)

  const byId = Map.groupBy(lines, (line) => line.id)
  let lost = 0
  let misbilled = 0
  for (const { tag, requestId } of completed) {
    const line = byId.get(requestId ?? '')?.[0]
    const truth = spent.answers.get(tag)
    if (line === undefined) lost += 1
    else if (truth === undefined || line.data.end !== 'complete' || line.data.input_tokens !== truth.inputTokens || line.data.output_tokens !== truth.outputTokens) misbilled += 1
  }
  lost += events.ids.filter((id) => !byId.has(id.replace(/\.late\.\d+$/, '.late'))).length
  const doubled = lines.length - byId.size + events.ids.length - new Set(events.ids).size + completed.length - new Set(completed.map((one) => one.requestId)).size

  const refused = new Map<string, number>()
  for (const one of results) if (one.status === 429) refused.set(one.reason ?? 'none', (refused.get(one.reason ?? 'none') ?? 0) + 1)
  return {
    gateways: fleet.gateways.length, callers: load.callers, answers: load.answers, calls: results.length, admitted, completed: results.filter((one) => one.complete).length, refused,
    failed: {
      unanswered: results.filter((one) => one.status === 0).length, unmetered: results.filter((one) => one.status === 503).length,
      cut: results.filter((one) => one.status === 200 && !one.complete).length,
    },
    used: inFile, peak, over: exceeded, looks,
    refusedThoughFitting: misjudged + last.wrongly, left, lost, doubled, misbilled, booksAgree: booksAgree && (faults !== undefined || sameBooks(byModel, inFile)),
    seconds: (performance.now() - startedAt) / 1000, notes,
  }
}

/** What is not as it has to be, in words; nothing: all is. */
export function missed(row: Measured): string[] {
  return [
    ...[...row.over].map(([limit, amount]) => `${limit} exceeded by ${amount}`),
    ...(row.refusedThoughFitting > 0 ? [`${row.refusedThoughFitting} refused although they fit`] : []),
    ...(row.left > 0 ? [`${row.left} still reserved`] : []),
    ...(row.lost > 0 ? [`${row.lost} events lost`] : []),
    ...(row.doubled > 0 ? [`${row.doubled} events doubled`] : []),
    ...(row.misbilled > 0 ? [`${row.misbilled} answers billed otherwise than the model counted`] : []),
    ...(row.booksAgree ? [] : ['counters, events and file differ']),
    ...(row.completed === 0 || row.looks === 0 ? ['nothing was measured'] : []),
  ]
}

