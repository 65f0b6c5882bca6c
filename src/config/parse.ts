import { hash } from 'node:crypto'
import { join } from 'node:path'
import { METERS, meterName } from '../metering/meter.ts'
import type { WeightedMeter } from '../metering/meter.ts'
import type { Limit } from '../metering/limits/limit.ts'
import { addOnOf } from './add-on-rules.ts'
import type { Account, AddOn, Address, AdminConfig, Config, Entitlements, AnalyticsConfig, EventsConfig, KeyConfig, Model, Plan, Policy, RateCard, ServerConfig, SinkConfig, StoreConfig, Upstream } from './config.ts'
import { DEFAULT_CALENDAR } from './config.ts'
import { grantsFrom } from './grant-rules.ts'
import { limitsOf } from './limit-rules.ts'
import type { KnownMeters } from './limit-rules.ts'
import type { LoadOptions } from './load.ts'
import type { Path, Report } from './problem.ts'
import { listed, pathOf, shown } from './problem.ts'
import { notificationsOf } from './notification-rules.ts'
import { warnOfOutages, warnOfPlan } from './plan-warnings.ts'
import { chargesOf, defaultMoneyScale, rateCardOf } from './price-cards.ts'
import { addressOf, isLoopback } from './scalars.ts'
import type { RawAccount, RawConfig, RawEntitlements, RawKey, RawModel, RawPlan, RawPolicy, RawPriceCard, RawRates, RawTimeouts, RawUpstream } from './schema.ts'
import { REDIS_ONLY, globsMeet, provider as providerShape, root as rootShape, secret as secretShape, upstreamUrl } from './schema.ts'
import { quote } from './shape.ts'
import { filePathOf, sinksOf } from './sink-rules.ts'
import type { KnownNames } from './sink-rules.ts'
import { subscriptionFrom } from './subscription-rules.ts'
import { telemetryOf } from './telemetry-rules.ts'
import { weightedMeter } from './weighted-meter.ts'
import type { MapNode, Node } from './yaml.ts'
import { looseText } from './yaml.ts'

/** Nodes → one frozen Config. Whatever is wrong is reported; undefined is then never taken for "not limited". */
export function parseConfig(root: MapNode, options: LoadOptions, files: readonly string[], report: Report): Config | null {
  const raw = rootShape.read(root, null, report)
  return raw === undefined ? null : new Parser(raw, options, files, report).parse()
}

const defaultTimeouts: ServerConfig['timeouts'] = { connectMs: 5_000, firstByteMs: 300_000, idleMs: 120_000, totalMs: 1_800_000 }
const defaultPolicy: Policy = {
  reserve: 'worst_case', outputDefault: 4_096, onInsufficient: 'clamp', clampFloor: 1_024, onDisconnect: 'cancel', countFailed: false, storeDown: { kind: 'deny' }, waitMs: 0, unpriced: null,
}
const levelsMax = 4
const archiveFileBytes = 256 * 1_048_576
const nothing: readonly never[] = Object.freeze([])
const noEntitlements: Partial<Entitlements> = Object.freeze({})
const noLabels: Readonly<Record<string, string>> = Object.freeze({})

class Parser {
  readonly #raw: RawConfig
  readonly #options: LoadOptions
  readonly #files: readonly string[]
  readonly #report: Report
  readonly #meters: KnownMeters
  /** Files with secrets that everybody may read: told once each. */
  readonly #readableFiles = new Set<unknown>()
  /** null: it is being resolved; undefined: it is broken, and that has been said. */
  readonly #plans = new Map<string, Plan | null | undefined>()
  readonly #accounts = new Map<string, Account>()

  constructor(raw: RawConfig, options: LoadOptions, files: readonly string[], report: Report) {
    this.#raw = raw
    this.#options = options
    this.#files = files
    this.#report = report
    const weighted = new Map<string, WeightedMeter>()
    for (const [name, node] of raw.meters) {
      const meter = weightedMeter(name, node.text)
      if ('value' in meter) weighted.set(name, meter.value)
      else report.problem(node, pathOf(pathOf(null, 'meters'), name), node.substituted ? 'what is substituted here has to be a sum of meters, and is not' : meter.problem)
    }
    this.#meters = { weighted, names: new Set([...Object.keys(METERS), ...this.#namesIn('meters').keys()]), moneyScale: this.#moneyScale() }
  }

