/**
 * The way to Redis, as the rest of this folder sees it: single commands and scripts, each with a deadline, each sent at most once. What lies behind (one server,
 * Sentinel, a cluster; TLS; reconnecting; the circuit breaker) is `connection.ts`.
 */
export interface RedisLink {
  /**
   * One command. In a cluster `key` says where it goes; all keys of one command share a hash tag. Rejects with StoreUnavailable when it was not sent, was
   * refused by the server's state (LOADING, READONLY, OOM, BUSY, MISCONF, CLUSTERDOWN, TRYAGAIN, NOAUTH …), or when its outcome is unknown; with RedisError
   * when the server says that the command is wrong (WRONGTYPE, a script's own error): that is a bug or damage, and trying again does not help.
   */
  command(key: string, name: string, args: readonly (string | number | Buffer)[], options?: LinkOptions): Promise<unknown>
  /** One script call; NOSCRIPT is answered with the source. `keys` share a hash tag where `clustered`. */
  script(script: Script, keys: readonly string[], args: readonly (string | number)[], options?: LinkOptions): Promise<unknown>
  /** Several commands, written together, answered in order, each on its own: one's failure is no other's. */
  commands(list: readonly LinkCommand[], options?: LinkOptions): Promise<readonly (unknown | Error)[]>
  /** True: keys of different hash tags may live on different servers. */
  readonly clustered: boolean
  /** False while nothing can be sent: not connected, or the circuit breaker is open. */
  readonly up: boolean
  /** Why not, in plain words without secrets; null while `up`. */
  readonly reason: string | null
  /**
   * Tells when the server behind some keys has changed or was restarted (failover, resharding, another run id): what it had acknowledged it may not have any
   * more. Called after it can be used again. Returns a function that stops listening.
   */
  onServerChange(listener: () => void): () => void
  /** The text of `INFO` of every primary, with its address. For durability, memory, and the server's version. */
  info(): Promise<readonly { readonly address: string; readonly info: ReadonlyMap<string, string> }[]>
  /** What `CONFIG GET` says on every primary; null where it is denied, as hosted servers do. */
  configuration(names: readonly string[]): Promise<readonly { readonly address: string; readonly configuration: ReadonlyMap<string, string> | null }[]>
  /** Calls on their way end first, within their deadlines; later ones are refused. */
  close(): Promise<void>
}

export interface LinkCommand {
  readonly key: string
  readonly name: string
  readonly args: readonly (string | number | Buffer)[]
}

export interface LinkOptions {
  /** Instead of the link's own deadline, ms. */
  readonly deadlineMs?: number
  /**
   * Resolves only once so many copies of the write are there; else rejects with StoreUnavailable when the deadline ends: the write was made, and may be made
   * again.
   */
  readonly confirm?: Confirm
}

/** Copies of a write beside the primary's memory. */
export interface Confirm {
  /** Replicas that have it in memory; with `fsync`, on disk. */
  readonly replicas: number
  /** The primary's append-only file is on disk (WAITAOF: Redis 7.2). */
  readonly fsync: boolean
}

/** A script's name (for messages), source, and SHA-1. */
export interface Script {
  readonly name: string
  readonly source: string
  readonly sha1: string
}

/** The server says that what was asked is wrong. `code` is the first word of its message. */
export class RedisError extends Error {
  override name = 'RedisError'
  readonly code: string
  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}
