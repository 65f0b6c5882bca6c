import { parentPort } from 'node:worker_threads'
import { assert, unreachable } from '../assert.ts'
import { errorText, SQLITE_FULL, sqliteCode } from '../stores/embedded/sqlite-error.ts'
import type { ThreadReply, ThreadRequest } from '../stores/thread-link.ts'
import { SpoolFile } from './spool-file.ts'
import type { SpoolAnswer, SpoolAsks } from './spool-protocol.ts'

/** Thread entry: takes requests one after another and answers each. */
assert(parentPort !== null, 'this file is started as a worker')
const port = parentPort
let file: SpoolFile | null = null
let broken: string | null = null

port.on('message', (request: ThreadRequest) => {
  port.postMessage(handle(request))
  if (request.name === 'close') port.close()
})

function handle({ number, name, ask }: ThreadRequest): ThreadReply {
  try {
    if (broken !== null && name !== 'close') return { number, ok: false, reason: broken, fatal: true }
    return { number, ok: true, answer: answerTo(name as keyof SpoolAsks, ask) }
  } catch (error) {
    const reason = errorText(error)
    // A full disk takes back what did not fit and goes on; after anything else nothing is known about this connection. Another spool's damage is no harm to this one.
    const fatal = sqliteCode(error) !== SQLITE_FULL && name !== 'absorb'
    if (fatal) broken = reason
    return { number, ok: false, reason, fatal }
  }
}

function answerTo(name: keyof SpoolAsks, ask: unknown): unknown {
  if (name === 'close') {
    file?.close()
    return null
  }
  if (name === 'open') {
    file = new SpoolFile(ask as SpoolAsks['open']['ask'])
    return answered(file)
  }
  assert(file !== null, 'opened first')
  switch (name) {
    case 'append': file.append((ask as SpoolAsks['append']['ask']).entries); return answered(file)
    case 'read': {
      const { after, count } = ask as SpoolAsks['read']['ask']
      const rows = file.read(after, count)
      return { ...answered(file), rows }
    }
    case 'remove': file.remove((ask as SpoolAsks['remove']['ask']).seqs); return answered(file)
    case 'look': file.look(); return answered(file)
    case 'absorb': file.absorb((ask as SpoolAsks['absorb']['ask']).dir); return answered(file)
    default: return unreachable(name)
  }
}

function answered(from: SpoolFile): SpoolAnswer {
  return { state: from.state, notes: from.notes.splice(0) }
}
