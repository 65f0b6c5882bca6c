import t from 'tap'
import { signatureHeaders } from '../../src/sinks/webhook-signature.ts'
import { verify } from '../notices/receiver.ts'

const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'

t.test('the signature is the one of the Standard Webhooks specification', async (t) => {
  // Of its reference libraries' own tests.
  const headers = signatureHeaders([secret], 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1_614_265_330, '{"test": 2432232314}')
  t.same(headers, {
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek', 'webhook-timestamp': '1614265330', 'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  })
})

t.test('with several secrets there is a signature for each, and each receiver finds its own', async (t) => {
  const newer = `whsec_${Buffer.from('another secret of enough bytes').toString('base64')}`
  const body = '{"text":"Grüße"}'
  const headers = signatureHeaders([newer, secret], 'notice_1', 1_700_000_000, body)
  t.equal(headers['webhook-timestamp'], '1700000000')
  t.match(headers['webhook-signature'], /^v1,[A-Za-z0-9+/]{43}= v1,[A-Za-z0-9+/]{43}=$/)
  for (const one of [newer, secret]) t.ok(await verify(headers, Buffer.from(body), one))
  t.notOk(await verify(headers, Buffer.from(`${body} `), secret), 'another body')
  t.notOk(await verify({ ...headers, 'webhook-timestamp': '1700000001' }, Buffer.from(body), secret), 'another time')
  t.notOk(await verify({ ...headers, 'webhook-id': 'notice_2' }, Buffer.from(body), secret), 'another id')
  t.notOk(await verify(headers, Buffer.from(body), `whsec_${Buffer.from('some other secret of 24 bytes').toString('base64')}`), 'another secret')
})
