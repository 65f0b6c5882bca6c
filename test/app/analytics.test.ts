// test: timeout 300 s
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { startRedis } from '../fixtures/redis.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { chat, configIn, serve, tallygate, writeConfig } from './process.ts'
import type { RunningGateway } from './process.ts'

t.setTimeout(280_000)

const plans = `
plans:
  free:
    entitlements: { models: ["*"] }
    limits:
      - { name: rpm, meter: requests, limit: 100k, window: 1m }
  small:
    entitlements: { models: ["*"] }
    limits:
      - { name: few, meter: requests, limit: 3, window: day }
accounts:
  acme: { plan: small }
keys:
  - { id: acme-key, account: acme, secret: "tg_test_acme_0123456789abcdefghijklmn" }
`
const acmeSecret = 'tg_test_acme_0123456789abcdefghijklmn'

type Json = Readonly<Record<string, unknown>>
type Row = Readonly<Record<string, unknown>> & { readonly events: number; readonly requests: number; readonly refused: number | null }

async function get(running: RunningGateway, path: string): Promise<Json> {
  const response = await fetch(`${running.admin}${path}`)
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
  return await response.json() as Json
}

async function rowsOf(running: RunningGateway, query: string): Promise<readonly Row[]> {
  return (await get(running, `/api/v1/analytics/usage?${query}`))['rows'] as readonly Row[]
}

async function eventsIn(running: RunningGateway): Promise<number> {
  const [row] = await rowsOf(running, 'from=7d&unit=day')
  return row?.events ?? 0
}

/** Of the events themselves. */
async function eventsOf(running: RunningGateway): Promise<number> {
  let found = 0
  for (let after: string | null = null; ;) {
    const page = await get(running, `/api/v1/events?limit=1000&${after === null ? 'since=7d' : `after=${after}`}`)
    const events = page['events'] as readonly unknown[]
    found += events.length
    if (events.length === 0) return found
    after = String(page['next'])
  }
}

async function call(running: RunningGateway, secret: string, count: number): Promise<void> {
  for (let i = 0; i < count; i += 10) await Promise.all(Array.from({ length: Math.min(10, count - i) }, async () => (await chat(running.gateway, secret)).text().catch(() => '')))
}

t.test('a gateway that is killed again and again counts each event once, and what is settled is seen within two seconds', async (t) => {
  const dir = configIn(tmpDir(t), plans)
  let running = await serve(t, dir)
  const secret = running.row('demo key') ?? ''
  for (let round = 0; round < 4; round++) {
    const calls = call(running, secret, 60).catch(() => undefined)
    await sleep(250 + round * 170)
    running.child.kill('SIGKILL')
    await running.finished
    await calls
    running = await serve(t, dir)
  }
  await call(running, secret, 10)
  const settledMs = performance.now()
  const events = await eventsOf(running)
  t.ok(events > 20)
  await waitFor('all of them', async () => await eventsIn(running) === events, { deadlineMs: 20_000 })
  t.ok(performance.now() - settledMs < 2_000, `seen after ${Math.round(performance.now() - settledMs)} ms`)
  await sleep(1_500)
  t.equal(await eventsIn(running), await eventsOf(running))

  const day = new Date(Date.now() - 3 * 86_400_000).toISOString().slice(0, 10)
  for (const query of [`from=${day}&by=account,key,plan,model,endpoint,upstream,end,status`, `from=${day}&by=account,model&bucket=day`, `from=${day}&bucket=hour`, 'from=26h&by=status', `from=${day}&account=demo&by=key`]) {
    // A field that the roll-ups do not have, and that is the same in all of them: out of the events.
    const plainQuery = query.includes('by=') ? query.replace('by=', 'by=provider,') : `${query}&by=provider`
    let rolled: Json = {}
    let told: Json = {}
    // What a killed gateway held expires meanwhile, and becomes an event.
    await waitFor(`the same of ${query}`, async () => {
      rolled = await get(running, `/api/v1/usage?${query}`)
      told = await get(running, `/api/v1/usage?${plainQuery}`)
      return rolled['counted_from'] === 'rollups' && rolled['events'] === told['events']
    }, { deadlineMs: 20_000 })
    t.equal(told['counted_from'], 'events')
    const plain = (rows: unknown): string[] => (rows as readonly Json[]).map(({ provider: _provider, ...row }) => JSON.stringify(Object.entries(row).sort())).sort()
    t.same(plain(rolled['rows']), plain(told['rows']), query)
  }
})

