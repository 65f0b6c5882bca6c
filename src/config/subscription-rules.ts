import type { PlanChange } from '../metering/plan-change.ts'
import { subscriptionOf } from '../metering/subscription.ts'
import type { Subscription } from '../metering/subscription.ts'
import type { Plan } from './config.ts'
import type { Report } from './problem.ts'
import { pathOf } from './problem.ts'
import { momentOf } from './scalars.ts'
import type { RawSubscription } from './schema.ts'

/** null: it is broken, which the report has said. `zone`: of the account's billing. */
export function subscriptionFrom(raw: RawSubscription, zone: string, plans: ReadonlyMap<string, Plan>, report: Report): Subscription | null {
  const timeZone = raw.timezone ?? zone
  const at = (text: string): number => {
    const answer = momentOf(text, timeZone)
    return 'value' in answer ? answer.value : Number.NaN
  }
  const changes: PlanChange[] = []
  for (const change of raw.plan_changes) {
    const plan = plans.get(change.plan)
    if (plan === undefined) {
      const node = change.node.entries.get('plan')?.value ?? change.node
      report.problem(node, pathOf(change.trail, 'plan'), `there is no plan named "${change.plan}"${report.suggestion(change.plan, plans.keys())}`)
    } else changes.push({ plan: plan.name, version: plan.version, fromMs: at(change.from), proration: change.proration ?? plan.proration })
  }
  const { source, offset } = raw.node
  const made = subscriptionOf({
    kind: raw.kind, startMs: at(raw.start), trialEndMs: raw.trial_end === null ? null : at(raw.trial_end), endMs: raw.end === null ? null : at(raw.end),
    graceMs: raw.grace, renewal: raw.renewal, term: raw.term, timeZone,
    suspended: raw.suspended === null ? null : { fromMs: at(raw.suspended.from), untilMs: raw.suspended.until === null ? null : at(raw.suspended.until) },
    seats: raw.seats, plans: changes, addOns: [], where: `${source.file}:${source.position(offset).line}`,
  })
  if (typeof made !== 'string') return made
  report.problem(raw.node, raw.trail, made)
  return null
}
