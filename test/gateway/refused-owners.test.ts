// Whose call it was that a key was refused for: told to operators, wherever it is known, and to no caller.

import t from 'tap'
import { recordKinds } from '../../src/accounts/account-records.ts'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { Traffic } from '../../src/analytics/traffic.ts'
import { systemClock } from '../../src/clock.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { prompt, secrets, startRig } from './exchange/rig.ts'

const nobody = 'tg-test-nobody-0123456789'

async function open(t: Teardown) {
  const upstream = await openScriptedUpstream(t, openai())
  const traffic = new Traffic()
  const moves: string[] = []
  let asked = 0
  const rig = await startRig(t, upstream.url, {
    wrap: (store) => new Proxy(store, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target)
        if (typeof value !== 'function') return value
        return (...given: unknown[]): unknown => {
          moves.push(String(name))
          return (value as (...args: unknown[]) => unknown).apply(target, given)
        }
      },
    }),
    parts: async (store, config) => {
      const directory = await StoredKeyDirectory.open(store.records, config(), systemClock)
      return {
        onlooker: traffic,
        keys: {
          find: (secret, nowMs) => directory.find(secret, nowMs),
          grantsNow: (principal, nowMs) => directory.grantsNow(principal, nowMs),
          ownerOf(secret, nowMs) {
            asked += 1
            return directory.ownerOf(secret, nowMs)
          },
        },
      }
    },
  })
  const chat = (key: string | null = secrets.main): ReturnType<typeof rig.request> => rig.request({ method: 'POST', target: '/v1/chat/completions', body: prompt, key })
  const ban = (kind: string, id: string): Promise<void> => rig.store.records.put(kind, id, { at_ms: Date.now() - 1_000, by: 'ops', reason: 'unpaid' })
  return { rig, traffic, chat, ban, moves, asked: () => asked, upstream }
}

/** What may differ between two answers of the same words. */
const wordsOf = (text: string): string => text.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, 'ID')

t.test('calls of an account that is suspended, and of a key that is revoked, are counted, shown and logged under whose they are', async (t) => {
  const { rig, traffic, chat, ban } = await open(t)
  await ban(recordKinds.suspension, 'main')
  await ban(recordKinds.revocation, 'other')
  t.same([(await chat()).status, (await chat()).status], [403, 403])
  const revoked = await chat(secrets.other)
  const unknown = await chat(nobody)
  t.same([revoked.status, wordsOf(revoked.text)], [401, wordsOf(unknown.text)], 'a caller is told the same as of a key that nobody has')
  t.equal((await chat(null)).status, 401)
  await waitFor('every exchange to end', () => rig.gateway.openExchanges === 0)
  t.strictSame(
    rig.logged.filter(({ message }) => message === 'exchange').map(({ account, key, status, failure }) => [account, key, status, failure]),
    [['main', 'main', 403, 'subscription_inactive'], ['main', 'main', 403, 'subscription_inactive'], ['other', 'other', 401, 'invalid_api_key'], [undefined, undefined, 401, 'invalid_api_key'], [undefined, undefined, 401, 'invalid_api_key']],
  )
  const { counts, samples, refused } = traffic.take()
  t.strictSame(counts.map(({ dimensions: { account, key, reason }, refused: count }) => [account, key, reason, count]), [['main', 'main', 'subscription_inactive', 2], ['other', 'other', 'invalid_api_key', 1]])
  t.match(samples, [{ account: 'main', key: 'main', limit: null, reason: 'subscription_inactive' }, { account: 'main' }, { account: 'other', reason: 'invalid_api_key' }])
  t.match(refused, { subscription_inactive: 2, invalid_api_key: 3 })
  t.notMatch(await rig.metrics.text(), /(?:account|key)="|="main"/, 'no label of who it was')
})

t.test('who is refused a look at what he has used calls nothing', async (t) => {
  const { rig, traffic, ban } = await open(t)
  await ban(recordKinds.suspension, 'main')
  t.equal((await rig.request({ target: '/-/usage' })).status, 403)
  t.match(rig.logged.filter(({ message }) => message === 'exchange'), [{ account: 'main', key: 'main' }])
  t.match(traffic.take(), { counts: [], samples: [], refused: {} })
})

t.test('a flood of them asks the store nothing, is one row, and is braked as ever', async (t) => {
  const { traffic, chat, ban, moves, asked, upstream } = await open(t)
  await ban(recordKinds.suspension, 'main')
  await ban(recordKinds.revocation, 'other')
  await chat()
  traffic.take()
  const before = { moves: moves.length, asked: asked() }
  for (let i = 0; i < 100; i++) t.equal((await chat()).status, 403)
  const seen = new Set<number>()
  for (let i = 0; i < 100; i++) seen.add((await chat(secrets.other)).status)
  t.same([...seen], [401, 429])
  t.equal(moves.length, before.moves)
  t.equal(asked(), before.asked + 200, 'once for each')
  const { counts, samples } = traffic.take()
  const of = (account: string): number => counts.filter(({ dimensions }) => dimensions.account === account).reduce((sum, { refused }) => sum + refused, 0)
  t.same([of('main'), of('other')], [100, 100])
  t.ok(counts.length <= 6 && samples.length < 100, `${counts.length} rows, ${samples.length} samples`)
  t.equal(upstream.executions, 0)
})
