import { parentPort } from 'node:worker_threads'
import { assert, unreachable } from '../../assert.ts'
import { JournalWriter } from './journal-writer.ts'
import { errorText, isDamage, sqliteCode } from './sqlite-error.ts'
import { JournalDamaged } from './journal-file.ts'
import type { AskName, Asks, Reply, Request } from './worker-protocol.ts'

/** Thread entry: takes requests one after another and answers each. */
assert(parentPort !== null, 'this file is started as a worker')
const port = parentPort
let writer: JournalWriter | null = null
let broken: string | null = null

port.on('message', (request: Request) => {
  const reply = handle(request)
  port.postMessage(reply)
  if (reply.ok && request.name === 'commit' && writer !== null) writer.mark(writer.lastSeq)
  if (request.name === 'close') port.close()
})

function handle({ number, name, ask }: Request): Reply {
  try {
    if (broken !== null && name !== 'close') return { number, ok: false, reason: broken, fatal: true }
    return { number, ok: true, answer: answerTo(name, ask) }
  } catch (error) {
    const reason = errorText(error)
    // After a write that failed nothing may follow it on this connection; a read that met damage stops only itself.
    const fatal = writes(name) || (sqliteCode(error) !== undefined && !isDamage(error))
    if (fatal) broken = reason
    return { number, ok: false, reason: error instanceof JournalDamaged ? error.message : reason, fatal }
  }
}

function writes(name: AskName): boolean {
  return name === 'open' || name === 'commit' || name === 'probe' || name === 'look'
}

function answerTo(name: AskName, ask: unknown): Asks[AskName]['answer'] {
  if (name === 'open') {
    writer = new JournalWriter(ask as Asks['open']['ask'])
    return writer.state
  }
  if (name === 'close') {
    writer?.close()
    return null
  }
  assert(writer !== null, 'opened first')
  switch (name) {
    case 'commit': {
      const { rows, changes } = ask as Asks['commit']['ask']
      writer.commit(rows, changes)
      return writer.state
    }
    case 'probe': writer.probe(); return writer.state
    case 'look': writer.look(); return writer.state
    case 'read': { const { after, count } = ask as Asks['read']['ask']; return writer.read(after, count) }
    case 'ordinalBefore': return writer.ordinalBefore((ask as Asks['ordinalBefore']['ask']).atMs)
    case 'dead': { const { consumer, after, count } = ask as Asks['dead']['ask']; return writer.dead(consumer, after, count) }
    case 'deadCount': return writer.deadCount((ask as Asks['deadCount']['ask']).consumer)
    case 'document': { const { kind, id } = ask as Asks['document']['ask']; return writer.document(kind, id) }
    case 'documents': {
      const { kind, after } = ask as Asks['documents']['ask']
      return writer.documents(kind, after)
    }
    case 'trim': { const { seq, event, beforeMs } = ask as Asks['trim']['ask']; return writer.trim(seq, event, beforeMs) }
    default: return unreachable(name)
  }
}
