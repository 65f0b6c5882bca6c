import { monitorEventLoopDelay } from 'node:perf_hooks'
import t from 'tap'
import { AccountChanges } from '../../src/accounts/account-changes.ts'
import type { ChangeRefused } from '../../src/accounts/account-changes.ts'
import { listAccounts, listKeys } from '../../src/accounts/account-overview.ts'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { hashOfSecret, newSecret, secretGrammar } from '../../src/accounts/secret.ts'
import { systemClock } from '../../src/clock.ts'
import type { Clock } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { systemRandom } from '../../src/random.ts'
import { FakeRecords, account, configOf, key } from './fixture.ts'

const nowMs = Date.UTC(2026, 10, 22, 10)
const hourMs = 3_600_000
const secretA = newSecret(systemRandom)
const secretB = newSecret(systemRandom)

async function set(config: Config, records = new FakeRecords()) {
  let atMs = nowMs
  const clock: Clock = { ...methods(systemClock), nowMs: () => atMs }
  const directory = await StoredKeyDirectory.open(records, config, clock)
  const changes = new AccountChanges(records, directory, clock, systemRandom)
  return { records, directory, changes, at: (ms: number) => { atMs = ms }, outcome: (secret: string, ms = atMs) => directory.find(secret, ms).outcome }
}

function methods(clock: Clock): Clock {
  return {
    nowMs: () => clock.nowMs(), monotonicMs: () => clock.monotonicMs(), after: (ms, task, options) => clock.after(ms, task, options),
    every: (ms, task) => clock.every(ms, task), sleep: (ms) => clock.sleep(ms),
  }
}

t.test('a secret follows the grammar, differs from every other, and is kept only as its hash', async (t) => {
  const secrets = new Set(Array.from({ length: 1_000 }, () => newSecret(systemRandom)))
  t.equal(secrets.size, 1_000)
  t.ok([...secrets].every((secret) => secretGrammar.test(secret) && secret.startsWith('tg_')))
  const { changes, records, outcome } = await set(configOf([]))
  const { secret } = await changes.createKey({ id: 'one', account: 'acme', plan: null, expiresMs: null }, 'ops')
  t.equal(outcome(secret), 'found')
  for (const kind of ['key', 'audit']) t.notMatch(JSON.stringify(await records.list(kind)), secret, `not in ${kind}`)
  t.match(JSON.stringify(await records.list('key')), hashOfSecret(secret))
})

t.test('a key is found with its account, its plan, its parents up to the root, and frozen', async (t) => {
  const accounts = [account('acme', { parent: 'group', plan: null, labels: { team: 'a', tier: 'x' } }), account('group', { parent: 'root', plan: 'pro' }), account('root')]
  const { directory } = await set(configOf([key('dev', hashOfSecret(secretA), { labels: { tier: 'y' } })], accounts))
  const found = directory.find(secretA, nowMs)
  if (found.outcome !== 'found') return t.fail('not found')
  t.equal(found.principal.keyId, 'dev')
  t.same(found.principal.chain.map(({ id }) => id), ['acme', 'group', 'root'])
  t.equal(found.principal.home, 'root')
  t.equal(found.principal.plan.name, 'pro', 'the nearest plan up the chain')
  t.same(found.principal.labels, { team: 'a', tier: 'y' }, 'the key wins over the account')
  t.ok(Object.isFrozen(found.principal))
  const again = directory.find(secretA, nowMs)
  t.equal(again.outcome === 'found' && again.principal, found.principal, 'built once')
})

t.test('a key that names a plan is its own account', async (t) => {
  const { directory } = await set(configOf([key('ci', hashOfSecret(secretA), { account: null, plan: 'pro' })]))
  const found = directory.find(secretA, nowMs)
  t.match(found, { outcome: 'found', principal: { keyId: 'ci', home: 'ci', account: { id: 'ci' }, plan: { name: 'pro' } } })
})

t.test('a key whose account, parent or plan is gone opens nothing', async (t) => {
  const missing = configOf([key('dev', hashOfSecret(secretA)), key('own', hashOfSecret(secretB), { account: null, plan: 'gone' })], [account('acme', { parent: 'gone' })])
  const { outcome, directory } = await set(missing)
  t.equal(outcome(secretA), 'unknown', 'it must not escape its parent')
  t.equal(outcome(secretB), 'unknown')
  t.same(listKeys(directory, nowMs).map(({ state }) => state), ['orphaned', 'orphaned'])
})

