// Faults G18 and G19 for the embedded store: what cannot be opened is not opened half.
// test: timeout 60 s
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { tallygate } from '../app/process.ts'
import { freePort, startGatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { chat, configOf, linesOf, portIsClosed, standing } from './outside.ts'

t.test('G18: a store that cannot be opened ends the start with one sentence, and nobody was let in', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const cases: readonly (readonly [string, (data: string) => void, RegExp])[] = [
    ['a file in its place', (data) => writeFileSync(data, 'not a folder'), /data/],
    ['a journal that is none', (data) => {
      mkdirSync(data, { mode: 0o700 })
      writeFileSync(join(data, 'journal.db'), Buffer.alloc(8_192, 7), { mode: 0o600 })
    }, /journal\.db/],
    ['a folder in place of the journal', (data) => mkdirSync(join(data, 'journal.db'), { recursive: true, mode: 0o700 }), /journal\.db/],
  ]
  for (const [what, harm, sentence] of cases) {
    const dir = tmpDir(t)
    const port = await freePort()
    const adminPort = await freePort()
    harm(join(dir, 'data'))
    writeFileSync(join(dir, 'tallygate.yaml'), `store: "embedded:${dir}/data"\n${configOf({ upstream: upstream.url }).replaceAll('{dir}', dir)}`)
    let open = 0
    const watching = setInterval(() => void portIsClosed(port).then((closed) => { if (!closed) open += 1 }), 10)
    const { code, err, out } = await tallygate(t, dir, ['serve', '--config', 'tallygate.yaml', '--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${adminPort}`])
    clearInterval(watching)
    t.equal(code, 1, what)
    t.match(err, sentence, `${what}: ${err.trim().split('\n').at(-1)}`)
    t.notMatch(err + out, /^\s+at /m, 'no stack')
    t.equal(open, 0, 'nothing listened at any moment')
    t.equal(upstream.executions, 0)
  }
})

t.test('G19: a second gateway on the same folder is sent away, and the first one goes on undisturbed', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const gateway = await startGatewayProcess(t, configOf({ upstream: upstream.url }))
  const ask = async (tag: string): Promise<number> => {
    const call = chat(gateway.port, tag, { stream: false })
    await call.over
    return call.status
  }
  t.equal(await ask('before'), 200)
  const seconds = await Promise.all(Array.from({ length: 3 }, async () => tallygate(t, gateway.dir, [
    'serve', '--config', 'tallygate.yaml', '--listen', `127.0.0.1:${await freePort()}`, '--admin-listen', `127.0.0.1:${await freePort()}`,
  ])))
  for (const { code, err } of seconds) {
    t.equal(code, 1)
    t.match(err, new RegExp(`data directory .* is in use by process ${gateway.pid}`))
  }
  t.equal(await ask('after'), 200)
  await gateway.kill()
  await gateway.start()
  t.equal((await linesOf(gateway, 2)).length, 2)
  t.match((await standing(gateway))['calls'], { used: 2, reserved: 0 })
})
