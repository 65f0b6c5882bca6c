import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { AdminRequest } from '../admin/admin-api.ts'
import type { Address, Config } from '../config/config.ts'
import { CommandFailed } from './command.ts'
import type { Input, Option, Surroundings } from './command.ts'
import { BadConfig, configOption, configSource, readConfig } from './config-file.ts'
import type { GatewayPlace } from './gateway-place.ts'

export const doorOptions: readonly Option[] = [configOption]

/** The way to the admin API: over HTTP to a gateway that runs, or right here over a store that this command has opened. */
export interface Door {
  /** Gives the answer's body; throws CommandFailed with what the API said. */
  ask(method: 'GET' | 'POST' | 'DELETE', path: string, given?: { query?: Readonly<Record<string, string>>; body?: Readonly<Record<string, unknown>> }): Promise<Answer>
  /** True: a gateway answers. */
  readonly running: boolean
  close(): Promise<void>
}

export type Answer = Readonly<Record<string, unknown>>

/** What a running gateway leaves in the data folder for commands, readable by its owner only. */
export interface DoorPlate {
  readonly pid: number
  readonly address: string
  readonly token: string
}

export const doorPlateFile = 'gateway.json'

/** Opens the door, uses it, closes it. */
export async function throughDoor<T>(input: Input, around: Surroundings, use: (door: Door) => Promise<T>): Promise<T> {
  const door = await openDoor(input, around)
  try {
    return await use(door)
  } finally {
    await door.close()
  }
}

async function openDoor(input: Input, around: Surroundings): Promise<Door> {
  let config: Config
  try {
    config = await readConfig(input, around)
  } catch (error) {
    if (!(error instanceof BadConfig)) throw error
    return await doorDespite(error, input, around)
  }
  return (await remoteDoor({ store: config.store, adminListen: config.admin.listen }, around)) ?? (await ownDoor(config, around))
}

/** A gateway that runs has the config of before the mistakes: what is urgent can be done there all the same. */
async function doorDespite(mistakes: BadConfig, input: Input, around: Surroundings): Promise<Door> {
  const source = configSource(input, around)
  const { placeDespiteMistakes } = await import('./gateway-place.ts')
  const place = placeDespiteMistakes(source)
  const door = place === undefined ? undefined : await remoteDoor(place, around)
  if (door === undefined) throw mistakes
  const count = `${mistakes.mistakes} mistake${mistakes.mistakes === 1 ? '' : 's'}`
  around.stderr.write(`${source.file} has ${count}, and the gateway goes on with what it had; see tallygate check\n`)
  return door
}

async function remoteDoor({ store, adminListen }: GatewayPlace, around: Surroundings): Promise<Door | undefined> {
  const plate = store.kind === 'embedded' ? await readPlate(store.dir) : undefined
  const given = around.env['TALLYGATE_ADMIN_TOKEN'] ?? ''
  // An embedded store has one gateway, and that one left its address; anybody else on the port is not ours.
  if (store.kind === 'embedded' && plate === undefined) return undefined
  const base = plate?.address ?? (adminListen === null ? undefined : addressOf(adminListen))
  if (base === undefined) return undefined
  // Whoever knows the plate's token is the gateway that left it: nobody else is shown the one that was given.
  if (plate !== undefined && (await call(`${base}/api/v1/config`, { headers: bearer(plate.token) }))?.status !== 200) return undefined
  // What was given is meant: a viewer's does what a viewer may.
  const headers = bearer(given === '' ? plate?.token ?? '' : given)
  const probe = await call(`${base}/api/v1/config`, { headers })
  if (probe === undefined) return undefined
  if (probe.status === 401 || probe.status === 403) {
    if (given === '') throw new CommandFailed(`the gateway at ${base} wants an admin token: set TALLYGATE_ADMIN_TOKEN`)
    throw new CommandFailed(`the gateway at ${base} does not accept the token in TALLYGATE_ADMIN_TOKEN${plate === undefined ? '' : '; without that variable a command has the token of gateway.json'}`)
  }
  return {
    running: true,
    async ask(method, path, { query = {}, body } = {}) {
      const search = new URLSearchParams(query).toString()
      const response = await call(`${base}${path}${search === '' ? '' : `?${search}`}`, {
        method, headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) }, ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
      if (response === undefined) throw new CommandFailed(`the gateway at ${base} does not answer any more`)
      const answer: unknown = await response.json().catch(() => null)
      if (typeof answer !== 'object' || answer === null) throw new CommandFailed(`the gateway at ${base} answered ${response.status} without JSON`)
      if (!response.ok) throw failure(response.status, answer as Answer)
      return answer as Answer
    },
    close: () => Promise.resolve(),
  }
}

