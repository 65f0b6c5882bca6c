import { parentPort } from 'node:worker_threads'
import { assert, unreachable } from '../assert.ts'
import { errorText, isDamage, SQLITE_ERROR, sqliteCode } from '../stores/embedded/sqlite-error.ts'
import type { ThreadReply, ThreadRequest } from '../stores/thread-link.ts'
import { RollupFile } from './rollup-file.ts'
import type { RollupAsks } from './rollup-protocol.ts'

/** Thread entry: takes requests one after another and answers each. */
assert(parentPort !== null, 'this file is started as a worker')
const port = parentPort
let file: RollupFile | null = null

port.on('message', (request: ThreadRequest) => {
  port.postMessage(handle(request))
  if (request.name === 'close') port.close()
})

function handle({ number, name, ask }: ThreadRequest): ThreadReply {
  try {
    return { number, ok: true, answer: answerTo(name as keyof RollupAsks, ask) }
  } catch (error) {
    // A full disk takes back what did not fit. A damaged file is made anew from the events.
    return { number, ok: false, reason: errorText(error), fatal: isFatal(name as keyof RollupAsks, error) }
  }
}

/** Statements of answers are made for each question: one that cannot be carried out says nothing about the file. */
function isFatal(name: keyof RollupAsks, error: unknown): boolean {
  const code = sqliteCode(error)
  return isDamage(error) && !(code === SQLITE_ERROR && (name === 'usage' || name === 'refusals'))
}

function answerTo(name: keyof RollupAsks, ask: unknown): unknown {
  if (name === 'open') {
    const { path, readOnly } = ask as RollupAsks['open']['ask']
    file = new RollupFile(path, readOnly)
    return null
  }
  if (name === 'close') {
    file?.close()
    return null
  }
  assert(file !== null, 'opened first')
  switch (name) {
    case 'last': return file.last()
    case 'count': {
      const { rows, ids } = ask as RollupAsks['count']['ask']
      file.count(rows, ids)
      return null
    }
    case 'countRefusals': file.countRefusals(ask as RollupAsks['countRefusals']['ask']); return null
    case 'usage': return file.usage(ask as RollupAsks['usage']['ask'])
    case 'refusals': return file.refusals(ask as RollupAsks['refusals']['ask'])
    case 'wholeSince': return file.wholeSince()
    case 'isNew': return file.isNew()
    case 'reset': file.reset(); return null
    case 'complete': file.complete(); return null
    case 'prune': {
      const { nowMs, kept } = ask as RollupAsks['prune']['ask']
      file.prune(nowMs, kept)
      return null
    }
    default: return unreachable(name)
  }
}