  parse(): Config {
    const raw = this.#raw
    const server = this.#server()
    const upstreams = this.#upstreams(server)
    const models = this.#models(upstreams)
    const cards = this.#cards()
    for (const name of raw.plans.keys()) this.#plan(name, cards)
    this.#readAccounts()
    const plans = new Map<string, Plan>()
    for (const name of raw.plans.keys()) {
      const plan = this.#plans.get(name)
      if (plan !== undefined && plan !== null) plans.set(name, plan)
    }
    this.#readSubscriptions(plans)
    const addOns = this.#addOns(plans)
    this.#readGrants(plans, addOns)
    const keys = this.#keys(plans)
    this.#checkCosts(plans)
    this.#checkEndUsers(keys, plans)
    for (const [name, plan] of plans) {
      const rawPlan = raw.plans.get(name)
      if (rawPlan !== undefined) warnOfPlan(plan, rawPlan, models, this.#report)
    }
    const store = this.#store()
    this.#checkWorkers(server, store)
    this.#checkKeep()
    for (const [name, plan] of plans) {
      const rawPlan = raw.plans.get(name)
      if (rawPlan !== undefined) warnOfOutages(plan, rawPlan, store, this.#report)
    }
    const telemetry = telemetryOf(raw.telemetry, (name) => this.#env(name), (node, path) => this.#warnOfReadable(node, path), this.#report)
    const content = {
      server, admin: this.#admin(server.listen), store, upstreams, models, plans, addOns, meters: this.#meters.weighted, moneyScale: this.#meters.moneyScale ?? defaultMoneyScale,
      accounts: this.#accounts, keys,
      sinks: [...sinksOf(raw.sinks, this.#knownNames(), this.#report), ...this.#archive()], events: this.#events(), analytics: this.#analytics(store), notifications: this.#notifications(plans, addOns, keys), instance: raw.instance ?? (this.#options.hostName || 'tallygate'),
      ...(telemetry === undefined ? {} : { telemetry }),
    }
    const version = hash('sha256', JSON.stringify(content, (_, value: unknown) => value instanceof Map ? [...value] : value)).slice(0, 16)
    return freeze({ ...content, version, files: this.#files })
  }

  /** Names that the file defines, broken ones too: a reference to one of them is not a typo. */
  #namesIn(section: 'plans' | 'add_ons' | 'accounts' | 'upstreams' | 'meters' | 'prices'): ReadonlyMap<string, unknown> {
    const value = this.#raw.node.entries.get(section)?.value
    return value?.kind === 'map' ? value.entries : new Map()
  }

  /** A key with a plan of its own is an account of the same name. */
  #knownNames(): KnownNames {
    const ownAccounts = this.#raw.keys.filter(({ account }) => account === null).map(({ id }) => id)
    return { plans: new Set(this.#namesIn('plans').keys()), accounts: new Set([...this.#namesIn('accounts').keys(), ...ownAccounts]) }
  }

  /** Where a field of something stands. */
  #at(raw: { readonly node: MapNode }, field: string): Node {
    return raw.node.entries.get(field)?.value ?? raw.node
  }

  #env(name: string): string | undefined {
    const value = this.#options.env[name]
    return value === undefined || value === '' ? undefined : value
  }

  // -------------------------------------------------------------------------------------------------------------- server, admin, store

  #server(): ServerConfig {
    const raw = this.#raw.server
    return {
      listen: this.#address('TALLYGATE_LISTEN', this.#options.listen) ?? raw?.listen ?? { host: '127.0.0.1', port: 8080 },
      bodyMaxBytes: raw?.body_max ?? 32 * 1_048_576,
      timeouts: timeoutsOf(raw?.timeouts ?? null, defaultTimeouts),
      trustedProxies: raw?.trusted_proxies ?? nothing,
      cors: { origins: raw?.cors?.origins ?? nothing },
      drain: { delayMs: raw?.drain?.delay ?? 5_000, timeoutMs: raw?.drain?.timeout ?? 120_000 },
      tls: raw?.tls === undefined || raw.tls === null ? null : { certFile: raw.tls.cert, keyFile: raw.tls.key },
      streamPingMs: raw?.stream_ping ?? 0,
      drainsMax: raw?.drains_max ?? 64,
      workers: raw?.workers ?? 1,
    }
  }

  /** The command line's word, else the environment's. */
  #address(variable: string, option: string | undefined): Address | undefined {
    const text = option ?? this.#env(variable)
    if (text === undefined) return undefined
    const answer = addressOf(text)
    if ('value' in answer) return answer.value
    this.#report.whole(option === undefined ? `environment ${variable}` : 'command line', answer.problem)
    return undefined
  }

  #admin(callers: Address): AdminConfig {
    const raw = this.#raw.admin
    const listen = this.#address('TALLYGATE_ADMIN_LISTEN', this.#options.adminListen) ?? raw?.listen ?? { host: '127.0.0.1', port: 8081 }
    if (listen.port !== 0 && listen.port === callers.port && (listen.host === callers.host || listen.host === '0.0.0.0' || callers.host === '0.0.0.0')) {
      const sentence = `the admin port and the callers' port are both ${listen.port}`
      if (raw?.node.entries.has('listen') === true) this.#report.problem(this.#at(raw, 'listen'), pathOf(raw.trail, 'listen'), sentence)
      else this.#report.whole(this.#options.file, sentence)
    }
    const tokens: AdminConfig['tokens'][number][] = []
    const names = new Set<string>()
    for (const token of raw?.tokens ?? nothing) {
      if (names.has(token.name)) this.#report.problem(this.#at(token, 'name'), pathOf(token.trail, 'name'), `there are two tokens named ${token.name}`)
      names.add(token.name)
      const digest = this.#hashOf(token, 'token')
      if (digest !== undefined) tokens.push({ name: token.name, hash: digest, role: token.role })
    }
    const given = this.#env('TALLYGATE_ADMIN_TOKEN')
    if (given !== undefined) {
      const secret = secretShape.read(looseText('environment TALLYGATE_ADMIN_TOKEN', given), null, this.#report)
      if (names.has('env')) this.#report.whole('environment TALLYGATE_ADMIN_TOKEN', 'adds a token named env, and admin.tokens has one of that name already')
      if (secret !== undefined) tokens.push({ name: 'env', hash: hash('sha256', secret), role: 'admin' })
    }
    if (tokens.length === 0 && !isLoopback(listen.host)) {
      this.#report.wholeWarning(this.#options.file, `the admin port listens on ${listen.host} without a token: it will answer only callers on this machine; give admin.tokens or TALLYGATE_ADMIN_TOKEN`)
    }
    return { listen, tokens, metrics: raw?.metrics ?? 'token' }
  }

  /** Exactly one of hash and secret; the secret itself is not kept. */
  #hashOf(raw: Pick<RawKey, 'hash' | 'secret' | 'node' | 'trail'>, noun: string): string | undefined {
    if (raw.secret !== null && raw.hash !== null) this.#report.problem(raw.node, raw.trail, `has both a hash and a secret; keep one of them`)
    else if (raw.hash !== null) return raw.hash
    else if (raw.secret !== null) {
      this.#warnOfReadable(this.#at(raw, 'secret'), pathOf(raw.trail, 'secret'))
      return hash('sha256', raw.secret)
    } else this.#report.problem(raw.node, raw.trail, `the ${noun} has neither a hash nor a secret; \`tallygate keys new --yaml\` makes both`)
    return undefined
  }

  #warnOfReadable(node: Node, path: Path): void {
    if (node.kind !== 'scalar' || node.substituted || !node.source.worldReadable || this.#readableFiles.has(node.source)) return
    this.#readableFiles.add(node.source)
    this.#report.warn(node, path, 'a secret stands in a file that every user of this machine may read; write "${NAME}", a hash, or chmod o-r the file')
  }

  #store(): StoreConfig {
    const raw = this.#raw.store ?? 'embedded:./data'
    const url = typeof raw === 'string' ? raw : raw.url
    const more = typeof raw === 'string' ? null : raw
    const redis = url.startsWith('redis')
    if (more !== null && more.synchronous !== null && !url.startsWith('embedded:')) this.#report.problem(this.#at(more, 'synchronous'), pathOf(more.trail, 'synchronous'), 'belongs to an embedded store only')
    for (const key of REDIS_ONLY) {
      if (more !== null && more[key] !== null && !redis) this.#report.problem(this.#at(more, key), pathOf(more.trail, key), 'belongs to a Redis store only')
    }
    if (url === 'memory:') return { kind: 'memory' }
    if (!redis) return { kind: 'embedded', dir: url.slice('embedded:'.length), synchronous: more?.synchronous ?? 'full' }
    const node = typeof raw === 'string' ? this.#raw.node.entries.get('store')?.value : this.#at(raw, 'url')
    if (node?.kind === 'scalar' && /:\/\/.*@/.test(node.text)) this.#warnOfReadable(node, more === null ? pathOf(null, 'store') : pathOf(more.trail, 'url'))
    return {
      kind: 'redis', url, spool: more?.spool === 'none' ? null : (more?.spool ?? './data/spool'), spoolMaxBytes: more?.spool_max ?? 256 * 1_048_576,
      prefix: more?.prefix ?? 'tallygate', partitions: more?.partitions ?? 256, deadlineMs: more?.deadline ?? 250,
      durability: more?.durability ?? 'everysec', confirm: more?.confirm ?? { replicas: 0, fsync: false }, eventsMax: more?.events_max ?? 1_000_000,
    }
  }

  #events(): EventsConfig {
    const raw = this.#raw.events
    return { hotMs: raw?.hot ?? 86_400_000, archive: raw?.archive ?? null, keepMs: raw?.keep ?? 90 * 86_400_000 }
  }

