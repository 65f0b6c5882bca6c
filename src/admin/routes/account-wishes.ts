import type { AccountWishes } from '../../accounts/made-accounts.ts'
import { wordsOf } from '../../config/account-terms.ts'
import type { AccountTerms, Words } from '../../config/account-terms.ts'
import { Problem } from '../problem.ts'
import type { Asked, Fields } from '../route.ts'
import { intentFields } from './intent.ts'

const none = 'none'

export const accountFields: Fields = {
  plan: { type: 'string', about: 'its plan; none takes it away: then it has that of the account above it' },
  parent: { type: 'string', about: 'the account above it, whose limits apply too; none takes it away. Not under another root once it has keys: counters lie with the root' },
  timezone: { type: 'string', about: 'IANA name of the time zone of its days and months; none: UTC. A change acts at the next boundary' },
  billing_anchor: { type: 'string', about: 'the day from which billing periods are counted, such as 2027-01-15; none: 2000-01-01. A change acts at the next boundary' },
  labels: { type: 'map', about: 'copied into its events, in place of those there are; none takes them away' },
  add_ons: { type: 'list', about: 'names, in place of those there are; also with commas between; none takes them away' },
  limits: { type: 'list', about: 'limits of its own as the config has them, in place of those there are; none takes them away' },
  entitlements: { type: 'map', about: 'in place of the plan\'s, field by field, as the config has them; none takes them away' },
  ...intentFields,
}

/** What of an account is to be changed. Throws a Problem for what is no YAML; what it says is judged by the rules of the config. */
export function wishesOf(body: Asked['body']): AccountWishes {
  const wishes: { -readonly [K in keyof AccountTerms]?: AccountTerms[K] } = {}
  const [plan, parent, timezone, anchor] = [textOf(body, 'plan'), textOf(body, 'parent'), textOf(body, 'timezone'), textOf(body, 'billing_anchor')]
  if (plan !== undefined) wishes.plan = orNone(plan)
  if (parent !== undefined) wishes.parent = orNone(parent)
  if (timezone !== undefined) wishes.timezone = orNone(timezone)
  if (anchor !== undefined) wishes.anchor = orNone(anchor)
  const labels = textOf(body, 'labels')
  if (labels !== undefined) wishes.labels = Object.fromEntries(Object.entries(mapIn(labels, 'labels')).map(([name, value]) => [name, typeof value === 'object' ? refused('labels', `${name} must be a text`) : String(value)]))
  const addOns = textOf(body, 'add_ons')
  if (addOns !== undefined) wishes.add_ons = addOnsIn(addOns)
  const limits = textOf(body, 'limits')
  if (limits !== undefined) wishes.limits = listIn(limits, 'limits')
  const entitlements = textOf(body, 'entitlements')
  if (entitlements !== undefined) wishes.entitlements = mapIn(entitlements, 'entitlements')
  return wishes
}

function addOnsIn(text: string): readonly string[] {
  if (!text.trimStart().startsWith('[') && !text.trimStart().startsWith('- ')) return text === none ? [] : text.split(',').map((name) => name.trim())
  return listIn(text, 'add_ons').map((name) => (typeof name === 'string' ? name : refused('add_ons', 'must be names')))
}

function listIn(text: string, name: string): readonly Words[] {
  const value = text === none ? [] : wordsIn(text, name)
  return Array.isArray(value) ? value as readonly Words[] : refused(name, 'must be a list')
}

function mapIn(text: string, name: string): Readonly<Record<string, Words>> {
  const value = text === none ? {} : wordsIn(text, name)
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value as Readonly<Record<string, Words>> : refused(name, 'must be a mapping')
}

function wordsIn(text: string, name: string): Words {
  const read = wordsOf(text, name)
  return 'value' in read ? read.value : refused(name, read.problem)
}

function refused(name: string, why: string): never {
  throw new Problem(422, `${name}: ${why}`)
}

function orNone(text: string): string | null {
  return text === none ? null : text
}

function textOf(body: Asked['body'], name: string): string | undefined {
  const value = body[name]
  return typeof value === 'string' ? value : undefined
}
