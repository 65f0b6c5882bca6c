import type { Clock } from '../clock.ts'
import type { NoticeType } from '../config/config.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import type { Records } from '../stores/store.ts'
import { toNotice, toNoticeDocument } from './notice.ts'
import type { Notice } from './notice.ts'

/** Documents: notices by their id; what was delivered of them, by webhook and notice; since when there is a webhook; how fast limits are used, see paces.ts. */
export const noticeKinds = { notice: 'notice', delivery: 'notice_delivery', webhook: 'webhook', pace: 'pace' } as const

export interface NoticeBookParts {
  readonly records: Records
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Pick<Metrics, 'notices'>
}

export interface NoticeQuestion {
  readonly account: string | null
  readonly type: NoticeType | null
  /** Found at or after, ms since 1970. */
  readonly sinceMs: number
}

/** Where notices are written down: who writes one first tells it, and from then on it has been told. */
export class NoticeBook {
  readonly #parts: NoticeBookParts

  constructor(parts: NoticeBookParts) {
    this.#parts = parts
  }

  /** True: it is new, and was told in the log. Rejects with StoreUnavailable. */
  async tell(notice: Notice): Promise<boolean> {
    const { records, random, log, metrics } = this.#parts
    if (await records.get(noticeKinds.notice, notice.id) !== undefined) return false
    // A swap for what is there already succeeds: only what differs between replicas tells who was first.
    const by = Buffer.from(random.bytes(8)).toString('hex')
    if (!await records.swap(noticeKinds.notice, notice.id, undefined, toNoticeDocument(notice, by))) return false
    metrics.notices.inc({ type: notice.type })
    log.warn({ notice: notice.id, type: notice.type, account: notice.account, ...notice.data }, notice.text)
    return true
  }

  /** Removes what is over, with what is known of its deliveries. Rejects with StoreUnavailable; what is left is removed the next time. */
  async forget(): Promise<void> {
    const { records, clock } = this.#parts
    const nowMs = clock.nowMs()
    const kept = new Set<string>()
    for (const { id, value } of await records.list(noticeKinds.notice)) {
      const forgetMs = value['forget_ms']
      if (typeof forgetMs === 'number' && forgetMs < nowMs) await records.delete(noticeKinds.notice, id)
      else kept.add(id)
    }
    for (const { id } of await records.list(noticeKinds.delivery)) if (!kept.has(id.slice(id.indexOf('/') + 1))) await records.delete(noticeKinds.delivery, id)
  }
}

/** By instant, the newest first. Rejects with StoreUnavailable. */
export async function listNotices(records: Pick<Records, 'list'>, { account, type, sinceMs }: NoticeQuestion): Promise<readonly Notice[]> {
  const found: Notice[] = []
  for (const { id, value } of await records.list(noticeKinds.notice)) {
    const notice = toNotice(id, value)
    if (notice !== undefined && notice.atMs >= sinceMs && (account === null || notice.account === account) && (type === null || notice.type === type)) found.push(notice)
  }
  return found.sort((a, b) => b.atMs - a.atMs || (a.id < b.id ? -1 : 1))
}
