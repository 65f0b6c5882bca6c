// A sink that cannot be opened, as an operator sees it: before it was started, while it runs, and once it is mended.

import { existsSync, mkdirSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { chat, configIn, serve, tallygate } from './process.ts'

t.test('a sink whose file is a folder: check warns of it, metrics and commands tell it, and it goes on once that is mended', async (t) => {
  const dir = configIn(tmpDir(t))
  const folder = join(dir, 'data/usage.ndjson')
  mkdirSync(folder, { recursive: true })
  const checked = await tallygate(t, dir, ['check'])
  t.equal(checked.code, 0)
  t.match(`${checked.out}${checked.err}`, /is a folder here/)
  const running = await serve(t, dir)
  for (let i = 0; i < 2; i++) await (await chat(running.gateway, running.row('demo key') ?? '')).text()
  const metrics = async (): Promise<string> => await (await fetch(`${running.admin}/metrics`)).text()
  await waitFor('both to be told as waiting', async () => /^tallygate_outbox_events\{sink="file"\} 2$/m.test(await metrics()), { deadlineMs: 10_000 })
  const text = await metrics()
  t.match(text, /^tallygate_sink_paused\{sink="file"\} 1$/m)
  t.match(text, /^tallygate_dead_events\{sink="file"\} 0$/m)
  t.ok(Number(/^tallygate_outbox_oldest_seconds\{sink="file"\} (\S+)$/m.exec(text)?.[1]) > 0)
  const state = async (): Promise<unknown> => ((await (await fetch(`${running.admin}/api/v1/sinks`)).json()) as { sinks: unknown[] }).sinks[0]
  t.match(await state(), { name: 'file', state: 'not open', reason: 'it is a folder (EISDIR)', next_try_at: /^20/, waiting: 2 })
  t.match((await tallygate(t, dir, ['sinks', 'list'])).out, /file .* not open .* it is a folder \(EISDIR\)/)
  rmdirSync(folder)
  t.match(await (await fetch(`${running.admin}/api/v1/sinks/file/retry`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })).json(), { result: 'trying' })
  await waitFor('it to be delivered', () => existsSync(folder))
  t.match(await waitFor('it to be running', async () => {
    const now = await state() as { state: string; waiting: number }
    return now.state === 'running' && now.waiting === 0 ? now : undefined
  }), { reason: null })
  t.match(await metrics(), /^tallygate_sink_paused\{sink="file"\} 0$/m)
})
