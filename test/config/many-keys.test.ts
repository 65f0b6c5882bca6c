// test: alone
// test: timeout 300 s
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { loadAside } from '../../src/config/load-aside.ts'
import { loadConfig } from '../../src/config/load.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'

function manyKeys(count: number, change: (line: string, index: number) => string = (line) => line): string {
  const lines = ['plans: { free: { limits: [{ name: rpm, meter: requests, limit: 20, window: 1m }] } }', 'accounts: { acme: { plan: free } }', 'keys:']
  for (let index = 0; index < count; index++) lines.push(change(`  - { id: key-${index}, account: acme, hash: "sha256:${index.toString(16).padStart(64, '0')}" }`, index))
  return lines.join('\n')
}

function manyAccounts(count: number): string {
  const lines = ['plans: { free: { limits: [{ name: rpm, meter: requests, limit: 20, window: 1m }] } }', 'accounts:']
  for (let index = 0; index < count; index++) lines.push(`  a${index}: { plan: free, billing: { anchor: 2026-01-15, timezone: Europe/Berlin }, labels: { team: t${index} } }`)
  return lines.join('\n')
}

function timed(text: string): { readonly ms: number; readonly result: ReturnType<typeof loadConfig> } {
  const started = performance.now()
  const result = loadConfig({ file: 'keys.yaml', text, env: {}, hostName: 'h' })
  return { ms: performance.now() - started, result }
}

t.test('loading takes time that grows with the keys and accounts, not with their square', async (t) => {
  for (const [noun, many] of [['keys', manyKeys], ['accounts', manyAccounts]] as const) {
    timed(many(2_000))
    const few = timed(many(1_500))
    const more = timed(many(15_000))
    t.equal(more.result.problems.length, 0)
    t.comment(`1,500 ${noun}: ${Math.round(few.ms)} ms; 15,000: ${Math.round(more.ms)} ms`)
    t.ok(more.ms < few.ms * 40, 'not quadratic')
  }
})

t.test('thousands of mistakes are told about as quickly as as many keys are read', async (t) => {
  for (const [name, change] of [
    ['unknown accounts', (line: string, index: number) => line.replace('acme', `acne${index}`)], ['the same id', (line: string) => line.replace(/key-\d+/, 'key')],
    ['the same secret', (line: string) => line.replace(/[0-9a-f]{64}/, 'a'.repeat(64))], ['unknown keys', (line: string) => line.replace('account:', 'acount:')],
  ] as const) {
    const { ms, result } = timed(manyKeys(4_000, change))
    t.ok(result.problems.length >= 3_999, `${name}: ${result.problems.length} problems`)
    t.ok(ms < 20_000, `${name}: ${Math.round(ms)} ms`)
  }
})

t.test('K8: reloading 100,000 keys beside the traffic never holds the event loop for long', async (t) => {
  const file = join(tmpDir(t), 'keys.yaml')
  writeFileSync(file, manyKeys(100_000))
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  const started = performance.now()
  const { config } = await loadAside({ file, env: {}, hostName: 'h' }, systemClock)
  delay.disable()
  t.equal(config?.keys.length, 100_000)
  const ms = performance.now() - started
  t.comment(`100,000 keys reloaded in ${Math.round(ms)} ms, longest pause ${Math.round(delay.max / 1e6)} ms, 99 % below ${Math.round(delay.percentile(99) / 1e6)} ms`)
  t.ok(ms < 120_000, `${Math.round(ms)} ms`)
  // On a crowded machine others make pauses too; reading on this thread would be one pause of the whole time.
  t.ok(delay.max / 1e6 < Math.max(250, ms / 8), 'pauses')
})
