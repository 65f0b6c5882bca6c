import t from 'tap'
import { redisUrlOf } from '../../src/config/redis-url.ts'
import { parseRedisUrl } from '../../src/stores/redis/address.ts'

t.test('what the configuration accepts as a Redis address, the store understands as it was meant', async (t) => {
  const cases: readonly (readonly [string, Partial<ReturnType<typeof parseRedisUrl>>])[] = [
    ['redis://h', { kind: 'single', hosts: [{ host: 'h', port: 6379 }], tls: false, user: null, password: null, db: 0 }],
    ['redis://h/', { hosts: [{ host: 'h', port: 6379 }], db: 0 }],
    ['redis://h:1/15', { hosts: [{ host: 'h', port: 1 }], db: 15 }],
    ['rediss://10.0.0.1:65535', { tls: true, hosts: [{ host: '10.0.0.1', port: 65_535 }] }],
    ['redis://:p%40%2F%3A%25w@h', { user: null, password: 'p@/:%w' }],
    ['redis://us%20er:pass@[::1]:7000/2', { user: 'us er', password: 'pass', hosts: [{ host: '::1', port: 7000 }], db: 2 }],
    ['redis+cluster://a:1,b,c-d.example:3', { kind: 'cluster', hosts: [{ host: 'a', port: 1 }, { host: 'b', port: 6379 }, { host: 'c-d.example', port: 3 }], db: 0 }],
    ['rediss+cluster://u:p@a:1', { kind: 'cluster', tls: true, user: 'u', password: 'p' }],
    ['redis+sentinel://a,b:26380/my-primary.1', { kind: 'sentinel', hosts: [{ host: 'a', port: 26_379 }, { host: 'b', port: 26_380 }], primary: 'my-primary.1', db: 0 }],
    ['rediss+sentinel://:p@a/m/4', { kind: 'sentinel', tls: true, password: 'p', primary: 'm', db: 4 }],
  ]
  for (const [url, expected] of cases) {
    t.strictSame(redisUrlOf(url), { value: url })
    t.match(parseRedisUrl(url), expected, url)
    t.notMatch(parseRedisUrl(url).shown, /pass|p%40|u:/, 'shown without who one is')
  }
})
