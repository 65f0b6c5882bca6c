// test: timeout 300 s
import { createHash } from 'node:crypto'
import t from 'tap'
import type { Script } from '../../src/stores/redis/link.ts'
import { admitScript, finishScript } from '../../src/stores/redis/scripts.ts'
import { startRedis } from '../fixtures/redis.ts'
import { compare } from './differential.ts'

const SEEDS = Number(process.env['SEEDS'] ?? 20)
const FROM = Number(process.env['SEED'] ?? 1)

/** Rows of the table of moves that the seeds must have met. */
const met = [
  'reserve admitted', 'reserve denied', 'reserve expired', 'reserve too_old', 'extend revived', 'extend denied', 'extend expired', 'settle settled_late', 'settle settled_unheld', 'settle differs',
  'settle quarantined', 'void expired', 'expire expired', 'expire freed', 'expire not_due',
]

t.setTimeout(280_000)
const redis = await startRedis(t)

t.test('the two scripts answer every move as the ledger does, and leave the same counters, events and open reservations', { timeout: 250_000 }, async (t) => {
  const outcomes = new Map<string, number>()
  let moves = 0
  let events = 0
  for (let seed = FROM; seed < FROM + SEEDS && t.passing(); seed++) {
    const found = await compare(t, redis.url, seed, `diff${seed}`)
    for (const [outcome, count] of found.outcomes) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + count)
    moves += found.moves
    events += found.events
    for (const { where, is, expected } of found.differences) t.same(is, expected, where)
  }
  for (const outcome of met) t.ok(outcomes.has(outcome), `${outcome}: ${outcomes.get(outcome) ?? 0} times`)
  t.comment(`${SEEDS} seeds from ${FROM}: ${moves} moves answered alike, ${events} events alike`)
})

/** Bugs that the comparison must see: a piece of a script, and what is put in its place. */
const planted: readonly (readonly [string, Script, string, string])[] = [
  ['a bucket overdrawn by an edit is drawn again from the next', admitScript, 'return min(free + max(0, first[1] - (settled - later)), first[1] + total - settled)', 'return free + max(0, first[1] - (settled - later))'],
  ['the fullest window is the one with most settled', admitScript, 'if settled + pending > fullestSettled + fullestPending then', 'if settled > fullestSettled then'],
  ['short windows are clamped', admitScript, 'local least = clampable and need + perUnit * uMin or most', 'local least = need + perUnit * uMin'],
  ['held is called used up', admitScript, "(least > free and 'u' or 'h')", "(least > room and 'u' or 'h')"],
  ['an overrun into what others hold is none', finishScript, 'return min(amount - free + max(0, pending - within), max(0, amount - within))', 'return max(0, min(amount - free, amount - within))'],
  ['corrections are given back from the first bucket', finishScript, 'for i = last, 2, -1 do', 'for i = 2, last do'],
  ['a late settlement books all again', finishScript, 'amounts[c] - (booked and booked[c] or 0)', 'amounts[c]'],
  ['an older sweep expires what has shown a sign of life', finishScript, 'checkpoint ~= r.checkpoint or r.deadline > nowMs', 'r.deadline > nowMs'],
  ['corrections are all the first', finishScript, 'correction = booked and r.corrections + 1 or 0', 'correction = booked and 1 or 0'],
  ['an extend lets go of what it held', admitScript, 'wanted[c] = max(r.held[c], checks[c][5] - (r.booked and r.booked[c] or 0))', 'wanted[c] = checks[c][5]'],
  ['a repeated sign of life counts again', admitScript, 'local newer = checkpoint > r.checkpoint', 'local newer = checkpoint >= r.checkpoint'],
  ['a deadline falls', admitScript, 'next.deadline = max(deadline, r.deadline)', 'next.deadline = deadline'],
  ['counted usage falls', admitScript, 'was[name] = max(was[name] or is[name], is[name])', 'was[name] = is[name]'],
  ['counters are freed that were never held', finishScript, 'if r.slots == slots then return own end', 'if own then return own end'],
  ['a grant that an earlier period has drawn counts in this one', admitScript, 'if bucket[4] then\n      total', 'if false then\n      total'],
  ['what the period before holds does not count against grants', admitScript, 'return pending + min(left, held)', 'return pending'],
  ['a correction gives a grant more than the period took', finishScript, 'if buckets[i][4] then share = min(share, backBeyond) end', ''],
  ['a seat that has ended is told as a call', finishScript, 'if decode(r.skeleton).seat == true then', 'if false then'],
  ['a seat that has ended keeps its room', finishScript, 'freed(changes, r, slots)\n    mayAll', 'mayAll'],
  ['an expired reservation is admitted again', admitScript, "if r.state == 'E' then return 'expired' end", ''],
]

t.test('the comparison sees bugs that are planted in the scripts', { timeout: 250_000 }, async (t) => {
  for (const [name, script, piece, instead] of planted) {
    const { source, sha1 } = script
    t.ok(source.includes(piece), `the piece is there: ${piece}`)
    const mutated = source.replace(piece, instead)
    Object.assign(script, { source: mutated, sha1: createHash('sha1').update(mutated).digest('hex') })
    let seed = 0
    try {
      for (let seen = false; !seen && seed < 25;) seen = (await compare(t, redis.url, ++seed, `planted ${name} ${seed}`.replaceAll(' ', '-'), true)).differences.length > 0
      t.ok(seed < 25, `${name}: seen with seed ${seed}`)
    } finally {
      Object.assign(script, { source, sha1 })
    }
  }
})
