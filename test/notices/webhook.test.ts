import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import type { Clock } from '../../src/clock.ts'
import type { WebhookConfig } from '../../src/config/config.ts'
import type { Log } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { noticeId } from '../../src/notices/notice.ts'
import type { Notice } from '../../src/notices/notice.ts'
import { NoticeBook } from '../../src/notices/notice-book.ts'
import { Webhook, webhookHttp } from '../../src/notices/webhook.ts'
import { systemRandom } from '../../src/random.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import type { Store } from '../../src/stores/store.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { secretA, secretB, startReceiver } from './receiver.ts'

interface World {
  readonly store: Store
  readonly metrics: Metrics
  /** What was written to the log, with its fields as JSON. */
  readonly said: string[]
  tell(name: string, more?: Partial<Notice>): Promise<string>
  hook(url: string, more?: Partial<WebhookConfig>, holder?: string): Webhook
  /** The time jumps ahead. */
  jump(ms: number): void
}

/** Waits are a hundredth of what they would be, that for an answer too. */
async function open(t: Teardown, shortened = 100): Promise<World> {
  let aheadMs = 0
  const faster = (ms: number): number => Math.ceil(ms / shortened)
  const clock: Clock = {
    nowMs: () => systemClock.nowMs() + aheadMs, monotonicMs: () => systemClock.monotonicMs(), sleep: (ms) => systemClock.sleep(faster(ms)),
    after: (ms, task, options) => systemClock.after(faster(ms), task, options), every: (ms, task) => systemClock.every(faster(ms), task),
  }
  const store = await openMemory({ clock: systemClock, forgetAfterMs: 7_200_000, hotMs: 86_400_000 })
  const metrics = new Metrics()
  const said: string[] = []
  const note = (fields: object, message: string): void => { said.push(`${message} ${JSON.stringify(fields)}`) }
  const log: Log = { debug: note, info: note, warn: note, error: note }
  const book = new NoticeBook({ records: store.records, clock, random: systemRandom, log, metrics })
  const hooks: Webhook[] = []
  t.teardown(async () => {
    await Promise.all(hooks.map((hook) => hook.stop()))
    await store.close()
  })
  return {
    store, metrics, said,
    jump: (ms) => { aheadMs += ms },
    async tell(name, more = {}) {
      const id = noticeId('threshold', [name])
      await book.tell({ id, type: 'threshold', account: 'acme', atMs: clock.nowMs(), source: 'tallygate/test', text: `${name} happened`, data: { limit: name }, forgetMs: null, ...more })
      return id
    },
    hook(url, more = {}, holder = 'test') {
      const config: WebhookConfig = { id: 'hook-of-the-test', url, secrets: [secretA], types: null, accounts: null, headers: {}, ...more }
      const hook = new Webhook({ config, http: webhookHttp(clock), records: store.records, outbox: store.outbox, clock, random: systemRandom, log, metrics, holder })
      hooks.push(hook)
      hook.start()
      return hook
    },
  }
}

const configured = (w: World, id = 'hook-of-the-test'): Promise<unknown> => waitFor('the webhook to be known', () => w.store.records.get('webhook', id))

t.test('a notice arrives once, signed, as a CloudEvent', async (t) => {
  // An answer that is waited for a quarter of a second only may come too late here, and the notice again.
  const w = await open(t, 1)
  const receiver = await startReceiver(t)
  w.hook(receiver.url, { headers: { authorization: 'Bearer of-the-operator' } })
  await configured(w)
  const id = await w.tell('one')
  await waitFor('the notice', () => receiver.taken().get(id) === 1)
  const [{ verified, headers, body, event } = receiver.received[0]!] = receiver.received
  t.ok(verified, 'by another implementation')
  t.match(headers, { 'content-type': 'application/cloudevents+json; charset=utf-8', 'authorization': 'Bearer of-the-operator', 'webhook-id': id, 'user-agent': 'tallygate' })
  t.ok(Math.abs(Number(headers['webhook-timestamp']) - Date.now() / 1_000) < 5)
  t.match(event, { specversion: '1.0', type: 'tallygate.notice.v1', id, source: 'tallygate/test', subject: 'acme', datacontenttype: 'application/json', data: { type: 'threshold', account: 'acme', text: 'one happened', limit: 'one' } })
  t.equal(JSON.stringify(event), body)
  await systemClock.sleep(50)
  t.equal(receiver.received.length, 1)
  t.match(await w.metrics.text(), /tallygate_webhook_deliveries_total\{webhook="127\.0\.0\.1:\d+ hook-o",outcome="delivered"\} 1/)
})

