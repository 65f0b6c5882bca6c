// test: timeout 300 s
import t from 'tap'
import { KeyNames } from '../../src/stores/redis/keys.ts'
import { startRedis, startRedisCluster } from '../fixtures/redis.ts'
import { AnomalyStore } from './anomaly-store.ts'
import { storeSuite, type StoreSuiteOptions } from './conformance.ts'
import { openTestStore } from './redis-fixture.ts'

t.setTimeout(280_000)
const single = await startRedis(t)
const cluster = await startRedisCluster(t)

for (const [name, url] of [['redis', single.url], ['redis cluster', cluster.url]] as const) {
  let stores = 0
  const prefixes = new WeakMap<object, string>()
  const open = async (prefix = `${name.replace(' ', '-')}-${++stores}`): ReturnType<typeof openTestStore> => {
    const store = await openTestStore(t, url, { prefix })
    prefixes.set(store, prefix)
    return store
  }
  const options: StoreSuiteOptions = {
    name, open,
    async reopen(store) {
      const prefix = prefixes.get(store)
      await store.close()
      return open(prefix)
    },
    supports: {
      durable: true,
      async damage(store, counter) {
        const keys = new KeyNames(prefixes.get(store)!, 16)
        const key = keys.settled(keys.partitionOf(counter.slice(0, counter.lastIndexOf(' '))), counter)
        const cli = name === 'redis' ? single.cli : (...args: string[]) => cluster.nodes[0]!.cli('-c', ...args)
        await cli('DEL', key)
        await cli('RPUSH', key, 'not a number')
      },
    },
    skip: {},
  }
  storeSuite(t, options)
  if (name === 'redis') storeSuite(t, { ...options, name: 'redis behind a wrapper that fails at nothing', async open() {
    const store = await open()
    const wrapper = new AnomalyStore(store)
    prefixes.set(wrapper, prefixes.get(store)!)
    return wrapper
  } })
}
