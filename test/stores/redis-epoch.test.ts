import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { StoreRefused } from '../../src/stores/redis/epoch.ts'
import { startRedis } from '../fixtures/redis.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { openTestStore } from './redis-fixture.ts'

t.test('a machine remembers which books it knew, each prefix apart, and lost ones are no first start', async (t) => {
  const redis = await startRedis(t, {})
  const memoryDir = tmpDir(t)
  const file = join(memoryDir, 'redis-epoch.json')
  for (const prefix of ['one', 'two']) await (await openTestStore(t, redis.url, { prefix, memoryDir })).close()
  t.same(Object.keys(JSON.parse(readFileSync(file, 'utf8')) as object), ['one', 'two'], 'the second has not forgotten the first')
  await redis.cli('FLUSHALL')
  for (const prefix of ['one', 'two']) await t.rejects(openTestStore(t, redis.url, { prefix, memoryDir }), { name: 'StoreRefused', message: /this Redis is empty, but books have been kept in it before/ })
  await (await openTestStore(t, redis.url, { prefix: 'one', memoryDir, acceptLoss: true })).close()
  await (await openTestStore(t, redis.url, { prefix: 'one', memoryDir })).close()
  for (const damage of ['', '{"one":', '[]x', '{"one":7}', 'null']) {
    writeFileSync(file, damage)
    await t.rejects(openTestStore(t, redis.url, { prefix: 'one', memoryDir }), new StoreRefused(`${file} is damaged; it says which books this machine knew. If the books in Redis are whole, remove the file`), JSON.stringify(damage))
  }
})
