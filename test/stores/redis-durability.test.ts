import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { askDurability, judge, readFacts, type DurabilityFacts, type DurabilityWanted } from '../../src/stores/redis/durability.ts'
import { parseInfo } from '../../src/stores/redis/info.ts'
import type { RedisLink } from '../../src/stores/redis/link.ts'
import { startRedis, startRedisCluster, startRedisSentinel } from '../fixtures/redis.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'

const good: DurabilityFacts = {
  address: 'a:1', product: 'Redis', version: '7.4.0', cluster: false, appendonly: true, appendfsync: 'everysec', evictionPolicy: 'noeviction',
  maxmemory: 1_000_000, replicas: 0, minReplicas: 0,
}
const wanted: DurabilityWanted = { durability: 'everysec', confirm: { replicas: 0, fsync: false }, deadlineMs: 250, clustered: false }

t.test('what must not be started on is refused, and says what to set', async (t) => {
  const table: readonly [string, Partial<DurabilityFacts>, Partial<DurabilityWanted>, RegExp | null][] = [
    ['as it should be', {}, {}, null],
    ['better than asked', { appendfsync: 'always' }, {}, null],
    ['evicts anything', { evictionPolicy: 'allkeys-lru' }, {}, /maxmemory-policy allkeys-lru.*set maxmemory-policy noeviction/],
    ['evicts what has an end', { evictionPolicy: 'volatile-ttl' }, { durability: 'none' }, /maxmemory-policy volatile-ttl/],
    ['no log', { appendonly: false }, {}, /appendonly no.*set appendonly yes/],
    ['no log, always wanted', { appendonly: false }, { durability: 'always' }, /appendonly no/],
    ['no log, and none wanted', { appendonly: false }, { durability: 'none' }, null],
    ['log each second, always wanted', {}, { durability: 'always' }, /durability is always.*appendfsync everysec/],
    ['always, always wanted', { appendfsync: 'always' }, { durability: 'always' }, null],
    ['log whenever', { appendfsync: 'no' }, {}, /durability is everysec.*appendfsync no/],
    ['log whenever, none wanted', { appendfsync: 'no' }, { durability: 'none' }, null],
    ['part of a cluster', { cluster: true }, {}, /redis\+cluster/],
    ['part of a cluster, as said', { cluster: true }, { clustered: true }, null],
    ['too old for WAITAOF', { version: '7.0.15', appendfsync: 'always' }, { confirm: { replicas: 0, fsync: true } }, /WAITAOF \(Redis 7\.2\).*Redis 7\.0\.15/],
    ['new enough', { version: '7.2.0', appendfsync: 'always' }, { confirm: { replicas: 0, fsync: true } }, null],
    ['Valkey', { product: 'Valkey', version: '8.1.1', appendfsync: 'always' }, { confirm: { replicas: 0, fsync: true } }, null],
    ['too old altogether', { version: '6.2.14' }, {}, /Redis 6\.2\.14: the store needs Redis 7\.0/],
    ['the oldest that will do', { version: '7.0.0' }, {}, null],
    ['fsync without a log', { appendonly: false }, { durability: 'none', confirm: { replicas: 0, fsync: true } }, /needs appendonly yes/],
    ['nothing is told', { appendonly: null, appendfsync: null, evictionPolicy: null, maxmemory: null, replicas: null, minReplicas: null, version: null }, {}, null],
  ]
  for (const [name, facts, more, refusal] of table) {
    const { refuse } = judge([{ ...good, ...facts }], { ...wanted, ...more })
    if (refusal === null) t.equal(refuse, null, name)
    else t.match(refuse, refusal, name)
  }
})

t.test('what should be changed, or is not told, is warned of', async (t) => {
  const table: readonly [string, Partial<DurabilityFacts>, Partial<DurabilityWanted>, readonly RegExp[]][] = [
    ['as it should be', {}, {}, []],
    ['no bound of memory', { maxmemory: 0 }, {}, [/no memory bound/]],
    ['policy unknown', { evictionPolicy: null }, {}, [/does not say its maxmemory-policy/]],
    ['log unknown', { appendonly: null, appendfsync: null }, {}, [/does not say whether it keeps an append-only file/]],
    ['fsync unknown', { appendfsync: null }, {}, [/does not say when it writes.*wants everysec/]],
    ['replicas missing', {}, { confirm: { replicas: 1, fsync: false } }, [/waits for 1 replica, and none is connected/]],
    ['too few replicas', { replicas: 1, minReplicas: 1 }, { confirm: { replicas: 2, fsync: false } }, [/waits for 2 replicas, and only 1 are connected/]],
    ['replicas, and a primary that does not care', { replicas: 2 }, {}, [/min-replicas-to-write/]],
    ['disk awaited that comes once a second', {}, { confirm: { replicas: 0, fsync: true } }, [/once a second.*250 ms.*appendfsync always/]],
    ['disk awaited with patience', {}, { confirm: { replicas: 0, fsync: true }, deadlineMs: 3000 }, []],
  ]
  for (const [name, facts, more, expected] of table) {
    const { warnings } = judge([{ ...good, ...facts }], { ...wanted, ...more })
    t.equal(warnings.length, expected.length, `${name}: ${warnings.join(' ')}`)
    for (const [index, pattern] of expected.entries()) t.match(warnings[index], pattern, name)
  }
})

