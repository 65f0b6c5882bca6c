import type { Clock } from '../clock.ts'
import type { WebhookConfig } from '../config/config.ts'
import type { Log } from '../log.ts'
import { matchesAny } from '../metering/glob.ts'
import { Memo } from '../metering/limits/counter.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import { signatureHeaders } from '../sinks/webhook-signature.ts'
import { SinkHttp } from '../sinks/http.ts'
import type { HttpAnswer } from '../sinks/http.ts'
import { DeliveryFailed } from '../sinks/sink.ts'
import { StoreUnavailable } from '../stores/store.ts'
import type { Fence, Outbox, Records } from '../stores/store.ts'
import { toNotice, toNoticeEvent } from './notice.ts'
import type { Notice } from './notice.ts'
import { noticeKinds } from './notice-book.ts'

export interface WebhookParts {
  readonly config: WebhookConfig
  readonly http: Pick<SinkHttp, 'send' | 'close'>
  readonly records: Records
  readonly outbox: Pick<Outbox, 'lease' | 'release'>
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Pick<Metrics, 'webhookDeliveries' | 'webhookWaiting' | 'webhookAge'>
  /** Names this process in the lease. */
  readonly holder: string
}

const connections = 4
/** Of an answer that says more than its status, which is nobody's business. */
const answerBytesMax = 65_536
const endedMemo = 10_000
const leaseMs = 30_000
const renewEveryMs = 10_000
/** While another delivers, this is how often the lease is asked for again. */
const elsewhereMs = 2_000
const measureEveryMs = 2_000
/** Longer than the wire waits for an answer. */
const attemptMs = 25_000
const attemptsTogether = 4
const firstWaitMs = 1_000
const longestWaitMs = 3_600_000
/** A notice that has not been taken so long after it was found is not sent any more. */
const givenUpMs = 3 * 86_400_000

/** The way to a receiver. It may be on a private network: the address is the operator's. */
export function webhookHttp(clock: Clock): SinkHttp {
  return new SinkHttp({ permitPrivate: true, connections }, { clock })
}

/** A notice on its way. */
interface Pending {
  readonly notice: Notice
  attempts: number
  nextMs: number
  running: boolean
}

/**
 * Notices → one receiver, each at least once, with the same id over all attempts. One process delivers at a time, under a lease; what was taken is written down after
 * each, so that whoever takes over sends again at most what was on its way.
 */
export class Webhook {
  readonly config: WebhookConfig
  readonly #parts: WebhookParts
  /** In metrics and the log: the host alone, and a part of the id, because the rest of a url may be a secret. */
  readonly #name: string
  readonly #pending = new Map<string, Pending>()
  /** Ids that are written down as done: the news of a notice may come after it was found and delivered. */
  readonly #ended = new Memo<string, true>(endedMemo)
  readonly #stop = new AbortController()
  readonly #attempts = new Set<Promise<void>>()
  #fence: Fence | null = null
  #fenceUntilMs = 0
  #unwatch: (() => void) | null = null
  #running: Promise<void> | null = null
  #stopMeasuring: () => void = () => {}
  /** Something has changed since the turn began. */
  #news = false
  #endPause: () => void = () => {}
  /** The receiver has asked to be left alone until then. */
  #quietUntilMs = 0
  #failures = 0

  constructor(parts: WebhookParts) {
    this.#parts = parts
    this.config = parts.config
    this.#name = `${new URL(parts.config.url).host} ${parts.config.id.slice(0, 6)}`
  }

  start(): void {
    // Series that alerts look at begin at 0.
    for (const outcome of ['delivered', 'failed', 'given_up']) this.#parts.metrics.webhookDeliveries.inc({ webhook: this.#name, outcome }, 0)
    this.#stopMeasuring = this.#parts.clock.every(measureEveryMs, () => this.#measure())
    this.#running = this.#run()
  }

