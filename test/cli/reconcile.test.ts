// As an operator does it: with a gateway that runs, and without one.

import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { systemClock } from '../../src/clock.ts'
import { chat, configIn, serve, tallygate } from '../app/process.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { flexpriceDialect } from '../sinks/kit/dialects/flexprice.ts'
import { httpSubject } from '../sinks/kit/http-fake.ts'

const secret = 'tg_yaml_0123456789abcdefghij'

t.test('reconcile says what is missing and what is there twice, sends what puts it right, and ends with 1 as long as something is wrong', { timeout: 100_000 }, async (t) => {
  const fake = await httpSubject(flexpriceDialect).start()
  t.teardown(() => fake.stop())
  const settings = fake.settings() as { api_key: string }
  const dir = configIn(tmpDir(t), `
  - { name: billing, type: flexprice, url: "${fake.url}", private: true, api_key: "${settings.api_key}", customers: { acme: cus_1 } }
plans:
  pro: { entitlements: { models: ["*"] } }
accounts:
  acme: { plan: pro }
keys:
  - { id: dev, account: acme, hash: "sha256:${hashOfSecret(secret)}" }
`)
  const running = await serve(t, dir)
  for (let n = 0; n < 4; n++) t.equal((await chat(running.gateway, secret, { max_tokens: 5 + n })).status, 200)
  const bookings = (): ReturnType<typeof fake.books.bookings> => fake.books.bookings({ code: 'llm_output_tokens' })
  await waitFor('all to be delivered', () => bookings().length === 4)
  // What is younger than two seconds counts as on its way.
  await systemClock.sleep(2_100)
  const month = new Date().toISOString().slice(0, 7)
  const ask = (...more: string[]) => tallygate(t, dir, ['reconcile', '--sink', 'billing', '--period', month, ...more])

  const well = await ask()
  t.equal(well.code, 0, well.err)
  t.match(well.out, /^billing \(flexprice\), \d{4}-\d\d; asked for totals and records\n\nACCOUNT +CUSTOMER +METER +RECORDS +OURS +THEIRS +DIFFERENCE\nacme +cus_1 +llm_input_tokens +4 /)
  t.match(well.out, /Every difference is explained\.\n$/)

  const [lost] = bookings()
  const id = lost?.received.id ?? ''
  fake.books.plantLoss(id)
  const found = await ask()
  t.equal(found.code, 1)
  t.match(found.out, new RegExp(`missing +${id} +acme +llm_output_tokens .*delivered, and not there +send ${id} ${lost?.received.value}\n`))
  t.match(found.out, /1 difference is not explained by our books\.\n$/)
  const json = JSON.parse((await ask('--json', '--account', 'acme')).out) as { differences: unknown[]; unexplained: number }
  t.match(json, { unexplained: 1, differences: [{ why: 'missing', record: id, compensation: { how: 'send', record: { id } }, outcome: null }] })
  t.match(await fetch(`${running.admin}/api/v1/sinks/billing/reconciliation?period=${month}`).then((answer) => answer.json()), { sink: 'billing', unexplained: 1 })

  t.match(await ask('--account', 'nobody'), { code: 1, err: /^there is no account "nobody"/ })
  const applied = await ask('--apply')
  t.equal(applied.code, 0, applied.err)
  t.match(applied.out, /delivered, and not there +sent\n/)
  t.equal(fake.books.copies(id), 1)
  t.notMatch(applied.out, /nothing to apply/)
  t.match((await ask('--apply')).out, /Every difference is explained\.\nThere is nothing to apply: nothing was sent\.\n$/)
  t.match(await tallygate(t, dir, ['sinks', 'retry', 'billing']), { code: 0, out: /^billing (runs: it waits for nothing|is tried again now)/ })
  t.match(await tallygate(t, dir, ['sinks', 'retry', 'nope']), { code: 1, err: /no sink "nope"; there is file, billing/ })
  const { changes } = await fetch(`${running.admin}/api/v1/audit`).then((answer) => answer.json()) as { changes: { action: string; target: string; details: object }[] }
  t.match(changes.filter(({ action }) => action === 'sinks.compensate'), [{ target: 'billing', details: { why: 'missing', record: id, how: 'send' } }], 'it is in the audit')

  for (const [words, about] of [[['--sink', 'nope', '--period', month], /no sink "nope"; there is file, billing/], [['--sink', 'billing', '--period', 'soon'], /"soon" is no period/], [['--sink', 'billing'], /--period 2026-11/]] as const) {
    const refused = await tallygate(t, dir, ['reconcile', ...words])
    t.not(refused.code, 0)
    t.match(refused.err, about)
  }
  t.match((await tallygate(t, dir, ['reconcile', '--sink', 'file', '--period', month])).out, /The receiver cannot be asked/)

  running.child.kill('SIGTERM')
  await running.finished
  fake.books.plantDouble(id)
  const alone = await ask('--json')
  t.equal(alone.code, 1, alone.err)
  t.match(JSON.parse(alone.out), { unexplained: 1, differences: [{ why: 'doubled', record: id }] }, 'without a gateway')
  await fake.stop()
  const gone = await ask()
  t.equal(gone.code, 1)
  t.match(gone.err, /^the receiver of billing could not be asked: /)
})
