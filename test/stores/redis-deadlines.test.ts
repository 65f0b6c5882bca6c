import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { Deadlines } from '../../src/stores/redis/deadlines.ts'

const holdUp = (ms: number): void => {
  for (const endMs = performance.now() + ms; performance.now() < endMs;);
}

t.test('a deadline ends once its time is over, and never when it was met', async (t) => {
  const deadlines = new Deadlines(systemClock)
  const ended: string[] = []
  const startedMs = performance.now()
  const over = new Promise<void>((resolve) => deadlines.start(40, () => { ended.push('late'); resolve() }))
  deadlines.start(40, () => ended.push('met')).met = true
  deadlines.start(20, () => ended.push('soon'))
  await over
  t.same(ended, ['soon', 'late'])
  t.ok(performance.now() - startedMs >= 39)
})

t.test('what arrives while the process is held up, in its next turns, is in time', async (t) => {
  const deadlines = new Deadlines(systemClock)
  let expired = 0
  const deadline = deadlines.start(20, () => { expired++ })
  // Each turn takes longer than the deadline: a large call is sent in one, its answer read in another.
  for (let i = 0; i < 3; i++) {
    holdUp(30)
    await turn()
  }
  deadline.met = true
  for (let i = 0; i < 20; i++) await turn()
  t.equal(expired, 0)
})

t.test('a process that stays busy gives up all the same', async (t) => {
  const deadlines = new Deadlines(systemClock)
  let expired = 0
  deadlines.start(20, () => { expired++ })
  for (let i = 0; i < 20 && expired === 0; i++) {
    holdUp(10)
    await turn()
  }
  t.equal(expired, 1)
})
