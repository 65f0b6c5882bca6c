// S13 once more, as it happens: SIGKILL at any moment, with a receiver that books and then breaks the connection.

import { spawn } from 'node:child_process'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { SeededRandom } from '../sim/seeded-random.ts'
import { newDir } from '../stores/embedded-fixture.ts'

const kills = 8

t.test(`S13: killed ${kills} times in the middle of it, each event is booked once, by itself and in its sum`, { timeout: 120_000 }, async (t) => {
  const random = new SeededRandom(7)
  const books = { single: new Map<string, number>(), sums: new Map<string, number>() }
  let duplicates = 0
  const server = createServer((request, response) => {
    let body = ''
    request.on('error', () => undefined)
    request.on('data', (chunk: Buffer) => { body += chunk.toString('utf8') }).on('end', () => {
      const book = request.url === '/sums' ? books.sums : books.single
      const fate = random.fraction()
      if (fate < 0.1) return void response.writeHead(500).end()
      for (const { id, value } of JSON.parse(body) as { id: string; value: string }[]) {
        if (book.has(id)) duplicates += 1
        else book.set(id, Number(value))
      }
      if (fate < 0.2) return void request.socket.resetAndDestroy()
      response.end('{}')
    })
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const dir = newDir(t)
  const settled = new Set<string>()
  const run = async (task: 'work' | 'drain', killAfterMs: number | null): Promise<string> => {
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', fileURLToPath(new URL('./kill-child.ts', import.meta.url)), dir, url, task], { stdio: ['ignore', 'pipe', 'inherit'] })
    let last = ''
    let begun = 0
    const lines = createInterface({ input: child.stdout })
    lines.on('line', (line) => {
      last = line
      if (!line.startsWith('S ')) return
      settled.add(line.slice(2))
      begun += 1
      if (begun === 1 && killAfterMs !== null) setTimeout(() => child.kill('SIGKILL'), killAfterMs)
    })
    t.teardown(() => child.kill('SIGKILL'))
    await new Promise((resolve) => { lines.once('close', resolve) })
    return last
  }
  for (let n = 0; n < kills; n++) await run('work', random.int(50, 900))
  t.equal(await run('drain', null), 'done 0', 'and nothing is in doubt')
  t.ok(settled.size > 50, `${settled.size} settled, ${duplicates} duplicates on the wire`)
  const missing = [...settled].filter((id) => !books.single.has(`${id}:in`))
  t.same(missing, [], 'each acknowledged settlement is booked')
  // A settlement may be durable whose acknowledgement died with its process; it is billed in both books or in none.
  const sum = (book: ReadonlyMap<string, number>): number => [...book.values()].reduce((all, each) => all + each, 0)
  t.equal(sum(books.single), 3 * books.single.size)
  t.equal(sum(books.sums), sum(books.single), 'the sums are those of the same events')
})
