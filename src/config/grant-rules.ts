import { counterIdentity, whyNotExtended } from '../metering/extension.ts'
import type { GrantSource } from '../metering/grant.ts'
import { DEFAULT_PRIORITY } from '../metering/grant.ts'
import type { Limit } from '../metering/limits/limit.ts'
import { meterName } from '../metering/meter.ts'
import type { Meter } from '../metering/meter.ts'
import type { GrantTerms } from '../metering/recurring-grant.ts'
import { TOGETHER_MAX } from '../metering/recurring-grant.ts'
import { amountOf } from './limit-rules.ts'
import type { Report } from './problem.ts'
import { listed, pathOf } from './problem.ts'
import { momentOf } from './scalars.ts'
import type { RawGrant } from './schema.ts'
import { quote } from './shape.ts'

/** Whose grants they are. */
export interface GrantOwner {
  /** All limits that they may name. */
  readonly limits: readonly Limit[]
  /** As a sentence says who has those limits: "the account acme and its plan". */
  readonly having: string
  /** Grants that its calls draw as well: of the plan, of add-ons. Those that it has itself under their ids stand in place of them. */
  readonly beside: readonly GrantTerms[]
  /** By whose clock a day begins. */
  readonly timeZone: string
  /** Their ids stand in events by themselves, beside the names of limits. */
  readonly idsAreBuckets: boolean
  /** Of those that say none: of one that recurs, and of one that does not. */
  readonly source: { readonly recurring: GrantSource; readonly once: GrantSource }
}

const dayMs = 86_400_000
/** Shorter than any period of the rhythm, so that no more are counted together than there will be. */
const rhythmMs = { day: 23 / 24 * dayMs, week: 6.9 * dayMs, month: 27.9 * dayMs, billing_period: 27.9 * dayMs, term: dayMs } as const

/** The grants of one account, plan or add-on; broken ones are left out, and the report has said why. */
export function grantsFrom(raws: readonly RawGrant[], owner: GrantOwner, report: Report): readonly GrantTerms[] {
  const grants: GrantTerms[] = []
  const ids = new Set<string>()
  const sums = new Map<string, number>()
  const extended = extendedBeside(raws, owner)
  for (const raw of raws) {
    if (ids.has(raw.id)) wrong(raw, 'id', `there are two grants with the id ${raw.id} here`, report)
    ids.add(raw.id)
    if (owner.idsAreBuckets && raw.id === raw.limit) wrong(raw, 'id', `is the name of its limit: events and explain could not tell the two apart; call it something else, such as ${raw.id}-extra`, report)
    const before = report.problems.length
    const limit = limitOf(raw, owner, report)
    const found = limit === undefined ? undefined : grantOf(raw, limit, owner, report)
    if (limit === undefined || found === undefined || report.problems.length > before) continue
    const other = extended.get(counterIdentity(limit))
    if (other !== undefined && other !== limit.name) wrong(raw, 'limit', `${limit.name} and ${other} share their counter, and grants extend ${other} already; give all of them to one of the two`, report)
    if (other === undefined) extended.set(counterIdentity(limit), limit.name)
    const sum = (sums.get(limit.name) ?? limit.ceiling ?? 0) + found.amount * together(found)
    sums.set(limit.name, sum)
    if (sum > Number.MAX_SAFE_INTEGER) wrong(raw, 'amount', `${limit.name} and its grants add up to more than can be counted exactly (2^53 - 1)`, report)
    grants.push(found)
  }
  return grants
}

/** By the counter: which limit is extended by what others give. */
function extendedBeside(raws: readonly RawGrant[], { limits, beside }: GrantOwner): Map<string, string> {
  const extended = new Map<string, string>()
  for (const { id, limit: name, meter } of beside) {
    if (raws.some((raw) => raw.id === id)) continue
    const limit = limits.find((each) => each.name === name && meterName(each.meter) === meter && whyNotExtended(each) === null)
    if (limit !== undefined && !extended.has(counterIdentity(limit))) extended.set(counterIdentity(limit), name)
  }
  return extended
}

