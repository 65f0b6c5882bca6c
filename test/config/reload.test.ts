import { mkdirSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Clock } from '../../src/clock.ts'
import { systemClock } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { loadAside } from '../../src/config/load-aside.ts'
import { loadConfig } from '../../src/config/load.ts'
import type { LoadOptions } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'
import { ConfigReloader } from '../../src/config/reload.ts'
import type { ReloadResult } from '../../src/config/reload.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'

const plan = (limit: number): string => `plans:\n  free: { limits: [{ name: rpm, meter: requests, limit: ${limit}, window: 1m }] }\n`

/** A clock whose periodic task runs when the test says so. */
class HandClock implements Clock {
  task: (() => void) | undefined
  nowMs(): number {
    return Date.now()
  }
  monotonicMs(): number {
    return performance.now()
  }
  after(): () => void {
    return () => undefined
  }
  every(_: number, task: () => void): () => void {
    this.task = task
    return () => {
      this.task = undefined
    }
  }
  sleep(): Promise<void> {
    return Promise.resolve()
  }
}

interface Watched {
  readonly reloader: ConfigReloader
  readonly results: ReloadResult[]
  readonly applied: Config[]
  look(times?: number): Promise<void>
}

function watch(options: LoadOptions, apply: (config: Config) => void = () => undefined): Watched {
  const first = loadConfig(options)
  if (first.config === null) throw new Error(first.problems.map(toText).join('\n'))
  const results: ReloadResult[] = []
  const applied: Config[] = []
  const reloader = new ConfigReloader({
    first: { ...first, config: first.config },
    load: async () => loadConfig(options),
    apply(config) {
      apply(config)
      applied.push(config)
    },
    onResult: (result) => results.push(result),
    clock: new HandClock(),
  })
  return {
    reloader, results, applied,
    async look(times = 2) {
      for (let count = 0; count < times; count++) await reloader.look()
    },
  }
}

function limitOf(config: Config): number | null | undefined {
  return config.plans.get('free')?.limits[0]?.ceiling
}

t.test('a change is taken after it has stood still for one look, once', async (t) => {
  const file = join(tmpDir(t), 'main.yaml')
  writeFileSync(file, plan(20))
  const w = watch({ file, env: {}, hostName: 'h' })
  await w.look(3)
  t.equal(w.results.length, 0, 'nothing changed, nothing read')
  writeFileSync(file, plan(30))
  await w.look(1)
  t.equal(w.results.length, 0, 'it may still be being written')
  await w.look(4)
  t.strictSame(w.results.map((result) => result.outcome), ['applied'])
  t.equal(limitOf(w.reloader.config), 30)
  t.strictSame(w.reloader.counts, { applied: 1, unchanged: 0, refused: 0 })
  writeFileSync(file, `# a comment more\n${plan(30)}`)
  await w.look(4)
  t.equal(w.results[1]?.outcome, 'unchanged')
  t.equal(w.applied.length, 1)
})

t.test('K1, K2: a wrong, empty, missing or replaced file leaves the old config fully in use, and says why, once', async (t) => {
  const dir = tmpDir(t)
  const file = join(dir, 'main.yaml')
  const rightAgain = (): void => {
    rmSync(file, { recursive: true, force: true })
    writeFileSync(file, plan(20))
  }
  rightAgain()
  const w = watch({ file, env: {}, hostName: 'h' })
  const before = w.reloader.config
  const breakages: readonly (readonly [string, () => void, RegExp])[] = [
    ['syntax', () => writeFileSync(file, 'plans: {'), /main.yaml:1:9: is not valid YAML/],
    ['unknown field', () => writeFileSync(file, plan(30).replace('window', 'windw')), /windw: unknown key; did you mean "window"\?/],
    ['relationship', () => writeFileSync(file, `${plan(30)}keys: [{ id: k, plan: fee, secret: aaaaaaaaaaaaaaaaaaaaaaa }]\n`), /there is no plan named "fee"/],
    ['empty', () => writeFileSync(file, ''), /is empty/],
    ['truncated', () => writeFileSync(file, plan(30).slice(0, -30)), /not valid YAML/],
    ['missing', () => unlinkSync(file), /it does not exist/],
    ['directory', () => { unlinkSync(file); mkdirSync(file) }, /is not a regular file/],
  ]
  for (const [name, harm, expected] of breakages) {
    harm()
    const count = w.results.length
    await w.look(4)
    t.equal(w.results.length, count + 1, `${name}: told once`)
    t.equal(w.results.at(-1)?.outcome, 'refused', name)
    t.match(w.results.at(-1)?.problems.map(toText).join('\n'), expected, name)
    t.equal(w.reloader.config, before, `${name}: the old config is in use`)
    rightAgain()
    await w.look(4)
    t.equal(w.results.at(-1)?.outcome, 'unchanged', `${name}: mended`)
  }
  t.equal(w.applied.length, 0)
  t.equal(w.reloader.counts.refused, breakages.length)
})

