import t from 'tap'
import { actingCalendar, withCalendars } from '../../src/accounts/calendars.ts'
import { FakeRecords, account, configOf } from './fixture.ts'

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
  t.same(await records.get('calendar', 'acme'), acting[0], 'and as it is kept')
  t.same(replicas.map(({ accounts }) => accounts.get('other')!.calendar), [utc, utc, utc, utc])
  const later = await withCalendars(config(berlin), records, 6 * day)
  t.same(later.accounts.get('acme')!.calendar, acting[0], 'a replica that starts later too')
})
