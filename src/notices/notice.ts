import { hash } from 'node:crypto'
import { NOTICE_TYPES } from '../config/config.ts'
import type { NoticeType } from '../config/config.ts'
import { toInstant } from '../metering/event.ts'

type Document = Readonly<Record<string, unknown>>

/** Something that happened and is told once. */
export interface Notice {
  /** Made of what happened: the same thing has the same id, whoever finds it. */
  readonly id: string
  readonly type: NoticeType
  readonly account: string
  /** When it was found, ms since 1970. */
  readonly atMs: number
  /** `tallygate/<instance>` of who found it. */
  readonly source: string
  /** One sentence for people. */
  readonly text: string
  /** What is to be known of it: names as in the API, amounts in units that people see, instants as text. */
  readonly data: Document
  /** From when on it cannot happen again and may be forgotten, ms since 1970; null: never. */
  readonly forgetMs: number | null
}

/** CloudEvents 1.0. */
export interface NoticeEvent {
  readonly specversion: '1.0'
  readonly type: 'tallygate.notice.v1'
  readonly source: string
  readonly id: string
  readonly subject: string
  readonly time: string
  readonly datacontenttype: 'application/json'
  readonly data: Document
}

/** The id of what happened, told apart by `parts`. Hexadecimal: it is signed with points between. */
export function noticeId(type: NoticeType, parts: readonly (string | number)[]): string {
  return `notice_${hash('sha256', JSON.stringify([type, ...parts])).slice(0, 32)}`
}

/** The same notice gives the same bytes, whenever and wherever it is sent. */
export function toNoticeEvent({ id, type, account, atMs, source, text, data }: Notice): NoticeEvent {
  return {
    specversion: '1.0', type: 'tallygate.notice.v1', source, id, subject: account, time: toInstant(atMs), datacontenttype: 'application/json', data: { type, account, text, ...data },
  }
}

/** `by` tells replicas apart that find the same thing at the same moment. */
export function toNoticeDocument({ type, account, atMs, source, text, data, forgetMs }: Notice, by: string): Document {
  return { type, account, at_ms: atMs, source, text, data, forget_ms: forgetMs, by }
}

/** undefined: it cannot be read. */
export function toNotice(id: string, { type, account, at_ms, source, text, data, forget_ms }: Document): Notice | undefined {
  const known = NOTICE_TYPES.find((each) => each === type)
  if (known === undefined || typeof account !== 'string' || typeof at_ms !== 'number' || typeof data !== 'object' || data === null) return undefined
  return {
    id, type: known, account, atMs: at_ms, source: typeof source === 'string' ? source : 'tallygate', text: typeof text === 'string' ? text : '', data: data as Document,
    forgetMs: typeof forget_ms === 'number' ? forget_ms : null,
  }
}
