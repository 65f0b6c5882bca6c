import { spawn } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { tmpDir } from './fixtures/tmp-dir.ts'
import { waitFor } from './fixtures/wait-for.ts'

const root = fileURLToPath(new URL('..', import.meta.url))

/** Runs the runner in a checkout of its own with these test files. */
async function runner(t: Parameters<typeof tmpDir>[0], files: Record<string, string>, ...args: string[]) {
  const dir = tmpDir(t)
  mkdirSync(join(dir, 'test/inner'), { recursive: true })
  cpSync(join(root, 'test/run.ts'), join(dir, 'test/run.ts'))
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'))
  writeFileSync(join(dir, 'package.json'), JSON.stringify({ type: 'module', scripts: { check: 'node check.mjs' } }))
  writeFileSync(join(dir, 'check.mjs'), files['check.mjs'] ?? '')
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text)
  const child = spawn(process.execPath, ['test/run.ts', ...args], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => { output += text })
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
  return { code, output, last: output.trimEnd().split('\n').at(-1), dir }
}

const passing = `import t from 'tap'\nt.test('sub', async (t) => { t.pass('one'); t.pass('two') })\n`
const failing = `import t from 'tap'\nt.equal(1, 2, 'one is two')\nt.pass('fine')\n`

t.test('what passed and failed is counted, failures are shown, and the last line says so', async (t) => {
  const both = await runner(t, { 'test/inner/a.test.ts': passing, 'test/b.test.ts': failing })
  t.match(both, { code: 1, last: '4 passed, 1 failed' })
  t.match(both.output, /not ok 1 - one is two/)
  t.match(both.output, /-2\n\s*\+1/)
  t.notMatch(both.output, /ok 1 - one\n/)
  t.match(await runner(t, { 'test/inner/a.test.ts': passing }), { code: 0, last: '3 passed, 0 failed' })
})

t.test('a filter picks files by a part of their path, and no file is a failure', async (t) => {
  const files = { 'test/inner/a.test.ts': passing, 'test/b.test.ts': failing }
  t.match(await runner(t, files, '--no-check', 'test/inner'), { code: 0, last: '2 passed, 0 failed' })
  t.match(await runner(t, files, '--no-check', 'nowhere'), { code: 1, last: '0 passed, 1 failed' })
  t.match(await runner(t, files, '--chek'), { code: 1, last: '0 passed, 1 failed' })
})

t.test('a crash, a wrong exit code, a skipped test and a file without tests are failures', async (t) => {
  const cases: Record<string, [text: string, says: RegExp]> = {
    crash: [`import t from 'tap'\nt.pass('x')\nthrow new Error('boom')`, /boom/],
    syntax: ['const = 1', /SyntaxError/],
    killed: [`import t from 'tap'\nt.pass('x')\nprocess.kill(process.pid, 'SIGKILL')`, /ended by SIGKILL/],
    code: [`console.log('1..1\\nok 1\\n# { total: 1, pass: 1 }'); process.exitCode = 3`, /exit code 3/],
    empty: ['', /no test ran/],
    skipped: [`import t from 'tap'\nt.pass('x')\nt.test('not today', { skip: true }, async () => {})`, /not today # SKIP/],
  }
  await Promise.all(Object.entries(cases).map(async ([name, [text, says]]) => {
    const { code, output, last } = await runner(t, { [`test/${name}.test.ts`]: text }, '--no-check')
    t.equal(code, 1, name)
    t.match(last, /^\d passed, [1-9] failed$/, name)
    t.match(output, says, name)
  }))
})

t.test('a file that hangs is ended at its time-out, and so is what it started', async (t) => {
  const { code, output, last, dir } = await runner(t, {
    'test/hang.test.ts': `// test: timeout 1 s
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import t from 'tap'
writeFileSync('pid', String(spawn('sleep', ['600'], { stdio: 'inherit' }).pid))
t.test('never ends', () => new Promise(() => setInterval(() => undefined, 1000)))
`,
  }, '--no-check')
  t.match({ code, last }, { code: 1, last: '0 passed, 1 failed' })
  t.match(output, /never ends/)
  t.match(output, /still running after 1 s/)
  const pid = readFileSync(join(dir, 'pid'), 'utf8')
  // A killed process may be a zombie for a moment; it has no command line any more.
  await waitFor('the child to be gone', () => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8') === ''
    } catch {
      // No such process, which is the wish.
      return true
    }
  })
})

t.test('a failed check is a failure, and the tests run all the same', async (t) => {
  const { code, output, last } = await runner(t, { 'check.mjs': `console.log('types are wrong'); process.exit(2)`, 'test/inner/a.test.ts': passing })
  t.match({ code, last }, { code: 1, last: '2 passed, 1 failed' })
  t.match(output, /types are wrong/)
})

t.test('a file that measures time runs alone', async (t) => {
  const log = (name: string, marker: string): string => `${marker}
import { appendFileSync } from 'node:fs'
import t from 'tap'
appendFileSync('order', '${name}+')
await new Promise((resolve) => setTimeout(resolve, 200))
appendFileSync('order', '${name}-')
t.pass('x')
`
  const { dir, last } = await runner(t, {
    'test/a.test.ts': log('a', '// test: alone'), 'test/b.test.ts': log('b', ''), 'test/c.test.ts': log('c', ''), 'test/d.test.ts': log('d', '// test: alone'),
  }, '--no-check')
  t.equal(last, '4 passed, 0 failed')
  t.match(readFileSync(join(dir, 'order'), 'utf8'), /a\+a-d\+d-$/)
})
