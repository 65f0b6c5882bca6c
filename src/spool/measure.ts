import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'

export interface SpoolMeasure {
  readonly settlements: number
  readonly bytes: number
}

/** What waits in the lanes of a spool's folder, whoever writes there; null: it cannot be read. */
export function measureSpool(path: string): SpoolMeasure | null {
  let settlements = 0
  let bytes = 0
  try {
    for (const name of existsSync(path) ? readdirSync(path) : []) {
      const file = join(path, name, 'spool.db')
      if (!/^\d{1,4}$/.test(name) || !existsSync(file)) continue
      const db = new DatabaseSync(file, { readOnly: true, timeout: 1_000 })
      try {
        const row = db.prepare('SELECT count(*) AS count, coalesce(sum(octet_length(line)), 0) AS bytes FROM entries').get()
        settlements += Number(row?.['count'] ?? 0)
        bytes += Number(row?.['bytes'] ?? 0)
      } finally {
        db.close()
      }
    }
  } catch (error) {
    // Damaged, or another user's: the gateway that owns it tells more.
    if (error instanceof Error && 'code' in error) return null
    throw error
  }
  return { settlements, bytes }
}
