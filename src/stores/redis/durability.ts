import type { Confirm, RedisLink } from './link.ts'

/** What one primary says of itself. Null: it does not say, as hosted servers and narrow users often have it. */
export interface DurabilityFacts {
  readonly address: string
  /** `Redis`, `Valkey`, … */
  readonly product: string
  readonly version: string | null
  /** It is part of a cluster. */
  readonly cluster: boolean | null
  readonly appendonly: boolean | null
  readonly appendfsync: 'always' | 'everysec' | 'no' | null
  readonly evictionPolicy: string | null
  /** Bytes; 0: no bound. */
  readonly maxmemory: number | null
  readonly replicas: number | null
  /** Below so many replicas it takes no writes; 0: it does not care. */
  readonly minReplicas: number | null
}

export interface DurabilityWanted {
  readonly durability: 'always' | 'everysec' | 'none'
  readonly confirm: Confirm
  readonly deadlineMs: number
  /** The store's URL is a cluster's. */
  readonly clustered: boolean
}

export interface DurabilityJudgement {
  /** Why the gateway must not start on this, in plain words; null: it may. */
  readonly refuse: string | null
  /** What should be changed or could not be found out. */
  readonly warnings: readonly string[]
  /** What can be lost with all of it as it is, and what cannot. */
  readonly losses: readonly string[]
}

/** Asks every primary. Rejects with StoreUnavailable when one is not there. */
export async function askDurability(link: RedisLink): Promise<readonly DurabilityFacts[]> {
  const [infos, configurations] = await Promise.all([
    link.info(),
    link.configuration(['appendonly', 'appendfsync', 'maxmemory-policy', 'maxmemory', 'min-replicas-to-write']),
  ])
  return infos.map(({ address, info }) => readFacts(address, info, configurations.find((one) => one.address === address)?.configuration ?? null))
}

/** Out of `INFO` and, where it is allowed, `CONFIG GET`. */
export function readFacts(address: string, info: ReadonlyMap<string, string>, configuration: ReadonlyMap<string, string> | null): DurabilityFacts {
  const setting = (name: string): string | null => configuration?.get(name) ?? null
  const product = info.get('server_name') === 'valkey' || info.has('valkey_version') ? 'Valkey' : 'Redis'
  const fsync = setting('appendfsync')
  return {
    address,
    product,
    version: info.get('valkey_version') ?? info.get('redis_version') ?? null,
    cluster: flag(info.get('cluster_enabled') ?? null, '1'),
    appendonly: flag(info.get('aof_enabled') ?? null, '1') ?? flag(setting('appendonly'), 'yes'),
    appendfsync: fsync === 'always' || fsync === 'everysec' || fsync === 'no' ? fsync : null,
    evictionPolicy: info.get('maxmemory_policy') ?? setting('maxmemory-policy'),
    maxmemory: count(info.get('maxmemory') ?? setting('maxmemory')),
    replicas: count(info.get('connected_slaves') ?? null),
    minReplicas: count(setting('min-replicas-to-write')),
  }
}

/** Holds what the servers say against what is wanted of them. */
export function judge(servers: readonly DurabilityFacts[], wanted: DurabilityWanted): DurabilityJudgement {
  const judged = servers.map((facts) => ({ facts, ...judgeOne(facts, wanted) }))
  const told = (list: 'refusals' | 'warnings' | 'losses'): readonly string[] => {
    const bySentence = new Map<string, string[]>()
    for (const one of judged) for (const sentence of one[list]) bySentence.set(sentence, [...bySentence.get(sentence) ?? [], one.facts.address])
    return [...bySentence].map(([sentence, addresses]) => addresses.length === servers.length ? sentence : `${addresses.join(', ')}: ${sentence}`)
  }
  const refusals = told('refusals')
  return { refuse: refusals.length === 0 ? null : refusals.join(' '), warnings: told('warnings'), losses: told('losses') }
}

