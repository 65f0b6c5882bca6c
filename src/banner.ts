import type { Address } from './config/config.ts'
import { demoModelName } from './demo/demo-model.ts'

/** What the first lines on the screen tell. */
export interface BannerFacts {
  readonly gateway: string
  readonly admin: string
  readonly store: string
  /** Processes that share the callers' port. */
  readonly workers: number
  readonly upstreams: readonly string[]
  /** The demo key, and where it is kept. */
  readonly demo: { readonly secret: string; readonly file: string | null } | null
  /** A first real key, told this once. */
  readonly firstKey: { readonly id: string; readonly secret: string; readonly plan: string } | null
  /** An admin token that was made for this run. */
  readonly adminToken: string | null
}

export function toBanner(facts: BannerFacts): string {
  const { gateway, demo, firstKey, adminToken } = facts
  const rows: (readonly [string, string])[] = [
    ['gateway', `${gateway}   (base URL for OpenAI clients: ${gateway}/v1)`],
    ['admin', facts.admin],
    ...(adminToken === null ? [] : [['admin token', `${adminToken}   (made for this run; set TALLYGATE_ADMIN_TOKEN to choose one)`] as const]),
    ['books', facts.store],
    ...(facts.workers === 1 ? [] : [['workers', `${facts.workers} processes share the callers' port`] as const]),
    ['upstream', demo === null ? facts.upstreams.join(', ') : 'the demo model, a stand-in (set UPSTREAM_URL to meter a real one)'],
    ...(demo === null ? [] : [['demo key', `${demo.secret}   (for the demo model only${demo.file === null ? '' : `; kept in ${demo.file}`})`] as const]),
    ...(firstKey === null ? [] : [['first key', `${firstKey.secret}   ("${firstKey.id}" on plan ${firstKey.plan}; shown this once, only its hash is kept)`] as const]),
  ]
  const width = Math.max(...rows.map(([name]) => name.length))
  const table = rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`).join('\n')
  return `\nTallygate is ready.\n\n${table}\n${tryIt(gateway, demo?.secret ?? null, firstKey?.secret ?? null)}\n`
}

function tryIt(gateway: string, demoSecret: string | null, firstSecret: string | null): string {
  if (demoSecret !== null) {
    return `\nTry it:\n\n  ${chatLine(gateway, demoSecret, false)}\n\nStreamed:\n\n  ${chatLine(gateway, demoSecret, true)}\n\nWhat is left:\n\n  ${usageLine(gateway, demoSecret)}\n`
  }
  if (firstSecret === null) return ''
  return `\nTry it:\n\n  curl ${gateway}/v1/models -H 'authorization: Bearer ${firstSecret}'\n\nWhat is left:\n\n  ${usageLine(gateway, firstSecret)}\n`
}

function chatLine(gateway: string, secret: string, stream: boolean): string {
  const body = JSON.stringify({ model: demoModelName, ...(stream ? { stream } : {}), messages: [{ role: 'user', content: 'Hello!' }] })
  return `curl ${stream ? '-N ' : ''}${gateway}/v1/chat/completions -H 'authorization: Bearer ${secret}' -H 'content-type: application/json' -d '${body}'`
}

function usageLine(gateway: string, secret: string): string {
  return `curl ${gateway}/-/usage -H 'authorization: Bearer ${secret}'`
}

/** An address as one can call it: every address of this machine is also 127.0.0.1. */
export function toUrl({ host, port }: Address, scheme: 'http' | 'https' = 'http'): string {
  const shown = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  return `${scheme}://${shown.includes(':') ? `[${shown}]` : shown}:${port}`
}
