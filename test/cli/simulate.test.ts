// test: timeout 180 s
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import type { RefusedByLimit, SimulationReport } from '../../src/simulation/simulation.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { chat, configIn, freePlan, serve, tallygate, usage } from '../app/process.ts'

const secret = 'tg_yaml_0123456789abcdefghij'
const withKey = `${freePlan}keys:\n  - { id: dev, account: acme, hash: "sha256:${hashOfSecret(secret)}" }\n`
const strict = `
plans:
  free:
    version: 2
    limits:
      - { name: daily, meter: requests, limit: 3, window: day }
      - { name: watched, meter: requests, limit: 1, window: day, mode: shadow }
`

const refusedIn = (rows: readonly RefusedByLimit[]): unknown => rows.map(({ account, plan, limit, reason, count }) => ({ account, plan, limit, reason, count }))
const fewer = [{ account: 'acme', plan: 'free', limit: 'daily', reason: 'usage_limit_reached', count: 2 }]

t.test('through a running gateway, over the store alone and from the sink\'s file the same is said, and nothing is changed', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  writeFileSync(join(dir, 'strict.yaml'), strict)
  const running = await serve(t, dir)
  const run = await tallygate(t, dir, ['keys', 'create', '--account', 'acme', '--id', 'made'])
  const made = /^secret +(\S+)/m.exec(run.out)?.[1] ?? ''
  for (const key of [secret, made, secret, made, secret]) t.equal((await chat(running.gateway, key, { max_tokens: 20 })).status, 200)
  const sinkFile = join(dir, 'data/usage.ndjson')
  await waitFor('the sink to have them', () => readFileSync(sinkFile, 'utf8').split('\n').length === 6)
  const standing = async (): Promise<unknown> => (await usage(running.gateway, secret)).limits.map(({ name, used, reserved }) => ({ name, used, reserved }))
  const before = await standing()

  const answer = await tallygate(t, dir, ['simulate', '--plan', 'strict.yaml', '--refusals', '--json'])
  t.equal(answer.code, 0, answer.err)
  const report = JSON.parse(answer.out) as SimulationReport & { taken: unknown; laid_over: string }
  t.match(report, { calls: 5, refused: 2, guessed: 0, keys_gone: 0, laid_over: 'config/tallygate.yaml', taken: { key: 1 } })
  t.same(refusedIn(report.by_limit), fewer)
  t.match(report.accounts, [{ account: 'acme', calls: 5, refused: 2, shadow: { watched: 2 } }])
  t.same(report.refusals?.map(({ key, meter, needed, left }) => ({ key, meter, needed, left })), [{ key: 'made', meter: 'requests', needed: 1, left: 0 }, { key: 'dev', meter: 'requests', needed: 1, left: 0 }])
  t.same(await standing(), before, 'nothing is changed')
  t.match(await tallygate(t, dir, ['simulate', '--plan', 'strict.yaml']), { code: 0, out: /^2 \(40\.00%\) would have been refused, of 1 account\b[\s\S]*^acme +free +daily +usage_limit_reached +2 [\s\S]*Of the store were taken: 1 key/m })
  t.match(JSON.parse((await tallygate(t, dir, ['simulate', '--plan', 'config/tallygate.yaml', '--json'])).out), { calls: 5, refused: 0, laid_over: null }, 'what is in force refuses nothing')

  const ofFile = JSON.parse((await tallygate(t, dir, ['simulate', '--plan', 'strict.yaml', '--events', 'data/usage.ndjson', '--json'])).out) as SimulationReport & { taken: unknown }
  t.same(refusedIn(ofFile.by_limit), fewer)
  t.match(ofFile, { taken: null, keys_gone: 1 }, 'a key of the store is not known without asking it')
  const ofFolder = JSON.parse((await tallygate(t, dir, ['simulate', '--plan', 'strict.yaml', '--events', 'data', '--store', '--json'])).out) as SimulationReport
  t.match(ofFolder, { refused: 2, keys_gone: 0, taken: { key: 1 } })

  running.child.kill('SIGTERM')
  await running.finished
  const alone = JSON.parse((await tallygate(t, dir, ['simulate', '--plan', 'strict.yaml', '--since', '1h', '--json'])).out) as SimulationReport
  t.same(refusedIn(alone.by_limit), fewer)
  const ofOther = await tallygate(t, dir, ['simulate', '--plan', 'strict.yaml', '--account', 'other', '--json'])
  t.match(JSON.parse(ofOther.out), { calls: 0, refused: 0, by_limit: [], accounts: [] })
})