t.test('roll-ups are made again when their file is gone or damaged, and when somebody asks for it', async (t) => {
  const dir = configIn(tmpDir(t), `${plans}events: { archive: ./data/archive }\n`)
  let running = await serve(t, dir)
  const secret = running.row('demo key') ?? ''
  await call(running, secret, 40)
  await waitFor('all of them', async () => await eventsIn(running) === 40)
  const stop = async (): Promise<void> => {
    running.child.kill('SIGTERM')
    await running.finished
  }
  const file = join(dir, 'data/analytics.db')
  for (const [name, harm] of [
    ['gone', () => { for (const suffix of ['', '-wal', '-shm']) rmSync(`${file}${suffix}`, { force: true }) }],
    ['garbage', () => writeFileSync(file, 'this was a file of SQLite')],
    ['half', () => writeFileSync(file, Buffer.alloc(20_000, 7))],
  ] as const) {
    await stop()
    harm()
    running = await serve(t, dir)
    await waitFor(`made again: ${name}`, async () => await eventsIn(running) === 40, { deadlineMs: 20_000 })
  }
  // While calls go on.
  const calls = call(running, secret, 60)
  const asked = await tallygate(t, dir, ['analytics', 'rebuild'])
  t.equal(asked.code, 0, asked.err)
  t.match(asked.out, /made again/)
  await calls
  await waitFor('all of them', async () => await eventsIn(running) === 100, { deadlineMs: 20_000 })
  t.match(await get(running, '/api/v1/audit?limit=5'), { changes: [{ action: 'analytics.rebuild' }] })
  await stop()
  const alone = await tallygate(t, dir, ['analytics', 'rebuild', '--json'])
  t.equal(alone.code, 0, alone.err)
  t.match(JSON.parse(alone.out) as Json, { behind: 0, archived: 100 })
  const usage = await tallygate(t, dir, ['usage', '--since', '7d', '--json'])
  t.match(JSON.parse(usage.out) as Json, { events: 100, counted_from: 'events' })
  running = await serve(t, dir)
  t.equal(await eventsIn(running), 100)

  writeConfig(dir, `
server: { listen: "127.0.0.1:0", drain: { delay: 300ms, timeout: 20s } }
admin: { listen: "127.0.0.1:0" }
store: "embedded:./data"
analytics: off
${plans}`)
  const off = await fetch(`${running.admin}/api/v1/config/reload`, { method: 'POST' })
  t.equal(off.status, 200)
  t.match(await get(running, '/api/v1/analytics'), { state: 'off' })
  t.equal((await fetch(`${running.admin}/api/v1/analytics/usage`)).status, 409)
  t.match(await get(running, '/api/v1/usage?from=7d'), { events: 100, counted_from: 'events' })
})