t.test('A12: a key stops at its expiry, wherever it was made', async (t) => {
  const { changes, outcome } = await set(configOf([key('dev', hashOfSecret(secretA), { expiresMs: nowMs + hourMs })]))
  const made = await changes.createKey({ id: 'run', account: 'acme', plan: null, expiresMs: nowMs + hourMs }, 'ops')
  for (const secret of [secretA, made.secret]) {
    t.equal(outcome(secret, nowMs + hourMs - 1), 'found')
    t.equal(outcome(secret, nowMs + hourMs), 'unknown')
  }
})

t.test('A12, K6: a revocation works at once, on keys of the YAML too, over a reload and a restart, until it is lifted', async (t) => {
  const config = configOf([key('dev', hashOfSecret(secretA))])
  const { changes, outcome, directory, records } = await set(config)
  t.equal(outcome(secretA), 'found')
  t.same(await changes.revokeKey('dev', 'lost', 'ops'), { where: 'tallygate.yaml:1' }, 'says where the YAML still has it')
  t.equal(outcome(secretA), 'unknown')
  directory.use(await directory.prepare(config, systemClock))
  t.equal(outcome(secretA), 'unknown', 'a reload brings nothing back')
  const restarted = await set(config, records)
  t.equal(restarted.outcome(secretA), 'unknown', 'nor does a restart')
  t.match(listKeys(directory, nowMs), [{ id: 'dev', state: 'revoked', revoked_by: 'ops', revoked_reason: 'lost' }])
  await changes.liftRevocation('dev', 'ops')
  t.equal(outcome(secretA), 'found')
})

t.test('a change made by another process is followed without asking again', async (t) => {
  const records = new FakeRecords()
  const here = await set(configOf([key('dev', hashOfSecret(secretA))]), records)
  const there = await set(configOf([key('dev', hashOfSecret(secretA))]), records)
  const made = await there.changes.createKey({ id: 'run', account: 'acme', plan: null, expiresMs: null }, 'ops')
  t.equal(here.outcome(made.secret), 'found')
  await there.changes.revokeKey('dev', null, 'ops')
  await there.changes.revokeKey('run', null, 'ops')
  t.equal(here.outcome(secretA), 'unknown')
  t.equal(here.outcome(made.secret), 'unknown')
})

t.test('K7: after a rotation both secrets work until the cut-off, for the same account; then only the new one, whatever the YAML says', async (t) => {
  const config = configOf([key('dev', hashOfSecret(secretA))])
  const { changes, outcome, directory, records, at } = await set(config)
  const { secret } = await changes.rotateKey('dev', hourMs, 'ops')
  for (const each of [secretA, secret]) {
    const found = directory.find(each, nowMs + hourMs - 1)
    t.match(found, { outcome: 'found', principal: { keyId: 'dev', home: 'acme' } })
  }
  t.equal(outcome(secretA, nowMs + hourMs), 'unknown')
  t.equal(outcome(secret, nowMs + hourMs), 'found')
  t.equal((await set(config, records)).outcome(secretA, nowMs + hourMs), 'unknown', 'after a restart with the same YAML too')

  at(nowMs + 2 * hourMs)
  const second = await changes.rotateKey('dev', 0, 'ops')
  t.equal(outcome(secret), 'unknown', 'no grace: at once')
  t.equal(outcome(secretA), 'unknown', 'what was retired stays retired')
  t.equal(outcome(second.secret), 'found')

  const pasted = configOf([key('dev', hashOfSecret(second.secret))])
  directory.use(await directory.prepare(pasted, systemClock))
  t.equal(outcome(second.secret), 'found', 'the operator may put the new hash into the YAML')
  const written = configOf([key('dev', hashOfSecret(secretB))])
  directory.use(await directory.prepare(written, systemClock))
  t.equal(outcome(secretB), 'found', 'or one of his own')
})

t.test('a suspended account is inactive with all its keys and everything under it, until resumed', async (t) => {
  const accounts = [account('acme', { parent: 'root' }), account('root'), account('other', { suspended: true })]
  const { changes, outcome, directory } = await set(configOf([key('dev', hashOfSecret(secretA)), key('off', hashOfSecret(secretB), { account: 'other' })], accounts))
  t.equal(outcome(secretB), 'inactive', 'suspended in the config')
  await changes.suspendAccount('root', null, 'ops')
  t.equal(outcome(secretA), 'inactive')
  t.match(listAccounts(directory, nowMs).find(({ id }) => id === 'root'), { suspended: true, suspended_in: ['store'], suspended_by: 'ops' })
  t.same(await changes.resumeAccount('root', 'ops'), { suspendedByConfig: false })
  t.equal(outcome(secretA), 'found')
  await t.rejects(changes.resumeAccount('other', 'ops'), { name: 'ChangeRefused', why: 'conflict' })
})

