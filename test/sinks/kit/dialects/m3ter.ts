import { m3ter } from '../../../../src/sinks/m3ter.ts'
import { canary, json, type Answer, type Call, type Dialect } from '../dialect.ts'
import type { Received } from '../books.ts'
import { eventsIn } from './shapes.ts'

const organization = 'org-1'
const user = { id: 'key-1', secret: 'm3ter-test-secret' }

interface Measurement {
  readonly uid: string
  readonly meter: string
  readonly account: string
  readonly ts: string
  readonly measure: Readonly<Record<string, number>>
}

const problem = (status: number): Answer => json(status, { errorMessage: canary })

/** Tokens as they are given out; what is not in the set is not taken any more. */
export const m3terTokens = { valid: new Set<string>(), given: 0, expiresInSeconds: 18_000 }
/** Accounts that m3ter has; null: whatever it is asked for. */
export const m3terAccounts: { known: ReadonlySet<string> | null } = { known: null }

export const m3terDialect: Dialect = {
  name: 'm3ter',
  kind: m3ter,
  duplicates: 'silent',
  settings: (url, right) => ({ url, api_url: url, private: true, organization, access_key_id: user.id, secret: right ? user.secret : 'm3ter-wrong-secret', unknown_accounts: 'refuse' }),
  authorized({ path, headers }) {
    if (path === '/oauth/token') return headers.authorization === `Basic ${Buffer.from(`${user.id}:${user.secret}`).toString('base64')}`
    return m3terTokens.valid.has((headers.authorization ?? '').replace(/^Bearer /, ''))
  },
  read(call) {
    if (call.path !== `/organizations/${organization}/measurements`) return problem(404)
    const measurements = eventsIn<Measurement>(call, 'measurements')
    return measurements === null ? problem(400) : measurements.map(received)
  },
  answer: () => json(200, { result: 'accepted' }),
  // Too many bytes look like a wrong key.
  refusal: (why) => problem({ unauthorized: 401, busy: 429, broken: 500, too_many: 400, too_large: 403, concurrent: 409 }[why]),
  aside: /^\/oauth\/token$/,
  ask(call) {
    if (call.path === '/oauth/token') return token(call)
    return call.path === `/organizations/${organization}/accounts` ? json(200, { data: accounts(call) }) : null
  },
}

function token(call: Call): Answer {
  if ((JSON.parse(call.text) as { grant_type?: string }).grant_type !== 'client_credentials') return problem(400)
  m3terTokens.given += 1
  const access_token = `token-${m3terTokens.given}`
  m3terTokens.valid.add(access_token)
  return json(200, { access_token, token_type: 'bearer', expires_in: m3terTokens.expiresInSeconds })
}

function accounts(call: Call): object[] {
  return call.query.getAll('codes').filter((code) => m3terAccounts.known?.has(code) ?? true).map((code) => ({ id: `id-of-${code}`, code, name: canary }))
}

function received({ uid: id, meter: code, account: customer, ts, measure }: Measurement): Received {
  const value = measure['value']
  return { key: id, id, code, customer, timeMs: Date.parse(ts), value: String(value), bad: typeof value === 'number' ? null : 'no measure' }
}
