import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { focusColumns } from '../../src/invoices/focus.ts'
import { chat, configIn, serve, tallygate } from '../app/process.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'

const secret = 'tg_yaml_0123456789abcdefghij'

t.test('finance gets what calls cost as FOCUS, with and without a gateway, and the same sum as everybody else', async (t) => {
  const dir = configIn(tmpDir(t), `
instance: gw-1
plans:
  pro:
    entitlements: { models: ["*"] }
    prices: { currency: EUR, version: v7, models: { "*": { input_tokens: 2.50/M, output_tokens: 10/M } } }
  free:
    entitlements: { models: ["*"] }
accounts:
  acme: { plan: pro }
  other: { plan: free }
keys:
  - { id: dev, account: acme, hash: "sha256:${hashOfSecret(secret)}" }
  - { id: gratis, account: other, hash: "sha256:${hashOfSecret(`${secret}x`)}" }
`)
  const running = await serve(t, dir)
  for (const model of ['demo', 'demo', '=cmd|x']) t.equal((await chat(running.gateway, secret, { model, max_tokens: 5 })).status, 200)
  t.equal((await chat(running.gateway, `${secret}x`, { max_tokens: 5 })).status, 200)

  const focus = await tallygate(t, dir, ['usage', '--format', 'focus', '--since', '1h', '--bucket', 'hour'])
  t.equal(focus.code, 0, focus.err)
  t.equal(focus.err, '1 events have no price and are not among the rows\n')
  const [head = '', ...lines] = focus.out.trimEnd().split('\r\n')
  t.equal(head, focusColumns.join(','))
  const rows = lines.map((line) => new Map(line.split(',').map((text, index) => [focusColumns[index], text])))
  t.same(rows.map((row) => [row.get('x_Model'), row.get('SkuMeter')]).sort(), [['\'=cmd|x', 'Input Tokens'], ['\'=cmd|x', 'Output Tokens'], ['demo', 'Input Tokens'], ['demo', 'Output Tokens']].sort(), 'a name from outside is no formula')
  t.same(new Set(rows.map((row) => row.get('ProviderName'))), new Set(['gw-1']))
  const answer = JSON.parse((await tallygate(t, dir, ['usage', '--since', '1h', '--account', 'acme', '--json'])).out) as { rows: { cost: Record<string, string> }[] }
  const sum = rows.reduce((total, row) => total + Math.round(Number(row.get('BilledCost')) * 1e12), 0)
  t.equal(sum, Math.round(Number(answer.rows[0]?.cost['EUR']) * 1e12))

  t.match(await tallygate(t, dir, ['usage', '--format', 'focus', '--bucket', 'month']), { code: 2 })
  t.match(await tallygate(t, dir, ['usage', '--format', 'banana']), { code: 2, err: /--format is table or focus, not "banana"/ })
  const json = JSON.parse((await tallygate(t, dir, ['usage', '--format', 'focus', '--since', '1h', '--account', 'other', '--provider', 'Acme', '--json'])).out) as object
  t.match(json, { rows: [], events: 0, unpriced: 1, columns: focusColumns })

  running.child.kill('SIGTERM')
  await running.finished
  const alone = await tallygate(t, dir, ['usage', '--format', 'focus', '--since', '1h', '--bucket', 'hour'])
  t.equal(alone.out, focus.out, 'the same when no gateway runs')
})
