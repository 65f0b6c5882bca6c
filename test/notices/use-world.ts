// Books in memory with a clock of the test's, keys of a YAML text, and calls that are settled with an amount.

import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import type { Clock } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { loadConfig } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'
import { silentLog } from '../../src/log.ts'
import type { Log } from '../../src/log.ts'
import { toUsageEvent } from '../../src/metering/event.ts'
import type { OutboxRecord } from '../../src/metering/event.ts'
import { draftStanding } from '../../src/metering/reservation.ts'
import { Metrics } from '../../src/metrics.ts'
import type { Notice } from '../../src/notices/notice.ts'
import { NoticeBook, listNotices } from '../../src/notices/notice-book.ts'
import { StoredPaces } from '../../src/notices/paces.ts'
import { UseWatch } from '../../src/notices/use-watch.ts'
import { systemRandom } from '../../src/random.ts'
import type { SinkRecord } from '../../src/sinks/sink.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Position, Store } from '../../src/stores/store.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { eventBody, newId, skeleton } from '../stores/sample-moves.ts'

export interface UseWorld {
  readonly store: Store
  readonly directory: StoredKeyDirectory
  readonly clock: Clock
  readonly book: NoticeBook
  readonly paces: StoredPaces
  set(atMs: number): void
  /** Another configuration is in use from now on. */
  configure(yaml: string): Promise<void>
  /** A call of a key that used this much of each limit's meter, admitted now or then; with an end user and a model. */
  use(key: string, amount: number, more?: { atMs?: number; model?: string; endUser?: string }): Promise<void>
  /** Another watch, of another gateway or after a restart. */
  watch(log?: Log): UseWatch
  /** What is new in the outbox is looked at; gives the notices that this brought. */
  look(watch: UseWatch): Promise<readonly Notice[]>
  all(): Promise<readonly Notice[]>
}

export function readConfig(yaml: string): Config {
  const { config, problems } = loadConfig({ file: 'test.yaml', text: yaml, env: {}, hostName: 'test' })
  if (config === null) throw new Error(problems.map(toText).join('\n'))
  return config
}

/** `keys` of the YAML are added: `dev` and `ci` of acme, `kid` of the account team, where there are such accounts. */
export async function openUseWorld(t: Teardown, yaml: string, startMs: number): Promise<UseWorld> {
  let nowMs = startMs
  const clock: Clock = {
    nowMs: () => nowMs, monotonicMs: () => nowMs, every: () => () => undefined, sleep: () => Promise.resolve(),
    after(_ms, task) {
      const timer = setImmediate(task)
      return () => { clearImmediate(timer) }
    },
  }
  let config = withKeys(readConfig(yaml))
  const store = await openMemory({ clock, forgetAfterMs: 7_200_000, hotMs: 86_400_000 })
  const directory = await StoredKeyDirectory.open(store.records, config, clock)
  const paces = await StoredPaces.open(store.records)
  const book = new NoticeBook({ records: store.records, clock, random: systemRandom, log: silentLog, metrics: new Metrics() })
  t.teardown(() => store.close())
  let position: Position | null = null
  const all = (): Promise<readonly Notice[]> => listNotices(store.records, { account: null, type: null, sinceMs: 0 })
  return {
    store, directory, clock, book, paces, all,
    set: (atMs) => { nowMs = atMs },
    async configure(text) {
      config = withKeys(readConfig(text))
      directory.use(await directory.prepare(config, clock))
    },
    async use(key, amount, { atMs = nowMs, model = 'small', endUser } = {}) {
      const principal = directory.principalOf(key, atMs)
      if (principal === undefined) throw new Error(`no key ${key}`)
      const draft = draftStanding(principal, directory.config.plans, atMs, { model, endUser: endUser ?? null })
      const id = newId(atMs)
      const body = { ...skeleton, account: principal.account.id, key, model, caller: { ...skeleton.caller, ...(endUser === undefined ? {} : { end_user: endUser }) } }
      const move = { id, nowMs, home: principal.home, checks: draft.checks }
      const answer = await store.settle({ ...move, amounts: draft.checks.map(() => amount), usage: { requests: 1 }, event: { ...eventBody, ...body } })
      if (!answer.outcome.startsWith('settled')) throw new Error(answer.outcome)
    },
    watch: (log = silentLog) => new UseWatch({ store, directory, book, paces, config: config.notifications!, instance: 'test', clock, log }),
    async look(watch) {
      const before = new Set((await all()).map(({ id }) => id))
      const entries = await store.outbox.scan(position, 1_000)
      if (entries.length > 0) await watch.deliver(entries.map(({ record }) => delivered(record)), new AbortController().signal)
      position = entries.at(-1)?.position ?? position
      return (await all()).filter(({ id }) => !before.has(id))
    },
  }
}

function withKeys(config: Config): Config {
  const key = (id: string, account: string): Config['keys'][number] => ({
    id, hash: hashOfSecret(id), account, plan: null, limits: [], entitlements: {}, labels: {}, expiresMs: null, endUserFrom: null, where: 'test',
  })
  const ids = new Set(config.keys.map(({ id }) => id))
  const added = [key('dev', 'acme'), key('ci', 'acme'), key('kid', 'team')].filter(({ id, account }) => !ids.has(id) && config.accounts.has(account ?? ''))
  return { ...config, keys: [...config.keys, ...added] }
}

/** As the delivery loop hands it over. */
export function delivered(record: OutboxRecord): SinkRecord {
  const event = toUsageEvent(record)
  return { is: 'event', id: event.id, timeMs: Date.parse(event.time), event }
}