t.test('what can be lost is said for each rung of the ladder', async (t) => {
  const table: readonly [string, Partial<DurabilityFacts>, Partial<DurabilityWanted>, readonly RegExp[]][] = [
    ['no log', { appendonly: false }, { durability: 'none' }, [/process ends.*everything since its last snapshot/, /No replica/]],
    ['no fsync', { appendfsync: 'no' }, { durability: 'none' }, [/process dies, nothing/, /half a minute/, /No replica/]],
    ['every second', {}, {}, [/process dies, nothing/, /about the last second/, /No replica/]],
    ['always', { appendfsync: 'always' }, {}, [/process dies, nothing/, /loses power, nothing/, /No replica/]],
    ['with replicas', { replicas: 1 }, {}, [/process dies/, /last second/, /takes over, what had not reached it is lost/]],
    ['confirmed by replicas', { replicas: 1 }, { confirm: { replicas: 1, fsync: false } }, [/process dies/, /last second/, /nothing that was answered is lost if.*not certain/]],
    ['confirmed on their disks', { replicas: 1, appendfsync: 'always' }, { confirm: { replicas: 1, fsync: true } }, [/dies/, /power, nothing/, /had it on disk.*not certain/]],
  ]
  for (const [name, facts, more, expected] of table) {
    const { losses } = judge([{ ...good, ...facts }], { ...wanted, ...more })
    t.equal(losses.length, expected.length, `${name}: ${losses.join(' ')}`)
    for (const [index, pattern] of expected.entries()) t.match(losses[index], pattern, name)
  }
})

t.test('what holds for some servers of a cluster names them', async (t) => {
  const odd = { ...good, address: 'b:2', evictionPolicy: 'allkeys-lfu' }
  const { refuse, losses } = judge([good, odd, { ...good, address: 'c:3' }], wanted)
  t.match(refuse, /^b:2: Redis may throw/)
  t.notMatch(losses.join(' '), /a:1|b:2|c:3/)
})

t.test('Valkey is called by its name and its own version', async (t) => {
  const facts = readFacts('a:1', parseInfo('# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n'), null)
  t.match(facts, { product: 'Valkey', version: '8.1.1', appendonly: null, appendfsync: null })
})

async function open(t: Teardown, url: string): Promise<RedisLink> {
  const link = await openLink({ url, deadlineMs: 250, clock: systemClock, random: systemRandom, log: silentLog })
  t.teardown(() => link.close())
  return link
}

t.test('a real server\'s settings are read, with CONFIG and without', async (t) => {
  const redis = await startRedis(t, { appendonly: 'always', maxmemory: '64mb', policy: 'noeviction' })
  const link = await open(t, redis.url)
  const [facts] = await askDurability(link)
  t.match(facts, {
    product: /Redis|Valkey/, cluster: false, appendonly: true, appendfsync: 'always', evictionPolicy: 'noeviction', maxmemory: 64 * 1024 * 1024, replicas: 0, minReplicas: 0,
  })
  t.equal(judge([facts!], { ...wanted, durability: 'always' }).refuse, null)

  await redis.cli('ACL', 'SETUSER', 'narrow', 'on', '>hunter2', '~*', '+@all', '-config')
  const narrow = await open(t, redis.url.replace('//', '//narrow:hunter2@'))
  const [told] = await askDurability(narrow)
  t.match(told, { appendonly: true, appendfsync: null, evictionPolicy: 'noeviction', minReplicas: null })
  const { refuse, warnings } = judge([told!], wanted)
  t.equal(refuse, null)
  t.equal(warnings.length, 1)

  const careless = await startRedis(t, { policy: 'allkeys-random' })
  t.match(judge(await askDurability(await open(t, careless.url)), wanted).refuse, /allkeys-random.*appendonly no/)
})

t.test('a cluster is read on every primary, and replicas are counted', async (t) => {
  const cluster = await startRedisCluster(t, { redis: { appendonly: 'everysec' } })
  const facts = await askDurability(await open(t, cluster.url))
  t.equal(facts.length, 3)
  t.ok(facts.every((one) => one.cluster === true && one.appendfsync === 'everysec'))
  t.equal(judge(facts, { ...wanted, clustered: true }).refuse, null)
  t.match(judge(await askDurability(await open(t, cluster.nodes[0]!.url)), wanted).refuse, /redis\+cluster/)

  const sentinel = await startRedisSentinel(t)
  t.match(await askDurability(await open(t, sentinel.url)), [{ replicas: 1, cluster: false }])
})
