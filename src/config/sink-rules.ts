import { statSync } from 'node:fs'
import { sinkKind } from '../sinks/index.ts'
import { matches } from '../metering/glob.ts'
import { whyNotHost } from '../sinks/address.ts'
import type { MeterMapping, MeterRule, SinkKind } from '../sinks/sink.ts'
import type { SinkConfig, SinkMapping } from './config.ts'
import type { Report } from './problem.ts'
import { listed, pathOf, shown } from './problem.ts'
import type { RawSink, RawSinkMeter } from './schema.ts'
import { quote } from './shape.ts'
import { toldQuantity } from './weighted-meter.ts'

/** The path of a file sink; null: it is another. */
export function filePathOf(raw: RawSink): string | null {
  const path = raw['path']
  return raw.type === 'file' && typeof path === 'string' ? path : null
}

/** What the file names: a sink's word that is none of these is told. */
export interface KnownNames {
  readonly plans: ReadonlySet<string>
  readonly accounts: ReadonlySet<string>
}

/** What sinks say, checked against each other, against what the file names, and against what their receivers can take. */
export function sinksOf(raws: readonly RawSink[], known: KnownNames, report: Report): readonly SinkConfig[] {
  const names = new Set<string>()
  const paths = new Map<string, string>()
  return raws.map((raw) => {
    const wrong = (field: string, sentence: string): void => report.problem(raw.node.entries.get(field)?.value ?? raw.node, pathOf(raw.trail, field), sentence)
    if (names.has(raw.name)) wrong('name', `there are two sinks named ${raw.name}`)
    names.add(raw.name)
    const path = filePathOf(raw)
    const other = path === null ? undefined : paths.get(path)
    if (other !== undefined) wrong('path', `is the file of the sink ${other} too; every sink needs its own`)
    if (path !== null) paths.set(path, raw.name)
    // Where it is checked need not be where it runs, and a gateway whose sink is not open goes on: no mistake.
    if (path !== null && isFolder(path)) report.warn(raw.node.entries.get('path')?.value ?? raw.node, pathOf(raw.trail, 'path'), 'is a folder here, so the sink cannot be opened; write a file, such as usage.ndjson in it')
    const kind = sinkKind(raw.type)
    if (!kind.contract.verified) report.warn(raw.node.entries.get('type')?.value ?? raw.node, pathOf(raw.trail, 'type'), `is experimental: the rules of ${kind.type} could not be confirmed; compare its totals with yours`)
    const settings: Record<string, unknown> = {}
    for (const name of [...Object.keys(kind.settings), 'private']) {
      const value = raw[name]
      // What is put in by name is plain data for the sink.
      if (value !== undefined) settings[name] = value instanceof Map ? Object.fromEntries(value) : value
      const why = typeof value === 'string' ? kind.settings[name]?.whyNot?.(value) ?? null : null
      if (why !== null) wrong(name, why)
      if (kind.settings[name]?.is === 'url' && typeof value === 'string') checkAddress(raw, name, value, report)
    }
    warnOfNames(raw, known, report)
    return { name: raw.name, type: raw.type, settings, mapping: mappingOf(raw, kind, report) }
  })
}

function isFolder(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
  } catch {
    // Whatever else is wrong with it is told when it is opened.
    return false
  }
}

function checkAddress(raw: RawSink, field: string, address: string, report: Report): void {
  const url = URL.parse(address)
  const at = raw.node.entries.get(field)?.value
  if (url === null || at === undefined) return
  const why = whyNotHost(url.hostname, raw['private'] === true)
  if (why !== null) report.problem(at, pathOf(raw.trail, field), why)
  else if (url.protocol === 'http:' && raw['private'] !== true) report.warn(at, pathOf(raw.trail, field), 'is not encrypted: whoever is on the way reads its secret and the events; write https://')
}

/** Of one list of names; more mistakes of one kind need no more lines. */
const namesMax = 20

