import type { Account, Config } from './config.ts'
import { freeze } from './parse.ts'

/** A part of a config that is handed to another thread or process: the long lists travel in pieces, so that a hundred thousand keys stall nobody. */
export interface Piece {
  readonly keys: Config['keys']
  readonly accounts: readonly (readonly [string, Account])[]
  /** With the last piece: everything else. */
  readonly rest: Config | null
}

const pieceMax = 2_000

export function* toPieces(config: Config): Generator<Piece> {
  for (let at = 0; at < config.keys.length; at += pieceMax) yield { keys: config.keys.slice(at, at + pieceMax), accounts: [], rest: null }
  const accounts = [...config.accounts]
  for (let at = 0; at < accounts.length; at += pieceMax) yield { keys: [], accounts: accounts.slice(at, at + pieceMax), rest: null }
  yield { keys: [], accounts: [], rest: { ...config, keys: [], accounts: new Map() } }
}

/** Puts pieces together again, in the order in which they were made. */
export class PiecedConfig {
  #keys: Config['keys'][number][] = []
  #accounts = new Map<string, Account>()

  /** Gives the config with its last piece. */
  add(piece: Piece): Config | undefined {
    for (const key of piece.keys) this.#keys.push(freeze(key))
    for (const [id, account] of piece.accounts) this.#accounts.set(id, freeze(account))
    if (piece.rest === null) return undefined
    const config = freeze({ ...piece.rest, keys: this.#keys, accounts: this.#accounts })
    this.#keys = []
    this.#accounts = new Map()
    return config
  }
}
