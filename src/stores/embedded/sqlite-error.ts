/** What SQLite says with its numbers. */
export const SQLITE_ERROR = 1
export const SQLITE_BUSY = 5
export const SQLITE_READONLY = 8
export const SQLITE_IOERR = 10
export const SQLITE_CORRUPT = 11
export const SQLITE_FULL = 13
export const SQLITE_CANTOPEN = 14
export const SQLITE_NOTADB = 26

/** SQLite's primary result code, or undefined where the error is not SQLite's. */
export function sqliteCode(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number') return undefined
  return error.errcode & 0xff
}

/** All our statements are constant: one that the file does not understand means that its description is damaged. */
export function isDamage(error: unknown): boolean {
  const code = sqliteCode(error)
  return code === SQLITE_CORRUPT || code === SQLITE_NOTADB || code === SQLITE_ERROR
}

/** One line for people, with the number for those who look it up. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const number = 'errcode' in error ? ` (SQLite ${String(error.errcode)})` : ''
  switch (sqliteCode(error)) {
    case SQLITE_FULL: return `the disk is full${number}`
    case SQLITE_IOERR: return `the disk reports an I/O error${number}`
    case SQLITE_READONLY: return `the disk is read-only${number}`
    case SQLITE_CANTOPEN: return `a file cannot be opened${number}`
    default: return `${error.message}${number}`
  }
}
