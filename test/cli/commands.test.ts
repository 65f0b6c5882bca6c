// test: timeout 180 s
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { commands } from '../../src/cli/cli.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { basics, chat, configIn, freePlan, serve, spawnTallygate, tallygate, writeConfig } from './../app/process.ts'

const yamlSecret = 'tg_yaml_0123456789abcdefghij'
const withKey = `${freePlan}keys:\n  - { id: dev, account: acme, hash: "sha256:${hashOfSecret(yamlSecret)}" }\n`

function secretIn(out: string): string {
  return /^secret +(\S+)/m.exec(out)?.[1] ?? ''
}

t.test('every command explains itself with an example, and is in the list', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  const all = await tallygate(t, dir, ['--help'])
  t.equal(all.code, 0)
  for (const { name, examples } of commands) {
    t.match(all.out, new RegExp(`^  ${name.split(' ')[0]}\\b`, 'm'), name)
    t.ok(examples.length > 0 && examples.every((example) => example.includes(`tallygate ${name}`)), `${name} has an example`)
  }
  for (const name of ['keys create', 'usage']) {
    const help = await tallygate(t, dir, [...name.split(' '), '--help'])
    t.match(help, { code: 0, out: /Examples:\n {2}tallygate / })
  }
  for (const group of ['keys', 'accounts', 'plans', 'events', 'store']) {
    t.match(await tallygate(t, dir, [group, '--help']), { code: 0, out: new RegExp(`Examples:\n {2}tallygate ${group} `) })
  }
})

t.test('wrong usage is exit code 2 and one sentence', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  const cases: [string[], RegExp][] = [
    [['kees'], /unknown command 'kees'/],
    [['keys', 'lst'], /unknown command 'lst'.*\n?.*list/],
    [['keys', 'list', '--jsn'], /unknown option '--jsn'.*\n?.*--json/],
    [['keys', 'revoke'], /missing required argument 'id'/],
    [['keys', 'create'], /--account or --plan/],
    [['keys', 'create', '--account', 'acme', '--expires', 'soon'], /not a duration/],
    [['usage', '--by', 'colour'], /cannot be grouped by "colour"/],
    [['usage', '--since', 'banana'], /^--since: .*banana.*not a duration/],
    [['usage', '--since', '1h', '--until', '2h'], /^--since must lie before --until$/m],
    [['demo-model', '--port', 'x'], /not a port/],
    [['check', '--config', 'nowhere.yaml'], /nowhere.yaml.*does not exist/],
  ]
  for (const [args, sentence] of cases) {
    const { code, err, out } = await tallygate(t, dir, args)
    t.equal(code, 2, args.join(' '))
    t.match(err, sentence)
    t.notMatch(err + out, /^\s+at /m)
  }
})

t.test('check says each plan in words, or every mistake with its place', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  const good = await tallygate(t, dir, ['check'])
  t.match(good, { code: 0, out: /free: at most 20 requests in any minute/ })
  t.match(good.out, /is valid: 1 plan, 1 account, 1 key, the demo model \(no upstream is configured\)$/m)
  const printed = await tallygate(t, dir, ['check', '--print'])
  t.equal(printed.code, 0)
  t.notMatch(printed.out, hashOfSecret(yamlSecret), 'what opens doors is hidden')
  const schema = await tallygate(t, dir, ['check', '--schema'])
  t.equal(schema.out, readFileSync(new URL('../../config/tallygate.schema.json', import.meta.url), 'utf8'), 'the published schema is the one in use')
  writeConfig(dir, `${basics}${withKey.replace('limit: 20', 'limt: 20').replace('plan: free }', 'plan: fre }')}`)
  const bad = await tallygate(t, dir, ['check'])
  t.equal(bad.code, 2)
  t.match(bad.err, /tallygate.yaml:\d+:\d+ .*limt.*did you mean "limit"/)
  t.match(bad.err, /tallygate.yaml:\d+:\d+ .*"fre".*did you mean "free"/)
})

t.test('without a gateway the commands open the books themselves, and the gateway finds what they did', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  const made = await tallygate(t, dir, ['keys', 'create', '--account', 'acme', '--id', 'run'])
  t.equal(made.code, 0)
  const secret = secretIn(made.out)
  t.match(secret, /^tg_/)
  t.match(await tallygate(t, dir, ['keys', 'revoke', 'dev']), { code: 0, out: /still stands in .*tallygate.yaml:\d+/ })
  const list = await tallygate(t, dir, ['keys', 'list'])
  t.match(list.out, /^dev +acme +free +revoked/m)
  t.match(list.out, /^run +acme +free +active .* store$/m)
  t.same((JSON.parse((await tallygate(t, dir, ['keys', 'list', '--json'])).out) as { keys: { id: string }[] }).keys.map(({ id }) => id), ['dev', 'run'])
  t.match(await tallygate(t, dir, ['keys', 'revoke', 'nobody']), { code: 1, err: 'there is no key "nobody"\n' })
  t.match(await tallygate(t, dir, ['store', 'info']), { code: 0, out: /^kind +embedded$/m })

  const running = await serve(t, dir)
  t.equal((await chat(running.gateway, secret)).status, 200)
  t.equal((await chat(running.gateway, yamlSecret)).status, 401, 'the revocation holds')
})

