import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { answers, BROKE, cell, children, cpuUs, dir, freePort, gatewayConfig, median, needs, plainBody, ROUNDS, SECRET, startGateway, startUpstream, stop, until, wrk } from './rig.ts'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openRedis } from '../../src/stores/redis/redis.ts'
import { check, newId, reserveOf, settleOf } from '../stores/sample-moves.ts'

/**
 * `npm run bench:stores`: one gateway over the embedded store and over Redis (append-only file, everysec), the same calls with five limits. CPU of the gateway and of
 * Redis per call, and how much later an answer comes than from the model server itself. Then the memory of Redis for 100,000 accounts of four limits.
 */
needs('wrk', 'redis-server')
const CONNECTIONS = [1, 64, 512]
const ACCOUNTS = Number(process.env['ACCOUNTS'] ?? 100_000)

const upstream = await startUpstream()

async function startRedis(): Promise<{ port: number; process: ChildProcess }> {
  const port = await freePort()
  mkdirSync(join(dir, `redis-${port}`))
  const child = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--dir', join(dir, `redis-${port}`), '--save', '', '--appendonly', 'yes'], { stdio: 'ignore' })
  children.push(child)
  await new Promise((resolve) => setTimeout(resolve, 300))
  return { port, process: child }
}

interface Row { store: string; connections: number; gatewayUs: number[]; redisUs: number[]; perSecond: number[]; p50: number[]; p99: number[]; directP50: number[]; directP99: number[] }
const rows: Row[] = []
const refused: { store: string; gatewayUs: number; redisUs: number }[] = []

for (const store of ['embedded', 'redis']) {
  const redis = store === 'redis' ? await startRedis() : null
  const gatewayPort = await freePort()
  const path = join(dir, `${store}.yaml`)
  writeFileSync(path, gatewayConfig({ gateway: gatewayPort, admin: await freePort(), upstream },
    redis === null ? `"embedded:${dir}/data"` : `{ url: "redis://127.0.0.1:${redis.port}", spool: "${dir}/spool" }`))
  const gateway = startGateway(path)
  await until('the gateway', () => answers(gatewayPort, '/-/ready'))
  await wrk(gatewayPort, plainBody, BROKE, 1)
  await wrk(gatewayPort, plainBody, SECRET, 64)
  for (const connections of CONNECTIONS) {
    const row: Row = { store, connections, gatewayUs: [], redisUs: [], perSecond: [], p50: [], p99: [], directP50: [], directP99: [] }
    rows.push(row)
    for (let i = 0; i < ROUNDS; i++) {
      const before = [cpuUs([gateway.pid!]), redis === null ? 0 : cpuUs([redis.process.pid!])]
      const startedMs = performance.now()
      const load = await wrk(gatewayPort, plainBody, SECRET, connections)
      const seconds = (performance.now() - startedMs) / 1000
      if (load.other > 0 || load.errors > 0 || load.refused > 0) console.error(`${store}, ${connections}: ${JSON.stringify(load)}`)
      row.gatewayUs.push((cpuUs([gateway.pid!]) - before[0]!) / load.ok)
      row.redisUs.push(redis === null ? 0 : (cpuUs([redis.process.pid!]) - before[1]!) / load.ok)
      row.perSecond.push(load.ok / seconds)
      row.p50.push(load.p50_us)
      row.p99.push(load.p99_us)
      const direct = await wrk(upstream, plainBody, SECRET, connections)
      row.directP50.push(direct.p50_us)
      row.directP99.push(direct.p99_us)
    }
  }
  const before = [cpuUs([gateway.pid!]), redis === null ? 0 : cpuUs([redis.process.pid!])]
  const load = await wrk(gatewayPort, plainBody, BROKE, 64)
  refused.push({ store, gatewayUs: (cpuUs([gateway.pid!]) - before[0]!) / load.refused, redisUs: redis === null ? 0 : (cpuUs([redis.process.pid!]) - before[1]!) / load.refused })
  await stop(gateway)
  redis?.process.kill('SIGKILL')
}

// === Memory of many accounts ===

