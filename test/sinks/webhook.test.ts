import t from 'tap'
import { signatureHeaders } from '../../src/sinks/webhook-signature.ts'
import { conformance } from './conformance.ts'
import { webhookBatched, webhookStructured, webhookGzip } from './kit/dialects/webhook.ts'
import { httpSubject } from './kit/http-fake.ts'
import { wireTable } from './wire.ts'

conformance(t, httpSubject(webhookBatched))
conformance(t, httpSubject(webhookStructured))
conformance(t, httpSubject(webhookGzip))

wireTable(t, 'webhook', webhookBatched.kind, (url) => webhookBatched.settings(url, true))

t.test('signatures are those of Standard Webhooks', async (t) => {
  // The example of the specification.
  const headers = signatureHeaders(['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'], 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1_614_265_330, '{"test": 2432232314}')
  t.same(headers, { 'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek', 'webhook-timestamp': '1614265330', 'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=' })
  t.not(signatureHeaders(['a'], 'id', 1, '')['webhook-signature'], signatureHeaders(['a'], 'id', 2, '')['webhook-signature'], 'each attempt has its own')
  t.equal(signatureHeaders(['a', 'b'], 'id', 1, '')['webhook-signature'].split(' ').length, 2, 'one for each secret')
})
