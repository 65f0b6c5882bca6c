import { parentPort, workerData } from 'node:worker_threads'
import { assert } from '../../assert.ts'
import { ledgerAt } from './recovery.ts'
import { writeSnapshot } from './snapshot.ts'

export interface SnapshotTask {
  readonly dir: string
  /** The last row to be in it: durable already. */
  readonly seq: number
  readonly forgetAfterMs: number
}

export interface SnapshotDone {
  readonly seq: number
  readonly lines: number
}

/** Thread entry: builds the ledger a second time, from the last snapshot and the journal, so that writing it down stalls nobody. */
assert(parentPort !== null, 'this file is started as a worker')
const { dir, seq, forgetAfterMs } = workerData as SnapshotTask
const { ledger, epoch } = await ledgerAt(dir, seq, { forgetAfterMs, synchronous: 'full', acceptLoss: true, warn: () => {} })
const lines = writeSnapshot(dir, { format: 1, epoch, seq }, ledger.dump())
const done: SnapshotDone = { seq, lines }
parentPort.postMessage(done)