t.test('a token that was given wins over the one in the data folder', async (t) => {
  const viewer = 'a-viewers-token-0123456789'
  const dir = configIn(tmpDir(t), withKey)
  writeConfig(dir, `${basics.replace('admin: { listen: "127.0.0.1:0" }', `admin: { listen: "127.0.0.1:0", tokens: [{ name: looker, role: viewer, secret: ${viewer} }] }`)}${withKey}`)
  await serve(t, dir)
  const given = { TALLYGATE_ADMIN_TOKEN: viewer }
  t.match(await tallygate(t, dir, ['keys', 'list'], given), { code: 0, out: /^dev +acme/m })
  t.match(await tallygate(t, dir, ['keys', 'revoke', 'dev'], given), { code: 1, err: /"looker" may look but not change/ })
  t.match(await tallygate(t, dir, ['keys', 'list'], { TALLYGATE_ADMIN_TOKEN: 'nobodys-token-0123456789' }), { code: 1, err: /does not accept the token in TALLYGATE_ADMIN_TOKEN/ })
  t.match(await tallygate(t, dir, ['keys', 'revoke', 'dev']), { code: 0 }, 'without one the data folder is enough')
})

t.test('with a gateway the commands talk to it, and what they change works within a second', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  const { gateway } = await serve(t, dir)
  const status = async (secret: string): Promise<number> => (await chat(gateway, secret, { max_tokens: 5 })).status
  t.equal(await status(yamlSecret), 200)

  const secret = secretIn((await tallygate(t, dir, ['keys', 'create', '--plan', 'free', '--id', 'ci-bot', '--expires', '30d'])).out)
  t.equal(await status(secret), 200)
  const rotated = secretIn((await tallygate(t, dir, ['keys', 'rotate', 'ci-bot', '--grace', '1h'])).out)
  t.same([await status(secret), await status(rotated)], [200, 200], 'both during the grace')
  const next = secretIn((await tallygate(t, dir, ['keys', 'rotate', 'ci-bot', '--grace', '0'])).out)
  t.same([await status(secret), await status(rotated), await status(next)], [401, 401, 200], 'without grace only the newest')

  t.equal((await tallygate(t, dir, ['keys', 'revoke', 'dev', '--reason', 'lost'])).code, 0)
  t.equal(await status(yamlSecret), 401, 'revoked at once')
  t.equal((await tallygate(t, dir, ['keys', 'restore', 'dev'])).code, 0)
  t.equal(await status(yamlSecret), 200)
  t.equal((await tallygate(t, dir, ['accounts', 'suspend', 'acme'])).code, 0)
  t.equal(await status(yamlSecret), 403)
  t.match((await tallygate(t, dir, ['accounts', 'list'])).out, /^acme +free .*suspended \(store\)$/m)
  t.equal((await tallygate(t, dir, ['accounts', 'resume', 'acme'])).code, 0)
  t.equal(await status(yamlSecret), 200)

  t.match((await tallygate(t, dir, ['plans', 'list'])).out, /^free +1 +rpm +requests +20 +1m/m)
  const table = await tallygate(t, dir, ['usage', '--by', 'key'])
  t.match(table.out, /^dev +3 /m)
  t.match(table.out, /^ci-bot +4 /m)
  const tail = await tallygate(t, dir, ['events', 'tail', '--since', '1h', '--no-follow', '--json'])
  const events = tail.out.trim().split('\n').map((line) => JSON.parse(line) as { id: string })
  t.equal(events.length, 7)

  const lines = (): { id: string }[] => readFileSync(join(dir, 'data/usage.ndjson'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as { id: string })
  await waitFor('the sink to have all', () => lines().length >= 7)
  t.same(lines().map(({ id }) => id).sort(), events.map(({ id }) => id).sort(), 'events and sink are the same')
  t.match(await tallygate(t, dir, ['events', 'replay', '--sink', 'file', '--since', '1h']), { code: 0, out: /^7 events/ })
  t.match(await tallygate(t, dir, ['events', 'replay', '--sink', 'nope', '--since', '1h']), { code: 1, err: /no sink "nope"; there is file/ })
  t.match(await tallygate(t, dir, ['events', 'dead']), { code: 0, out: 'no dead events\n' })
  t.match(await tallygate(t, dir, ['events', 'dead', '--retry']), { code: 0 })

  const following = spawnTallygate(t, ['events', 'tail', '--since', '1h', '--json'], { cwd: dir })
  await waitFor('what was there', () => following.out().split('\n').length === 8)
  t.equal(await status(yamlSecret), 200)
  await waitFor('the event of that call', () => following.out().split('\n').length === 9, { deadlineMs: 3_000 })
  t.match(JSON.parse(following.out().trim().split('\n').at(-1) ?? ''), { data: { key: 'dev' } })
})