function judgeOne(facts: DurabilityFacts, wanted: DurabilityWanted): { refusals: string[]; warnings: string[]; losses: string[] } {
  const { product, appendonly, appendfsync, evictionPolicy, maxmemory, replicas } = facts
  const { durability, confirm, deadlineMs, clustered } = wanted
  const refusals: string[] = []
  const warnings: string[] = []

  if (!isAtLeast(facts, 7, 0)) refusals.push(`This is ${product} ${facts.version}: the store needs Redis 7.0 or newer, or Valkey, whose scripts may finish what runs although memory is short.`)
  if (facts.cluster === true && !clustered) refusals.push(`This ${product} is part of a cluster: the store's URL must begin with redis+cluster://.`)
  if (evictionPolicy === null) warnings.push(`${product} does not say its maxmemory-policy: anything but noeviction would throw counters away when memory is short.`)
  else if (evictionPolicy !== 'noeviction') {
    refusals.push(`${product} may throw counters away when memory is short (maxmemory-policy ${evictionPolicy}): set maxmemory-policy noeviction.`)
  }
  if (maxmemory === 0) warnings.push(`${product} has no memory bound (maxmemory 0): when the machine's memory ends, the kernel ends ${product}. Set maxmemory.`)

  if (appendonly === false && durability !== 'none') {
    refusals.push(`${product} keeps no append-only file (appendonly no), so counted usage would not survive it: set appendonly yes, or accept the loss with store.durability: none.`)
  } else if (appendonly === null) {
    warnings.push(`${product} does not say whether it keeps an append-only file (appendonly yes): without one, counted usage does not survive it.`)
  } else if (appendonly) {
    if (appendfsync === null) {
      warnings.push(`${product} does not say when it writes its append-only file to disk (appendfsync); store.durability wants ${durability}.`)
    } else if (durability === 'always' && appendfsync !== 'always') {
      refusals.push(`store.durability is always, and ${product} writes to disk less often (appendfsync ${appendfsync}).`)
    } else if (durability === 'everysec' && appendfsync === 'no') {
      refusals.push(`store.durability is everysec, and ${product} leaves the time of writing to the operating system (appendfsync no).`)
    }
  }

  if (confirm.fsync && !knowsWaitaof(facts)) refusals.push(`store.confirm asks for fsync, which needs WAITAOF (Redis 7.2), and this is ${product} ${facts.version}.`)
  if (confirm.fsync && appendonly === false) refusals.push('store.confirm asks for fsync, which needs appendonly yes.')
  if (confirm.fsync && appendfsync !== null && appendfsync !== 'always' && deadlineMs < 2000) {
    warnings.push(`store.confirm waits for the disk, which is written about once a second (appendfsync ${appendfsync}), `
      + `and a call may take ${deadlineMs} ms: most calls will be refused. Set appendfsync always.`)
  }
  if (replicas !== null && replicas < confirm.replicas) {
    warnings.push(`store.confirm waits for ${plural(confirm.replicas, 'replica')}, and ${replicas === 0 ? 'none is' : `only ${replicas} are`} connected: no call is admitted until they are.`)
  }
  if (replicas !== null && replicas > 0 && facts.minReplicas === 0) {
    warnings.push('A primary that is cut off from its replicas goes on admitting what will be forgotten (min-replicas-to-write 0): set min-replicas-to-write 1.')
  }
  return { refusals, warnings, losses: [onKill(facts), onPowerLoss(facts), onFailover(facts, confirm)].filter((sentence) => sentence !== null) }
}

function onKill({ appendonly, product }: DurabilityFacts): string | null {
  if (appendonly === null) return null
  return appendonly
    ? `When the ${product} process dies, nothing that was answered is lost.`
    : `When the ${product} process ends for whatever reason, everything since its last snapshot is lost, and everything if it takes none.`
}

function onPowerLoss({ appendonly, appendfsync }: DurabilityFacts): string | null {
  if (appendonly !== true || appendfsync === null) return null
  if (appendfsync === 'always') return 'When its machine loses power, nothing that was answered is lost, if the disk keeps what it says it has written.'
  if (appendfsync === 'everysec') return 'When its machine crashes or loses power, about the last second is lost, two when the disk is slow.'
  return 'When its machine crashes or loses power, all that the operating system had not written yet is lost, usually up to half a minute.'
}

function onFailover({ replicas, product }: DurabilityFacts, confirm: Confirm): string | null {
  if (replicas === null) return null
  if (replicas === 0 && confirm.replicas === 0) return `No replica is connected: while ${product} is away, nothing takes over.`
  if (confirm.replicas === 0) {
    return 'When a replica takes over, what had not reached it is lost from Redis: usually far less than a second. Gateways that are still running repeat their latest settlements there.'
  }
  const copies = confirm.fsync ? ' on disk' : ''
  return `When a replica takes over, nothing that was answered is lost if it is one of those that had it${copies} (store.confirm); `
    + 'that is likely and not certain, as the election does not ask who has what.'
}

function knowsWaitaof(facts: DurabilityFacts): boolean {
  return isAtLeast(facts, 7, 2)
}

/** Valkey began with what Redis 7.2 knows; who does not tell a version is believed to know everything. */
function isAtLeast({ product, version }: DurabilityFacts, major: number, minor: number): boolean {
  if (version === null || product === 'Valkey') return true
  const [itsMajor = 0, itsMinor = 0] = version.split('.').map(Number)
  return itsMajor > major || (itsMajor === major && itsMinor >= minor)
}

function flag(text: string | null, yes: string): boolean | null {
  return text === null ? null : text === yes
}

function count(text: string | null): number | null {
  return text === null || !/^\d+$/.test(text) ? null : Number(text)
}

function plural(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}
