import type { Limit } from '../metering/limits/limit.ts'
import { matchesAny } from '../metering/glob.ts'
import { meterName, meterScale } from '../metering/meter.ts'
import { ratesFor } from '../metering/price.ts'
import type { Model, Plan, StoreConfig } from './config.ts'
import { overdraftAmount } from './limit-rules.ts'
import type { Report } from './problem.ts'
import { listed, pathOf } from './problem.ts'
import type { RawPlan } from './schema.ts'
import { globsMeet } from './schema.ts'

/** What is legal and hardly meant. A limit that could never count anything is a mistake: it would be free inference. */
export function warnOfPlan(plan: Plan, raw: RawPlan, models: readonly Model[], report: Report): void {
  const warn = (limit: Limit | null, sentence: string): void => {
    const own = raw.limits.find((each) => each.name === limit?.name)
    report.warn(own?.node ?? raw.node, own?.trail ?? raw.trail, limit === null || own !== undefined ? sentence : `${limit.name} (from the plan it extends): ${sentence}`)
  }
  if (plan.limits.every((limit) => limit.ceiling === null || limit.mode === 'shadow')) warn(null, 'has no limit that refuses anything: whoever is on it is not limited')
  if (plan.entitlements.models.length === 0) warn(null, 'grants no model')
  for (const limit of plan.limits) {
    checkModels(limit, plan, raw, models, report)
    const sentence = neverAdmits(limit, plan, models)
    if (sentence !== undefined) warn(limit, sentence)
  }
  checkUnpriced(plan, raw, models, report)
  for (const rates of plan.prices?.versions.flatMap((version) => version.rates) ?? []) {
    const has = (meter: string): boolean => rates.picosPer[meter] !== undefined
    if (has('input_tokens') && !has('output_tokens')) warn(null, `prices input_tokens of ${listed(rates.models)} but not output_tokens, which are then free`)
  }
}

/** Configured models that the plan grants and has no price for: a mistake where it says `unpriced: check`, else told where that is hardly meant. */
function checkUnpriced(plan: Plan, raw: RawPlan, models: readonly Model[], report: Report): void {
  const { prices, policy: { unpriced } } = plan
  if (prices === null || unpriced === 'free') return
  const granted = models.filter((model) => !model.pattern.includes('*') && matchesAny(plan.entitlements.models, model.pattern))
  for (const version of prices.versions) {
    const lacking = granted.filter((model) => ratesFor(version, model.pattern) === null).map((model) => model.pattern)
    if (lacking.length === 0) continue
    const without = `${listed(lacking)} without a price${prices.versions.length === 1 ? '' : ` in the version ${version.version}`}`
    if (unpriced === 'check') report.problem(raw.node, raw.trail, `grants ${without}`)
    else if (unpriced === 'refuse') report.warn(raw.node, raw.trail, `grants ${without}: its calls are refused`)
    else if (plan.limits.some((limit) => meterName(limit.meter) === 'cost')) report.warn(raw.node, raw.trail, `limits cost and grants ${without}`)
  }
}

/** Where calls go on without the store, what they use has to be kept somewhere. */
export function warnOfOutages(plan: Plan, raw: RawPlan, store: StoreConfig, report: Report): void {
  if (store.kind !== 'redis' || store.spool !== null || plan.policy.storeDown.kind === 'deny') return
  const own = raw.policy?.node.entries.get('store_down')?.value
  const path = own === undefined || raw.policy === null ? raw.trail : pathOf(raw.policy.trail, 'store_down')
  report.warn(own ?? raw.node, path, 'lets calls through while the store is away, but spool: none leaves nowhere to keep what they used: the end of each answer waits for the store, and is cut when it does not come back in time')
}

function checkModels(limit: Limit, plan: Plan, raw: RawPlan, models: readonly Model[], report: Report): void {
  if (limit.forModels === null || plan.entitlements.models.length === 0) return
  const own = raw.limits.find((each) => each.name === limit.name)
  for (const pattern of limit.forModels) {
    const path = own === undefined ? raw.trail : pathOf(pathOf(own.trail, 'for'), 'models')
    if (!plan.entitlements.models.some((granted) => globsMeet(granted, pattern))) {
      report.problem(own?.node ?? raw.node, path, `${pattern} is no model that the plan grants, so ${limit.name} would count nothing of it`)
    } else if (models.length > 0 && !models.some((model) => globsMeet(model.pattern, pattern))) {
      report.warn(own?.node ?? raw.node, path, `${pattern} is none of the models that are configured`)
    }
  }
}

/** Small units of the limit's meter that one output token takes. */
function perOutputToken(limit: Limit): number {
  if (limit.meter.kind === 'weighted') return limit.meter.weighted.terms.reduce((sum, term) => term.meter === 'output_tokens' || term.meter === 'total_tokens' ? sum + term.coefficient : sum, 0)
  return limit.meter.name === 'output_tokens' || limit.meter.name === 'total_tokens' ? 1 : 0
}

function neverAdmits(limit: Limit, plan: Plan, models: readonly Model[]): string | undefined {
  if (limit.ceiling === null || limit.mode === 'shadow' || limit.overdraft.kind === 'unlimited') return undefined
  // What is paid before comes as grants.
  if (limit.prepaid === true) return undefined
  const room = limit.ceiling + overdraftAmount(limit)
  if (room === 0) return 'admits nothing: every call that it counts is refused'
  const each = perOutputToken(limit)
  if (each === 0) return undefined
  const known = models.filter((model) => matchesAny(plan.entitlements.models, model.pattern)).map((model) => model.outputTokensMax ?? plan.policy.outputDefault)
  // A bound that is ours is lowered to what an empty window holds, down to the floor; a stream that is held in slices needs no more than its first one.
  const least = Math.min(plan.policy.clampFloor, plan.entitlements.maxOutputTokens ?? Infinity, known.length === 0 ? plan.policy.outputDefault : Math.max(...known))
  if (least * each <= room) return undefined
  const calls = plan.policy.reserve === 'slices' ? 'every call without a stream' : 'every call'
  const amount = (room / meterScale(limit.meter)).toLocaleString('en')
  return `refuses ${calls} that gives no output bound of its own: such a call is lowered to ${least} output tokens at most, and this limit holds ${amount}; give it more, or lower policy.clamp_floor or entitlements.max_output_tokens`
}
