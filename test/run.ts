// Runs every test file in a process of its own and says what came of it.
//
//   node test/run.ts [--no-check] [part of a path ...]
//
// A test file is a plain script that prints TAP. The last line printed is always `N passed, M failed`. The exit code is 0
// only when something passed and nothing failed: a crash, a time-out, a skipped test and a file without tests are failures.
//
// A test file may ask for two things, each on a line of its own:
//   // test: alone               it measures time, so nothing else may run beside it
//   // test: timeout 300 s       it may take this long (120 s otherwise)

import { spawn } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'

type Job = { name: string; command: string; args: string[]; timeoutS: number; alone: boolean; tap: boolean }
type Result = { name: string; passed: number; failed: number }

const root = fileURLToPath(new URL('..', import.meta.url))
const jobsMax = Math.min(2, availableParallelism())
const figuresMax = 8
const outputBytesMax = 16 * 1024 * 1024
/** How long a file may outlive its own time-out: the assertion library then says which test hung. */
const graceMs = 2000

const groups = new Set<number>()

function testJob(file: string): Job {
  const source = readFileSync(`${root}/${file}`, 'utf8')
  const timeout = /^\/\/ test: timeout (\d+) s$/m.exec(source)
  return {
    name: file,
    command: process.execPath,
    args: ['--disable-warning=ExperimentalWarning', file],
    timeoutS: timeout === null ? 120 : Number(timeout[1]),
    alone: /^\/\/ test: alone$/m.test(source),
    tap: true,
  }
}

const checkJob: Job = { name: 'npm run check', command: 'npm', args: ['run', '--silent', 'check'], timeoutS: 300, alone: false, tap: false }

/** True while a process of the group lives. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(-pid, signal)
    return true
  } catch {
    // No such group: every process of it is gone, which is the answer.
    return false
  }
}

function run(job: Job): Promise<Result> {
  return new Promise((resolve) => {
    const startedAt = performance.now()
    const chunks: Buffer[] = []
    let bytes = 0
    let timedOut = false
    let problem: string | undefined

    // A group of its own, so that whatever the test leaves running is ended with it.
    const child = spawn(job.command, job.args, {
      cwd: root,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TAP_TIMEOUT: String(job.timeoutS) },
    })
    if (child.pid !== undefined) groups.add(child.pid)
    const keep = (chunk: Buffer): void => {
      if (bytes < outputBytesMax) chunks.push(chunk)
      bytes += chunk.length
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    const timer = setTimeout(() => {
      timedOut = true
      if (child.pid !== undefined) signalGroup(child.pid, 'SIGKILL')
    }, job.timeoutS * 1000 + graceMs)

    const finish = (): void => {
      clearTimeout(timer)
      const output = Buffer.concat(chunks).toString('utf8')
      const result = countsOf(job, output, problem)
      const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
      const verdict = result.failed === 0 ? 'ok    ' : 'FAILED'
      console.log(`${verdict} ${job.name}  ${result.passed} passed, ${result.failed} failed, ${seconds} s`)
      if (result.failed > 0) {
        const text = job.tap ? withoutPasses(output) : output
        if (text.trim() !== '') console.log(text.trimEnd().replace(/^/gm, '    '))
        if (problem !== undefined) console.log(`    ${job.name}: ${problem}`)
      } else if (job.tap) for (const figure of figuresIn(output)) console.log(`         ${figure}`)
      resolve(result)
    }
    child.on('error', (error) => {
      problem = `could not be started: ${error.message}`
      finish()
    })
    child.on('exit', (code, signal) => {
      if (timedOut) problem = `still running after ${job.timeoutS} s`
      else if (signal !== null) problem = `ended by ${signal}`
      else if (code !== 0) problem = `exit code ${code}`
      // What is left of the group would hold the pipes open, and ports and memory with them.
      if (child.pid !== undefined) {
        signalGroup(child.pid, 'SIGKILL')
        groups.delete(child.pid)
      }
    })
    child.on('close', finish)
  })
}

/** A job that ended badly has at least one failure, whatever it printed. */
function countsOf(job: Job, output: string, problem: string | undefined): Result {
  if (!job.tap) return { name: job.name, passed: problem === undefined ? 1 : 0, failed: problem === undefined ? 0 : 1 }
  const summary = [...output.matchAll(/^# (\{ total: .*\})$/gm)].at(-1)?.[1] ?? ''
  const count = (word: string): number => Number(new RegExp(` ${word}: (\\d+)`).exec(summary)?.[1] ?? 0)
  const passed = count('pass')
  const failed = count('fail') + count('skip') + count('todo')
  if (failed === 0 && (problem !== undefined || passed === 0)) {
    if (problem === undefined) console.log(`${job.name}: no test ran`)
    return { name: job.name, passed, failed: 1 }
  }
  return { name: job.name, passed, failed }
}

/** What a passing test has to tell: its comments, such as how many calls were made and what became of them. */
function figuresIn(output: string): string[] {
  return [...output.matchAll(/^\s*# (?!Subtest: |\{ |time=)(\S.*\d.*)$/gm)].map(([, figure = '']) => figure).slice(0, figuresMax)
}


/** Everything but passed assertions and plans; skipped ones stay, because they fail the run. */
function withoutPasses(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '' && !/^\s*(ok \d+(?!.* # (?!time=))|\d+\.\.\d+\s*$)/.test(line))
  // A heading that another heading follows has nothing left under it.
  const heads = '# Subtest: '
  const heading = (line: string | undefined): boolean => (line ?? heads).startsWith(heads)
  return lines.filter((line, index) => !heading(line) || !heading(lines[index + 1])).join('\n')
}

async function runAll(jobs: Job[], atOnce: number): Promise<Result[]> {
  const results: Result[] = []
  const waiting = [...jobs]
  const lane = async (): Promise<void> => {
    for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) results.push(await run(job))
  }
  await Promise.all(Array.from({ length: atOnce }, lane))
  return results
}

function closingLine(passed: number, failed: number): void {
  process.exitCode = passed > 0 && failed === 0 ? 0 : 1
  console.log(`${passed} passed, ${failed} failed`)
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    for (const pid of groups) signalGroup(pid, 'SIGKILL')
    console.log(`stopped by ${signal}`)
    closingLine(0, 1)
    process.exit()
  })
}

const words = process.argv.slice(2)
const parts = words.filter((word) => !word.startsWith('--'))
const unknown = words.filter((word) => word.startsWith('--') && word !== '--no-check')
const files = globSync('test/**/*.test.ts', { cwd: root }).map((file) => file.replaceAll('\\', '/')).sort()
  .filter((file) => parts.length === 0 || parts.some((part) => file.includes(part.replace(/^\.\//, ''))))

if (unknown.length > 0 || files.length === 0) {
  console.log(unknown.length > 0 ? `unknown option ${unknown.join(' ')}` : `no test file matches ${parts.join(' ') || 'test/**/*.test.ts'}`)
  closingLine(0, 1)
} else {
  const jobs = files.map(testJob)
  const results = [
    ...(words.includes('--no-check') ? [] : await runAll([checkJob], 1)),
    ...(await runAll(jobs.filter((job) => !job.alone), jobsMax)),
    ...(await runAll(jobs.filter((job) => job.alone), 1)),
  ]
  const failures = results.filter((result) => result.failed > 0)
  if (failures.length > 0) console.log(`\nfailed:\n${failures.map((result) => `  ${result.name}`).join('\n')}`)
  closingLine(results.reduce((sum, result) => sum + result.passed, 0), results.reduce((sum, result) => sum + result.failed, 0))
}
