import type { Ledger } from '../../metering/ledger.ts'
import type { LocalOutbox } from '../local/outbox.ts'
import { RowsRefused, type ContentRow, type ExpiredReservation } from '../rows.ts'
import type { Layout } from './directory.ts'
import { checkedDead, checkedDocument, openForReading } from './journal-file.ts'

const EVENTS_PAGE = 1_000
const PAGE = 1_000

/** Everything in a store that this process has to itself, with nothing pending and nothing on its way to the disk. */
export async function* exportRows(layout: Layout, ledger: Ledger, outbox: LocalOutbox): AsyncGenerator<ContentRow> {
  const open = ledger.open().length
  if (open > 0) throw new RowsRefused(`${open} calls are still open in this store`)
  const cursors = [...outbox.cursors()].sort(([a], [b]) => (a < b ? -1 : 1))
  for (const [name] of cursors) yield { t: 'consumer', name }
  const db = openForReading(layout.journal)
  try {
    const documents = db.prepare('SELECT kind, id, value, crc FROM documents WHERE (kind, id) > (?, ?) ORDER BY kind, id LIMIT ?')
    for (let last = ['', '']; ;) {
      const page = documents.all(last[0]!, last[1]!, PAGE)
      for (const raw of page) {
        const kind = String(raw['kind'])
        const { id, value } = checkedDocument(raw, kind, layout.journal)
        last = [kind, id]
        yield { t: 'document', kind, id, value: JSON.parse(value) as Readonly<Record<string, unknown>> }
      }
      if (page.length < PAGE) break
    }
    const dead = db.prepare('SELECT * FROM dead WHERE (consumer, ordinal) > (?, ?) ORDER BY consumer, ordinal LIMIT ?')
    for (let last: [string, number] = ['', -1]; ;) {
      const page = dead.all(...last, PAGE)
      for (const raw of page) {
        const { consumer, ordinal, reason, buriedMs, record } = checkedDead(raw, layout.journal)
        last = [consumer, ordinal]
        yield { t: 'dead', consumer, reason, buriedMs, record: JSON.parse(record) as Extract<ContentRow, { t: 'dead' }>['record'] }
      }
      if (page.length < PAGE) break
    }
  } finally {
    db.close()
  }
  for (const line of ledger.dump()) {
    const row = JSON.parse(line) as readonly ['c', string, number, number, number | null] | readonly ['e', string, ExpiredReservation] | readonly ['x', string, string]
    if (row[0] === 'e') yield { t: 'expired', id: row[1], reservation: row[2] }
    else if (row[0] === 'x') yield { t: 'closed', id: row[1], digest: row[2] }
    else if (row[2] !== 0) yield { t: 'counter', name: row[1], settled: String(row[2]), ends: row[4] }
  }
  for (let from: string | null = null; ;) {
    const entries = await outbox.scan(from, EVENTS_PAGE)
    for (const { position, record } of entries) yield { t: 'event', record, done: cursors.filter(([, ordinal]) => Number(position) <= ordinal).map(([name]) => name) }
    from = entries.at(-1)?.position ?? null
    if (from === null) return
  }
}
