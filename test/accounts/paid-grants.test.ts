// Which of an account's grants had been paid for, by the name that events give them.

import t from 'tap'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { grantRecordId } from '../../src/accounts/grant-book.ts'
import { recordKinds } from '../../src/accounts/account-records.ts'
import { paidLimitOf } from '../../src/accounts/paid-grants.ts'
import { systemClock } from '../../src/clock.ts'
import { loadConfig } from '../../src/config/load.ts'
import { FakeRecords } from './fixture.ts'

t.test('what was bought, and all that extends prepaid credit; nothing else', async (t) => {
  const { config, problems } = loadConfig({ file: '/nowhere/tallygate.yaml', env: {}, hostName: 'test', text: `
plans:
  pro:
    limits:
      - { name: monthly, meter: total_tokens, limit: 2M, window: month }
      - { name: credit, meter: total_tokens, limit: 0, window: lifetime, prepaid: true }
    grants: [{ id: included, limit: credit, amount: 5k, every: month }, { id: extra, limit: monthly, amount: 5k }]
add_ons:
  pack: { grants: [{ id: tokens, limit: monthly, amount: 500k }] }
  gift: { grants: [{ id: tokens, limit: monthly, amount: 500k, source: operator }] }
accounts:
  above: { plan: pro, grants: [{ id: shared, limit: credit, amount: 10 }] }
  acme: { parent: above, plan: pro, add_ons: [pack, pack, gift], grants: [{ id: bought, limit: monthly, amount: 1k, source: purchase }, { id: sorry, limit: monthly, amount: 1k }] }
` })
  t.same(problems, [])
  const records = new FakeRecords()
  const stored = (source: string, limit = 'monthly'): Record<string, unknown> => ({ limit, meter: 'total_tokens', amount: 5, priority: 100, effective_ms: 0, expires_ms: 1, created_ms: 0, created_by: 'ops', source, note: null })
  await records.put(recordKinds.grant, grantRecordId('acme', 'order-1'), stored('purchase'))
  await records.put(recordKinds.grant, grantRecordId('acme', 'ticket-1'), stored('operator'))
  await records.put(recordKinds.grant, grantRecordId('acme', 'credit-1'), stored('operator', 'credit'))
  const directory = await StoredKeyDirectory.open(records, config!, systemClock)
  t.teardown(() => directory.close())
  const paid = paidLimitOf(directory, directory.accountOf('acme')!)
  const expected = {
    'order-1': 'monthly', 'ticket-1': null, 'credit-1': 'credit', bought: 'monthly', sorry: null, 'included@2026-11-01T00:00:00Z': 'credit', extra: null,
    'pack/tokens': 'monthly', 'pack/tokens/2': 'monthly', 'gift/tokens': null, shared: 'credit', monthly: null, credit: null, 'monthly.overdraft': null, nothing: null,
  }
  t.strictSame(Object.fromEntries(Object.keys(expected).map((bucket) => [bucket, paid(bucket)])), expected)
})
