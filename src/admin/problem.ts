import { ChangeRefused } from '../accounts/account-changes.ts'
import { StoreUnavailable } from '../stores/store.ts'

/** What went wrong, as RFC 9457 has it. `detail` is a sentence for the operator. */
export class Problem extends Error {
  override name = 'Problem'
  readonly status: number
  readonly title: string
  /** Further members of the problem document. */
  readonly extra: Readonly<Record<string, unknown>>
  constructor(status: number, detail: string, extra: Readonly<Record<string, unknown>> = {}) {
    super(detail)
    this.status = status
    this.title = titles.get(status) ?? 'Error'
    this.extra = extra
  }

  toDocument(): Readonly<Record<string, unknown>> {
    return { type: 'about:blank', title: this.title, status: this.status, detail: this.message, ...this.extra }
  }
}

const titles: ReadonlyMap<number, string> = new Map([
  [400, 'Bad Request'], [401, 'Unauthorized'], [403, 'Forbidden'], [404, 'Not Found'], [405, 'Method Not Allowed'], [409, 'Conflict'],
  [413, 'Content Too Large'], [415, 'Unsupported Media Type'], [421, 'Misdirected Request'], [422, 'Unprocessable Content'], [429, 'Too Many Requests'],
  [500, 'Internal Server Error'], [502, 'Bad Gateway'], [503, 'Service Unavailable'], [504, 'Gateway Timeout'],
])

const statusOfRefused = { not_found: 404, conflict: 409, invalid: 422 } as const

/** What the operator is told of any error; undefined: it is a bug, and its words belong into the log. */
export function toProblem(error: unknown): Problem | undefined {
  if (error instanceof Problem) return error
  if (error instanceof ChangeRefused) return new Problem(statusOfRefused[error.why], error.message)
  if (error instanceof StoreUnavailable) return new Problem(503, `the store cannot be used now: ${error.message}`)
  return undefined
}
