// What only the time brings, of grants; ends of subscriptions are in test/accounts/subscriptions.test.ts.
import t from 'tap'
import { Announcer } from '../../src/notices/announcer.ts'
import type { Notice } from '../../src/notices/notice.ts'
import { openUseWorld } from './use-world.ts'
import type { UseWorld } from './use-world.ts'

const at = (text: string): number => Date.parse(text)
const day = 86_400_000
const now = at('2026-11-10T12:00:00Z')
const yaml = `
plans: { pro: { limits: [{ name: monthly, meter: compute_seconds, limit: 1000, window: month }] } }
accounts: { acme: { plan: pro } }
`

function announcer(w: UseWorld): Announcer {
  return new Announcer({ store: w.store, directory: w.directory, book: w.book, instance: () => 'test', clock: w.clock, failed: (error) => { throw error } })
}

/** What was told at that moment, by several gateways that look at once. */
async function told(w: UseWorld, announcers: readonly Announcer[], text: string): Promise<readonly Notice[]> {
  const before = new Set((await w.all()).map(({ id }) => id))
  w.set(at(text))
  await Promise.all(announcers.map((each) => each.look()))
  return (await w.all()).filter(({ id }) => !before.has(id))
}

t.test('a grant that expires with something left is told 7 and 1 days ahead, once; one that is used up, or taken back, is not', async (t) => {
  const w = await openUseWorld(t, yaml, now)
  const grant = (id: string, amount: number, expires: string | null, effective = '2026-11-01', priority = 100): Promise<void> => w.store.records.put('grant', `acme/${id}`, {
    limit: 'monthly', meter: 'compute_seconds', amount, priority, effective_ms: at(effective), expires_ms: expires === null ? null : at(expires), created_ms: now, created_by: 'ops', source: 'operator', note: null,
  })
  await grant('early', 600_000, '2026-11-20')
  await grant('late', 500_000, '2026-11-21')
  await grant('never', 500_000, null)
  await grant('voided', 500_000, '2026-11-20')
  await w.store.records.put('grant_void', 'acme/voided', { at_ms: now, by: 'ops', reason: null })
  await grant('short', 500_000, '2026-11-14T12:00:00Z', '2026-11-10T12:00:00Z', 200)
  // The allowance, all of early and a fifth of late.
  await w.use('dev', 1_700_000)
  const both = [announcer(w), announcer(w)]
  const words = (notices: readonly Notice[]): string[] => notices.map(({ data }) => `${String(data['grant'])} ${String(data['days_ahead'])}`).sort()
  t.same(words(await told(w, both, '2026-11-12T12:00:00Z')), [], 'four days are less than the notice of seven')
  t.same(words(await told(w, both, '2026-11-13T12:00:00Z')), ['short 1'])
  const soon = await told(w, both, '2026-11-14T00:00:00Z')
  t.match(soon, [{
    type: 'grant_expiring', account: 'acme', text: "the grant 'late' of acme expires at 2026-11-21T00:00:00.000Z, within 7 days: 400 of 500 are left",
    data: { grant: 'late', limit: 'monthly', meter: 'compute_seconds', days_ahead: 7, ceiling: 500, remaining: 400, expires_at: '2026-11-21T00:00:00.000Z' },
  }], 'early was drawn first, and all of it')
  t.same(words(await told(w, [announcer(w)], '2026-11-15T00:00:00Z')), [], 'a restart tells nothing again')
  t.same(words(await told(w, both, '2026-11-20T00:00:00Z')), ['late 1'])
})

t.test('what a grant had left is told when it is recorded, once, and not long afterwards', async (t) => {
  const w = await openUseWorld(t, yaml, now)
  const broken = (id: string, left: number, atMs: number): Promise<void> => w.store.records.put('breakage', `acme/${id}`, { limit: 'monthly', meter: 'compute_seconds', amount: 500_000, left, expired_ms: atMs, at_ms: atMs })
  await broken('long-ago', 5_000, now - 8 * day)
  await broken('yesterday', 5_000, now - day)
  const both = [announcer(w), announcer(w)]
  t.match(await told(w, both, '2026-11-10T12:00:00Z'), [{ type: 'breakage', text: "the grant 'yesterday' of acme expired at 2026-11-09T12:00:00.000Z with 5 of 500 left", data: { grant: 'yesterday', ceiling: 500, remaining: 5 } }])
  await broken('today', 1_000, now)
  t.same((await told(w, both, '2026-11-10T12:01:00Z')).map(({ data }) => data['grant']), ['today'])
  t.same(await told(w, [announcer(w)], '2026-11-10T12:02:00Z'), [])
})
