import { crc32 } from 'node:zlib'
import { RowsRefused } from '../rows.ts'
import type { KeyNames } from './keys.ts'
import type { RedisLink } from './link.ts'

/** Names remembered at once, to tell which were seen. */
const NAMES_MAX = 500_000
const PAGE = 1_000

/**
 * Every key of a store, in pages, each once: a server may show one twice, so what was seen is remembered, and where that would be too many names, the servers
 * are gone over several times for a share of them each. Throws RowsRefused when a server has changed meanwhile, for then some may have been missed.
 */
export async function* scanKeys(link: RedisLink, keys: KeyNames): AsyncGenerator<readonly string[]> {
  const before = await serversOf(link)
  const owners = await ownersOf(link, keys)
  let total = 0
  for (const key of owners) total += Number(await link.command(key, 'DBSIZE', []))
  const shares = Math.max(1, Math.ceil(total / NAMES_MAX))
  const pattern = `${keys.prefix.replaceAll(/[\\*?[\]]/g, '\\$&')}:{*`
  for (let share = 0; share < shares; share++) {
    const seen = new Set<string>()
    for (const key of owners) {
      let cursor = '0'
      do {
        const [next, page] = await link.command(key, 'SCAN', [cursor, 'MATCH', pattern, 'COUNT', PAGE]) as readonly [string, readonly string[]]
        const fresh: string[] = []
        for (const name of page) {
          if ((shares > 1 && crc32(name) % shares !== share) || seen.has(name)) continue
          seen.add(name)
          fresh.push(name)
        }
        if (fresh.length > 0) yield fresh
        cursor = next
      } while (cursor !== '0')
    }
  }
  if (await serversOf(link) !== before) throw new RowsRefused('a server of Redis has changed meanwhile (a failover, or slots that moved): begin again')
}

/** One key of each server. */
async function ownersOf(link: RedisLink, keys: KeyNames): Promise<readonly string[]> {
  const all = [keys.meta(), ...Array.from({ length: keys.partitions }, (_, p) => keys.epoch(p))]
  if (!link.clustered) return all.slice(0, 1)
  const ids = await link.commands(all.map((key) => ({ key, name: 'CLUSTER', args: ['MYID'] })))
  const owners = new Map<string, string>()
  for (const [i, id] of ids.entries()) {
    if (id instanceof Error) throw id
    if (!owners.has(String(id))) owners.set(String(id), all[i]!)
  }
  return [...owners.values()]
}

async function serversOf(link: RedisLink): Promise<string> {
  return (await link.info()).map(({ info }) => `${info.get('run_id')} ${info.get('role')}`).sort().join()
}
