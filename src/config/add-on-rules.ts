import type { Limit } from '../metering/limits/limit.ts'
import { meterName } from '../metering/meter.ts'
import type { Meter } from '../metering/meter.ts'
import type { AddOn, Entitlements } from './config.ts'
import { grantsFrom } from './grant-rules.ts'
import { amountOf, limitsOf } from './limit-rules.ts'
import type { KnownMeters } from './limit-rules.ts'
import type { Report } from './problem.ts'
import { listed, pathOf } from './problem.ts'
import type { RawAddOn, RawAddition } from './schema.ts'
import { quote } from './shape.ts'

/** `limits`: those of all plans and accounts, whose names an addition may mean. */
export function addOnOf(name: string, raw: RawAddOn, limits: readonly Limit[], meters: KnownMeters, entitlements: Partial<Entitlements>, report: Report): AddOn {
  if (entitlements.deniedFeatures !== undefined) report.problem(raw.node, pathOf(raw.trail, 'entitlements'), 'deny_features takes away, and an add-on gives: deny it in the plan, and name it in features here')
  const additions = raw.limits.flatMap((each) => ('addition' in each ? [each.addition] : []))
  const own = limitsOf(raw.limits.flatMap((each) => ('own' in each ? [each.own] : [])), meters, report)
  return {
    name, entitlements,
    additions: additions.flatMap((each) => additionOf(each, limits, report)),
    limits: own,
    ...(raw.grants.length === 0 ? {} : { grants: grantsFrom(raw.grants, { limits: [...limits, ...own], having: 'what is sold', beside: [], timeZone: 'UTC', idsAreBuckets: false, source: { recurring: 'recurrence', once: 'purchase' } }, report) }),
  }
}

function additionOf(raw: RawAddition, limits: readonly Limit[], report: Report): AddOn['additions'] {
  const wrong = (field: string, sentence: string): AddOn['additions'] => {
    report.problem(raw.node.entries.get(field)?.value ?? raw.node, pathOf(raw.trail, field), sentence)
    return []
  }
  const named = limits.filter((limit) => limit.name === raw.name)
  if (named.length === 0) return wrong('name', `no plan and no account has a limit named "${raw.name}"${report.suggestion(raw.name, limits.map((limit) => limit.name))}`)
  const byName = new Map<string, Meter>(named.map(({ meter }) => [meterName(meter), meter]))
  if (raw.meter === null && byName.size > 1) return wrong('limit', `there are limits named ${raw.name} on ${listed([...byName.keys()])}; say which with meter`)
  const meter = raw.meter === null ? [...byName.values()][0] : byName.get(raw.meter.text)
  if (meter === undefined) return wrong('meter', `no limit named ${raw.name} counts ${raw.meter === null ? 'that' : quote(raw.meter)}; it is ${listed([...byName.keys()])}`)
  const amount = amountOf({ ...raw.limit, text: raw.limit.text.slice(1) }, meter)
  return 'problem' in amount ? wrong('limit', amount.problem) : [{ limit: raw.name, meter: meterName(meter), amount: amount.value }]
}
