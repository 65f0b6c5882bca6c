import { spawn, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { tmpDir } from './fixtures/tmp-dir.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
/** The machine's own Node, as old as it may be; without one the pinned Node stands in. */
const anyNode = ['/usr/bin/node', '/usr/local/bin/node'].find((path) => existsSync(path)) ?? process.execPath

/** The launcher beside another main.ts. */
function launcher(t: Parameters<typeof tmpDir>[0], main: string): string {
  const dir = tmpDir(t)
  mkdirSync(join(dir, 'src'))
  cpSync(join(root, 'src/bin.mjs'), join(dir, 'src/bin.mjs'))
  writeFileSync(join(dir, 'package.json'), '{"type":"module"}')
  writeFileSync(join(dir, 'src/main.ts'), main)
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
  return join(dir, 'src/bin.mjs')
}

t.test('whatever Node calls it, main.ts runs under the pinned one, with its arguments and exit code', async (t) => {
  const bin = launcher(t, `const n: number = 7\nconsole.log(process.version, ...process.argv.slice(2))\nprocess.exitCode = n`)
  const { status, stdout, stderr } = spawnSync(anyNode, [bin, 'check', '--config', 'a b'], { encoding: 'utf8' })
  t.equal(stdout, `${process.version} check --config a b\n`)
  t.equal(stderr, '')
  t.equal(status, 7)
})

t.test('a signal reaches main.ts once, which decides when to leave', async (t) => {
  const bin = launcher(t, `let seen = ''
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => {
  seen += signal
  setTimeout(() => { console.log(seen); process.exit(5) }, 100)
})
setInterval(() => undefined, 1000)
console.log('ready')`)
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const child = spawn(anyNode, [bin], { stdio: ['ignore', 'pipe', 'inherit'] })
    let output = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (output === '') child.kill(signal)
      output += text
    })
    const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
    t.match({ code, output }, { code: 5, output: `ready\n${signal}\n` })
  }
})

t.test('death by a signal is an exit code of 128 and more', async (t) => {
  const bin = launcher(t, `process.kill(process.pid, 'SIGKILL')\nsetInterval(() => undefined, 1000)`)
  t.equal(spawnSync(anyNode, [bin]).status, 137)
})
