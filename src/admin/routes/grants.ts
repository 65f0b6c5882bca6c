import type { Breakage, GrantChanges, GrantStanding } from '../../accounts/grants.ts'
import { toldInstant } from '../../accounts/latest-instant.ts'
import { amountOf } from '../../config/limit-rules.ts'
import { looseText } from '../../config/yaml.ts'
import { meterScale } from '../../metering/meter.ts'
import type { Meter } from '../../metering/meter.ts'
import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { AdminParts, Asked, Field, Fields, Route } from '../route.ts'
import { toMomentMs } from '../when.ts'

const moment = (about: string): Field => ({ type: 'string', about: `${about}: a day such as 2027-01-15, by the account's time zone, or an instant` })
const ofAccount: Fields = { account: { type: 'string', about: 'of this account alone' } }

export const grantRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/grants', shape: answers.grants, role: 'viewer', summary: 'Grants of the config and of the store, those that are over too; of those that recur, the present ones',
    answer: 'grants: account, id, limit, meter, amount, used, remaining, priority, instants, source, state, where', query: ofAccount,
    handle: async ({ query }, { grants }) => ({ grants: (await grants.standing(textOf(query, 'account'))).map((grant) => toDocument(grant, grants)) }),
  },
  {
    method: 'POST', path: '/api/v1/grants', shape: answers.grant, role: 'admin', status: 201, summary: 'Give an account an amount beyond a limit; sent again with the same id, it is given once',
    answer: 'the grant as in the list',
    body: {
      account: { type: 'string', required: true, about: 'who gets it' },
      limit: { type: 'string', required: true, about: 'the limit of the account that it extends, by its name' },
      amount: { type: 'string', orNumber: true, required: true, about: 'how much, as in the config: 500k, 25.50, 2h' },
      id: { type: 'string', about: 'a name of your own: sent again, it is the same grant; one is made up, unless given' },
      priority: { type: 'integer', minimum: 1, maximum: 255, about: 'the lowest is drawn first; 100, unless given' },
      effective: moment('drawn from then on; now, unless given'),
      expires: moment('not drawn from then on; never, unless given'),
      source: { type: 'string', values: ['operator', 'purchase'], about: 'purchase: it was paid for; operator, unless given' },
      note: { type: 'string', about: 'for people' },
    },
    handle: addGrant,
  },
  {
    method: 'DELETE', path: '/api/v1/grants/{account}/{id}', shape: answers.grantRevoked, role: 'admin', summary: 'Take back what is left of a grant, also of one of the config; of one that recurs by its own id, with all that would come',
    answer: 'account, id, revoked_at', query: { reason: { type: 'string', about: 'why, for the journal' } },
    async handle({ params, query, who }, { grants }) {
      const [account, id] = [params['account'] ?? '', params['id'] ?? '']
      const { sinceMs } = await grants.revoke(account, id, textOf(query, 'reason'), who)
      return { account, id, revoked_at: instant(sinceMs) }
    },
  },
  {
    method: 'GET', path: '/api/v1/breakage', shape: answers.breakage, role: 'viewer', summary: 'What grants had left when they expired', answer: 'breakage: account, grant, limit, meter, amount, left, expired_at', query: ofAccount,
    handle: async ({ query }, parts) => ({ breakage: (await parts.grants.breakage(textOf(query, 'account'))).map((each) => breakageDocument(each, parts)) }),
  },
]

async function addGrant({ body, who }: Asked, { grants, directory }: AdminParts): Promise<unknown> {
  const account = textOf(body, 'account') ?? ''
  const limit = grants.limitOf(account, textOf(body, 'limit') ?? '')
  const amount = amountOf(looseText('amount', textOf(body, 'amount') ?? ''), limit.meter)
  if ('problem' in amount) throw new Problem(422, `amount: ${amount.problem}`)
  const zone = directory.accountOf(account)?.calendar.timeZone ?? 'UTC'
  const [effective, expires, priority] = [textOf(body, 'effective'), textOf(body, 'expires'), body['priority']]
  const made = await grants.add({
    account, limit: limit.name, amount: amount.value, id: textOf(body, 'id') ?? undefined, priority: typeof priority === 'number' ? priority : undefined,
    effectiveMs: effective === null ? undefined : toMomentMs(effective, 'effective', zone), expiresMs: expires === null ? null : toMomentMs(expires, 'expires', zone),
    source: textOf(body, 'source') === 'purchase' ? 'purchase' : 'operator', note: textOf(body, 'note'),
  }, who)
  return toDocument(made, grants)
}

/** In the units of the meter, exactly; in small units where the meter is gone. */
function toDocument({ account, id, limit, meter, amount, used, priority, effectiveMs, expiresMs, createdMs, createdBy, source, note, voidedMs, state, where }: GrantStanding, grants: GrantChanges): unknown {
  const scale = scaleOf(grants.meterOf(meter))
  return {
    account, id, limit, meter, amount: amount / scale, used: used === null ? null : used / scale, remaining: state === 'revoked' ? 0 : used === null ? null : Math.max(0, amount - used) / scale, priority,
    effective_at: effectiveMs === 0 ? null : instant(effectiveMs), expires_at: instant(expiresMs), created_at: createdMs === 0 ? null : instant(createdMs), created_by: createdBy, source, note,
    revoked_at: instant(voidedMs), state, where,
  }
}

function breakageDocument({ account, grant, limit, meter, amount, left, expiredMs }: Breakage, { grants }: AdminParts): unknown {
  const scale = scaleOf(grants.meterOf(meter))
  return { account, grant, limit, meter, amount: amount / scale, left: left / scale, expired_at: instant(expiredMs) }
}

function scaleOf(meter: Meter | undefined): number {
  return meter === undefined ? 1 : meterScale(meter)
}

function instant(atMs: number | null): string | null {
  return atMs === null ? null : toldInstant(atMs)
}

function textOf(values: Asked['body'], name: string): string | null {
  const value = values[name]
  return typeof value === 'string' ? value : null
}
