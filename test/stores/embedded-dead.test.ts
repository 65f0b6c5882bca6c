// test: timeout 120 s
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { everyDead, type OutboxEntry, type Store } from '../../src/stores/store.ts'
import type { OutboxRecord } from '../../src/metering/event.ts'
import { embeddedIn, newDir } from './embedded-fixture.ts'
import { eventBody, newId, settleOf } from './sample-moves.ts'

t.setTimeout(110_000)
const DEAD = 100_000
const TOGETHER = 1_000
/** Generous: what this is about took a second and ended in refusals. */
const QUICK_MS = 250

const entryOf = (n: number): OutboxEntry => {
  const record: OutboxRecord = { kind: 'usage', id: `event-${n}`, correction: 0, atMs: 1_000 + n, body: eventBody, usage: { requests: 1, total_tokens: n }, booked: null, drawn: [], overruns: [] }
  return { position: String(n).padStart(15, '0'), record }
}

async function settle(store: Store): Promise<number> {
  const startMs = performance.now()
  const nowMs = Date.now()
  await store.settle(settleOf(newId(nowMs), nowMs, 'acme', [], [], { usage: { requests: 1 }, event: eventBody }))
  return performance.now() - startMs
}

/** Settlements one after another, until `end`; gives how long they took, in order. */
async function settleUntil(store: Store, end: Promise<unknown>): Promise<number[]> {
  const took: number[] = []
  let ended = false
  void end.finally(() => { ended = true })
  while (!ended) {
    took.push(await settle(store))
    await sleep(2)
  }
  return took.sort((a, b) => a - b)
}

t.test('a page of the dead is bounded in bytes too', async (t) => {
  const store = await embeddedIn(newDir(t))
  t.teardown(() => store.close())
  const fence = (await store.outbox.lease('sink', 'me', Date.now(), Date.now() + 60_000))!
  const labels = { team: 'x'.repeat(100_000) }
  await Promise.all(Array.from({ length: 40 }, (_, i) => {
    const { position, record } = entryOf(i + 1)
    return store.outbox.bury(fence, { position, record: { ...record, body: { ...eventBody, labels } } }, 'refused', 5)
  }))
  const pages: number[] = []
  for await (const page of everyDead(store.outbox)) pages.push(page.length)
  t.equal(pages.reduce((sum, count) => sum + count, 0), 40)
  t.ok(pages.every((count) => count < 15))
})

t.test('with a hundred thousand dead events settlements stay quick, also after a restart, and the list is whole', async (t) => {
  const dir = newDir(t)
  let store = await embeddedIn(dir)
  t.teardown(() => store.close())
  const fence = (await store.outbox.lease('sink', 'me', Date.now(), Date.now() + 600_000))!
  const began = performance.now()
  const burying = (async () => {
    for (let n = 1; n <= DEAD; n += TOGETHER) await Promise.all(Array.from({ length: TOGETHER }, (_, i) => store.outbox.bury(fence, entryOf(n + i), 'its account has no customer there', 5)))
  })()
  const during = await settleUntil(store, burying)
  await burying
  const rate = DEAD / (performance.now() - began) * 1_000
  t.comment(`buried ${Math.round(rate)} a second; settlements meanwhile: p99 ${Math.round(during[Math.floor(during.length * 0.99)]!)} ms, longest ${Math.round(during.at(-1)!)} ms`)
  t.ok(rate > 1_000, 'those that are refused together are one commit')
  for (const when of ['before', 'after']) {
    const asking = (async () => {
      const counts = new Set<number>()
      const tookMs: number[] = []
      for (let i = 0; i < 300; i++) {
        const startMs = performance.now()
        counts.add(await store.outbox.deadCount('sink'))
        tookMs.push(performance.now() - startMs)
        await sleep(5)
      }
      t.same([...counts], [DEAD])
      return tookMs.sort((a, b) => a - b)
    })()
    const whileAsking = await settleUntil(store, asking)
    const asked = await asking
    let listed = 0
    let last = 0
    const listing = (async () => {
      for await (const page of everyDead(store.outbox, 'sink')) {
        for (const { position } of page) {
          listed += 1
          last = Number(position) === last + 1 ? last + 1 : NaN
        }
      }
    })()
    const whileListing = await settleUntil(store, listing)
    await listing
    t.same([listed, last], [DEAD, DEAD], 'complete and in order')
    for (const [what, took] of [['settlements while they are counted', whileAsking], ['settlements while they are listed', whileListing], ['counts', asked]] as const) {
      const p99 = took[Math.floor(took.length * 0.99)]!
      t.comment(`${when} the restart, ${what}: ${took.length}, p99 ${Math.round(p99)} ms, longest ${Math.round(took.at(-1)!)} ms`)
      t.ok(p99 < QUICK_MS, what)
    }
    if (when === 'after') break
    await store.close()
    const openedMs = performance.now()
    store = await embeddedIn(dir)
    t.comment(`opened in ${Math.round(performance.now() - openedMs)} ms`)
  }
})