t.test('a bad candidate is exit code 2 with every mistake, and so is none', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  writeFileSync(join(dir, 'bad.yaml'), strict.replace('limit: 3', 'limt: 3').replace('window: day,', 'window: dya,'))
  for (const [args, sentence] of [
    [['simulate'], /--plan is missing/], [['simulate', '--plan', 'bad.yaml'], /bad\.yaml:\d+:\d+ .*limt.*\n.*bad\.yaml:\d+:\d+ .*dya/s], [['simulate', '--plan', 'nowhere.yaml'], /nowhere\.yaml.*does not exist/],
    [['plan', 'diff'], /give two files/], [['plan', 'diff', 'bad.yaml', 'config/tallygate.yaml'], /limt/],
  ] as const) {
    const { code, err } = await tallygate(t, dir, args)
    t.equal(code, 2, args.join(' '))
    t.match(err, sentence)
  }
  t.match(await tallygate(t, dir, ['simulate', '--plan', 'config/tallygate.yaml', '--events', 'nowhere.ndjson']), { code: 1, err: /nowhere.ndjson cannot be read \(ENOENT\)/ })
})

t.test('plan diff says what changes, for whom, and whose use starts at zero', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  writeFileSync(join(dir, 'new.yaml'), `
plans:
  free:
    version: 2
    entitlements: { models: ["small-*"], features: [hosted_tools] }
    policy: { wait: 2s }
    prices: { currency: USD, version: v1, models: { "*": { input_tokens: 1/M } } }
    fees: [{ name: Base, amount: 20 }]
    limits:
      - { name: rpm, meter: requests, limit: 20, window: 1m, per: key }
      - { name: tokens, meter: total_tokens, limit: 150k, window: day }
  extra: {}
`)
  const { code, out } = await tallygate(t, dir, ['plan', 'diff', '--plan', 'new.yaml'])
  t.equal(code, 0)
  t.same(out.trim().split('\n').sort(), [
    'extra (nobody that is known here)', '  - is new', '', 'free (1 account: acme)', '  - is version 2, and was 1', '  - the limit daily is called tokens; what has been used still counts',
    '  - the limit tokens is raised from 100,000 to 150,000 (+50%): at most 150,000 tokens a day',
    '  - the limit rpm counts something else, and its use starts at zero: at most 20 requests in any minute per key; it was: at most 20 requests in any minute',
    '  - gains the model small-*', '  - gains the feature hosted_tools', '  - loses the model * (every one)', '  - wait_ms is 2000, and was 0', '  - has prices, in USD', '  - has a fee Base: 20 USD',
  ].sort())
  const { differences } = JSON.parse((await tallygate(t, dir, ['plan', 'diff', 'config/tallygate.yaml', 'new.yaml', '--json'])).out) as { differences: { name: string; changes: object[] }[] }
  t.match(differences.find(({ name }) => name === 'free')?.changes.find((change) => 'starts_at_zero' in change), { kind: 'limit_changed', subject: 'rpm', starts_at_zero: true })
  t.match(differences.find(({ name }) => name === 'free')?.changes.find((change) => 'percent' in change), { kind: 'limit_raised', percent: 50 })
  t.match(await tallygate(t, dir, ['plan', 'diff', 'config/tallygate.yaml', 'config/tallygate.yaml']), { code: 0, out: 'Both sell the same to the same accounts.\n' })
})
