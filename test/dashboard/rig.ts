// A gateway whose pages have something to show.

import type { Page } from 'playwright-core'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import type { GatewayProcess } from '../fixtures/gateway-process.ts'
import { lagoPostgres } from '../sinks/kit/dialects/lago.ts'
import type { Fake } from '../sinks/kit/fake.ts'
import { httpSubject } from '../sinks/kit/http-fake.ts'

export const acmeSecret = 'acme-secret-0123456789abcdef'
export const opsSecret = 'ops-token-0123456789abcdef'
export const viewSecret = 'view-token-0123456789abcdef'
export const hostileLabel = `'"><script>alert(document.domain)</script>`
/** What callers may call a model. */
export const hostile = [
  '<img src=x onerror=alert(1)>', `'"><script>alert(2)</script>`, `'-alert(3)-'`, 'javascript:alert(4)', '{{7*7}}${7*7}', '\u202egnp.exe', '=HYPERLINK("http://evil.example","x")', '@SUM(1)', 'A'.repeat(200),
]

/** Everything that pages show something of. */
export const config = (admin = '', sinks = ''): string => `
${admin}
sinks:
  - { name: file, type: file, path: "{dir}/data/usage.ndjson" }
  - { name: billing, type: file, path: "{dir}/billing.ndjson" }
${sinks}
prices:
  standard: { currency: USD, version: 2026-01-01, models: { "*": { input_tokens: 3/M, output_tokens: 15/M } } }
plans:
  free:
    version: 3
    public: true
    prices: standard
    entitlements: { models: ["*"] }
    limits:
      - { name: rpm, meter: requests, limit: 300, window: 1m }
      - { name: daily, meter: total_tokens, limit: 100k, window: day }
      - { name: monthly, meter: total_tokens, limit: 2M, window: billing_period, overdraft: 10% }
      - { name: budget, meter: cost, limit: 25, window: billing_period }
      - { name: parallel, meter: concurrency, limit: 4 }
  tiny:
    entitlements: { models: ["*"] }
    limits: [{ name: calls, meter: requests, limit: 2, window: day }]
accounts:
  acme: { plan: free, billing: { anchor: 2026-01-15, timezone: Europe/Berlin }, labels: { team: "${hostileLabel.replaceAll('"', '\\"')}" } }
  corner-shop: { plan: tiny }
  bolt: { plan: free, parent: acme }
keys:
  - { id: acme-dev, account: acme, hash: "sha256:${hashOfSecret(acmeSecret)}" }
`

/** A sink whose receiver can be asked for its books. */
export function lagoSink(receiver: Fake, { right = true } = {}): string {
  const { url, api_key: key } = receiver.settings(right)
  return `  - { name: lago, type: lago, url: "${String(url)}", api_key: "${String(key)}", private: true, store: postgres }`
}

export function startLago(): Promise<Fake> {
  return httpSubject(lagoPostgres).start()
}

export const adminTokens = `
admin:
  tokens:
    - { name: ops, hash: "sha256:${hashOfSecret(opsSecret)}", role: admin }
    - { name: view, hash: "sha256:${hashOfSecret(viewSecret)}", role: viewer }
`

export function chat(gateway: GatewayProcess, secret: string, model = 'demo', stream = false): Promise<Response> {
  return fetch(`${gateway.url}/v1/chat/completions`, {
    method: 'POST', headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' }, body: JSON.stringify({ model, stream, messages: [{ role: 'user', content: 'Hello there!' }] }),
  })
}

/** Sends it and reads the answer to its end. */
export async function call(gateway: GatewayProcess, secret: string, model?: string): Promise<number> {
  const response = await chat(gateway, secret, model)
  await response.text()
  return response.status
}

/** Every page, by name. */
export const pages = [
  ['live', '/'], ['accounts', '/accounts'], ['account', '/accounts/acme?range=1h&by=key'], ['account-small', '/accounts/corner-shop'], ['plans', '/plans'], ['sinks', '/sinks'], ['sink', '/sinks/billing'], ['events', '/events'], ['notices', '/notices'], ['nothing', '/accounts/nobody'],
] as const

/** Everything it fetches at first is there. */
export async function settled(page: Page): Promise<void> {
  await page.locator('h1').first().waitFor()
  await page.waitForFunction(() => document.querySelector('.skeleton') === null)
}