t.test('only what it asks for, and only what happened since it was configured', async (t) => {
  const w = await open(t)
  const receiver = await startReceiver(t)
  await w.tell('before')
  w.jump(10)
  w.hook(receiver.url, { types: ['threshold', 'breakage'], accounts: ['team-*', 'acme'] })
  await configured(w)
  await w.tell('other account', { account: 'else' })
  await w.tell('other type', { id: noticeId('forecast', ['x']), type: 'forecast' })
  await w.tell('mine', { account: 'team-7' })
  await w.tell('mine too')
  await waitFor('two', () => receiver.received.length === 2)
  await systemClock.sleep(50)
  t.same(receiver.received.map(({ event }) => event.data['limit']).sort(), ['mine', 'mine too'])
})

t.test('a receiver that fails, or is not there, gets the same id and bytes again until it takes them', async (t) => {
  const w = await open(t)
  const receiver = await startReceiver(t)
  const answers = [500, 404, 301, 429, 503, 400]
  receiver.answer = (response) => {
    const status = answers.shift()
    if (status === 404) response.destroy()
    else if (status === 301) response.writeHead(301, { location: '/elsewhere' }).end()
    else if (status === 429) response.writeHead(429, { 'retry-after': '0' }).end('slow down')
    else response.writeHead(status ?? 202).end('the words of the receiver')
  }
  w.hook(receiver.url)
  await configured(w)
  const id = await w.tell('one')
  for (let tries = 0; tries < 400 && receiver.taken().get(id) !== 1; tries++) {
    w.jump(1_000)
    await systemClock.sleep(20)
  }
  t.equal(receiver.received.length, 7, 'six attempts in vain, and the redirect was not followed')
  t.equal(new Set(receiver.received.map(({ id, body }) => `${id} ${body}`)).size, 1)
  t.ok(receiver.received.every(({ verified }) => verified), 'each attempt has its own timestamp and signature')
  t.match(w.said.join('\n'), /a notice was not taken; it is sent again.*"status":500/)
  t.notMatch(w.said.join('\n'), /slow down|words of the receiver|in-the-url|whsec_/, 'neither what the receiver says nor what is secret is in the log')
})

t.test('Retry-After is obeyed, for everything that is sent there', async (t) => {
  const w = await open(t)
  const receiver = await startReceiver(t)
  receiver.answer = (response) => { response.writeHead(429, { 'retry-after': '120' }).end() }
  w.hook(receiver.url)
  await configured(w)
  await w.tell('one')
  await waitFor('the first attempt', () => receiver.received.length === 1)
  await systemClock.sleep(30)
  receiver.answer = (response) => { response.writeHead(204).end() }
  const other = await w.tell('two')
  w.jump(100_000)
  await systemClock.sleep(200)
  t.equal(receiver.received.length, 1, 'a hundred seconds later it is still left alone')
  w.jump(21_000)
  await waitFor('both', () => receiver.taken().size === 2)
  t.equal(receiver.taken().get(other), 1)
})

t.test('a slow receiver delays nobody, and its attempts end', async (t) => {
  const w = await open(t)
  const [slow, good] = [await startReceiver(t), await startReceiver(t)]
  slow.answer = () => undefined
  w.hook(slow.url, { id: 'slow' })
  w.hook(good.url, { id: 'good' })
  await Promise.all([configured(w, 'slow'), configured(w, 'good')])
  const began = systemClock.monotonicMs()
  const ids = await Promise.all(Array.from({ length: 20 }, (_, n) => w.tell(`n${n}`)))
  await waitFor('all at the good one', () => ids.every((id) => good.taken().get(id) === 1))
  t.ok(systemClock.monotonicMs() - began < 2_000)
  await waitFor('the slow one to be asked again', () => {
    w.jump(500)
    return slow.received.length > 8
  })
  t.ok(slow.received.length > 8, 'four at once, each given up after a while (a quarter of a second here)')
  slow.answer = (response) => { response.writeHead(204).end() }
  await waitFor('all at the slow one', () => {
    w.jump(5_000)
    return ids.every((id) => slow.taken().has(id))
  })
})