t.test('what cannot be done is refused with a sentence, and changes nothing', async (t) => {
  const { changes, records } = await set(configOf([key('dev', hashOfSecret(secretA))]))
  const refused: [string, () => Promise<unknown>, ChangeRefused['why']][] = [
    ['both owners', () => changes.createKey({ id: 'x', account: 'acme', plan: 'free', expiresMs: null }, 'ops'), 'invalid'],
    ['no owner', () => changes.createKey({ id: 'x', account: null, plan: null, expiresMs: null }, 'ops'), 'invalid'],
    ['unknown account', () => changes.createKey({ id: 'x', account: 'nobody', plan: null, expiresMs: null }, 'ops'), 'not_found'],
    ['unknown plan', () => changes.createKey({ id: 'x', account: null, plan: 'gone', expiresMs: null }, 'ops'), 'not_found'],
    ['an id of the YAML', () => changes.createKey({ id: 'dev', account: 'acme', plan: null, expiresMs: null }, 'ops'), 'conflict'],
    ['an own account that exists', () => changes.createKey({ id: 'acme', account: null, plan: 'free', expiresMs: null }, 'ops'), 'conflict'],
    ['already expired', () => changes.createKey({ id: 'x', account: 'acme', plan: null, expiresMs: nowMs }, 'ops'), 'invalid'],
    ['an id that is none', () => changes.createKey({ id: 'a\nb', account: 'acme', plan: null, expiresMs: null }, 'ops'), 'invalid'],
    ['revoke of nothing', () => changes.revokeKey('nobody', null, 'ops'), 'not_found'],
    ['rotate of nothing', () => changes.rotateKey('nobody', 0, 'ops'), 'not_found'],
    ['suspend of nobody', () => changes.suspendAccount('nobody', null, 'ops'), 'not_found'],
  ]
  for (const [what, change, why] of refused) await t.rejects(change(), { name: 'ChangeRefused', why }, what)
  t.equal(records.writes, 0)
  await changes.revokeKey('dev', null, 'ops')
  await t.rejects(changes.rotateKey('dev', 0, 'ops'), { name: 'ChangeRefused', why: 'conflict' }, 'a revoked key is not rotated back to life')
})

t.test('K12: changes made at once are made one after the other: an id is given once', async (t) => {
  const { changes } = await set(configOf([]))
  const made = await Promise.allSettled(Array.from({ length: 20 }, () => changes.createKey({ id: 'same', account: 'acme', plan: null, expiresMs: null }, 'ops')))
  t.equal(made.filter(({ status }) => status === 'fulfilled').length, 1)
})

t.test('every change is journaled with who and when', async (t) => {
  const { changes } = await set(configOf([key('dev', hashOfSecret(secretA))]))
  await changes.revokeKey('dev', 'lost', 'maria')
  await changes.liftRevocation('dev', 'env')
  const audit = await changes.audit(10)
  t.same(audit.map(({ action }) => action).sort(), ['key.lift', 'key.revoke'])
  t.match(audit.find(({ action }) => action === 'key.revoke'), { who: 'maria', target: 'dev', at_ms: nowMs, details: { reason: 'lost' } })
})

t.test('A12: a damaged document shuts out rather than in', async (t) => {
  const records = new FakeRecords()
  await records.put('revocation', 'dev', {})
  await records.put('key', 'run', { hash: hashOfSecret(secretB), account: 'acme', expires_ms: 'never' })
  const { outcome } = await set(configOf([key('dev', hashOfSecret(secretA))]), records)
  t.equal(outcome(secretA), 'unknown')
  t.equal(outcome(secretB), 'unknown')
})

t.test('A13: unknown secrets leave nothing behind: three hundred thousand of them change neither memory nor the store', async (t) => {
  const { directory, records } = await set(configOf([key('dev', hashOfSecret(secretA))]))
  const tries = 300_000
  const before = process.memoryUsage().heapUsed
  let found = 0
  const startedAt = performance.now()
  for (let index = 0; index < tries; index += 1) if (directory.find(`tg_guess_${index}_aaaaaaaaaaaaaaaa`, nowMs).outcome !== 'unknown') found += 1
  const microseconds = ((performance.now() - startedAt) * 1_000) / tries
  t.equal(found, 0)
  t.equal(records.writes, 0)
  const grownMb = (process.memoryUsage().heapUsed - before) / 2 ** 20
  t.ok(grownMb < 64, `grew by ${grownMb.toFixed(1)} MiB`)
  t.comment(`${microseconds.toFixed(2)} µs per unknown secret, ${grownMb.toFixed(1)} MiB more heap after ${tries}`)
})

