import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import t from 'tap'
import { runCommandLine } from '../../src/cli/cli.ts'
import { systemClock } from '../../src/clock.ts'
import { systemRandom } from '../../src/random.ts'
import { startRedis, startRedisCluster, startRedisSentinel } from '../fixtures/redis.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'

t.setTimeout(110_000)

async function check(t: Teardown, store: string, ...words: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  const file = join(tmpDir(t), 'tallygate.yaml')
  writeFileSync(file, `store: ${store}\n`, { mode: 0o600 })
  const stdout = new PassThrough()
  const stderr = new PassThrough()
  const code = await runCommandLine(['check', '--config', file, ...words], { env: {}, clock: systemClock, random: systemRandom, stdout, stderr, onSignal: () => undefined })
  const textOf = (stream: PassThrough): string => { const chunk: unknown = stream.read(); return chunk === null ? '' : String(chunk) }
  return { code, out: textOf(stdout), err: textOf(stderr) }
}

t.test('check says what Redis loses in which failure, by what it was asked, and changes nothing there', async (t) => {
  const redis = await startRedis(t, { appendonly: 'everysec', maxmemory: '64mb', password: 'hunter2 hunter2' })
  const url = redis.url.includes('@') ? redis.url : redis.url.replace('redis://', 'redis://:hunter2%20hunter2@')
  const said = await check(t, `"${url}"`)
  t.equal(said.code, 0)
  t.equal(said.err, '')
  t.match(said.out, /is valid/)
  t.match(said.out, new RegExp(`store: (Redis|Valkey) \\S+ at \\S*127\\.0\\.0\\.1:${redis.port}`))
  t.match(said.out, /process dies, nothing that was answered is lost/)
  t.match(said.out, /loses power, about the last second is lost/)
  t.match(said.out, /No replica is connected/)
  t.match(await redis.cli('DBSIZE'), /^(\(integer\) )?0$/, 'nothing was written')

  const strict = await check(t, `{ url: "${url}", durability: always }`)
  t.equal(strict.code, 1, 'the file is right; the server is not')
  t.match(strict.err, /no gateway would start on it\. store\.durability is always, and Redis writes to disk less often/)
  t.equal((await check(t, `{ url: "${url}", durability: always }`, '--offline')).code, 0)

  const lonely = await check(t, `{ url: "${url}", confirm: replicas=1 }`)
  t.equal(lonely.code, 0)
  t.match(lonely.err, /warning: store: store\.confirm waits for 1 replica, and none is connected/)

  await redis.cli('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru')
  const evicting = await check(t, `"${url}"`)
  t.equal(evicting.code, 1)
  t.match(evicting.err, /may throw counters away when memory is short \(maxmemory-policy allkeys-lru\)/)

  const wrong = await check(t, `"redis://:hunter3hunter3@127.0.0.1:${redis.port}"`)
  t.equal(wrong.code, 0)
  t.match(wrong.err, /warning: store: redis:\/\/127\.0\.0\.1:\d+ could not be asked/)
  for (const { out, err } of [said, strict, lonely, evicting, wrong]) t.notMatch(out + err, /hunter/)
})

t.test('a Redis without an append-only file is refused, unless the loss is meant', async (t) => {
  const redis = await startRedis(t, { appendonly: 'no', maxmemory: '64mb' })
  const refused = await check(t, `"${redis.url}"`)
  t.equal(refused.code, 1)
  t.match(refused.err, /keeps no append-only file/)
  const meant = await check(t, `{ url: "${redis.url}", durability: none }`)
  t.equal(meant.code, 0)
  t.match(meant.out, /everything since its last snapshot is lost/)
})

t.test('a Redis that is not there is a warning, told within seconds', async (t) => {
  const redis = await startRedis(t, { appendonly: 'no' })
  await redis.stop()
  const startedAt = performance.now()
  for (const store of [`"${redis.url}"`, `"redis+cluster://127.0.0.1:${redis.port}"`, `"redis+sentinel://127.0.0.1:${redis.port}/main"`]) {
    const gone = await check(t, store)
    t.equal(gone.code, 0, store)
    t.match(gone.err, /^warning: store: redis\S* could not be asked: .*--offline asks nobody\n$/)
    t.match(gone.out, /is valid/)
  }
  t.ok(performance.now() - startedAt < 15_000)
})

t.test('books with another number of partitions, or that are no books, are told before a gateway starts', async (t) => {
  const redis = await startRedis(t, { appendonly: 'everysec', maxmemory: '64mb' })
  await redis.cli('SET', 'tallygate:{books}:meta', JSON.stringify({ format: 1, partitions: 16, epoch: 'e', state: 'ready', madeMs: 1, accepted: false }))
  const other = await check(t, `"${redis.url}"`)
  t.equal(other.code, 1)
  t.match(other.err, /made with 16 partitions, and store\.partitions is 256/)
  t.equal((await check(t, `{ url: "${redis.url}", partitions: 16 }`)).code, 0)
  await redis.cli('SET', 'shop:{books}:meta', 'a book about books')
  t.match(await check(t, `{ url: "${redis.url}", prefix: shop }`), { code: 1, err: /choose another store\.prefix/ })
})

t.test('a cluster is asked whole, and sentinels for their primary; the wrong scheme is told', async (t) => {
  const cluster = await startRedisCluster(t, { redis: { appendonly: 'everysec', maxmemory: '64mb' } })
  const whole = await check(t, `"${cluster.url}"`)
  t.equal(whole.code, 0, whole.err)
  for (const { port } of cluster.nodes) t.match(whole.out, new RegExp(`:${port}\\b`))
  t.match(await check(t, `"redis://127.0.0.1:${cluster.nodes[0]?.port}"`), { code: 1, err: /part of a cluster: the store's URL must begin with redis\+cluster:/ })

  const sentinel = await startRedisSentinel(t, { redis: { appendonly: 'always', maxmemory: '64mb' } })
  const watched = await check(t, `{ url: "${sentinel.url}", durability: always, confirm: replicas=1 }`)
  t.equal(watched.code, 0, watched.err)
  t.match(watched.out, /store: \S+ \S+ at redis\+sentinel:/)
  t.match(watched.out, /nothing that was answered is lost if it is one of those that had it \(store\.confirm\)/)
  t.match(watched.err, /min-replicas-to-write 1/)
})