  /** Cuts what is on its way; it is sent again by whoever delivers next. */
  async stop(): Promise<void> {
    this.#stop.abort()
    this.#wake()
    this.#stopMeasuring()
    await this.#running
    await Promise.allSettled(this.#attempts)
    this.#letGo()
    await this.#parts.http.close()
    // Left to run out when this fails: that only takes longer.
    if (this.#fence !== null) await this.#parts.outbox.release(this.#fence).catch(() => undefined)
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#parts
    while (!this.#stop.signal.aborted) {
      let pauseMs: number
      this.#news = false
      try {
        pauseMs = await this.#turn()
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) log.error({ webhook: this.#name, error: error instanceof Error ? error.message : 'unknown' }, 'notices cannot be delivered')
        pauseMs = elsewhereMs
      }
      if (this.#fence !== null && clock.nowMs() >= this.#fenceUntilMs) this.#lose()
      await this.#pause(pauseMs)
    }
  }

  /** Renews the lease and begins the attempts that are due. How long there is nothing to do then, ms. */
  async #turn(): Promise<number> {
    const { clock, outbox, holder } = this.#parts
    const nowMs = clock.nowMs()
    if (this.#fence === null || nowMs >= this.#fenceUntilMs - (leaseMs - renewEveryMs)) {
      const fence = await outbox.lease(`@webhook:${this.config.id}`, holder, nowMs, nowMs + leaseMs)
      if (fence === undefined) {
        this.#lose()
        return elsewhereMs
      }
      const taken = this.#fence?.token !== fence.token
      this.#fence = fence
      this.#fenceUntilMs = nowMs + leaseMs
      if (taken || this.#unwatch === null) await this.#take()
    }
    return this.#begin()
  }

  /** Everything that is not delivered yet, and from now on whatever comes. */
  async #take(): Promise<void> {
    const { records } = this.#parts
    this.#letGo()
    const sinceMs = await this.#since()
    const unwatch = records.watch(noticeKinds.notice, (id, value) => {
      const notice = value === undefined ? undefined : toNotice(id, value)
      if (notice !== undefined) this.#add(notice, sinceMs)
    })
    try {
      const own = `${this.config.id}/`
      const done = new Set((await records.list(noticeKinds.delivery)).filter(({ id }) => id.startsWith(own)).map(({ id }) => id.slice(own.length)))
      for (const { id, value } of await records.list(noticeKinds.notice)) {
        const notice = done.has(id) ? undefined : toNotice(id, value)
        if (notice !== undefined) this.#add(notice, sinceMs)
      }
      for (const id of done) this.#pending.delete(id)
    } catch (error) {
      unwatch()
      throw error
    }
    this.#unwatch = unwatch
  }

  /** A webhook is told of what happens from its first configuration on. */
  async #since(): Promise<number> {
    const { records, clock } = this.#parts
    const nowMs = clock.nowMs()
    const known = await records.get(noticeKinds.webhook, this.config.id)
    if (typeof known?.['since_ms'] === 'number') return known['since_ms']
    if (await records.swap(noticeKinds.webhook, this.config.id, known, { since_ms: nowMs })) return nowMs
    const other = await records.get(noticeKinds.webhook, this.config.id)
    return typeof other?.['since_ms'] === 'number' ? other['since_ms'] : nowMs
  }

  #add(notice: Notice, sinceMs: number): void {
    const { types, accounts } = this.config
    if (notice.atMs < sinceMs || this.#pending.has(notice.id) || this.#ended.get(notice.id) === true) return
    if ((types !== null && !types.includes(notice.type)) || (accounts !== null && !matchesAny(accounts, notice.account))) return
    this.#pending.set(notice.id, { notice, attempts: 0, nextMs: this.#parts.clock.nowMs(), running: false })
    this.#wake()
  }

  #begin(): number {
    const nowMs = this.#parts.clock.nowMs()
    const quietMs = this.#quietUntilMs - nowMs
    if (quietMs > 0) return Math.min(quietMs, renewEveryMs)
    let nextMs = nowMs + renewEveryMs
    for (const pending of this.#pending.values()) {
      if (pending.running) continue
      if (pending.nextMs > nowMs) nextMs = Math.min(nextMs, pending.nextMs)
      else if (this.#attempts.size < attemptsTogether) this.#attempt(pending)
      // The end of an attempt wakes.
      else break
    }
    return nextMs - nowMs
  }

  #attempt(pending: Pending): void {
    pending.running = true
    const attempt: Promise<void> = this.#deliver(pending).catch((error: unknown) => {
      // Taken, and not written down: sent again, under the same id.
      if (!(error instanceof StoreUnavailable)) this.#parts.log.error({ webhook: this.#name, error: error instanceof Error ? error.message : 'unknown' }, 'a notice could not be delivered')
      this.#later(pending, null)
    }).finally(() => {
      pending.running = false
      this.#attempts.delete(attempt)
      this.#wake()
    })
    this.#attempts.add(attempt)
  }

  async #deliver(pending: Pending): Promise<void> {
    const { clock, log, metrics, http } = this.#parts
    const { notice } = pending
    if (clock.nowMs() >= notice.atMs + givenUpMs) return await this.#giveUp(pending, 'it was not taken for three days')
    pending.attempts += 1
    const body = JSON.stringify(toNoticeEvent(notice))
    const headers = {
      ...this.config.headers, 'content-type': 'application/cloudevents+json; charset=utf-8', 'user-agent': 'tallygate', ...signatureHeaders(this.config.secrets, notice.id, Math.floor(clock.nowMs() / 1_000), body),
    }
    const attempt = new AbortController()
    const cancel = clock.after(attemptMs, () => attempt.abort(new Error('the receiver took too long')), { unref: true })
    let answer: HttpAnswer | null = null
    let why = ''
    try {
      answer = await http.send({ url: this.config.url, headers, body, answerMax: answerBytesMax, statusSuffices: true }, AbortSignal.any([this.#stop.signal, attempt.signal]))
    } catch (error) {
      why = error instanceof DeliveryFailed ? error.message : 'no answer'
    } finally {
      cancel()
    }
    if (answer !== null && answer.status >= 200 && answer.status < 300) {
      await this.#done(pending, 'delivered')
      metrics.webhookDeliveries.inc({ webhook: this.#name, outcome: 'delivered' })
      this.#failures = 0
      return
    }
    if (answer?.status === 410) return await this.#giveUp(pending, 'the receiver says that it is gone for good (410)')
    if (this.#stop.signal.aborted) return
    metrics.webhookDeliveries.inc({ webhook: this.#name, outcome: 'failed' })
    this.#failures += 1
    this.#later(pending, answer)
    const retryInMs = Math.max(pending.nextMs, this.#quietUntilMs) - clock.nowMs()
    if (this.#failures === 1 || this.#failures % 50 === 0) {
      log.warn({ webhook: this.#name, notice: notice.id, failures: this.#failures, status: answer?.status ?? null, why: answer === null ? why : 'status', retry_in_ms: Math.round(retryInMs) }, 'a notice was not taken; it is sent again')
    }
  }

  /** Later, by chance and by what the receiver asks for. */
  #later(pending: Pending, answer: HttpAnswer | null): void {
    const { clock, random } = this.#parts
    const nowMs = clock.nowMs()
    const longestMs = Math.min(longestWaitMs, firstWaitMs * 2 ** Math.min(pending.attempts, 20))
    pending.nextMs = nowMs + longestMs / 2 + (longestMs / 2) * random.fraction()
    const askedMs = answer === null || (answer.status !== 429 && answer.status !== 503) ? null : retryAfterMs(answer.headers['retry-after'] ?? null, nowMs)
    // Meant for all that we send, not for this alone.
    if (askedMs !== null) {
      this.#quietUntilMs = nowMs + Math.min(askedMs, longestWaitMs)
      pending.nextMs = this.#quietUntilMs
    }
  }

  async #giveUp(pending: Pending, why: string): Promise<void> {
    const { log, metrics } = this.#parts
    const { id, account, type, text } = pending.notice
    await this.#done(pending, 'given_up')
    metrics.webhookDeliveries.inc({ webhook: this.#name, outcome: 'given_up' })
    log.error({ webhook: this.#name, notice: id, account, type, attempts: pending.attempts, why }, `a notice is not sent any more: ${text}`)
  }

  async #done(pending: Pending, state: 'delivered' | 'given_up'): Promise<void> {
    await this.#parts.records.put(noticeKinds.delivery, `${this.config.id}/${pending.notice.id}`, { state, at_ms: this.#parts.clock.nowMs(), attempts: pending.attempts })
    this.#ended.set(pending.notice.id, true)
    this.#pending.delete(pending.notice.id)
  }

  /** Another delivers now, or may. */
  #lose(): void {
    this.#fence = null
    this.#letGo()
  }

  #letGo(): void {
    this.#unwatch?.()
    this.#unwatch = null
    this.#pending.clear()
  }

  #wake(): void {
    this.#news = true
    this.#endPause()
  }

  #measure(): void {
    const { metrics, clock } = this.#parts
    metrics.webhookWaiting.set({ webhook: this.#name }, this.#pending.size)
    let oldestMs = Infinity
    for (const { notice } of this.#pending.values()) oldestMs = Math.min(oldestMs, notice.atMs)
    metrics.webhookAge.set({ webhook: this.#name }, oldestMs === Infinity ? 0 : Math.max(0, clock.nowMs() - oldestMs) / 1_000)
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel()
        this.#endPause = () => {}
        resolve()
      }
      const cancel = this.#parts.clock.after(Math.max(1, ms), done, { unref: true })
      this.#endPause = done
      if (this.#stop.signal.aborted || this.#news) done()
    })
  }
}

/** Seconds, or a date of HTTP; null: neither. */
function retryAfterMs(text: string | null, nowMs: number): number | null {
  if (text === null) return null
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1_000
  const atMs = Date.parse(text)
  return Number.isNaN(atMs) ? null : Math.max(0, atMs - nowMs)
}
