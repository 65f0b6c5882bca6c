import { hash } from 'node:crypto'
import { matches } from '../metering/glob.ts'
import type { Limit } from '../metering/limits/limit.ts'
import type { NotificationsConfig, WebhookConfig } from './config.ts'
import { DEFAULT_NOTIFICATIONS } from './config.ts'
import type { Path, Report } from './problem.ts'
import { listed, pathOf, shown } from './problem.ts'
import type { RawNotifications, RawWebhook } from './schema.ts'
import type { Node } from './yaml.ts'

/** A receiver whose secret is replaced knows two for a while; more of them help nobody. */
const secretsMax = 4

/** null: nothing is told. `limits`: all that there are; `warnOfReadable` is asked about every secret that stands in a file. */
export function notificationsOf(raw: RawNotifications | null, limits: readonly Limit[], warnOfReadable: (node: Node, path: Path) => void, report: Report): NotificationsConfig | null {
  if (raw === null) return DEFAULT_NOTIFICATIONS
  if (raw === 'none') return null
  const names = new Set(limits.map(({ name }) => name))
  for (const [index, glob] of (raw.limits ?? []).entries()) {
    if ([...names].some((name) => matches(glob, name))) continue
    report.warn(raw.node.entries.get('limits')?.value ?? raw.node, pathOf(pathOf(raw.trail, 'limits'), index), `${shown(glob)} is the name of no limit here${names.size === 0 ? '' : `; there is ${listed(names)}`}`)
  }
  const webhooks: WebhookConfig[] = []
  const urls = new Map<string, RawWebhook>()
  for (const each of raw.webhooks) {
    const before = urls.get(each.url)
    if (before !== undefined) report.problem(each.node.entries.get('url')?.value ?? each.node, pathOf(each.trail, 'url'), 'is the url of another webhook too; one receiver is written once, with all that it is to be told')
    urls.set(each.url, each)
    const webhook = webhookOf(each, warnOfReadable, report)
    if (webhook !== undefined) webhooks.push(webhook)
  }
  return { thresholds: raw.thresholds ?? DEFAULT_NOTIFICATIONS.thresholds, forecast: raw.forecast, limits: raw.limits, webhooks }
}

function webhookOf(raw: RawWebhook, warnOfReadable: (node: Node, path: Path) => void, report: Report): WebhookConfig | undefined {
  const { url, types, accounts } = raw
  const wrong = (sentence: string, field?: string): undefined => {
    report.problem((field === undefined ? undefined : raw.node.entries.get(field)?.value) ?? raw.node, field === undefined ? raw.trail : pathOf(raw.trail, field), sentence)
    return undefined
  }
  if (raw.secret !== null && raw.secrets !== null) return wrong('has both secret and secrets; write all of them as secrets')
  const secrets = raw.secret === null ? raw.secrets ?? [] : [raw.secret]
  if (secrets.length === 0) return wrong('has no secret, and without one nobody could tell its calls from anybody\'s; write secret: "${NAME}", made with: echo whsec_$(openssl rand -base64 32)')
  if (secrets.length > secretsMax) return wrong(`has ${secrets.length} secrets; ${secretsMax} are the most, the newest first`, 'secrets')
  if (new Set(secrets).size < secrets.length) return wrong('names a secret twice', 'secrets')
  const secretNode = raw.node.entries.get(raw.secret === null ? 'secrets' : 'secret')?.value
  for (const node of secretNode?.kind === 'seq' ? secretNode.items : secretNode === undefined ? [] : [secretNode]) warnOfReadable(node, pathOf(raw.trail, raw.secret === null ? 'secrets' : 'secret'))
  return { id: hash('sha256', url).slice(0, 16), url, secrets, types: types === null ? null : [...new Set(types)], accounts, headers: raw.headers === null ? {} : Object.fromEntries(raw.headers) }
}