  #analytics({ kind }: StoreConfig): AnalyticsConfig | null {
    const raw = this.#raw.analytics
    if (raw === 'off') return null
    // What is kept by the minute is most of it, and Redis has it in memory.
    const minutesMs = raw?.minutes ?? (kind === 'redis' ? 6 * 3_600_000 : 2 * 86_400_000)
    return { minutesMs, hoursMs: raw?.hours ?? 45 * 86_400_000, daysMs: raw?.days ?? 800 * 86_400_000, monthsMs: raw?.months ?? 3_660 * 86_400_000 }
  }

  #notifications(plans: ReadonlyMap<string, Plan>, addOns: ReadonlyMap<string, AddOn>, keys: readonly KeyConfig[]): Config['notifications'] {
    const limits = [...plans.values(), ...addOns.values(), ...this.#accounts.values(), ...keys].flatMap((each) => each.limits)
    return notificationsOf(this.#raw.notifications, limits, (node, path) => this.#warnOfReadable(node, path), this.#report)
  }

  #checkKeep(): void {
    const raw = this.#raw.events
    if (raw !== null && raw.keep !== null && raw.archive === null) this.#report.problem(this.#at(raw, 'keep'), pathOf(raw.trail, 'keep'), 'says how long the files of the archive are kept, and there is no archive; give archive too, or did you mean "hot"?')
  }

  /** An embedded store and one in memory belong to one process: others would each admit the whole limit. */
  #checkWorkers({ workers }: ServerConfig, store: StoreConfig): void {
    const raw = this.#raw.server
    if (raw === null || workers === 1 || store.kind === 'redis') return
    this.#report.problem(this.#at(raw, 'workers'), pathOf(raw.trail, 'workers'), `${workers} processes need a store that they can share, and ${store.kind === 'memory' ? 'one in memory' : 'an embedded one'} belongs to a single process; write store: "redis://…", or workers: 1`)
  }

  // -------------------------------------------------------------------------------------------------------------- upstreams and models

  #upstreams(server: ServerConfig): ReadonlyMap<string, Upstream> {
    const upstreams = new Map<string, Upstream>()
    for (const [name, raw] of this.#raw.upstreams) upstreams.set(name, toUpstream(name, raw, server.timeouts))
    const url = this.#env('UPSTREAM_URL')
    if (this.#namesIn('upstreams').size > 0) {
      if (url !== undefined) this.#report.wholeWarning('environment UPSTREAM_URL', 'is not used, because the configuration names its upstreams')
    } else if (url !== undefined) {
      const upstream = this.#environmentUpstream(url)
      if (upstream !== undefined) upstreams.set('model', upstream)
    }
    this.#checkDefaults(upstreams)
    return upstreams
  }

  #environmentUpstream(url: string): Upstream | undefined {
    const address = upstreamUrl.read(looseText('environment UPSTREAM_URL', url), null, this.#report)
    const providers = (this.#env('UPSTREAM_PROVIDER') ?? 'openai').split(',').map((name) => providerShape.read(looseText('environment UPSTREAM_PROVIDER', name.trim()), null, this.#report))
    const credential = this.#env('UPSTREAM_API_KEY') ?? null
    if (credential !== null && !/^[\x21-\x7e]+$/.test(credential)) this.#report.whole('environment UPSTREAM_API_KEY', 'a credential is made of visible ASCII characters, without spaces or line breaks')
    if (address === undefined) return undefined
    const known = providers.filter((provider) => provider !== undefined)
    return { name: 'model', ...address, providers: [...new Set(known)], credential, isDefault: true, connectionsMax: null, timeouts: null }
  }

  /** A model that `models` does not route goes to the only upstream of its dialect, else to the default one: there has to be one answer. */
  #checkDefaults(upstreams: ReadonlyMap<string, Upstream>): void {
    const section = this.#raw.node.entries.get('upstreams')
    if (section === undefined) return
    const path = pathOf(null, 'upstreams')
    for (const dialect of new Set([...upstreams.values()].flatMap((upstream) => upstream.providers))) {
      const speaking = [...upstreams.values()].filter((upstream) => upstream.providers.includes(dialect))
      const defaults = speaking.filter((upstream) => upstream.isDefault)
      const names = (list: readonly Upstream[]): string => listed(list.map((upstream) => upstream.name))
      if (speaking.length < 2 || defaults.length === 1) continue
      // What a pattern for every model routes is not unnamed; calls of the plain dialect have no model.
      if (defaults.length === 0 && dialect !== 'http' && speaking.some((upstream) => upstream.name === this.#raw.models.get('*')?.upstream)) continue
      const sentence = defaults.length === 0
        ? `${names(speaking)} all speak ${dialect}, and none has default: true; a model that models does not name could go to any of them`
        : `${names(defaults)} all speak ${dialect} and have default: true; only one may`
      this.#report.problemAt(section.key.source, section.key.offset, path, sentence)
    }
  }

  #models(upstreams: ReadonlyMap<string, Upstream>): readonly Model[] {
    const models: Model[] = []
    for (const [pattern, raw] of this.#raw.models) {
      if (raw.upstream !== null && !upstreams.has(raw.upstream) && !this.#namesIn('upstreams').has(raw.upstream)) {
        const at = this.#at(raw, 'upstream')
        this.#report.problem(at, pathOf(raw.trail, 'upstream'), `there is no upstream named ${at.kind === 'scalar' ? quote(at) : shown(raw.upstream)}${this.#report.suggestion(raw.upstream, upstreams.keys())}`)
      }
      if (raw.context_tokens !== null && raw.output_tokens_max !== null && raw.output_tokens_max > raw.context_tokens) {
        this.#report.problem(this.#at(raw, 'output_tokens_max'), pathOf(raw.trail, 'output_tokens_max'), `is more than the whole context of ${raw.context_tokens} tokens`)
      }
      models.push(toModel(pattern, raw))
    }
    this.#checkTies(this.#raw.models, (raw) => raw)
    return models
  }

  /** Of two patterns the longer one counts; two of the same length that can match one name have no answer. */
  #checkTies<T>(entries: ReadonlyMap<string, T>, place: (value: T) => { readonly node: MapNode; readonly trail: RawModel['trail'] }): void {
    const byLength = new Map<number, string[]>()
    for (const pattern of entries.keys()) {
      if (!pattern.includes('*')) continue
      const others = byLength.get(pattern.length) ?? []
      const rival = others.find((other) => globsMeet(other, pattern))
      const value = entries.get(pattern)
      if (rival !== undefined && value !== undefined) {
        const { node, trail } = place(value)
        this.#report.problem(node, trail, `${shown(rival)} is as long and can match the same model, so neither wins; make one of them longer`)
      }
      byLength.set(pattern.length, [...others, pattern])
    }
  }

  // -------------------------------------------------------------------------------------------------------------- prices and plans

  #cards(): ReadonlyMap<string, RateCard> {
    const cards = new Map<string, RateCard>()
    for (const [name, raws] of this.#raw.prices) cards.set(name, this.#card(name, raws))
    return cards
  }

  /** Counters, limits and grants in money know no currency, so that all prices of a gateway are counted with the same digits. */
  #moneyScale(): number {
    const cards = [...this.#raw.prices.values(), ...[...this.#raw.plans.values()].map(({ prices }) => (prices === null || typeof prices === 'string' ? nothing : prices))].flat()
    const scale = cards[0]?.scale ?? defaultMoneyScale
    for (const card of cards) {
      if ((card.scale ?? defaultMoneyScale) !== scale) this.#report.problem(this.#at(card, 'scale'), pathOf(card.trail, 'scale'), `is not ${scale}, that of the prices at ${where(cards[0] ?? card)}; all prices of a gateway have one`)
    }
    return scale
  }

  #card(name: string | null, raws: readonly RawPriceCard[]): RateCard {
    for (const raw of raws) this.#checkTies(raw.models ?? new Map<string, RawRates>(), (rates) => rates)
    return rateCardOf(name, raws, this.#report)
  }

  #plan(name: string, cards: ReadonlyMap<string, RateCard>): Plan | undefined {
    const done = this.#plans.get(name)
    const raw = this.#raw.plans.get(name)
    if (done === null) {
      if (raw !== undefined) this.#report.problem(this.#at(raw, 'extends'), pathOf(raw.trail, 'extends'), 'comes back to this plan: plans extend each other in a circle')
      return undefined
    }
    if (done !== undefined || this.#plans.has(name) || raw === undefined) return done
    this.#plans.set(name, null)
    const plan = this.#resolve(name, raw, cards)
    this.#plans.set(name, plan)
    return plan
  }

  #resolve(name: string, raw: RawPlan, cards: ReadonlyMap<string, RateCard>): Plan | undefined {
    const base = this.#base(raw, cards)
    const own = limitsOf(raw.limits, this.#meters, this.#report)
    const prices = this.#prices(raw, cards)
    if (base === undefined) return undefined
    const given = entitlementsOf(raw.entitlements)
    const limits = replaced(base?.limits ?? nothing, own)
    const ownGrants = grantsFrom(raw.grants, { limits, having: `the plan ${name}`, beside: base?.grants ?? nothing, timeZone: DEFAULT_CALENDAR.timeZone, idsAreBuckets: true, source: { recurring: 'plan', once: 'plan' } }, this.#report)
    const grants = [...(base?.grants ?? nothing).filter(({ id }) => !ownGrants.some((each) => each.id === id)), ...ownGrants]
    const entitlements: Entitlements = { models: ['*'], endpoints: null, maxOutputTokens: null, maxContextTokens: null, priority: null, features: [], ...base?.entitlements, ...given }
    return {
      name, version: raw.version, public: raw.public, entitlements,
      limits,
      policy: policyOf(raw.policy, base?.policy ?? defaultPolicy),
      proration: raw.proration ?? base?.proration ?? 'none',
      prices: prices ?? base?.prices ?? null,
      charges: chargesOf(raw, prices ?? base?.prices ?? null, base, this.#report),
      ...(grants.length === 0 ? {} : { grants }),
    }
  }

  /** The plan that this one extends; null: none; undefined: it is not there or broken. */
  #base(raw: RawPlan, cards: ReadonlyMap<string, RateCard>): Plan | null | undefined {
    if (raw.extends === null) return null
    if (this.#isKnown('plans', raw.extends, raw, 'extends', 'plan')) return this.#plan(raw.extends, cards)
    return undefined
  }

  #prices(raw: RawPlan, cards: ReadonlyMap<string, RateCard>): RateCard | null {
    if (raw.prices === null) return null
    if (typeof raw.prices !== 'string') return this.#card(null, raw.prices)
    if (!this.#isKnown('prices', raw.prices, raw, 'prices', 'price card')) return null
    return cards.get(raw.prices) ?? null
  }

  #isKnown(section: 'plans' | 'accounts' | 'prices' | 'add_ons', name: string, raw: { readonly node: MapNode; readonly trail: RawModel['trail'] }, field: string, noun: string): boolean {
    const names = this.#namesIn(section)
    if (names.has(name)) return true
    const known = names.size === 0 ? `; ${section} defines none` : this.#report.suggestion(name, names.keys())
    const at = this.#at(raw, field)
    this.#report.problem(at, pathOf(raw.trail, field), `there is no ${noun} named ${at.kind === 'scalar' ? quote(at) : shown(name)}${known}`)
    return false
  }

  // -------------------------------------------------------------------------------------------------------------- accounts and keys

  #readAccounts(): void {
    for (const [id, raw] of this.#raw.accounts) {
      if (raw.plan !== null) this.#isKnown('plans', raw.plan, raw, 'plan', 'plan')
      const parentKnown = raw.parent === null || this.#isKnown('accounts', raw.parent, raw, 'parent', 'account')
      if (parentKnown) this.#checkChain(id, raw)
      this.#accounts.set(id, {
        id, plan: raw.plan, parent: raw.parent,
        calendar: raw.billing === null ? DEFAULT_CALENDAR : { timeZone: raw.billing.timezone ?? DEFAULT_CALENDAR.timeZone, anchor: raw.billing.anchor ?? DEFAULT_CALENDAR.anchor },
        limits: limitsOf(raw.limits, this.#meters, this.#report),
        entitlements: entitlementsOf(raw.entitlements), labels: labelsOf(raw.labels), suspended: raw.suspended,
        subscription: null, addOns: raw.add_ons.length === 0 ? nothing : raw.add_ons, planHistory: nothing, where: where(raw),
      })
      for (const name of raw.add_ons) this.#isKnown('add_ons', name, raw, 'add_ons', 'add-on')
    }
  }

  #readSubscriptions(plans: ReadonlyMap<string, Plan>): void {
    for (const [id, raw] of this.#raw.accounts) {
      const account = this.#accounts.get(id)
      if (raw.subscription === null || account === undefined) continue
      this.#accounts.set(id, { ...account, subscription: subscriptionFrom(raw.subscription, account.calendar.timeZone, plans, this.#report) })
    }
  }

  /** After the add-ons, whose limits they may extend. */
  #readGrants(plans: ReadonlyMap<string, Plan>, addOns: ReadonlyMap<string, AddOn>): void {
    for (const [id, raw] of this.#raw.accounts) {
      const account = this.#accounts.get(id)
      if (raw.grants.length === 0 || account === undefined) continue
      const own = this.#planOf(id, plans)
      const later = (account.subscription?.plans ?? []).flatMap(({ plan }) => plans.get(plan) ?? nothing)
      const bought = this.#chain(id).flatMap((each) => each.addOns).flatMap((name) => addOns.get(name) ?? nothing)
      const limits = [...replaced(own?.limits ?? nothing, account.limits), ...later.flatMap((plan) => plan.limits), ...bought.flatMap((addOn) => addOn.limits)]
      const beside = [...own?.grants ?? nothing, ...account.addOns.flatMap((name) => addOns.get(name)?.grants ?? nothing)]
      const grants = grantsFrom(raw.grants, {
        limits, having: own === null || own === undefined ? `the account ${id}` : `the account ${id} or its plan ${own.name}`, beside, timeZone: account.calendar.timeZone,
        idsAreBuckets: true, source: { recurring: 'recurrence', once: 'operator' },
      }, this.#report)
      this.#accounts.set(id, { ...account, grants })
    }
  }

  #addOns(plans: ReadonlyMap<string, Plan>): ReadonlyMap<string, AddOn> {
    const limits = [...plans.values(), ...this.#accounts.values()].flatMap((each) => each.limits)
    return new Map([...this.#raw.add_ons].map(([name, raw]) => [name, addOnOf(name, raw, limits, this.#meters, entitlementsOf(raw.entitlements), this.#report)]))
  }

  #checkChain(id: string, raw: RawAccount): void {
    let levels = 1
    for (let at = raw.parent; at !== null && at !== undefined; at = this.#raw.accounts.get(at)?.parent ?? null) {
      levels++
      const sentence = at === id ? 'comes back to this account: accounts are under each other in a circle'
        : levels > levelsMax ? `puts this account ${levels} levels deep or more; ${levelsMax} are the most` : undefined
      if (sentence === undefined) continue
      this.#report.problem(this.#at(raw, 'parent'), pathOf(raw.trail, 'parent'), sentence)
      return
    }
  }

  /** The plan of an account: its own, else that of the nearest account above. */
  #planOf(account: string, plans: ReadonlyMap<string, Plan>): Plan | null | undefined {
    for (const each of this.#chain(account)) if (each.plan !== null) return plans.get(each.plan)
    return null
  }

  /** The account and those above it, as far as they are good. */
  #chain(account: string): readonly Account[] {
    const chain: Account[] = []
    for (let at = this.#accounts.get(account); at !== undefined && chain.length < levelsMax; at = at.parent === null ? undefined : this.#accounts.get(at.parent)) chain.push(at)
    return chain
  }

  #keys(plans: ReadonlyMap<string, Plan>): readonly KeyConfig[] {
    const keys: KeyConfig[] = []
    const ids = new Map<string, RawKey>()
    const hashes = new Map<string, RawKey>()
    for (const raw of this.#raw.keys) {
      const sameId = ids.get(raw.id)
      if (sameId !== undefined) this.#report.problem(this.#at(raw, 'id'), pathOf(raw.trail, 'id'), `there is another key ${raw.id}, at ${where(sameId)}`)
      ids.set(raw.id, raw)
      this.#checkOwner(raw, plans)
      const digest = this.#hashOf(raw, 'key')
      if (digest === undefined) continue
      const sameHash = hashes.get(digest)
      if (sameHash !== undefined) this.#report.problem(raw.node, raw.trail, `has the same secret as the key ${sameHash.id}, at ${where(sameHash)}`)
      hashes.set(digest, raw)
      keys.push({
        id: raw.id, hash: digest, account: raw.account, plan: raw.plan,
        limits: raw.limits.length === 0 ? nothing : this.#keyLimits(raw),
        entitlements: entitlementsOf(raw.entitlements), labels: labelsOf(raw.labels), expiresMs: raw.expires, endUserFrom: raw.end_user_from, where: where(raw),
      })
    }
    return keys
  }

  #keyLimits(raw: RawKey): readonly Limit[] {
    const limits = limitsOf(raw.limits, this.#meters, this.#report)
    for (const { name, bySubscription } of limits) {
      if (bySubscription === true) this.#report.problem(this.#at(raw, 'limits'), pathOf(raw.trail, 'limits'), `${name}: a key has no subscription; write limit: subscription with its account or plan`)
    }
    return limits
  }

  #checkOwner(raw: RawKey, plans: ReadonlyMap<string, Plan>): void {
    if (raw.account !== null && raw.plan !== null) {
      this.#report.problem(raw.node, raw.trail, 'has both an account and a plan; a key has the plan of its account, or a plan and no account')
    } else if (raw.plan !== null) {
      this.#isKnown('plans', raw.plan, raw, 'plan', 'plan')
      if (this.#namesIn('accounts').has(raw.id)) {
        this.#report.problem(this.#at(raw, 'id'), pathOf(raw.trail, 'id'), `the key is its own account, and there is an account ${raw.id} already; did you mean account: ${raw.id}?`)
      }
    } else if (raw.account !== null) {
      if (!this.#isKnown('accounts', raw.account, raw, 'account', 'account')) return
      if (this.#accounts.has(raw.account) && this.#planOf(raw.account, plans) === null) {
        this.#report.problem(this.#at(raw, 'account'), pathOf(raw.trail, 'account'), `the account ${raw.account} has no plan, nor has one above it`)
      }
    } else this.#report.problem(raw.node, raw.trail, 'has neither an account nor a plan; without one it could not be limited')
  }

  // -------------------------------------------------------------------------------------------------------------- relationships

  /** Money can be limited only where everything that counts toward it has a price in one currency. */
  #checkCosts(plans: ReadonlyMap<string, Plan>): void {
    for (const [name, plan] of plans) {
      if (plan.prices !== null) continue
      const raw = this.#raw.plans.get(name)
      for (const limit of plan.limits) {
        if (!isCost(limit) || raw === undefined) continue
        const own = raw.limits.find((each) => each.name === limit.name) ?? raw
        this.#report.problem(own.node, own.trail, `${limit.name} limits cost, but the plan ${name} has no prices`)
      }
    }
    const currencies = new Map<string, string>()
    for (const account of this.#accounts.values()) {
      const plan = this.#planOf(account.id, plans)
      if (plan === null || plan === undefined) continue
      for (const each of this.#chain(account.id)) {
        const raw = this.#raw.accounts.get(each.id)
        if (raw !== undefined && each.limits.some(isCost)) this.#checkCurrency(each.id, raw, plan, currencies)
      }
    }
    for (const raw of this.#raw.keys) {
      if (!raw.limits.some((limit) => limit.meter.text === 'cost')) continue
      const plan = raw.plan !== null ? plans.get(raw.plan) : raw.account === null ? undefined : this.#planOf(raw.account, plans)
      if (plan !== undefined && plan !== null && plan.prices === null) this.#report.problem(this.#at(raw, 'limits'), pathOf(raw.trail, 'limits'), `limits cost, but the plan ${plan.name} has no prices`)
    }
  }

  #checkCurrency(id: string, raw: RawAccount, plan: Plan, currencies: Map<string, string>): void {
    const path = pathOf(raw.trail, 'limits')
    if (plan.prices === null) {
      if (currencies.get(id) !== '') this.#report.problem(this.#at(raw, 'limits'), path, `limits cost, but the plan ${plan.name} has no prices`)
      currencies.set(id, '')
      return
    }
    const before = currencies.get(id)
    if (before !== undefined && before !== '' && before !== plan.prices.currency) {
      this.#report.problem(this.#at(raw, 'limits'), path, `limits cost, but the plans of this account and those under it are priced in ${before} and in ${plan.prices.currency}`)
    }
    currencies.set(id, before ?? plan.prices.currency)
  }

  /** A limit per end user counts nothing where no end user is known. */
  #checkEndUsers(keys: readonly KeyConfig[], plans: ReadonlyMap<string, Plan>): void {
    const unaware = new Map<string, string>()
    for (const key of keys) {
      if (key.endUserFrom !== null) continue
      const plan = key.plan !== null ? plans.get(key.plan) : key.account === null ? undefined : this.#planOf(key.account, plans)
      if (plan !== undefined && plan !== null && !unaware.has(plan.name)) unaware.set(plan.name, key.id)
    }
    for (const [name, key] of unaware) {
      const limit = plans.get(name)?.limits.find((each) => each.per === 'end_user')
      const raw = this.#raw.plans.get(name)
      if (limit !== undefined && raw !== undefined) this.#report.warn(raw.node, raw.trail, `${limit.name} is per end user, but the key ${key} has no end_user_from: its callers all count as one`)
    }
  }

  /** The archive is a file sink like any other, with a name and a lifetime of its own. */
  #archive(): readonly SinkConfig[] {
    const raw = this.#raw.events
    const { archive, keepMs } = this.#events()
    if (raw === null || archive === null) return []
    const name = 'archive'
    const path = join(archive, 'events.ndjson')
    for (const sink of this.#raw.sinks) {
      if (sink.name === name) this.#report.problem(this.#at(sink, 'name'), pathOf(sink.trail, 'name'), 'is the name of the archive that events.archive asks for; choose another')
      const own = filePathOf(sink)
      if (own !== null && join(own) === path) this.#report.problem(this.#at(sink, 'path'), pathOf(sink.trail, 'path'), 'is the file of the archive that events.archive asks for; every sink needs its own')
    }
    return [{ name, type: 'file', settings: { path, max_bytes: archiveFileBytes, daily: true, keep: keepMs }, mapping: null }]
  }
}

