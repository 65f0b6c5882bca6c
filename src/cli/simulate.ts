import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Config } from '../config/config.ts'
import { readCandidate, sideOf, stateOf, withoutChanged } from './candidate.ts'
import type { State } from './candidate.ts'
import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command, Input, Surroundings } from './command.ts'
import { configSource, readConfig } from './config-file.ts'
import { doorOptions, rowsOf, throughDoor } from './door.ts'
import type { Door } from './door.ts'
import { simulationText } from './simulation-text.ts'
import type { SimulationAnswer } from './simulation-text.ts'

type Answer = Omit<SimulationAnswer, 'candidate' | 'laid_over'>

interface Gathered {
  /** null: nobody was asked. */
  readonly state: State | null
  /** JSON lines, cut anywhere, of everything settled from an instant on (ms), and maybe more. */
  chunks(fromMs: number): AsyncIterable<Buffer>
}

export const simulateCommand: Command = {
  name: 'simulate', summary: 'recorded calls under other plans: who would have been refused, when and by which limit, and what everybody would have paid',
  options: [
    { flags: '--plan <file>', about: 'the candidate: a whole config, or a file with plans, prices, add_ons, meters or accounts, laid over the present one' },
    { flags: '--since <when>', about: 'calls from then on: an instant, or how long ago; 30d unless given, all of the file with --events' },
    { flags: '--events <path>', about: 'events as the file sink writes them (a file, or a folder of .ndjson files) instead of those that the gateway keeps' },
    { flags: '--store', about: 'with --events: take accounts, keys, subscriptions and grants of the store all the same' },
    { flags: '--account <account>', about: 'tell of this account only' },
    { flags: '--refusals', about: 'list each refused call' },
    jsonOption, ...doorOptions,
  ],
  examples: ['tallygate simulate --plan plans-2027.yaml', 'tallygate simulate --plan plans-2027.yaml --since 7d --account acme --refusals', 'tallygate simulate --plan plans-2027.yaml --events /var/lib/tallygate/events --json'],
  async run(input, around) {
    const current = await readConfig(input, around)
    const { candidate, laid } = await readCandidate(input.text('plan'), input, around)
    const events = input.text('events')
    const taken = events === undefined || input.flag('store')
    const inFile = events === undefined ? null : await bytesIn(events)
    const simulate = (given: Gathered): Promise<Answer> => simulated(input, around, current, candidate, given)
    const answer = inFile !== null && !taken ? await simulate({ state: null, chunks: () => inFile })
      : await throughDoor(input, around, async (door) => await simulate({ state: await stateOf(door), chunks: (fromMs) => inFile ?? eventsThrough(door, fromMs) }))
    const whole = { candidate: input.text('plan') ?? '', laid_over: laid ? configSource(input, around).file : null, ...answer }
    if (input.flag('json')) printJson(around, whole)
    else print(around, simulationText(whole, input.flag('refusals')))
    return 0
  },
}

async function simulated(input: Input, around: Surroundings, current: Config, candidate: Config, { state, chunks }: Gathered): Promise<Answer> {
  const [{ Simulation, warmUpMs }, { inOrderOfAdmission, LineTooLong }, { openingOf }, { providers }, { tokenizer }, { silentLog }] = await Promise.all([
    import('../simulation/simulation.ts'), import('../simulation/event-order.ts'), import('../books.ts'), import('../providers/index.ts'), import('../providers/tokenizer.ts'), import('../log.ts'),
  ])
  const { clock, random } = around
  const since = await sinceOf(input, around)
  const sides = { current: await sideOf(current, state ?? {}, around), candidate: await sideOf(candidate, withoutChanged(state ?? {}, current, candidate), around) }
  const simulation = new Simulation({
    ...sides,
    offer: {
      defaultEndpoints: new Set(providers.flatMap(({ endpoints }) => endpoints.filter(({ byDefault }) => byDefault).map(({ name }) => name))),
      countsExactly: (model, name) => (model?.encoding ?? null) !== null || tokenizer.encodingOf(model?.upstreamModel ?? name).known,
      forgetAfterMs: openingOf(candidate, { clock, random, log: silentLog }).forgetAfterMs,
    },
    sinceMs: since, account: input.text('account') ?? null, listed: input.flag('refusals'),
  })
  const lines = inOrderOfAdmission(chunks(since === null ? 0 : warmUpMs(sides.candidate, since)))
  let unreadable = 0
  try {
    for await (const batch of lines) {
      for (const line of batch) {
        const event = parsed(line)
        if (event === null) unreadable += 1
        else simulation.take(event)
      }
    }
  } catch (error) {
    throw error instanceof LineTooLong ? new CommandFailed(error.message) : error
  } finally {
    await Promise.all(Object.values(sides).map(({ close }) => close()))
  }
  const report = simulation.finish(unreadable + lines.unreadable)
  return { ...report, taken: state === null ? null : Object.fromEntries(Object.entries(state).map(([kind, documents]) => [kind, documents.length])) }
}

/** null: the line is no event. */
function parsed(line: Buffer): { readonly id: string; readonly time: string; readonly data: Readonly<Record<string, unknown>> } | null {
  try {
    const event = JSON.parse(line.toString('utf8')) as { id?: unknown; time?: unknown; data?: unknown } | null
    const { id, time, data } = event ?? {}
    return typeof id === 'string' && typeof time === 'string' && typeof data === 'object' && data !== null ? { id, time, data: data as Readonly<Record<string, unknown>> } : null
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

async function sinceOf(input: Input, around: Surroundings): Promise<number | null> {
  const { toPastMs } = await import('../admin/when.ts')
  const text = input.text('since') ?? (input.text('events') === undefined ? '30d' : undefined)
  return text === undefined ? null : toPastMs(text, '--since', around.clock.nowMs())
}

async function* eventsThrough(door: Door, fromMs: number): AsyncGenerator<Buffer> {
  let query: Record<string, string> = { since: new Date(Math.max(0, fromMs)).toISOString() }
  for (;;) {
    const answer = await door.ask('GET', '/api/v1/events', { query: { ...query, limit: '1000' } })
    const events = rowsOf(answer, 'events')
    if (events.length === 0) return
    yield Buffer.from(events.map(({ event }) => `${JSON.stringify(event)}\n`).join(''))
    if (typeof answer['next'] !== 'string') return
    query = { after: answer['next'] }
  }
}

async function bytesIn(path: string): Promise<AsyncIterable<Buffer>> {
  const { bytesOf } = await import('../simulation/event-order.ts')
  const found = await stat(path).catch((error: unknown) => {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
    throw new CommandFailed(`${path} cannot be read (${code})`)
  })
  if (!found.isDirectory()) return bytesOf([path])
  const files = (await readdir(path)).filter((name) => name.endsWith('.ndjson')).sort().map((name) => join(path, name))
  if (files.length === 0) throw new CommandFailed(`${path} has no file whose name ends with .ndjson`)
  return bytesOf(files)
}
