import { crc32 } from 'node:zlib'

/** One settlement as it lies on disk: text that can be told from anything else and checked by itself, wherever in a file it is found. */

const MARK = 'tallygate-settlement/1'
/** What stands before the settlement itself takes no more. */
export const HEAD_BYTES = 64

export interface Entry {
  /** When it came to the spool. */
  readonly atMs: number
  /** A Settle move as JSON. */
  readonly json: string
}

export function lineOf({ atMs, json }: Entry): string {
  return `${MARK} ${crcOf(atMs, json)} ${atMs} ${Buffer.byteLength(json)} ${json}`
}

/** null: it is not what was written. */
export function entryOf(line: string): Entry | null {
  const [mark, crc, at, bytes] = line.slice(0, HEAD_BYTES).split(' ', 4)
  if (mark !== MARK || crc === undefined || at === undefined || bytes === undefined) return null
  const json = line.slice(mark.length + crc.length + at.length + bytes.length + 4)
  return crcOf(Number(at), json) === crc ? { atMs: Number(at), json } : null
}

function crcOf(atMs: number, json: string): string {
  return crc32(json, crc32(`${atMs} `)).toString(16).padStart(8, '0')
}

/** Every whole entry in these bytes, whatever lies between them, and how many beginnings of entries were not whole. */
export function entriesIn(bytes: Buffer): { readonly entries: readonly Entry[]; readonly broken: number; /** Where an entry begins that goes on beyond the end. */ readonly open: number | null } {
  const entries: Entry[] = []
  let broken = 0
  const mark = Buffer.from(`${MARK} `)
  for (let at = bytes.indexOf(mark); at !== -1; at = bytes.indexOf(mark, at + mark.length)) {
    const head = /^\S+ ([0-9a-f]{8}) (\d{1,15}) (\d{1,9}) /.exec(bytes.toString('latin1', at, at + HEAD_BYTES))
    if (head === null) {
      if (at + HEAD_BYTES > bytes.length) return { entries, broken, open: at }
      broken += 1
      continue
    }
    const from = at + head[0].length
    const to = from + Number(head[3])
    if (to > bytes.length) {
      if (Number(head[3]) <= ENTRY_BYTES_MAX) return { entries, broken, open: at }
      broken += 1
      continue
    }
    const json = bytes.toString('utf8', from, to)
    if (crcOf(Number(head[2]), json) === head[1]) entries.push({ atMs: Number(head[2]), json })
    else broken += 1
  }
  return { entries, broken, open: null }
}

/** No settlement is longer: a request's labels, tags and limits are bounded. */
export const ENTRY_BYTES_MAX = 1024 * 1024
