import { spawn, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import {
  answers, BROKE, cell, children, cpuUs, dir, freePort, gatewayConfig, here, median, needs, nodeArgs, plainBody, ROUNDS, rssMb, SECRET, startGateway, startUpstream, stop,
  streamBody, until, wrk, type Load,
} from './rig.ts'

/**
 * `npm run bench`: CPU per exchange of the gateway beside nginx, proxying the same upstream under the same load in the same run. Machines are noisy,
 * so the ratios count; rounds alternate and the median round is printed. Needs nginx and wrk (Debian: nginx-light, wrk).
 */
needs('nginx', 'wrk')

// === The three processes ===

const upstreamPort = await startUpstream()

const nginxPort = await freePort()
writeFileSync(join(dir, 'nginx.conf'), `
worker_processes 1; daemon off; pid ${dir}/nginx.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path ${dir}/b; proxy_temp_path ${dir}/p; fastcgi_temp_path ${dir}/f; uwsgi_temp_path ${dir}/u; scgi_temp_path ${dir}/s;
  keepalive_requests 1000000000;
  upstream model { server 127.0.0.1:${upstreamPort}; keepalive 512; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:${nginxPort}; location / { proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } }
}`)
const nginx = spawn(spawnSync('which', ['nginx']).stdout.toString().trim() || '/usr/sbin/nginx', ['-c', join(dir, 'nginx.conf')], { stdio: 'ignore' })
children.push(nginx)

const gatewayPort = await freePort()
const adminPort = await freePort()
const configPath = join(dir, 'tallygate.yaml')
writeFileSync(configPath, gatewayConfig({ gateway: gatewayPort, admin: adminPort, upstream: upstreamPort }, `"embedded:${dir}/data"`))

const starts: number[] = []
let gateway = startGateway(configPath)
for (let i = 0; i < ROUNDS; i++) {
  if (i > 0) {
    await stop(gateway)
    gateway = startGateway(configPath)
  }
  starts.push(await until('the gateway', () => answers(gatewayPort, '/-/ready')))
}
await new Promise((resolve) => setTimeout(resolve, 1500))
const idleMb = rssMb(gateway.pid!)
const nginxWorkers = spawnSync('pgrep', ['-P', String(nginx.pid)]).stdout.toString().trim().split('\n').map(Number)

// === Rounds ===

interface Row { name: string; gateway: number[]; nginx: number[]; ratio: number[]; p50: number[]; p99: number[] }
const rows: Row[] = []
const cases = [
  { name: 'plain 1 KB exchange', body: plainBody, key: SECRET, connections: 64, per: 1, status: 'ok' as const },
  { name: 'streamed, per event', body: streamBody, key: SECRET, connections: 64, per: 201, status: 'ok' as const },
  { name: 'refused call', body: plainBody, key: BROKE, connections: 64, per: 1, status: 'refused' as const },
]
// One call uses the broke key's only request up; one round of each warms both up.
await wrk(gatewayPort, plainBody, BROKE, 1)
await wrk(gatewayPort, plainBody, SECRET, 64)
await wrk(nginxPort, plainBody, SECRET, 64)

for (const one of cases) {
  const row: Row = { name: one.name, gateway: [], nginx: [], ratio: [], p50: [], p99: [] }
  rows.push(row)
  for (let i = 0; i < ROUNDS; i++) {
    const measure = async (port: number, pids: readonly number[], status: 'ok' | 'refused'): Promise<{ us: number; load: Load }> => {
      const before = cpuUs(pids)
      const load = await wrk(port, one.body, one.key, one.connections)
      if (load[status] === 0 || load.other > 0 || load.errors > 0) console.error(`${one.name}: ${JSON.stringify(load)}`)
      return { us: (cpuUs(pids) - before) / (load[status] * one.per), load }
    }
    const ours = await measure(gatewayPort, [gateway.pid!], one.status)
    const theirs = await measure(nginxPort, nginxWorkers, 'ok')
    row.gateway.push(ours.us)
    row.nginx.push(theirs.us)
    row.ratio.push(ours.us / theirs.us)
    row.p50.push(ours.load.p50_us)
    row.p99.push(ours.load.p99_us)
  }
}
const peakMb = rssMb(gateway.pid!, 'VmHWM')

// === A thousand open streams ===

const sockets: ReturnType<typeof connect>[] = []
let begun = 0
for (let i = 0; i < 1000; i++) {
  const text = JSON.stringify(streamBody)
  const socket = connect(gatewayPort, '127.0.0.1', () => {
    socket.write(`POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${SECRET}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`)
  })
  socket.once('data', () => begun++)
  socket.on('error', () => {})
  sockets.push(socket)
}
await until('a thousand streams', async () => begun === 1000)
const openMb = rssMb(gateway.pid!)
for (const socket of sockets) socket.destroy()

await stop(gateway)
const recovery = spawnSync(process.execPath, [...nodeArgs, '--max-old-space-size=4096', join(here, 'recovery.ts')], { encoding: 'utf8' })
const seen = spawnSync(process.execPath, [...nodeArgs, join(here, 'analytics-cost.ts')], { encoding: 'utf8' })

// === The table ===

console.log(`\n${'CPU per unit, µs'.padEnd(24)}${cell('gateway', 10)}${cell('nginx', 10)}${cell('ratio', 8)}${cell('p50 ms', 10)}${cell('p99 ms', 10)}`)
for (const row of rows) {
  console.log(`${row.name.padEnd(24)}${cell(median(row.gateway).toFixed(1), 10)}${cell(median(row.nginx).toFixed(1), 10)}${cell(median(row.ratio).toFixed(2), 8)}${cell((median(row.p50) / 1000).toFixed(1), 10)}${cell((median(row.p99) / 1000).toFixed(1), 10)}`)
}
console.log('(a refused call is held against nginx proxying the same call)')
console.log(`\n${seen.status === 0 ? seen.stdout.trim() : `what it costs to be seen: failed: ${seen.stderr.trim().split('\n').at(-1)}`}
(roll-ups, live figures, a log line for each call, and metrics)`)
console.log(`\nready after            ${median(starts).toFixed(0)} ms
memory, idle           ${idleMb.toFixed(0)} MB
memory, 1,000 streams  ${openMb.toFixed(0)} MB
memory, peak           ${peakMb.toFixed(0)} MB
recovery               ${recovery.status === 0 ? recovery.stdout.trim().split('\n').at(-1) : `failed: ${recovery.stderr.trim().split('\n').at(-1)}`}`)
process.exit(0)