const redis = await startRedis()
const store = await openRedis({
  url: `redis://127.0.0.1:${redis.port}`, prefix: 'tallygate', partitions: 256, deadlineMs: 10_000, durability: 'everysec', confirm: { replicas: 0, fsync: false }, eventsMax: 1e9, memoryDir: null,
  clock: systemClock, random: systemRandom, log: silentLog, forgetAfterMs: 7_200_000, hotMs: 86_400_000, acceptLoss: false,
})
const used = async (): Promise<number> => {
  const { openLink } = await import('../../src/stores/redis/connection.ts')
  const link = await openLink({ url: `redis://127.0.0.1:${redis.port}`, deadlineMs: 5_000, clock: systemClock, random: systemRandom, log: silentLog })
  const [one] = await link.info()
  await link.close()
  return Number(one!.info.get('used_memory'))
}
const empty = await used()
let made = 0
await Promise.all(Array.from({ length: 500 }, async () => {
  while (made < ACCOUNTS) {
    const home = `account-${made++}`
    const nowMs = Date.now()
    const checks = ['requests||day|2026-11-22', 'total_tokens||day|2026-11-22', 'total_tokens||billing|2026-11-01', 'cost||month|2026-11-01'].map((name) => ({ ...check(`account:${home}|${name}`, 1e9, 10), endsMs: nowMs + 86_400_000 }))
    const id = newId(nowMs)
    await store.reserve(reserveOf(id, nowMs, home, checks))
    await store.settle(settleOf(id, nowMs, home, checks, [1, 10, 10, 10]))
  }
}))
const full = await used()
const link = await import('../../src/stores/redis/connection.ts').then(({ openLink }) => openLink({ url: `redis://127.0.0.1:${redis.port}`, deadlineMs: 60_000, clock: systemClock, random: systemRandom, log: silentLog }))
// What is left of an account once its events and its last call are forgotten: its counters.
for (let p = 0; p < 256; p++) await link.command('x', 'DEL', [`tallygate:{p${p}}:out`])
for (let cursor = '0'; ;) {
  const [next, keys] = await link.command('x', 'SCAN', [cursor, 'MATCH', 'tallygate:*:r:*', 'COUNT', 5_000]) as [string, string[]]
  if (keys.length > 0) await link.command('x', 'UNLINK', keys)
  cursor = next
  if (cursor === '0') break
}
await new Promise((resolve) => setTimeout(resolve, 1_000))
const counters = await used()
await link.close()
await store.close()

console.log(`\n${'per call'.padEnd(22)}${cell('gateway µs', 12)}${cell('Redis µs', 10)}${cell('calls/s', 9)}${cell('p50 ms', 9)}${cell('p99 ms', 9)}${cell('added p50', 11)}${cell('added p99', 11)}`)
for (const row of rows) {
  const [p50, p99] = [median(row.p50), median(row.p99)]
  console.log(`${`${row.store}, ${row.connections} conn.`.padEnd(22)}${cell(median(row.gatewayUs).toFixed(0), 12)}${cell(row.store === 'redis' ? median(row.redisUs).toFixed(0) : '-', 10)}${cell(median(row.perSecond).toFixed(0), 9)}`
    + `${cell((p50 / 1000).toFixed(1), 9)}${cell((p99 / 1000).toFixed(1), 9)}${cell(((p50 - median(row.directP50)) / 1000).toFixed(1), 11)}${cell(((p99 - median(row.directP99)) / 1000).toFixed(1), 11)}`)
}
for (const one of refused) console.log(`${`${one.store}, refused`.padEnd(22)}${cell(one.gatewayUs.toFixed(0), 12)}${cell(one.store === 'redis' ? one.redisUs.toFixed(1) : '-', 10)}`)
console.log('(added: later than the model server answers without a gateway, under the same load; the load generator, Redis and the gateway share the machine)')
console.log(`\nmemory of Redis, ${ACCOUNTS} accounts of 4 limits: ${((counters - empty) / ACCOUNTS).toFixed(0)} bytes per account; with its last call and event ${((full - empty) / ACCOUNTS).toFixed(0)}`)
process.exit(0)
