import { NOTICE_TYPES } from '../../config/config.ts'
import { toNoticeEvent } from '../../notices/notice.ts'
import { listNotices } from '../../notices/notice-book.ts'
import * as answers from '../answers.ts'
import type { Route } from '../route.ts'
import { toPastMs } from '../when.ts'

const shownMax = 1_000

export const noticeRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/notices', shape: answers.notices, role: 'viewer', summary: 'What somebody was told: limits that run out, subscriptions that end, grants that expire; the newest first',
    answer: 'notices: CloudEvents of the type tallygate.notice.v1, as webhooks get them; more: how many there are beside them',
    query: {
      account: { type: 'string', about: 'of this account alone' },
      since: { type: 'string', about: 'an instant (2026-11-01, 2026-11-01T10:00:00Z) or how long ago (24h); all, unless given' },
      type: { type: 'string', values: NOTICE_TYPES, about: 'of this type alone' },
      limit: { type: 'integer', minimum: 1, maximum: shownMax, about: `how many; ${shownMax} unless given` },
    },
    async handle({ query }, { records, clock }) {
      const { account, since, type, limit } = query
      const notices = await listNotices(records, {
        account: typeof account === 'string' ? account : null, type: NOTICE_TYPES.find((each) => each === type) ?? null,
        sinceMs: typeof since === 'string' ? toPastMs(since, 'since', clock.nowMs()) : -Infinity,
      })
      const shown = notices.slice(0, typeof limit === 'number' ? limit : shownMax)
      return { notices: shown.map(toNoticeEvent), more: notices.length - shown.length }
    },
  },
]
