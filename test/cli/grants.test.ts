// test: timeout 120 s
import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { chat, configIn, serve, tallygate } from './../app/process.ts'

const secret = 'tg_yaml_0123456789abcdefghij'
const config = `
plans:
  small:
    limits: [{ name: calls, meter: requests, limit: 1, window: day }]
    grants: [{ id: included, limit: calls, amount: 1, every: day }]
accounts:
  acme: { plan: small }
keys:
  - { id: dev, account: acme, hash: "sha256:${hashOfSecret(secret)}" }
`

t.test('grants are given, listed and taken back from the command line, without a gateway and with one', async (t) => {
  const dir = configIn(tmpDir(t), config)
  t.match(await tallygate(t, dir, ['grants', 'add', '--account', 'acme', '--limit', 'calls', '--amount', '2', '--id', 'ticket-1', '--priority', '7', '--expires', '2090-01-01', '--note', 'sorry']), { code: 0, out: /^acme has 2 requests more for calls until 2090-01-01T00:00:00.000Z \(acme\/ticket-1\)\n$/ })
  const running = await serve(t, dir)
  const status = async (): Promise<number> => (await chat(running.gateway, secret)).status
  t.same([await status(), await status(), await status()], [200, 200, 200], 'the limit, and two of what was given')
  const list = (await tallygate(t, dir, ['grants', 'list', '--account', 'acme'])).out
  t.match(list, /^ACCOUNT +GRANT +LIMIT +AMOUNT +LEFT +PRIORITY +EXPIRES +SOURCE +STATE +WHERE$/m)
  t.match(list, /^acme +ticket-1 +calls +2 +0 +7 +2090-01-01T00:00:00.000Z +operator +active +store$/m, 'the lower priority was drawn first')
  t.match(list, /^acme +included@\S+Z +calls +1 +1 +100 +\S+ +plan +active +file$/m)
  t.match(await tallygate(t, dir, ['grants', 'revoke', 'acme/included', '--reason', 'no more']), { code: 0, out: /^acme\/included was taken back at \S+\n$/ })
  t.equal(await status(), 429)
  t.match(JSON.parse((await tallygate(t, dir, ['grants', 'list', '--json'])).out), { grants: [{ state: 'revoked', remaining: 0 }, { id: 'ticket-1', used: 2 }] })
  t.match(await tallygate(t, dir, ['grants', 'list', '--breakage']), { code: 0, out: /^no grant has expired with something left\n$/ })
  t.match(await tallygate(t, dir, ['grants', 'add', '--account', 'acme', '--limit', 'calls']), { code: 2, err: /--amount is missing/ })
  t.match(await tallygate(t, dir, ['grants', 'add', '--account', 'acme', '--limit', 'calls', '--amount', '3', '--id', 'ticket-1']), { code: 1, err: /there is another grant "ticket-1"/ })
  t.match(await tallygate(t, dir, ['grants', 'add', '--account', 'acme', '--limit', 'calls', '--amount', '3', '--priority', 'x']), { code: 2, err: /^--priority must be/ }, 'in the words of the command, not of the API')
  t.match(await tallygate(t, dir, ['grants', 'revoke', 'acme']), { code: 2, err: /ACCOUNT\/GRANT, such as acme\/ticket-4711/ })
  t.match(await tallygate(t, dir, ['grants', 'add', '--account', 'acme', '--limit', 'calls', '--amount', '3', '--purchase', '--json']), { code: 0, out: /"source": "purchase"/ })
  t.equal(await status(), 200)
})
