// test: timeout 120 s
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { chat, configIn, freePlan, serve, tallygate } from './../app/process.ts'

const secret = 'tg_yaml_0123456789abcdefghij'
const filed = 'tg_yaml_filed_0123456789abcd'
const config = `${freePlan.replace('accounts:', 'accounts:\n  later: { plan: free }\n  filed: { plan: free, subscription: { kind: term, start: 2020-01-01, end: 2021-01-01 } }')}keys:
  - { id: dev, account: acme, hash: "sha256:${hashOfSecret(secret)}" }
  - { id: old, account: filed, hash: "sha256:${hashOfSecret(filed)}" }
`

t.test('subscriptions are made and changed from the command line, and what they say works at once', async (t) => {
  const dir = configIn(tmpDir(t), config)
  t.match(readFileSync(join(dir, 'config/tallygate.yaml'), 'utf8'), /kind: term/)
  t.match(await tallygate(t, dir, ['subscriptions', 'set', 'acme', '--kind', 'trial', '--trial-end', '2090-01-01']), { code: 0, out: /^acme is trial until 2090-01-01T00:00:00.000Z \(revision 1\)\n$/ }, 'without a gateway')
  const running = await serve(t, dir)
  const status = async (of: string): Promise<number> => (await chat(running.gateway, of)).status
  t.equal(await status(secret), 200)
  t.equal(await status(filed), 403)
  t.match(await tallygate(t, dir, ['subscriptions', 'set', 'later', '--term', 'year', '--start', '2090-01-01']), { code: 0, out: 'later is pending until 2090-01-01T00:00:00.000Z: calls are refused until then (revision 1)\n' })
  const list = (await tallygate(t, dir, ['subscriptions', 'list'])).out
  t.match(list, /^acme +trial +trial +\S+ +2090-01-01T00:00:00.000Z +- +none +- +store +1$/m)
  t.match(list, /^filed +term +ended +2021-01-01T00:00:00.000Z +- .*tallygate.yaml:\d+ +-$/m)

  t.match(await tallygate(t, dir, ['subscriptions', 'cancel', 'acme', '--at', 'now', '--revision', '1']), { code: 0, out: /^acme is ended: calls are refused \(revision 2\)/ })
  t.equal(await status(secret), 403, 'a second later nobody is served')
  t.match(await tallygate(t, dir, ['subscriptions', 'set', 'acme', '--kind', 'perpetual', '--trial-end', 'none', '--start', '2020-01-01', '--revision', '1']), { code: 1, err: /is at revision 2, not 1: somebody has changed it; look again/ })
  t.match(await tallygate(t, dir, ['subscriptions', 'set', 'acme', '--kind', 'term', '--trial-end', 'none', '--start', '2020-01-31', '--term', 'month', '--renewal', 'none', '--end', '2089-03-31', '--json']), { code: 0, out: /"revision": 3/ })
  t.equal(await status(secret), 200)
  t.match(await tallygate(t, dir, ['subscriptions', 'renew', 'acme', '--change', 'one']), { code: 0, out: /until 2089-04-30T00:00:00.000Z \(revision 4\)/ })
  t.match(await tallygate(t, dir, ['subscriptions', 'renew', 'acme', '--change', 'one']), { code: 0, out: /until 2089-04-30T00:00:00.000Z \(revision 4\)/ })
  t.match(await tallygate(t, dir, ['subscriptions', 'set', 'filed', '--end', '2090-01-01']), { code: 1, err: /stands in .*tallygate.yaml:\d+: it is changed there/ })
  const changed = (await tallygate(t, dir, ['audit', '--target', 'acme'])).out.split('\n')
  t.match(changed[0], /^TIME +WHO +ACTION +TARGET +DETAILS$/)
  t.match(changed[1], /^\S+Z +cli +subscription\.renew +acme +.*change=one/, 'the newest first')
  t.equal(changed.filter((line) => / subscription\.(set|cancel|renew) /.test(line)).length, 4, 'each once')
  t.match(await tallygate(t, dir, ['audit', '--target', 'acm']), { code: 0, out: 'nothing of "acm" was changed\n' }, 'a name is meant as a whole')
  t.match(JSON.parse((await tallygate(t, dir, ['audit', '--limit', '1', '--json'])).out), { changes: [{ who: 'cli', action: 'subscription.renew', target: 'acme' }] })
  t.match(await tallygate(t, dir, ['subscriptions', 'set', 'acme', '--term', 'soon']), { code: 2, err: /term: "soon" is not a term/ })
  t.match(await tallygate(t, dir, ['subscriptions', 'remove', 'acme']), { code: 0, out: /^acme has no subscription any more\n$/ })
  t.equal(await status(secret), 200)
  // What the file ended long ago was over before this gateway began: nothing of it is announced.
  t.notMatch(running.err() + running.out(), /has ended|ends soon/)
})

t.test('where there are no subscriptions, accounts made at run time are served as those of the config are', async (t) => {
  t.match(await tallygate(t, configIn(tmpDir(t), freePlan), ['subscriptions', 'list']), { code: 0, out: 'no subscriptions: every account is served for as long as it is there\n' })
})

t.test('the audit tells instants as such, and nothing that was not given', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  t.match(await tallygate(t, dir, ['audit']), { code: 0, out: 'nobody changed anything\n' })
  t.equal((await tallygate(t, dir, ['keys', 'create', '--plan', 'free', '--id', 'ci', '--expires', '30d'])).code, 0)
  t.equal((await tallygate(t, dir, ['subscriptions', 'set', 'acme', '--start', '2020-01-01', '--term', 'month', '--grace', '14d', '--suspended-from', '2090-01-01'])).code, 0)
  const { out } = await tallygate(t, dir, ['audit'])
  t.notMatch(out, /null/)
  const key = out.split('\n').find((line) => / keys?\.\w+ /.test(line)) ?? ''
  t.match(key, / expires=20\d\d-\d\d-\d\dT\S+Z( |$)/)
  t.notMatch(key, /expires_ms|account=/)
  const subscription = out.split('\n').find((line) => line.includes(' subscription.set ')) ?? ''
  t.match(subscription, / start=2020-01-01T00:00:00.000Z .*suspended=\{"from":"2090-01-01T00:00:00.000Z"\}/)
  t.match(subscription, / grace_ms=1209600000 /, 'a length of time is none')
  t.match(JSON.parse((await tallygate(t, dir, ['audit', '--json'])).out), { changes: [{ details: { start_ms: Number } }, { details: { expires_ms: Number, account: null } }] })
})