function addressOf({ host, port }: Address): string {
  const shownHost = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  return `http://${shownHost.includes(':') ? `[${shownHost}]` : shownHost}:${port}`
}

function bearer(token: string): Record<string, string> {
  return token === '' ? {} : { authorization: `Bearer ${token}` }
}

async function ownDoor(config: Config, around: Surroundings): Promise<Door> {
  if (config.store.kind === 'memory') throw new CommandFailed('no gateway runs, and a store in memory is gone with its gateway: there is nothing to look at or change')
  const [{ openBooks, BooksUnavailable }, { answerAdmin }, { toProblem }, { silentLog }, { Metrics }] = await Promise.all([
    import('../books.ts'), import('../admin/admin-api.ts'), import('../admin/problem.ts'), import('../log.ts'), import('../metrics.ts'),
  ])
  const { clock, random, stdout } = around
  const books = await openBooks(config, { clock, random, stdout, log: silentLog, metrics: new Metrics() }).catch((error: unknown) => {
    throw error instanceof BooksUnavailable ? new CommandFailed(error.message) : error
  })
  const parts = books.adminParts(() => config, null)
  return {
    running: false,
    async ask(method, path, { query = {}, body = {} } = {}) {
      const request: AdminRequest = { method, path, query, body, caller: { name: 'cli', role: 'admin' }, gone: () => false }
      try {
        // Through JSON, so that a command sees the very same as from a gateway.
        return JSON.parse(JSON.stringify((await answerAdmin(request, parts)).body)) as Answer
      } catch (error) {
        const problem = toProblem(error)
        if (problem === undefined) throw error
        throw failure(problem.status, problem.toDocument())
      }
    },
    close: () => books.close(),
  }
}

function failure(status: number, problem: Answer): CommandFailed {
  const { detail, problems } = problem
  const lines = Array.isArray(problems) ? (problems as unknown[]).map((each) => `\n  ${String(each)}`).join('') : ''
  // The API speaks of its fields; here they are options.
  const sentence = typeof detail === 'string' ? detail.replace(/^(?:body|query)\.(\w+)/, (_, name: string) => `--${name.replaceAll('_', '-')}`) : `the gateway answered ${status}`
  return new CommandFailed(`${sentence}${lines}`, status === 400 || status === 422 ? 2 : 1)
}

/** undefined: nobody listens there. */
async function call(url: string, init: RequestInit): Promise<Response | undefined> {
  try {
    return await fetch(url, { ...init, redirect: 'manual' })
  } catch (error) {
    // `fetch` throws a TypeError for whatever keeps it from an answer.
    if (error instanceof TypeError) return undefined
    throw error
  }
}

async function readPlate(dir: string): Promise<DoorPlate | undefined> {
  let text: string
  try {
    text = await readFile(join(dir, doorPlateFile), 'utf8')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    if (code === 'EACCES') throw new CommandFailed(`${join(dir, doorPlateFile)} may not be read by this user: run the command as the user of the gateway`)
    throw error
  }
  try {
    const { pid, address, token } = JSON.parse(text) as Partial<DoorPlate>
    return typeof pid === 'number' && typeof address === 'string' && typeof token === 'string' ? { pid, address, token } : undefined
  } catch (error) {
    // Half a file of a gateway that was killed while it wrote: nobody is behind it.
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

/** A list in an answer. */
export function rowsOf(answer: Answer, name: string): Answer[] {
  const value = answer[name]
  return Array.isArray(value) ? (value as Answer[]) : []
}

export function cell(row: Answer, name: string): string | number | null {
  const value = row[name]
  if (typeof value === 'string' || typeof value === 'number') return value
  return typeof value === 'boolean' ? (value ? 'yes' : 'no') : null
}
