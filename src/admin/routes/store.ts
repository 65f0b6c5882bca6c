import type { StoreConfig } from '../../config/config.ts'
import { withoutPassword } from '../../config/redis-url.ts'
import * as answers from '../answers.ts'
import type { Route } from '../route.ts'

export const storeRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/store', shape: answers.store, role: 'viewer', summary: 'The store: where it is, whether it admits, what could be lost, what waits',
    answer: 'kind, where it is, admitting, reason, format, epoch, reservations: pending ones, undelivered: events that some sink has not taken, servers, losses, '
      + 'sinks: name, waiting, oldest_at, dead, missed; quarantined: settlements that could not be booked, spool: of this machine',
    async handle(_asked, { config, storeStatus, outbox, quarantined, inspectStore }) {
      const { store, sinks } = config()
      const { details, gaps, spool } = await inspectStore()
      const gapOf = new Map(gaps.map((gap) => [gap.sink, gap]))
      const consumers = []
      for (const { name } of sinks) {
        const lag = await outbox.lag(name)
        const gap = gapOf.get(name)
        gapOf.delete(name)
        consumers.push({
          name, waiting: lag.count, oldest_at: toInstant(lag.oldestMs), dead: await outbox.deadCount(name), missed: gap?.events ?? 0, missed_at: toInstant(gap?.atMs ?? null),
        })
      }
      return {
        kind: store.kind, ...placeOf(store), ...storeStatus(), format: details?.format ?? null, epoch: details?.epoch ?? null, partitions: details?.partitions ?? null,
        reservations: details?.reservations ?? null, undelivered: details?.undelivered ?? Math.max(0, ...consumers.map(({ waiting }) => waiting)), quarantined: (await quarantined()).length,
        servers: (details?.servers ?? []).map(({ address, product, version, memoryBytes, memoryMaxBytes }) => ({ address, product, version, memory_bytes: memoryBytes, memory_max_bytes: memoryMaxBytes })),
        losses: details?.losses ?? [], sinks: consumers,
        // Sinks that are configured no longer.
        missed_before: [...gapOf.values()].map(({ sink, events, atMs }) => ({ name: sink, missed: events, missed_at: toInstant(atMs) })),
        spool: spool === null ? null : { directory: spool.directory, settlements: spool.measure?.settlements ?? null, bytes: spool.measure?.bytes ?? null },
      }
    },
  },
]

/** Without password. */
function placeOf(store: StoreConfig): Readonly<Record<string, unknown>> {
  switch (store.kind) {
    case 'memory': return {}
    case 'embedded': return { directory: store.dir, synchronous: store.synchronous }
    case 'redis': return { url: withoutPassword(store.url), prefix: store.prefix }
  }
}

function toInstant(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString()
}