/** A name that was mistyped is never billed, and nothing else would say so. */
function warnOfNames(raw: RawSink, { plans, accounts }: KnownNames, report: Report): void {
  const inFilter = (field: 'plans' | 'accounts', names: ReadonlySet<string>, sentence: (word: string, hint: string) => string): void => {
    const node = raw.filter?.node.entries.get(field)?.value
    // Whoever has none of them here makes them elsewhere: there is nothing to compare with.
    if (raw.filter === null || node === undefined || names.size === 0) return
    const trail = pathOf(raw.filter.trail, field)
    const unknown = (node.kind === 'seq' ? node.items : [node]).flatMap((item, index) => (
      item.kind === 'scalar' && !/^\*+$/.test(item.text) && !isAmong(item.text, names) ? [{ item, path: node.kind === 'seq' ? pathOf(trail, index) : trail }] : []
    ))
    for (const { item, path } of unknown.slice(0, namesMax)) report.warn(item, path, sentence(quote(item), report.suggestion(item.text, names)))
    if (unknown.length > namesMax) report.warn(node, trail, `${unknown.length - namesMax} more match nothing`)
  }
  inFilter('plans', plans, (word, hint) => `no plan is called ${word}, so nothing of it is told${hint}`)
  inFilter('accounts', accounts, (word, hint) => `no account of this file is called ${word}; ignore this if it is made at run time${hint}`)
  const customers = raw.node.entries.get('customers')?.value
  if (customers?.kind !== 'map' || accounts.size === 0) return
  const unknown = [...customers.entries].filter(([name]) => !accounts.has(name))
  for (const [name, { key }] of unknown.slice(0, namesMax)) {
    report.warnAt(key.source, key.offset, pathOf(pathOf(raw.trail, 'customers'), name), `no account of this file is called ${shown(name)}; ignore this if it is made at run time${report.suggestion(name, accounts)}`)
  }
  if (unknown.length > namesMax) report.warn(customers, pathOf(raw.trail, 'customers'), `${unknown.length - namesMax} more are no accounts of this file`)
}

function isAmong(pattern: string, names: ReadonlySet<string>): boolean {
  if (!pattern.includes('*')) return names.has(pattern)
  for (const name of names) if (matches(pattern, name)) return true
  return false
}

function mappingOf(raw: RawSink, kind: SinkKind, report: Report): SinkMapping | null {
  const filter = raw.filter === null ? noFilter : { accounts: raw.filter.accounts, plans: raw.filter.plans, models: raw.filter.models }
  if (kind.takes === 'events') return raw.filter === null ? null : { filter, meters: null, customers: {}, unmapped: 'bury', rollup: null }
  return {
    filter, meters: metersOf(raw, kind, report), customers: Object.fromEntries(raw.customers ?? []), unmapped: raw.unmapped ?? 'bury', rollup: raw.rollup ?? null,
  }
}

const noFilter: SinkMapping['filter'] = { accounts: null, plans: null, models: null }

function metersOf(raw: RawSink, kind: SinkKind, report: Report): readonly MeterRule[] {
  const rules: MeterRule[] = []
  const own = raw.meters ?? null
  const mappings = own === null ? kind.meters ?? [] : own.map(toMapping)
  const codes = mappings.map(({ code }) => code)
  mappings.forEach((mapping, index) => {
    const given = own?.[index]
    const wrong = (field: 'code' | 'quantity' | 'copied', sentence: string): void => {
      if (given === undefined) report.problem(raw.node, raw.trail, `the sink's own meter ${mapping.code} ${sentence}`)
      else report.problem(given.node.entries.get(field)?.value ?? given.node, pathOf(given.trail, field), given.quantity.substituted && field === 'quantity' ? 'what is substituted here has to be a quantity, and is not' : sentence)
    }
    const quantity = toldQuantity(mapping.quantity)
    if ('problem' in quantity) return wrong('quantity', quantity.problem)
    const { terms, scale } = quantity.value
    if (kind.contract.values === 'integer' && scale !== 1) return wrong('quantity', `has fractions, and ${kind.type} takes whole numbers only; write ${scale} * it, and the price for as much less`)
    for (const field of Object.values(mapping.copied ?? {})) if (!copyable.test(field)) wrong('copied', `"${field}" is no field of an event that can be copied; these are: ${listed(fields)}, labels.NAME, caller.user, caller.session, caller.tags.NAME`)
    const fixed = Object.values(mapping.fixed ?? {})
    const name = codes.indexOf(mapping.code) === codes.lastIndexOf(mapping.code) ? mapping.code : [mapping.code, ...fixed].join(':')
    if (rules.some((rule) => rule.name === name)) return wrong('code', `has meters that cannot be told apart: ${mapping.code} twice; give them different fixed properties`)
    rules.push({ name, code: mapping.code, terms, scale, valueProperty: mapping.valueProperty ?? 'value', copied: mapping.copied ?? {}, fixed: mapping.fixed ?? {} })
  })
  return rules
}

/** Fields of an event's data that are single words. */
const fields = [
  'id', 'time', 'source', 'account', 'key', 'plan', 'plan_version', 'provider', 'endpoint', 'model', 'model_served', 'upstream', 'upstream_request_id', 'service_tier', 'stream', 'status', 'end', 'usage_source', 'settled_at',
  'corrects', 'currency', 'price_version',
]
const copyable = new RegExp(`^(?:${fields.join('|')}|labels\\..+|caller\\.(?:user|session|request_id)|caller\\.tags\\..+)$`)

function toMapping(raw: RawSinkMeter): MeterMapping {
  return {
    code: raw.code, quantity: raw.quantity.text, ...(raw.value_property === null ? {} : { valueProperty: raw.value_property }),
    copied: Object.fromEntries(raw.copied ?? []), fixed: Object.fromEntries(raw.fixed ?? []),
  }
}