t.test('an answer without end is read no further than it has to be', async (t) => {
  const w = await open(t)
  let written = 0
  const server = createServer((request, response) => {
    request.resume()
    response.writeHead(200)
    const more = (): void => {
      while (!response.destroyed && written < 64_000_000) {
        written += 65_536
        if (!response.write(Buffer.alloc(65_536))) return void response.once('drain', more)
      }
    }
    more()
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => { server.closeAllConnections(); server.close() })
  w.hook(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
  await configured(w)
  const id = await w.tell('one')
  await waitFor('the delivery to be written down', () => w.store.records.get('notice_delivery', `hook-of-the-test/${id}`))
  t.ok(written < 16_000_000, `${written} bytes`)
})

t.test('taken and not written down, by a gateway that dies: whoever takes over sends it again under the same id, and nothing else', async (t) => {
  const w = await open(t)
  const receiver = await startReceiver(t)
  const { put } = w.store.records
  w.hook(receiver.url, {}, 'first')
  await configured(w)
  const safe = await w.tell('safe')
  await waitFor('the first', () => w.store.records.get('notice_delivery', `hook-of-the-test/${safe}`))
  w.store.records.put = (kind, id, value) => (kind === 'notice_delivery' ? Promise.reject(new StoreUnavailable('dead')) : put.call(w.store.records, kind, id, value))
  const id = await w.tell('doubtful')
  await waitFor('the receiver to have it', () => receiver.taken().get(id) === 1)
  w.hook(receiver.url, {}, 'second')
  await systemClock.sleep(100)
  t.ok(receiver.received.length <= 3, 'one of them has the lease')
  w.store.records.put = put.bind(w.store.records)
  w.jump(31_000)
  await waitFor('it to be written down', () => {
    w.jump(500)
    return w.store.records.get('notice_delivery', `hook-of-the-test/${id}`)
  })
  t.equal(receiver.taken().get(safe), 1)
  t.ok((receiver.taken().get(id) ?? 0) >= 2, 'at least once means twice here')
  t.equal(new Set(receiver.received.filter((each) => each.id === id).map(({ body }) => body)).size, 1)
})

t.test('while a secret is replaced, receivers with the old and with the new one both believe', async (t) => {
  const w = await open(t)
  const [old, fresh] = [await startReceiver(t, secretA), await startReceiver(t, secretB)]
  w.hook(old.url, { id: 'old', secrets: [secretB, secretA] })
  w.hook(fresh.url, { id: 'fresh', secrets: [secretB, secretA] })
  await Promise.all([configured(w, 'old'), configured(w, 'fresh')])
  await w.tell('one')
  await waitFor('both', () => old.received.length === 1 && fresh.received.length === 1)
  t.same([old, fresh].map(({ received: [first] }) => [first?.verified, String(first?.headers['webhook-signature']).split(' ').length]), [[true, 2], [true, 2]])
})

t.test('after three days it is given up, and said so; 410 gives up at once', async (t) => {
  const w = await open(t)
  const receiver = await startReceiver(t)
  receiver.answer = (response) => { response.writeHead(500).end() }
  w.hook(receiver.url)
  await configured(w)
  const id = await w.tell('one')
  await waitFor('an attempt', () => receiver.received.length > 0)
  w.jump(3 * 86_400_000)
  t.match(await waitFor('the end', () => w.store.records.get('notice_delivery', `hook-of-the-test/${id}`)), { state: 'given_up' })
  t.match(w.said.join('\n'), /a notice is not sent any more: one happened.*three days/)
  receiver.answer = (response) => { response.writeHead(410).end() }
  const gone = await w.tell('two')
  t.match(await waitFor('the end', () => w.store.records.get('notice_delivery', `hook-of-the-test/${gone}`)), { state: 'given_up', attempts: 1 })
  t.match(await w.metrics.text(), /outcome="given_up"\} 2/)
})