t.test('included files, new ones too, and secrets are watched; also while the configuration is broken', async (t) => {
  const dir = tmpDir(t)
  mkdirSync(join(dir, 'conf.d'))
  const file = join(dir, 'main.yaml')
  writeFileSync(join(dir, 'secret'), 'first-secret-of-the-key\n')
  writeFileSync(file, `include: conf.d/*.yaml\n${plan(20)}keys: [{ id: k, plan: free, secret: "\${file:secret}" }]\n`)
  const w = watch({ file, env: {}, hostName: 'h' })
  writeFileSync(join(dir, 'conf.d', 'more.yaml'), 'plans:\n  pro: { limits: [{ name: rpm, meter: requests, limit: 1, window: 1m }] }\n')
  await w.look(3)
  t.ok(w.reloader.config.plans.has('pro'), 'a new file')
  writeFileSync(join(dir, 'conf.d', 'more.yaml'), 'plans:\n  pro: { limt: [] }\n')
  await w.look(3)
  t.equal(w.reloader.last.outcome, 'refused')
  writeFileSync(join(dir, 'conf.d', 'more.yaml'), 'plans:\n  pro: { limits: [{ name: rpm, meter: requests, limit: 2, window: 1m }] }\n')
  await w.look(3)
  t.equal(w.reloader.config.plans.get('pro')?.limits[0]?.ceiling, 2, 'mended')
  const hash = w.reloader.config.keys[0]?.hash
  writeFileSync(join(dir, 'secret'), 'second-secret-of-the-key\n')
  await w.look(3)
  t.not(w.reloader.config.keys[0]?.hash, hash, 'K13: a rotated secret')
  writeFileSync(join(dir, 'secret'), '')
  await w.look(3)
  t.match(w.reloader.last.problems.map(toText).join(), /secret is empty/)
  unlinkSync(join(dir, 'conf.d', 'more.yaml'))
  writeFileSync(join(dir, 'secret'), 'second-secret-of-the-key')
  await w.look(3)
  t.notOk(w.reloader.config.plans.has('pro'), 'a file gone')
})

t.test('4.8, K2: the swapped symlink of a ConfigMap is one change, never half of it', async (t) => {
  const dir = tmpDir(t)
  for (const [version, limit] of [['..v1', 20], ['..v2', 30]] as const) {
    mkdirSync(join(dir, version))
    writeFileSync(join(dir, version, 'main.yaml'), `include: "*.plans.yaml"\n`)
    writeFileSync(join(dir, version, 'a.plans.yaml'), plan(limit))
  }
  symlinkSync('..v1', join(dir, '..data'))
  for (const name of ['main.yaml', 'a.plans.yaml']) symlinkSync(`..data/${name}`, join(dir, name))
  const w = watch({ file: join(dir, 'main.yaml'), env: {}, hostName: 'h' })
  t.equal(limitOf(w.reloader.config), 20)
  symlinkSync('..v2', join(dir, '..data_tmp'))
  renameSync(join(dir, '..data_tmp'), join(dir, '..data'))
  await w.look(3)
  t.equal(limitOf(w.reloader.config), 30)
  t.strictSame(w.results.map((result) => result.outcome), ['applied'])
})