t.test('A7: near misses of a real secret are as unknown as any', async (t) => {
  const { outcome } = await set(configOf([key('dev', hashOfSecret(secretA))]))
  for (const near of [secretA.slice(1), secretA.slice(0, -1), `${secretA} `, secretA.toUpperCase(), hashOfSecret(secretA), '', '__proto__', 'constructor', `${secretA}\0`]) {
    t.equal(outcome(near), 'unknown', JSON.stringify(near.slice(0, 4)))
  }
})

t.test('K8: a hundred thousand keys: lookups stay as quick as with one, and a reload never holds the loop', async (t) => {
  const secrets = Array.from({ length: 100_000 }, (_each, index) => `tg_${String(index).padStart(30, '0')}`)
  const config = configOf(secrets.map((secret, index) => key(`k${index}`, hashOfSecret(secret))))
  const { directory, outcome } = await set(config)
  const time = (secret: (index: number) => string): number => {
    const startedAt = performance.now()
    for (let index = 0; index < 20_000; index += 1) directory.find(secret(index), nowMs)
    return ((performance.now() - startedAt) * 1_000) / 20_000
  }
  time((index) => secrets[(index * 7) % 100_000]!)
  const warm = time((index) => secrets[(index * 7) % 100_000]!)
  t.ok(warm < 50, `${warm.toFixed(2)} µs per lookup`)
  const loop = monitorEventLoopDelay({ resolution: 1 })
  loop.enable()
  const startedAt = performance.now()
  const prepared = await directory.prepare(config, systemClock)
  const reloadMs = performance.now() - startedAt
  directory.use(prepared)
  await systemClock.sleep(5)
  loop.disable()
  t.ok(loop.max / 1e6 < 100, `longest pause ${(loop.max / 1e6).toFixed(0)} ms`)
  t.equal(outcome(secrets[99_999]!), 'found')
  t.comment(`${warm.toFixed(2)} µs per lookup, index of 100,000 keys in ${reloadMs.toFixed(0)} ms, longest pause ${(loop.max / 1e6).toFixed(0)} ms`)
})

t.test('of two replicas that make a key of one id at the same moment one is refused, and only the other\'s secret opens', async (t) => {
  const here = await set(configOf([]))
  // The other replica has not yet heard of what the first one made.
  const deaf = new FakeRecords()
  deaf.watch = () => () => {}
  deaf.swap = (...args) => here.records.swap(...args)
  const there = await set(configOf([]), deaf)
  const { secret } = await here.changes.createKey({ id: 'one', account: 'acme', plan: null, expiresMs: null }, 'ops')
  await t.rejects(there.changes.createKey({ id: 'one', account: 'acme', plan: null, expiresMs: null }, 'ops'), { name: 'ChangeRefused', why: 'conflict' })
  t.equal(here.outcome(secret), 'found')
  t.ok((await there.changes.audit(9)).some(({ action, target }) => action === 'key.create_refused' && target === 'one'), 'and the journal of changes says that it was not made')
})

t.test('whose a key is, is known although it opens nothing: revoked, expired, replaced, or of an account that may not call; of no other secret', async (t) => {
  const made = newSecret(systemRandom)
  const accounts = [account('acme', { suspended: true }), account('globex'), account('initech')]
  const { directory, changes, records, outcome } = await set(configOf([
    key('dev', hashOfSecret(secretA)), key('old', hashOfSecret(secretB), { account: 'globex', expiresMs: nowMs - 1 }), key('gone', hashOfSecret('tg_of_no_account_0123456789'), { account: 'nobody' }),
  ], accounts))
  t.same([outcome(secretA), directory.ownerOf(secretA, nowMs)], ['inactive', { account: 'acme', key: 'dev' }])
  t.same([outcome(secretB), directory.ownerOf(secretB, nowMs)], ['unknown', { account: 'globex', key: 'old' }])
  const { secret } = await changes.createKey({ id: 'run', account: 'initech', plan: null, expiresMs: null }, 'ops')
  const { secret: next } = await changes.rotateKey('run', 0, 'ops')
  await records.put('revocation', 'run', { at_ms: nowMs, by: 'ops', reason: 'leaked' })
  for (const each of [secret, next]) t.same([outcome(each), directory.ownerOf(each, nowMs)], ['unknown', { account: 'initech', key: 'run' }])
  // The file's key of this id is another's.
  await records.put('key', 'dev', { hash: hashOfSecret(made), account: 'initech', plan: null, created_ms: nowMs, created_by: 'ops', expires_ms: null, change: null })
  for (const each of [made, newSecret(systemRandom), 'tg_of_no_account_0123456789', '']) t.same([outcome(each), directory.ownerOf(each, nowMs)], ['unknown', null])
})