t.test('refusals and live figures of all workers are seen; a second replica sees the same roll-ups', async (t) => {
  const redis = await startRedis(t, {})
  const dir = tmpDir(t)
  const config = (workers: number): string => `
server: { listen: "127.0.0.1:0", workers: ${workers}, drain: { delay: 300ms, timeout: 20s } }
admin: { listen: "127.0.0.1:0" }
store: { url: "${redis.url}", durability: none, spool: none, prefix: workers, partitions: 16 }
${plans}`
  configIn(dir)
  writeConfig(dir, config(2))
  const running = await serve(t, dir)
  const other = configIn(tmpDir(t))
  writeConfig(other, config(1))
  const replica = await serve(t, other)
  const live = await fetch(`${running.admin}/api/v1/live`)
  t.match(live.headers.get('content-type'), /text\/event-stream/)
  let latest: Json = {}
  void (async () => {
    for await (const chunk of live.body!) {
      const data = /^data: (.*)$/m.exec(Buffer.from(chunk).toString())?.[1]
      if (data !== undefined) latest = JSON.parse(data) as Json
    }
  })().catch(() => undefined)
  let seen = 0
  const watching = setInterval(() => { seen = Math.max(seen, Number(latest['requests_per_second'] ?? 0)) }, 50)
  t.teardown(() => clearInterval(watching))
  const statuses: number[] = []
  for (let i = 0; i < 60; i++) {
    const answer = await chat(running.gateway, acmeSecret)
    statuses.push(answer.status)
    await answer.text()
  }
  t.equal(statuses.filter((status) => status === 200).length, 3)
  for (let i = 0; i < 5; i++) await (await chat(replica.gateway, acmeSecret)).text()
  for (const [name, gateway] of [['primary', running], ['replica', replica]] as const) {
    await waitFor(`roll-ups as the ${name} tells them`, async () => {
      const [row] = await rowsOf(gateway, 'from=1d&unit=day&by=account')
      return row?.['account'] === 'acme' && row.events === 3 && row.refused === 62
    }, { deadlineMs: 15_000 })
  }
  t.match((await get(running, '/api/v1/analytics/refusals?from=1d&by=account,limit,reason&unit=day'))['rows'], [{ account: 'acme', limit: 'few', reason: 'usage_limit_reached', refused: 62 }])
  const { refusals } = await get(running, '/api/v1/refusals?account=acme&limit=few&count=5') as { refusals: readonly Json[] }
  t.equal(refusals.length, 5)
  t.match(refusals[0], { account: 'acme', key: 'acme-key', limit: 'few', reason: 'usage_limit_reached', model: 'demo', ceiling: 3, used: 3, remaining: 0, request_id: /^[0-9a-f-]{36}$/ })
  await waitFor('live', () => seen > 5 && (latest['refusals'] as Json | undefined)?.['usage_limit_reached'] === 57, { deadlineMs: 10_000 })
  const keys = await redis.cli('--scan', '--pattern', 'workers:{p*}:roll:*')
  t.ok(keys.split('\n').length < 400, 'refusals of one account cost no key each')
  const ttl = Number(await redis.cli('PTTL', keys.split('\n').find((key) => /:u:minute:/.test(key)) ?? ''))
  t.ok(ttl > 6 * 3_600_000 && ttl < 4 * 86_400_000, 'minutes go by themselves')
})

t.test('10,000 accounts are paged, searched and sorted', async (t) => {
  const accounts = Array.from({ length: 10_000 }, (_each, i) => `  a${String(i).padStart(5, '0')}: { plan: ${i % 10 === 0 ? 'small' : 'free'}, labels: { team: "Team ${i % 7}" } }`).join('\n')
  const dir = configIn(tmpDir(t), plans.replace('  acme: { plan: small }', `  acme: { plan: small }\n${accounts}`))
  const running = await serve(t, dir)
  for (let i = 0; i < 4; i++) await (await chat(running.gateway, acmeSecret)).text()
  await waitFor('counted', async () => (await rowsOf(running, 'from=1d&unit=day&by=account')).length > 0)
  const startMs = performance.now()
  const page = await get(running, '/api/v1/accounts?limit=50&offset=100')
  const firstMs = performance.now() - startMs
  const againMs = performance.now()
  await get(running, '/api/v1/accounts?limit=50&offset=5000')
  t.comment(`a page took ${Math.round(firstMs)} ms, another ${Math.round(performance.now() - againMs)} ms`)
  t.match(page, { total: 10_002, offset: 100, limit: 50 })
  const ids = (answer: Json): unknown[] => (answer['accounts'] as readonly Json[]).map(({ id }) => id)
  t.equal(ids(page)[0], 'a00100')
  t.equal(ids(page).length, 50)
  t.match((page['accounts'] as readonly Json[])[0], { limits_now: [{ name: 'few', limit: 3, used: 0, remaining: 3, mode: 'enforce' }] })
  t.match(await get(running, '/api/v1/accounts?limit=10&search=a0999'), { total: 10 })
  t.match(await get(running, '/api/v1/accounts?limit=1&search=team%203'), { total: 1_429 })
  t.same(ids(await get(running, '/api/v1/accounts?limit=2&sort=requests')), ['acme', 'a00000'])
  t.same(ids(await get(running, '/api/v1/accounts?limit=1&sort=id&order=desc')), ['demo'])
  t.match((await get(running, '/api/v1/accounts?limit=1&sort=refused'))['accounts'], [{ id: 'acme', usage_30d: { requests: 3, refused: 1 } }])
  t.match(await get(running, '/api/v1/accounts/acme'), { standing: { limits: [{ name: 'few', used: 3, remaining: 0 }], grants: [] } })
  t.equal((await fetch(`${running.admin}/api/v1/accounts?sort=none`)).status, 400)
})
