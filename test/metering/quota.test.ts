import t from 'tap'
import { GatewayError } from '../../src/errors.ts'
import type { Balance } from '../../src/metering/check.ts'
import { type Entitlement, resolveEntitlement } from '../../src/metering/entitlement.ts'
import type { Limit } from '../../src/metering/limits/limit.ts'
import { quotaItems, refusalOf } from '../../src/metering/quota.ts'
import { type Draft, draftReservation } from '../../src/metering/reservation.ts'
import { accountOf, cardOf, limitOf, planOf, principalOf } from './people.ts'
import { readTable } from './table.ts'

const nowMs = Date.UTC(2026, 10, 22, 10)
const prices = cardOf([{ models: ['*'], picosPer: { input_tokens: 1_000 } }])
const calendar = { timeZone: 'Europe/Berlin', anchor: '2026-01-15' }

function entitlementOf(limits: readonly Limit[], parent: readonly Limit[] = []): Entitlement {
  const chain = [accountOf('acme', { calendar }), ...(parent.length === 0 ? [] : [accountOf('corp', { calendar, limits: parent })])]
  const found = resolveEntitlement(principalOf(planOf('p', limits, { prices }), chain), { endpoint: 'chat', known: true, endpointByDefault: true, model: null, features: [], endUser: null }, new Map())
  if (found instanceof GatewayError) throw found
  return found
}

function draftOf(limits: readonly Limit[], need: number, parent: readonly Limit[] = []): Draft {
  const all = Object.fromEntries(['requests', 'input_tokens', 'output_tokens', 'total_tokens', 'compute_seconds'].map((meter) => [meter, need]))
  // A thousandth of a cent is a nano here: the price is 1,000 picos a token.
  const draft = draftReservation(entitlementOf(limits, parent), { fixed: all, perUnit: {} }, { uMin: 0, uMax: 0 }, nowMs)
  if (draft instanceof GatewayError) throw draft
  return draft
}

function balanceOf(draft: Draft, index: number, used: number, reserved: number, slotsAgo: number = 0): Balance {
  const { slots } = draft.checks[index]!
  const balance: Balance = { used, reserved, room: null }
  return slots.length === 1 ? balance : { ...balance, usedBySlot: slots.map((_, slot) => (slot === slots.length - 1 - slotsAgo ? used : 0)) }
}

t.test('clients are told what quota.txt says', async (t) => {
  let limit = limitOf('none requests 1 1m')
  for (const { line, text, left: [what], right } of readTable('quota.txt')) {
    const [word, ...words] = what!.split(/\s+/)
    if (word === 'limit') {
      limit = limitOf(words.join(' '))
      continue
    }
    const number = (name: string): number => Number(words.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1) ?? 0)
    const draft = draftOf([limit], number('need'))
    const balance = balanceOf(draft, 0, number('used'), number('reserved'), number('at') / 5)
    if (word === 'show') {
      const item = quotaItems(draft, [balance], nowMs)[0]!
      const wholeMs = item.resetsAtMs === null ? null : item.resetsAtMs - nowMs
      const found = [item.limit, item.used, item.reserved, item.remaining, item.windowSeconds, wholeMs === null ? null : wholeMs / 1_000]
      t.same(found.map((one) => (one === null ? '-' : String(one))), right, `line ${line}: ${text}`)
      continue
    }
    const error = refusalOf(draft, { outcome: 'denied', refusals: [{ check: 0, limit: limit.name, why: words.includes('held') ? 'held' : 'used_up' }], balances: [balance] }, nowMs)
    const waitMs = error.details.retryAfterMs
    t.same([error.code, typeof waitMs === 'number' ? String(waitMs / 1_000) : 'never', error.message], right, `line ${line}: ${text}`)
    const item = quotaItems(draft, [balance], nowMs)[0]!
    t.match(error.details, { limit: limit.name, ceiling: item.limit, used: item.used, remaining: item.remaining }, 'the numbers are those that headers show')
    t.equal(error.details.resets_at, item.resetsAtMs === null ? undefined : new Date(Math.ceil(item.resetsAtMs / 1_000) * 1_000).toISOString().replace('.000', ''))
    if (typeof waitMs === 'number' && waitMs <= 60_000) t.notMatch(error.message, /quota|billing|will reset at/i)
  }
})