t.test('a mistake in the config keeps no command from the gateway that runs', async (t) => {
  const dir = configIn(tmpDir(t), withKey)
  const broken = (): void => writeConfig(dir, `${basics}${withKey.replace('limit: 20', 'limt: 20').replace('plan: free }', 'plan: fre }')}`)
  broken()
  const alone = await tallygate(t, dir, ['keys', 'revoke', 'dev'])
  t.match(alone, { code: 2, out: '', err: /limt.*did you mean "limit"/ }, 'nobody runs')
  writeConfig(dir, `${basics}${withKey}`)
  const running = await serve(t, dir)
  broken()
  const warning = /^config\/tallygate\.yaml has \d mistakes, and the gateway goes on with what it had; see tallygate check\n$/
  t.match(await tallygate(t, dir, ['sinks', 'list']), { code: 0, out: /^file +file/m, err: warning })
  t.match(await tallygate(t, dir, ['usage', '--json']), { code: 0, out: /^\{/, err: warning })
  t.match(await tallygate(t, dir, ['store', 'info']), { code: 0, out: /^kind +embedded$/m, err: warning })
  t.match(await tallygate(t, dir, ['explain', '019a2b3c-4d5e-7f60-8123-456789abcdef']), { code: 1, err: /there is no event/ })
  writeConfig(dir, `${basics}${withKey}\nplans: {{{ "\n`)
  t.match(await tallygate(t, dir, ['keys', 'revoke', 'dev']), { code: 0, out: /dev is revoked/, err: /has \d+ mistakes?, and/ }, 'not even YAML')
  t.equal((await chat(running.gateway, yamlSecret)).status, 401)
  t.match(await tallygate(t, dir, ['check']), { code: 2, err: /is not valid YAML/ })
  t.match(await tallygate(t, dir, ['keys', 'list'], { TALLYGATE_ADMIN_TOKEN: 'nobodys-token-0123456789' }), { code: 1, err: /does not accept the token/ })
  writeConfig(dir, `${basics.replace('embedded:./data', 'embedded:./elsewhere')}${withKey.replace('limit: 20', 'limt: 20')}`)
  t.match(await tallygate(t, dir, ['keys', 'list']), { code: 2, err: /limt/ }, 'another store, where nobody answers')
  t.match(await tallygate(t, dir, ['keys', 'list', '--config', 'nowhere.yaml']), { code: 2, err: /does not exist/ }, 'no file is no config with defaults')
})

t.test('keys new prints a secret and the line for the config, and stores nothing', async (t) => {
  const dir = configIn(tmpDir(t), freePlan)
  const { code, out } = await tallygate(t, dir, ['keys', 'new', '--yaml', '--id', 'fresh', '--account', 'acme'])
  t.equal(code, 0)
  writeConfig(dir, `${basics}${freePlan}${out.slice(out.indexOf('keys:'))}`)
  t.match(await tallygate(t, dir, ['check']), { code: 0, out: /1 key,/ })
  const { gateway } = await serve(t, dir)
  t.equal((await chat(gateway, secretIn(out))).status, 200)
})

t.test('a store in memory without a gateway is an honest error', async (t) => {
  const dir = configIn(tmpDir(t))
  writeConfig(dir, `admin: { listen: "127.0.0.1:9" }\nstore: "memory:"\n${freePlan}`)
  t.match(await tallygate(t, dir, ['keys', 'list']), { code: 1, err: /no gateway runs/ })
})

t.test('an account under a suspended one is shown as suspended, with the plan that it inherits', async (t) => {
  const dir = configIn(tmpDir(t), `${withKey.replace('plan: free }', 'plan: free }\n  team: { parent: acme }\n  crew: { parent: team }')}`)
  t.match((await tallygate(t, dir, ['accounts', 'list'])).out, /^crew +free +team .*active$/m)
  t.equal((await tallygate(t, dir, ['accounts', 'suspend', 'acme'])).code, 0)
  const { out } = await tallygate(t, dir, ['accounts', 'list'])
  t.match(out, /^acme +free .*suspended \(store\)$/m)
  t.match(out, /^team +free +acme .*suspended \(by parent acme\)$/m)
  t.match(out, /^crew +free +team .*suspended \(by parent acme\)$/m)
})
