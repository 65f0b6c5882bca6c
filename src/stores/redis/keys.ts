import { crc32 } from 'node:zlib'

/**
 * Every key that the product writes. `{pN}` and `{books}` are hash tags: in a cluster all keys of one partition are on one server, so that one script may change them.
 *
 * | key | type | holds | garbage |
 * | --- | --- | --- | --- |
 * | `P:{books}:meta` | string | JSON: format, partitions, epoch | never |
 * | `P:{books}:records:KIND` | hash | id → JSON document | never |
 * | `P:{books}:changes` | stream | kind and id of each changed document | the last 10,000 |
 * | `P:{books}:lease:NAME` | hash | holder, token, until: who does a thing that only one may do: `consumer:SINK`, `housekeeping` (which adds `undelivered`, events that wait) | never |
 * | `P:{books}:consumers` | hash | consumer → when a replica last had it configured, JSON | never |
 * | `P:{books}:dead` | hash | consumer and position → a record that was refused for good, with the reason | once delivered |
 * | `P:{books}:dead-order` | sorted set | consumer and position of each of them, in order: what they are counted and listed by | likewise |
 * | `P:{pN}:epoch` | string | the epoch in which this partition was made: absent or another, its counts are lost | never |
 * | `P:{pN}:s:COUNTER` | string | settled, an integer | window's end + forget_after + margin |
 * | `P:{pN}:h:COUNTER` | string | pending (held), an integer; absent: 0 | likewise |
 * | `P:{pN}:r:ID` | string | a reservation, in lines (see moves.ts) | when closed or expired: forget_after + margin |
 * | `P:{pN}:due` | sorted set | pending reservations by deadline, ms | - |
 * | `P:{pN}:out` | stream | events; an entry's id is MS-ORDINAL, both rising | trimmed by housekeeping |
 * | `P:{pN}:last` | string | id of the last event written, also when it is trimmed | never |
 * | `P:{pN}:cursor:CONSUMER` | hash | token (fence), id (the last event that is done) | never |
 * | `P:{books}:rollups` | hash | generation, whether its roll-ups are complete, how long each unit is kept and since when it is whole | never |
 * | `P:{pN}:roll:GENERATION:…`, `P:{pN}:roll:f:…` | hash, string | usage and refusals added up, see analytics/redis-rollups.ts; `counted` is the id of the last event that is in them | kept for + margin |
 */
export class KeyNames {
  readonly partitions: number
  readonly prefix: string
  readonly #of = new Map<string, number>()

  constructor(prefix: string, partitions: number) {
    this.prefix = prefix
    this.partitions = partitions
  }

  /** The partition of a root account. */
  partitionOf(home: string): number {
    let partition = this.#of.get(home)
    if (partition === undefined) {
      if (this.#of.size >= HOMES_MAX) this.#of.clear()
      partition = crc32(home) % this.partitions
      this.#of.set(home, partition)
    }
    return partition
  }

  meta(): string { return `${this.prefix}:{books}:meta` }
  records(kind: string): string { return `${this.prefix}:{books}:records:${kind}` }
  changes(): string { return `${this.prefix}:{books}:changes` }
  lease(name: string): string { return `${this.prefix}:{books}:lease:${name}` }
  consumers(): string { return `${this.prefix}:{books}:consumers` }
  dead(): string { return `${this.prefix}:{books}:dead` }
  deadOrder(): string { return `${this.prefix}:{books}:dead-order` }

  rollups(): string { return `${this.prefix}:{books}:rollups` }

  rollup(partition: number, name: string): string { return `${this.prefix}:{p${partition}}:roll:${name}` }
  epoch(partition: number): string { return `${this.prefix}:{p${partition}}:epoch` }
  settled(partition: number, counter: string): string { return `${this.prefix}:{p${partition}}:s:${counter}` }
  held(partition: number, counter: string): string { return `${this.prefix}:{p${partition}}:h:${counter}` }
  reservation(partition: number, id: string): string { return `${this.prefix}:{p${partition}}:r:${id}` }
  due(partition: number): string { return `${this.prefix}:{p${partition}}:due` }
  events(partition: number): string { return `${this.prefix}:{p${partition}}:out` }
  lastEvent(partition: number): string { return `${this.prefix}:{p${partition}}:last` }
  cursor(partition: number, consumer: string): string { return `${this.prefix}:{p${partition}}:cursor:${consumer}` }
}

const HOMES_MAX = 100_000
