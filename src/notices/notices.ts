import { isDeepStrictEqual } from 'node:util'
import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import type { Clock } from '../clock.ts'
import type { Config, NotificationsConfig } from '../config/config.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import { Delivery } from '../sinks/deliver.ts'
import type { Store } from '../stores/store.ts'
import { Announcer } from './announcer.ts'
import { NoticeBook } from './notice-book.ts'
import type { StoredPaces } from './paces.ts'
import { UseWatch, WATCHING, WATCH_NAME } from './use-watch.ts'
import { Webhook, webhookHttp } from './webhook.ts'

export interface NoticesParts {
  readonly store: Pick<Store, 'balances' | 'outbox' | 'records'>
  readonly directory: StoredKeyDirectory
  readonly paces: StoredPaces
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
}

const forgetEveryMs = 6 * 3_600_000
const paceKeptMs = 100 * 86_400_000

/** Consumers of the outbox that no sink is. */
export function noticeConsumers({ notifications }: Pick<Config, 'notifications'>): readonly string[] {
  return notifications === null ? [] : [WATCH_NAME]
}

/** Everything that tells somebody something. A reload touches only what changed. */
export class Notices {
  readonly #parts: NoticesParts
  readonly #book: NoticeBook
  readonly #announcer: Announcer
  readonly #webhooks = new Map<string, Webhook>()
  #watching: { readonly config: NotificationsConfig; readonly delivery: Delivery } | null = null
  #instance = 'tallygate'
  #announcing = false
  #stopForgetting: (() => void) | null = null
  /** Applying and stopping take turns. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(parts: NoticesParts) {
    this.#parts = parts
    const { store, directory, clock, log, random, metrics } = parts
    this.#book = new NoticeBook({ records: store.records, clock, random, log, metrics })
    this.#announcer = new Announcer({
      store, directory, book: this.#book, instance: () => this.#instance, clock,
      failed: (error) => log.warn({ why: error instanceof Error ? error.name : 'unknown' }, 'what ends soon could not be told; it will be tried again'),
    })
  }

  /** Tells what this config wants to be told. The outbox must know the consumers by then. */
  use({ notifications, instance }: Pick<Config, 'notifications' | 'instance'>): Promise<void> {
    return this.#inTurn(async () => {
      this.#instance = instance
      await this.#useWebhooks(notifications, instance)
      await this.#useWatch(notifications, instance)
      if (notifications === null) {
        this.#announcer.close()
        this.#announcing = false
      } else if (!this.#announcing) {
        this.#announcing = true
        this.#announcer.start()
      }
      this.#stopForgetting ??= this.#parts.clock.every(forgetEveryMs, () => { void this.#forget() })
    })
  }

  stop(): Promise<void> {
    return this.#inTurn(async () => {
      this.#stopForgetting?.()
      this.#stopForgetting = null
      this.#announcer.close()
      this.#announcing = false
      await this.#watching?.delivery.stop()
      this.#watching = null
      await Promise.all([...this.#webhooks.values()].map((webhook) => webhook.stop()))
      this.#webhooks.clear()
    })
  }

  async #useWebhooks(notifications: NotificationsConfig | null, holder: string): Promise<void> {
    const wanted = new Map((notifications?.webhooks ?? []).map((config) => [config.id, config]))
    for (const [id, webhook] of this.#webhooks) {
      if (isDeepStrictEqual(wanted.get(id), webhook.config)) continue
      this.#webhooks.delete(id)
      await webhook.stop()
    }
    const { store: { records, outbox }, clock, random, log, metrics } = this.#parts
    for (const [id, config] of wanted) {
      if (this.#webhooks.has(id)) continue
      const webhook = new Webhook({ config, http: webhookHttp(clock), records, outbox, clock, random, log, metrics, holder })
      this.#webhooks.set(id, webhook)
      webhook.start()
    }
  }

  async #useWatch(config: NotificationsConfig | null, instance: string): Promise<void> {
    const { store, directory, paces, clock, random, log, metrics } = this.#parts
    if (this.#watching !== null && isDeepStrictEqual(this.#watching.config, config)) return
    await this.#watching?.delivery.stop()
    this.#watching = null
    if (config === null) return
    const sink = new UseWatch({ store, directory, book: this.#book, paces, config, instance, clock, log })
    const delivery = new Delivery({ name: WATCH_NAME, kind: WATCHING, mapping: null, sink, outbox: store.outbox, clock, random, log, metrics, holder: instance })
    this.#watching = { config, delivery }
    delivery.start()
  }

  async #forget(): Promise<void> {
    const { log, paces, clock } = this.#parts
    try {
      await this.#book.forget()
      await paces.forget(clock.nowMs() - paceKeptMs)
    } catch (error) {
      // There are other times.
      log.warn({ why: error instanceof Error ? error.name : 'unknown' }, 'old notices could not be removed; it will be tried again')
    }
  }

  #inTurn(task: () => Promise<void>): Promise<void> {
    const result = this.#last.then(task)
    this.#last = result.catch(() => undefined)
    return result
  }
}
