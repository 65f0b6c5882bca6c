import { METERS } from '../metering/meter.ts'
import type { Account, Config } from './config.ts'
import { DEFAULT_CALENDAR } from './config.ts'
import { limitsOf } from './limit-rules.ts'
import { entitlementsOf } from './parse.ts'
import { Report } from './problem.ts'
import { account as accountShape } from './schema.ts'
import type { Node } from './yaml.ts'
import { parseYaml } from './yaml.ts'

/** What an account is made of that stands in no file, in the words of the file, so that one grammar serves both. Plain JSON. */
export interface AccountTerms {
  readonly plan: string | null
  readonly parent: string | null
  readonly timezone: string | null
  /** YYYY-MM-DD. */
  readonly anchor: string | null
  readonly labels: Readonly<Record<string, string>>
  readonly add_ons: readonly string[]
  readonly limits: readonly Words[]
  readonly entitlements: Readonly<Record<string, Words>>
}

export const NO_TERMS: AccountTerms = Object.freeze({ plan: null, parent: null, timezone: null, anchor: null, labels: {}, add_ons: [], limits: [], entitlements: {} })

/** A value of the configuration as JSON: amounts with a suffix are texts. */
export type Words = string | number | boolean | null | readonly Words[] | { readonly [name: string]: Words }

/** What limits are read with. */
export type Measures = Pick<Config, 'meters' | 'moneyScale'>

/** What the terms come to; the sentences say what is wrong with them, each with its place. */
export type AccountParts = Pick<Account, 'calendar' | 'limits' | 'entitlements' | 'labels' | 'addOns'>

/** Nothing is substituted in what comes over the API: it must not read this machine's files and variables. */
const asWritten = (text: string): { readonly text: string } => ({ text })

/** YAML or JSON text of one value as plain JSON, or what is wrong with it. */
export function wordsOf(text: string, what: string): { readonly value: Words } | { readonly problem: string } {
  const report = new Report()
  const node = parseYaml(what, text, asWritten, report)
  if (node === undefined || report.problems.length > 0) return { problem: sentencesOf(report).join('; ') }
  return { value: toWords(node) }
}

/** Reads terms by the rules of the file. */
export function accountParts(terms: AccountTerms, measures: Measures): AccountParts | readonly string[] {
  const { plan, parent, timezone, anchor, labels, add_ons, limits, entitlements } = terms
  const billing = { ...(timezone === null ? {} : { timezone }), ...(anchor === null ? {} : { anchor }) }
  const written = {
    ...(plan === null ? {} : { plan }), ...(parent === null ? {} : { parent }), ...(Object.keys(billing).length === 0 ? {} : { billing }),
    labels, add_ons, limits, entitlements,
  }
  const report = new Report()
  const node = parseYaml('account', JSON.stringify(written), asWritten, report)
  const raw = node === undefined ? undefined : accountShape.read(node, null, report)
  if (raw === undefined) return sentencesOf(report)
  const names = new Set([...Object.keys(METERS), ...measures.meters.keys()])
  const read: AccountParts = {
    calendar: { timeZone: raw.billing?.timezone ?? DEFAULT_CALENDAR.timeZone, anchor: raw.billing?.anchor ?? DEFAULT_CALENDAR.anchor },
    limits: limitsOf(raw.limits, { weighted: measures.meters, names, moneyScale: measures.moneyScale }, report),
    entitlements: entitlementsOf(raw.entitlements),
    labels: Object.freeze(raw.labels === null ? {} : Object.fromEntries(raw.labels)),
    addOns: raw.add_ons,
  }
  return report.problems.length > 0 ? sentencesOf(report) : read
}

function sentencesOf(report: Report): readonly string[] {
  return report.problems.map(({ path, sentence }) => (path === '' ? sentence : `${path}: ${sentence}`))
}

function toWords(node: Node): Words {
  if (node.kind === 'seq') return node.items.map(toWords)
  if (node.kind === 'map') return Object.fromEntries([...node.entries].map(([name, { value }]) => [name, toWords(value)]))
  const { text, quoted } = node
  if (quoted) return text
  if (text === '' || /^(~|null)$/i.test(text)) return null
  if (/^(true|false)$/.test(text)) return text === 'true'
  // A number that JSON would write in other digits stays as it was written, and is refused as a text where it matters.
  return /^-?(0|[1-9]\d*)(\.\d+)?$/.test(text) && String(Number(text)) === text ? Number(text) : text
}
