// test: timeout 300 s
import t from 'tap'
import { plantedBugs } from './planted-bugs.ts'
import { count, keptSeeds, noFigures, simulate, simulateFor, told } from './simulate.ts'

const freshMs = process.env['CI'] === 'true' ? 60_000 : 15_000
const seedsPerBug = 150

t.setTimeout(600_000)

t.test('every seed that ever failed holds', async (t) => {
  const figures = noFigures()
  for (const seed of keptSeeds()) {
    const result = await simulate(seed)
    count(figures, result)
    t.same(result.violations, [], `seed ${seed}`)
  }
  t.ok(figures.seeds > 0)
})

t.test('one seed makes one history, to the last line', async (t) => {
  for (const seed of [7, 11, 42, 1203]) {
    const once = await simulate(seed, { tracing: true })
    await simulate(seed + 1)
    const again = await simulate(seed, { tracing: true })
    t.equal(again.hash, once.hash, `seed ${seed}`)
    t.ok(once.lines.length > 100)
  }
})

t.test('every planted bug is seen, by the invariant that it breaks', async (t) => {
  for (const { bug, what, seenBy } of plantedBugs) {
    let seen = 0
    let tried = 0
    const by = new Set<number>()
    while (tried < seedsPerBug && seen === 0) {
      tried += 1
      const { violations } = await simulate(500 + tried, { bug })
      for (const { invariant } of violations) by.add(invariant)
      if (violations.some(({ invariant }) => seenBy.includes(invariant))) seen = tried
    }
    t.ok(seen > 0, `${bug}: ${what}: seen by invariant ${[...by].join(', ')} at the ${tried}th seed`)
  }
})

t.test('fresh worlds hold', async (t) => {
  const figures = await simulateFor(freshMs, Math.floor(Math.random() * 1e9))
  for (const line of told(figures)) t.comment(line)
  const { failed } = figures
  t.same(failed?.violations ?? [], [], failed === null ? `${figures.seeds} seeds` : `seed ${failed.seed}: npm run sim -- ${failed.seed}`)
  t.ok(figures.exchanges > 100 && figures.events > 50, 'the worlds are not empty')
})
