// Started by tests as a process of its own: `embedded-child.ts <dir> <task>`. Says on standard output what was acknowledged, the moment it was.
import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { embeddedIn } from './embedded-fixture.ts'
import { check, newId, reserveOf, settleOf } from './sample-moves.ts'

const [dir = '', task = ''] = process.argv.slice(2)
/** At once and in whole lines: a line that this process was killed over is no acknowledgement. */
function say(line: string): void {
  const bytes = Buffer.from(`${line}\n`)
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(1, bytes, at)
    } catch (error) {
      // The pipe is full: whoever reads it is slow.
      if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error
    }
  }
}
const home = 'acme'
const checks = [check('tokens', null, 100), check('requests', null, 1)]

const store = await embeddedIn(dir, { adminAddress: 'http://127.0.0.1:9999' }).catch((error: unknown) => {
  say(`refused ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`)
  return process.exit(3)
})
say(`open ${process.pid}`)

/** One exchange from beginning to end; says `S id amount` once its settlement is acknowledged. */
async function exchange(amount: number): Promise<void> {
  const id = newId(Date.now())
  const reserved = await store.reserve(reserveOf(id, Date.now(), home, checks))
  if (reserved.outcome !== 'admitted') throw new Error(reserved.outcome)
  say(`R ${id}`)
  const settled = await store.settle(settleOf(id, Date.now(), home, checks, [amount, 1], { usage: { requests: 1, total_tokens: amount } }))
  if (settled.outcome !== 'settled') throw new Error(settled.outcome)
  say(`S ${id} ${amount}`)
}

switch (task) {
  // Twenty at a time, until killed.
  case 'work':
    await Promise.all(Array.from({ length: 20 }, async (_, i) => { for (let n = 0; ; n++) await exchange((i * 7 + n) % 97) }))
    break
  // One after another; says `no <reason>` where the store refuses, and tries again; ends after the answer to a line on standard input.
  case 'one-by-one': {
    let ending = false
    process.stdin.once('data', () => { ending = true })
    for (let n = 1; !ending; n++) {
      try {
        await exchange(n % 97)
      } catch (error) {
        say(`no ${error instanceof Error ? error.message : String(error)}`)
        await sleep(20)
      }
      await sleep(1)
    }
    await store.close()
    say('closed')
    process.exit(0)
    break
  }
  // Keeps offering calls while the disk hangs; says how late the event loop was at worst.
  case 'stalled': {
    let worstMs = 0
    let last = performance.now()
    const beat = setInterval(() => { const now = performance.now(); worstMs = Math.max(worstMs, now - last - 5); last = now }, 5)
    let refused = ''
    const calls: Promise<void>[] = []
    const endAtMs = performance.now() + 4_000
    while (performance.now() < endAtMs) {
      calls.push(exchange(1).catch((error: unknown) => { refused = error instanceof Error ? error.message : String(error) }))
      await sleep(5)
    }
    await Promise.all(calls)
    clearInterval(beat)
    say(`worst ${Math.round(worstMs)}`)
    say(`refused ${refused}`)
    await store.close()
    say('closed')
    process.exit(0)
    break
  }
  case 'open-and-close':
    await exchange(1)
    await store.close()
    say('closed')
    process.exit(0)
    break
  // Holds the directory until killed.
  case 'hold':
    setInterval(() => {}, 60_000)
    break
  default: throw new Error(`no task ${task}`)
}
