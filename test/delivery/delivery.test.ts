// S13, exactly once, as it happens: processes that deliver are killed with SIGKILL again and again, receivers fail in every way that they can, and the books of each are
// looked at afterwards. `npm run test:delivery` is the same over every kind, with more of everything.
// test: timeout 180 s

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { fill, killAndCount } from './kill-and-count.ts'
import { courses } from './receivers.ts'

const chosen = ['file', 'webhook, batched', 'lago on postgres', 'stripe stream, sums of a minute']
const kills = 3

t.test('killed in the middle of it, with a fifth of all requests going wrong, each event is booked once', { timeout: 170_000 }, async (t) => {
  const dir = tmpDir(t)
  // Over, so that sums are made at once.
  const many = { count: 2_000, seed: 5, untilMs: Date.now() - 120_000, spanMs: 600_000 }
  const filled = join(dir, 'filled')
  await fill(filled, many)
  for (const name of chosen) {
    const course = courses.find((each) => each.name === name)
    if (course === undefined) return t.fail(`there is no ${name}`)
    const own = join(dir, name.replace(/\W/g, '-'))
    mkdirSync(own)
    const figures = await killAndCount(course, filled, own, many, kills)
    t.same(figures.wrong, [], `${name}: the books are right`)
    t.ok(figures.kills > 0, `${figures.kills} kills`)
    t.comment(`${name}: ${figures.records} records, ${figures.requests ?? 0} requests, ${figures.retries} retries, ${figures.duplicates} duplicates, ${figures.seconds.toFixed(1)} s`)
  }
})