function isCost(limit: Limit): boolean {
  return meterName(limit.meter) === 'cost'
}

function timeoutsOf(raw: RawTimeouts | null, otherwise: ServerConfig['timeouts']): ServerConfig['timeouts'] {
  if (raw === null) return otherwise
  return {
    connectMs: raw.connect ?? otherwise.connectMs, firstByteMs: raw.first_byte ?? otherwise.firstByteMs,
    idleMs: raw.idle ?? otherwise.idleMs, totalMs: raw.total ?? otherwise.totalMs,
  }
}

function toUpstream(name: string, raw: RawUpstream, timeouts: ServerConfig['timeouts']): Upstream {
  return {
    name, ...raw.url, providers: [...new Set(raw.provider)], credential: raw.credential === '' ? null : raw.credential, isDefault: raw.default,
    connectionsMax: raw.connections_max, timeouts: raw.timeouts === null ? null : timeoutsOf(raw.timeouts, timeouts),
  }
}

function toModel(pattern: string, raw: RawModel): Model {
  const template = raw.template_tokens
  return {
    pattern, upstream: raw.upstream, upstreamModel: raw.upstream_model, contextTokens: raw.context_tokens, outputTokensMax: raw.output_tokens_max,
    outputField: raw.output_field, inputFactor: raw.input_factor,
    templateTokens: template === null ? null : { perCall: template.per_call, perMessage: template.per_message, perTool: template.per_tool },
    encoding: raw.encoding, imageTokens: raw.image_tokens, hiddenOutput: raw.hidden_output,
  }
}