t.test('a change between starting and watching is not missed', async (t) => {
  const file = join(tmpDir(t), 'main.yaml')
  writeFileSync(file, plan(20))
  const w = watch({ file, env: {}, hostName: 'h' })
  writeFileSync(file, plan(21))
  await w.look(2)
  t.equal(limitOf(w.reloader.config), 21)
})

t.test('asked while it runs, it reads once more; all who asked get an answer', async (t) => {
  const file = join(tmpDir(t), 'main.yaml')
  writeFileSync(file, plan(20))
  const options = { file, env: {}, hostName: 'h' }
  const first = loadConfig(options)
  if (first.config === null) throw new Error('the test\'s own file is wrong')
  let loads = 0
  const read = Promise.withResolvers<void>()
  const go = Promise.withResolvers<void>()
  const reloader = new ConfigReloader({
    first: { ...first, config: first.config },
    async load() {
      loads++
      const result = loadConfig(options)
      read.resolve()
      await go.promise
      return result
    },
    apply: () => undefined, onResult: () => undefined, clock: new HandClock(),
  })
  const one = reloader.reload()
  await read.promise
  writeFileSync(file, plan(40))
  const others = [one, reloader.reload(), reloader.reload(), reloader.reload()]
  go.resolve()
  t.strictSame((await Promise.all(others)).map((result) => result.outcome), ['unchanged', 'applied', 'applied', 'applied'])
  t.equal(loads, 2)
  t.equal(limitOf(reloader.config), 40)
})

t.test('what cannot be taken over, or cannot be read at all, leaves the old config in use', async (t) => {
  const file = join(tmpDir(t), 'main.yaml')
  writeFileSync(file, plan(20))
  const w = watch({ file, env: {}, hostName: 'h' }, () => {
    throw new Error('no room')
  })
  writeFileSync(file, plan(30))
  t.equal((await w.reloader.reload()).outcome, 'refused')
  t.match(w.reloader.last.problems[0]?.sentence, /could not be taken over: no room/)
  t.equal(limitOf(w.reloader.config), 20)
})

t.test('what needs a restart is named', async (t) => {
  const file = join(tmpDir(t), 'main.yaml')
  writeFileSync(file, plan(20))
  const w = watch({ file, env: {}, hostName: 'h' })
  writeFileSync(file, `${plan(20)}server: { listen: 127.0.0.1:9999, body_max: 1MiB }\nstore: "memory:"\n`)
  t.strictSame((await w.reloader.reload()).restart, ['server.listen', 'store'])
})

t.test('watching runs on the clock and stops when closed', async (t) => {
  const file = join(tmpDir(t), 'main.yaml')
  writeFileSync(file, plan(20))
  const options = { file, env: {}, hostName: 'h' }
  const first = loadConfig(options)
  if (first.config === null) throw new Error('the test\'s own file is wrong')
  const applied = new Promise<Config>((resolve) => {
    const reloader = new ConfigReloader({
      first: { ...first, config: first.config as Config }, load: () => loadAside(options, systemClock), apply: resolve, onResult: () => undefined, clock: systemClock, everyMs: 20,
    })
    reloader.start()
    t.teardown(() => reloader.close())
  })
  const alive = setInterval(() => undefined, 1_000)
  t.teardown(() => clearInterval(alive))
  writeFileSync(file, plan(33))
  const config = await applied
  t.equal(limitOf(config), 33, 'read in a thread of its own')
  t.ok(Object.isFrozen(config) && Object.isFrozen(config.plans.get('free')?.limits), 'and frozen')
})

t.test('a reading that takes too long is ended and says so', async (t) => {
  const file = join(tmpDir(t), 'main.yaml')
  writeFileSync(file, plan(20))
  await t.rejects(loadAside({ file, env: {}, hostName: 'h' }, systemClock, 1), /took longer than 0.001 s/)
  const wrong = await loadAside({ file: `${file}.gone`, env: {}, hostName: 'h' }, systemClock)
  t.equal(wrong.config, null)
  t.match(wrong.problems[0]?.sentence, /does not exist/)
})
