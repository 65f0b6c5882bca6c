import { RedisError } from './link.ts'

/**
 * What an error reply means for the call and for those behind it.
 *
 * - `wrong`: the command is at fault; repeating it does not help.
 * - `call`: refused for reasons of the moment, this call alone.
 * - `server`: the server serves nobody for now, over this connection or another.
 * - `connection`: this connection is no good (any more): a new one finds out who serves.
 */
export type ErrorReply =
  | { readonly kind: 'wrong'; readonly error: RedisError }
  | { readonly kind: 'call' | 'server' | 'connection'; readonly code: string; readonly words: string }
  | { readonly kind: 'moved' | 'ask'; readonly slot: number; readonly host: string; readonly port: number }
  | { readonly kind: 'noscript' }

const meanings: Readonly<Record<string, readonly ['call' | 'server' | 'connection', string]>> = {
  LOADING: ['server', 'Redis is loading its data'],
  MASTERDOWN: ['server', 'Redis is a replica that has lost its primary'],
  READONLY: ['connection', 'Redis is a read-only replica here'],
  NOAUTH: ['connection', 'Redis wants a password, and the store\'s URL has none that it was given'],
  WRONGPASS: ['connection', 'Redis does not accept the user or the password of the store\'s URL'],
  UNBLOCKED: ['connection', 'Redis has become a replica here'],
  NOPERM: ['call', 'the user of the store\'s URL may not do this in Redis'],
  OOM: ['call', 'Redis has no memory left (maxmemory)'],
  MISCONF: ['call', 'Redis cannot write to its disk and takes no writes'],
  BUSY: ['call', 'Redis is held up by somebody\'s script'],
  TRYAGAIN: ['call', 'this part of the Redis cluster is being moved'],
  CLUSTERDOWN: ['call', 'the Redis cluster is down, or nobody serves this part of it'],
  NOREPLICAS: ['call', 'Redis has fewer replicas than its min-replicas-to-write demands'],
  INPROG: ['call', 'Redis is failing over'],
  NOGOODSLAVE: ['call', 'Redis has no replica to fail over to'],
}

/** Reads a Redis error's message. The words hold nothing that a call was given: neither keys nor a password. */
export function readErrorReply(message: string): ErrorReply {
  const code = codeOf(message)
  if (code === 'NOSCRIPT') return { kind: 'noscript' }
  if (code === 'MOVED' || code === 'ASK') {
    const [, slot, address = ''] = message.split(' ')
    const colon = address.lastIndexOf(':')
    return { kind: code === 'MOVED' ? 'moved' : 'ask', slot: Number(slot), host: address.slice(0, colon), port: Number(address.slice(colon + 1)) }
  }
  const known = meanings[code]
  if (known !== undefined) return { kind: known[0], code, words: `${known[1]} (${code})` }
  if (message.includes('max number of clients')) return { kind: 'connection', code, words: 'Redis has no room for another client (maxclients)' }
  if (message.startsWith('ERR WAIT cannot be used with replica')) return { kind: 'connection', code, words: meanings['READONLY']![1] }
  // Redis repeats the arguments of a command that it does not know.
  return { kind: 'wrong', error: new RedisError(code, message.replace(/,? with args beginning with.*/s, '')) }
}

/** Before 7.0 a script's inner error is wrapped: `ERR Error running script (…): @user_script:1: -OOM command not allowed …`. */
function codeOf(message: string): string {
  const inner = message.startsWith('ERR Error running script') ? / -([A-Z]+) /.exec(message)?.[1] : undefined
  return inner ?? message.split(' ', 1)[0] ?? ''
}