/** Only what is said: the rest comes from whom it replaces. */
export function entitlementsOf(raw: RawEntitlements | null): Partial<Entitlements> {
  if (raw === null) return noEntitlements
  return {
    ...(raw.models === null ? {} : { models: raw.models }), ...(raw.endpoints === null ? {} : { endpoints: raw.endpoints }),
    ...(raw.max_output_tokens === null ? {} : { maxOutputTokens: raw.max_output_tokens }), ...(raw.max_context_tokens === null ? {} : { maxContextTokens: raw.max_context_tokens }),
    ...(raw.priority === null ? {} : { priority: raw.priority }), ...(raw.features === null ? {} : { features: raw.features }),
    ...(raw.deny_features === null ? {} : { deniedFeatures: raw.deny_features }),
  }
}

function policyOf(raw: RawPolicy | null, base: Policy): Policy {
  if (raw === null) return base
  const down = raw.store_down
  return {
    reserve: raw.reserve ?? base.reserve, outputDefault: raw.output_default ?? base.outputDefault, onInsufficient: raw.on_insufficient ?? base.onInsufficient,
    clampFloor: raw.clamp_floor ?? base.clampFloor, onDisconnect: raw.on_disconnect ?? base.onDisconnect, countFailed: raw.count_failed ?? base.countFailed,
    storeDown: down === null ? base.storeDown : typeof down === 'string' ? { kind: down } : { kind: 'allow_up_to', amount: down.allow_up_to },
    waitMs: raw.wait ?? base.waitMs, unpriced: raw.unpriced ?? base.unpriced,
  }
}

/** The base's limits in their order, replaced where the name is the same, then the new ones. */
function replaced(base: readonly Limit[], own: readonly Limit[]): readonly Limit[] {
  const byName = new Map(own.map((limit) => [limit.name, limit]))
  const kept = base.map((limit) => byName.get(limit.name) ?? limit)
  const names = new Set(base.map((limit) => limit.name))
  return [...kept, ...own.filter((limit) => !names.has(limit.name))]
}

function labelsOf(raw: ReadonlyMap<string, string> | null): Readonly<Record<string, string>> {
  return raw === null ? noLabels : Object.fromEntries(raw)
}

function where(raw: { readonly node: Node }): string {
  return `${raw.node.source.file}:${raw.node.source.position(raw.node.offset).line}`
}

/** Through and through; maps are read-only by their type. */
export function freeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  Object.freeze(value)
  for (const each of value instanceof Map ? value.values() : Object.values(value)) freeze(each)
  return value
}