t.test('of several refusals the one that lasts is told: used up before held, the latest before the sooner', async (t) => {
  const limits = ['rpm requests 10 fixed:1m', 'tpm total_tokens 10 fixed:1h', 'daily total_tokens 10 day', 'ever total_tokens 10 lifetime', 'in concurrency 4 in_flight'].map(limitOf)
  const draft = draftOf(limits, 5)
  const names = limits.map((limit) => limit.name)
  const refused = (...which: [string, 'used_up' | 'held'][]): [string, string | undefined] => {
    const used = new Set(which.filter(([, why]) => why === 'used_up').map(([name]) => name))
    const balances = names.map((name, index) => balanceOf(draft, index, used.has(name) ? 10 : 0, 4))
    const error = refusalOf(draft, { outcome: 'denied', balances, refusals: which.map(([limit, why]) => ({ check: names.indexOf(limit), limit, why })) }, nowMs)
    return [error.code, error.details.limit]
  }
  t.same(refused(['rpm', 'used_up'], ['tpm', 'used_up'], ['daily', 'used_up']), ['usage_limit_reached', 'daily'])
  t.same(refused(['daily', 'used_up'], ['rpm', 'used_up']), ['usage_limit_reached', 'daily'])
  t.same(refused(['daily', 'used_up'], ['ever', 'used_up']), ['usage_limit_reached', 'ever'])
  t.same(refused(['daily', 'held'], ['rpm', 'used_up']), ['rate_limited', 'rpm'])
  t.same(refused(['rpm', 'used_up'], ['in', 'held']), ['rate_limited', 'rpm'])
  t.same(refused(['in', 'held'], ['daily', 'held']), ['concurrency_limit', 'in'])
  t.same(refused(['daily', 'held']), ['capacity_reserved', 'daily'])
})

t.test('limits that share a counter are shown each with its own ceiling', async (t) => {
  const limits = ['watch requests 5 1m shadow', 'soft requests 10 1m', 'hard requests 20 1m hidden'].map(limitOf)
  const draft = draftOf(limits, 1)
  t.equal(draft.checks.length, 1)
  const balance = balanceOf(draft, 0, 9, 0)
  t.same(quotaItems(draft, [balance], nowMs).map((item) => [item.name, item.limit, item.remaining, item.visible]), [['watch', 5, 0, false], ['soft', 10, 1, true], ['hard', 20, 11, false]])
  const error = refusalOf(draft, { outcome: 'denied', balances: [balanceOf(draft, 0, 10, 0)], refusals: [{ check: 0, limit: 'soft', why: 'used_up' }] }, nowMs)
  t.match(error.details, { limit: 'soft', ceiling: 10, used: 10, remaining: 0, counts: 'requests' })
})

t.test('a parent\'s limit says whose it is', async (t) => {
  const draft = draftOf([limitOf('monthly total_tokens 10 month')], 1, [limitOf('monthly total_tokens 100 month')])
  const items = quotaItems(draft, draft.checks.map((_, index) => balanceOf(draft, index, 3, 0)), nowMs)
  t.same(items.map((item) => [item.name, item.remaining]), [['monthly', 7], ['corp/monthly', 97]])
})

t.test('an item says what is counted, in the words of the contract', async (t) => {
  const limits = ['a requests 1 1m', 'b total_tokens 1 day', 'c input_tokens 1 90s', 'd output_tokens 1 lifetime', 'e concurrency 1 in_flight', 'f bytes_in 1 minute', 'g cost 1$ month per:key', 'h mine:input_tokens*1 1 1h']
  const draft = draftOf(limits.map(limitOf), 0)
  t.same(quotaItems(draft, draft.checks.map((_, index) => balanceOf(draft, index, 0, 0)), nowMs).map((item) => [item.name, item.meter, item.unit, item.window, item.kind, item.per].join(' ')), [
    'a requests requests 1m requests account', 'b total_tokens tokens day tokens account', 'c input_tokens tokens 90s input_tokens account',
    'd output_tokens tokens lifetime output_tokens account', 'e concurrency concurrent-requests  other account', 'f bytes_in content-bytes minute other account',
    'g cost currency month other key', 'h mine mine 1h other account',
  ])
})