function wrong(raw: RawGrant, field: string, sentence: string, report: Report): undefined {
  report.problem(raw.node.entries.get(field)?.value ?? raw.node, pathOf(raw.trail, field), sentence)
  return undefined
}

function limitOf(raw: RawGrant, { limits, having }: GrantOwner, report: Report): Limit | undefined {
  const named = limits.filter((limit) => limit.name === raw.limit)
  if (named.length === 0) return wrong(raw, 'limit', `${having} has no limit named "${raw.limit}"${report.suggestion(raw.limit, limits.map(({ name }) => name))}`, report)
  const byMeter = new Map<string, Limit>()
  for (const limit of named) if (!byMeter.has(meterName(limit.meter)) || whyNotExtended(limit) === null) byMeter.set(meterName(limit.meter), limit)
  if (raw.meter === null && byMeter.size > 1) return wrong(raw, 'limit', `there are limits named ${raw.limit} on ${listed([...byMeter.keys()])}; say which with meter`, report)
  const limit = raw.meter === null ? [...byMeter.values()][0] : byMeter.get(raw.meter.text)
  if (limit === undefined) return wrong(raw, 'meter', `no limit named ${raw.limit} counts ${raw.meter === null ? 'that' : quote(raw.meter)}; it is ${listed([...byMeter.keys()])}`, report)
  const why = whyNotExtended(limit)
  return why === null ? limit : wrong(raw, 'limit', `${raw.limit} ${why}`, report)
}

function grantOf(raw: RawGrant, limit: Limit, owner: GrantOwner, report: Report): GrantTerms | undefined {
  const { every } = raw
  const amount = amountInUnits(raw, limit.meter, report)
  const effectiveMs = instantIn(raw.effective, owner.timeZone)
  const expiresMs = instantIn(raw.expires, owner.timeZone)
  if (expiresMs !== null && expiresMs <= (effectiveMs ?? -Infinity)) wrong(raw, 'expires', 'it expires before it is effective', report)
  if (every === null && raw.expires_after !== null && (raw.expires !== null || effectiveMs === null)) {
    wrong(raw, 'expires_after', raw.expires === null ? 'is counted from when it is effective; give effective, or every' : 'says again what expires says; keep one of them', report)
  }
  if (every !== null && raw.expires_after !== null && Math.ceil(raw.expires_after / rhythmMs[every]) > TOGETHER_MAX) {
    wrong(raw, 'expires_after', `would leave more than ${TOGETHER_MAX} of them open at once; make it shorter, or write every: month`, report)
  }
  if (amount === undefined) return undefined
  const { source, offset } = raw.node
  return {
    id: raw.id, limit: limit.name, meter: meterName(limit.meter), amount, priority: raw.priority ?? DEFAULT_PRIORITY, effectiveMs,
    expiresMs: every === null && raw.expires_after !== null && effectiveMs !== null ? effectiveMs + raw.expires_after : expiresMs,
    source: raw.source ?? (every === null ? owner.source.once : owner.source.recurring), note: raw.note, every, lastsMs: every === null ? null : raw.expires_after,
    where: `${source.file}:${source.position(offset).line}`,
  }
}

/** How many of them there are at once, at most. */
function together({ every, lastsMs }: GrantTerms): number {
  return every === null || lastsMs === null ? 1 : Math.ceil(lastsMs / rhythmMs[every]) + 1
}

function amountInUnits(raw: RawGrant, meter: Meter, report: Report): number | undefined {
  const amount = amountOf(raw.amount, meter)
  if ('problem' in amount) return wrong(raw, 'amount', amount.problem, report)
  return amount.value > 0 ? amount.value : wrong(raw, 'amount', 'a grant of nothing extends nothing; leave it out', report)
}

function instantIn(text: string | null, timeZone: string): number | null {
  if (text === null) return null
  const answer = momentOf(text, timeZone)
  return 'value' in answer ? answer.value : null
}
