import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'
import { systemClock, type Clock } from '../../src/clock.ts'
import { openEmbedded, type EmbeddedOptions } from '../../src/stores/embedded/embedded.ts'
import type { Store } from '../../src/stores/store.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'
import { FORGET_AFTER_MS } from './sample-moves.ts'

/** A data directory that does not exist yet. */
export function newDir(t: Teardown): string {
  return join(tmpDir(t), 'data')
}

/** Log lines, for tests that ask what was told. */
export class LogLines {
  readonly lines: { level: string; fields: object; message: string }[] = []
  readonly debug = this.#at('debug')
  readonly info = this.#at('info')
  readonly warn = this.#at('warn')
  readonly error = this.#at('error')
  #at(level: string) {
    return (fields: object, message: string): void => { this.lines.push({ level, fields, message }) }
  }
  /** As one text, for matching. */
  get text(): string {
    return this.lines.map((line) => `${line.level} ${line.message} ${JSON.stringify(line.fields)}`).join('\n')
  }
}

export function embeddedIn(dir: string, more: Partial<EmbeddedOptions> = {}): Promise<Store> {
  return openEmbedded({ dir, synchronous: 'full', forgetAfterMs: FORGET_AFTER_MS, hotMs: 86_400_000, clock: systemClock, ballastBytes: 256 * 1024, ...more })
}

/** The real clock, whose periodic tasks run when the test says so, and whose days can be skipped. */
export class SteppedClock implements Clock {
  skippedMs = 0
  readonly #periodic: { periodMs: number; task: () => void }[] = []
  nowMs(): number { return systemClock.nowMs() + this.skippedMs }
  monotonicMs(): number { return systemClock.monotonicMs() }
  after(delayMs: number, task: () => void, options?: { unref?: boolean }): () => void { return systemClock.after(delayMs, task, options) }
  sleep(delayMs: number): Promise<void> { return systemClock.sleep(delayMs) }
  afterTurn(task: () => void): void { setImmediate(task) }
  every(periodMs: number, task: () => void): () => void {
    const entry = { periodMs, task }
    this.#periodic.push(entry)
    return () => { this.#periodic.splice(this.#periodic.indexOf(entry), 1) }
  }
  /** Runs every periodic task once. */
  tick(): void {
    for (const { task } of this.#periodic) task()
  }
}

/** A process of its own that works on a store and prints what was acknowledged. */
export class Worker {
  readonly child: ChildProcess
  /** Lines printed so far. */
  readonly lines: string[] = []
  readonly exited: Promise<void>
  #heard: () => void = () => {}

  constructor(dir: string, task: string, options: { wrapper?: readonly string[] } = {}) {
    const script = fileURLToPath(new URL('./embedded-child.ts', import.meta.url))
    const [command = process.execPath, ...args] = [...options.wrapper ?? [], process.execPath, '--disable-warning=ExperimentalWarning', script, dir, task]
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    const lines = createInterface({ input: this.child.stdout! })
    lines.on('line', (line) => { this.lines.push(line); this.#heard() })
    this.exited = Promise.all([once(this.child, 'exit'), once(lines, 'close')]).then(() => {})
    void this.exited.then(() => this.#heard())
  }

  /** Until a line begins with `start`; rejects when the process has ended without one. */
  async line(start: string, from = 0): Promise<string> {
    let ended = false
    void this.exited.then(() => { ended = true; this.#heard() })
    for (;;) {
      const found = this.lines.slice(from).find((line) => line.startsWith(start))
      if (found !== undefined) return found
      if (ended) throw new Error(`ended without saying "${start}": ${this.lines.slice(-5).join(' / ')}`)
      await new Promise<void>((resolve) => { this.#heard = resolve })
    }
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.child.kill(signal)
    await this.exited
  }
}
