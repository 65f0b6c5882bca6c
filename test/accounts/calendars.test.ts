import t from 'tap'
import { actingCalendar, planHistory, withCalendars } from '../../src/accounts/calendars.ts'
import { FakeRecords, account, configOf, plan } from './fixture.ts'

const utc = { timeZone: 'UTC', anchor: '2026-01-15' }
const berlin = { timeZone: 'Europe/Berlin', anchor: '2026-01-15' }
const day = 86_400_000

t.test('an edited calendar remembers what was in force, until no period of that can be running', async (t) => {
  t.same(actingCalendar(utc, undefined, 0), utc, 'a new account simply has its calendar')
  t.same(actingCalendar(utc, utc, day), utc, 'nothing changed')
  const changed = actingCalendar(berlin, utc, 5 * day)
  t.same(changed, { ...berlin, before: { ...utc, changedMs: 5 * day } }, 'the old one is remembered with the instant of the change')
  t.same(actingCalendar(berlin, changed, 20 * day), changed, 'also after a restart')
  t.same(actingCalendar(berlin, changed, 80 * day), berlin, 'long after, it is forgotten')
  t.same(actingCalendar(utc, changed, 6 * day), utc, 'changing it back is as if it had never been changed')
  t.same(actingCalendar({ timeZone: 'Asia/Tokyo', anchor: '2026-01-15' }, changed, 6 * day),
    { timeZone: 'Asia/Tokyo', anchor: '2026-01-15', before: { ...utc, changedMs: 5 * day } }, 'changed twice in one period, the period that runs is still the first')
})

t.test('replicas that take up one edit at the same time agree on when it was made', async (t) => {
  const records = new FakeRecords()
  const config = (calendar: typeof utc) => configOf([], [account('acme', { calendar }), account('other', { calendar: utc })])
  await withCalendars(config(utc), records, 0)
  const replicas = await Promise.all([0, 1, 2, 3].map((i) => withCalendars(config(berlin), records, 5 * day + i)))
  const acting = replicas.map(({ accounts }) => accounts.get('acme')!.calendar)
  t.ok(acting[0]!.before !== undefined)
  t.same(acting, acting.map(() => acting[0]), 'all the same')
  t.same(await records.get('calendar', 'acme'), { ...acting[0], plans: [{ plan: 'free', version: 1, from_ms: 0, proration: 'none' }] }, 'and as it is kept')
  t.same(replicas.map(({ accounts }) => accounts.get('other')!.calendar), [utc, utc, utc, utc])
  const later = await withCalendars(config(berlin), records, 6 * day)
  t.same(later.accounts.get('acme')!.calendar, acting[0], 'a replica that starts later too')
})

t.test('since when an account is on which plan of its own is remembered, over restarts and replicas', async (t) => {
  const first = planHistory(plan('free'), [], 3 * day)
  t.same(first, [{ plan: 'free', version: 1, fromMs: 0, proration: 'none' }], 'the first that is seen has always been there')
  t.equal(planHistory(plan('free'), first, 9 * day), first, 'nothing changed')
  const second = planHistory({ ...plan('free'), version: 2, proration: 'by_day' }, first, 9 * day)
  t.same(second.at(-1), { plan: 'free', version: 2, fromMs: 9 * day, proration: 'by_day' }, 'another version is another plan')
  t.equal(planHistory(undefined, second, 12 * day), second, 'an account without a plan of its own adds nothing')

  const records = new FakeRecords()
  const config = (name: string) => configOf([], [account('acme', { plan: name })])
  await withCalendars(config('free'), records, day)
  const replicas = await Promise.all([0, 1, 2].map((i) => withCalendars(config('pro'), records, 5 * day + i)))
  const histories = replicas.map(({ accounts }) => accounts.get('acme')!.planHistory)
  t.same(histories[0]!.map((change) => change.plan), ['free', 'pro'])
  t.same(histories, histories.map(() => histories[0]), 'replicas agree on the instant')
  const { writes } = records
  t.same((await withCalendars(config('pro'), records, 8 * day)).accounts.get('acme')!.planHistory, histories[0], 'after a restart')
  t.equal(records.writes, writes, 'which writes nothing')
})

t.test('what an earlier release has kept of an account is taken over, and its plan noted', async (t) => {
  const records = new FakeRecords()
  await records.put('calendar', 'acme', { timeZone: 'UTC', anchor: '2026-01-15' })
  const { accounts } = await withCalendars(configOf([], [account('acme', { calendar: berlin })]), records, 5 * day)
  t.match(accounts.get('acme'), { calendar: { timeZone: 'Europe/Berlin', before: { timeZone: 'UTC', changedMs: 5 * day } }, planHistory: [{ plan: 'free', fromMs: 0 }] })
})
