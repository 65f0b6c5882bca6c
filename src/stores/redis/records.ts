import { createHash } from 'node:crypto'
import type { Clock } from '../../clock.ts'
import type { Log } from '../../log.ts'
import { StoreUnavailable, type Records } from '../store.ts'
import { sameDocument } from '../local/records.ts'
import type { KeyNames } from './keys.ts'
import type { LinkCommand, RedisLink } from './link.ts'
import { loadScript } from './scripts.ts'

type Value = Readonly<Record<string, unknown>>
type Listener = (id: string, value: Value | undefined) => void

export interface RedisRecordsParts {
  readonly link: RedisLink
  readonly keys: KeyNames
  readonly clock: Clock
  readonly log: Log
}

/** Keys are revoked also when memory is short. */
const writeScript = loadScript('records', ['records.lua'], ['allow-oom'])

/** About three times a second: what one replica changes is in force on all within one. */
const POLL_MS = 330
const CHANGES_AT_ONCE = 1_000
const LIST_PAGE = 1_000
/** A document that its writer expects changes under him again and again: not more often than this. */
const SWAPS_MAX = 4

/** What watchers of a kind have been told. */
interface Watched {
  readonly listeners: Set<Listener>
  /** A fingerprint of each document's text, by id. */
  readonly told: Map<string, number>
}

/**
 * Documents that all replicas share. Each change is written into one stream in the same step; every replica follows it, and lists everything it watches again
 * when it cannot tell what it missed. While Redis is away, or has lost its books, watchers keep what they know.
 */
export class RedisRecords implements Records {
  readonly #link: RedisLink
  readonly #keys: KeyNames
  readonly #clock: Clock
  readonly #log: Log
  readonly #watched = new Map<string, Watched>()
  readonly #stopListening: () => void
  #stopPolling: (() => void) | null = null
  #polling = false
  /** The last change that was followed; null: none yet. */
  #followed: string | null = null
  /** What is known may not be all: everything that is watched is listed again. */
  #unsure = true
  /** Looks at the store take turns, so that an older one never tells over a newer one. */
  #last: Promise<unknown> = Promise.resolve()
  /** Documents that this process has written while a look was under way: what that look says of them may be older. */
  #written: Set<string> | null = null
  /** Those are looked at again, as kind and id. */
  #again = new Map<string, readonly [string, string]>()

  constructor(parts: RedisRecordsParts) {
    this.#link = parts.link
    this.#keys = parts.keys
    this.#clock = parts.clock
    this.#log = parts.log
    this.#stopListening = parts.link.onServerChange(() => {
      this.#unsure = true
      void this.#poll()
    })
  }

  async get(kind: string, id: string): Promise<Value | undefined> {
    const key = this.#keys.records(kind)
    const text = await this.#link.command(key, 'HGET', [key, id])
    return typeof text === 'string' ? JSON.parse(text) as Value : undefined
  }

  async put(kind: string, id: string, value: Value): Promise<void> {
    const text = JSON.stringify(value)
    await this.#write(kind, ['put', kind, id, text])
    this.#wrote(kind, id, text)
  }

  async swap(kind: string, id: string, expected: Value | undefined, value: Value): Promise<boolean> {
    const text = JSON.stringify(value)
    const wanted = expected === undefined ? undefined : JSON.stringify(expected)
    let guess = wanted
    for (let tries = 0; tries < SWAPS_MAX; tries++) {
      const [done, found] = await this.#write(kind, ['swap', kind, id, text, guess === undefined ? 0 : 1, guess ?? ''])
      if (done === 1) {
        this.#wrote(kind, id, text)
        return true
      }
      const there = found ?? undefined
      if (sameDocument(there, text)) return true
      if (!sameDocument(there, wanted)) return false
      // The same in other words: the server compares words.
      guess = there
    }
    throw new StoreUnavailable('the document changes faster than it can be compared')
  }

  async delete(kind: string, id: string, expected?: Value): Promise<void> {
    const wanted = expected === undefined ? undefined : JSON.stringify(expected)
    let guess = wanted
    for (let tries = 0; tries < SWAPS_MAX; tries++) {
      const [done, found] = await this.#write(kind, ['delete', kind, id, ...(guess === undefined ? [] : [guess])])
      if (done === 1) return this.#wrote(kind, id, undefined)
      if (!sameDocument(found ?? undefined, wanted)) return
      // The same in other words.
      guess = found ?? undefined
    }
    throw new StoreUnavailable('the document changes faster than it can be compared')
  }

  async list(kind: string): Promise<readonly { readonly id: string; readonly value: Value }[]> {
    // Who watches has to hear of what this shows, or what he is told next would be taken for nothing new.
    const texts = this.#watched.has(kind) ? await this.#look(async () => {
      const listed = await this.#list(kind)
      this.#takeAll(kind, listed)
      return listed
    }) : await this.#list(kind)
    return [...texts].map(([id, text]) => ({ id, value: JSON.parse(text) as Value })).sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  watch(kind: string, listener: Listener): () => void {
    let watched = this.#watched.get(kind)
    if (watched === undefined) {
      this.#watched.set(kind, watched = { listeners: new Set(), told: new Map() })
      this.#unsure = true
    }
    const { listeners } = watched
    listeners.add(listener)
    this.#stopPolling ??= this.#clock.every(POLL_MS, () => void this.#poll())
    return () => {
      listeners.delete(listener)
      if (listeners.size === 0 && this.#watched.get(kind) === watched) this.#watched.delete(kind)
      if (this.#watched.size > 0) return
      this.#stopPolling?.()
      this.#stopPolling = null
    }
  }

  close(): void {
    this.#stopListening()
    this.#stopPolling?.()
    this.#stopPolling = null
    this.#watched.clear()
  }

  async #write(kind: string, args: readonly (string | number)[]): Promise<readonly [number, (string | null)?]> {
    return await this.#link.script(writeScript, [this.#keys.records(kind), this.#keys.changes()], args) as readonly [number, (string | null)?]
  }

  /** All of a kind, by id: a scan may show one twice. */
  async #list(kind: string): Promise<Map<string, string>> {
    const key = this.#keys.records(kind)
    const texts = new Map<string, string>()
    let cursor = '0'
    do {
      const [next, pairs] = await this.#link.command(key, 'HSCAN', [key, cursor, 'COUNT', LIST_PAGE]) as readonly [string, readonly string[]]
      for (let i = 0; i + 1 < pairs.length; i += 2) texts.set(pairs[i]!, pairs[i + 1]!)
      cursor = next
    } while (cursor !== '0')
    return texts
  }

  // === Following ===

  async #poll(): Promise<void> {
    if (this.#polling || this.#watched.size === 0 || !this.#link.up) return
    this.#polling = true
    try {
      await this.#look(() => this.#follow())
    } catch (error) {
      // Watchers keep what they know. What has happened meanwhile is found when it is there again.
      this.#unsure = true
      if (!(error instanceof StoreUnavailable)) this.#log.error({ error: String(error) }, 'changes of keys and accounts cannot be followed')
    } finally {
      this.#polling = false
    }
  }

  async #follow(): Promise<void> {
    const key = this.#keys.changes()
    while (!this.#unsure) {
      const from = this.#followed ?? '-'
      const changes = await this.#link.command(key, 'XRANGE', [key, from, '+', 'COUNT', CHANGES_AT_ONCE]) as readonly (readonly [string, readonly string[]])[]
      // It begins with the last one that was seen, or that one is gone: trimmed, or never known to the server that answers now.
      if (this.#followed !== null ? changes[0]?.[0] !== this.#followed : changes.length > 0) break
      for (const [, [, kind, , id]] of changes.slice(this.#followed === null ? 0 : 1)) this.#note(kind!, id!)
      await this.#lookAgain()
      this.#followed = changes.at(-1)?.[0] ?? null
      if (changes.length < CHANGES_AT_ONCE) return
    }
    await this.#listAll()
  }

  async #lookAgain(): Promise<void> {
    const again = [...this.#again.values()]
    if (again.length === 0) return
    const commands: LinkCommand[] = again.map(([kind, id]) => ({ key: this.#keys.records(kind), name: 'HGET', args: [this.#keys.records(kind), id] }))
    const texts = await this.#link.commands(commands)
    for (const text of texts) if (text instanceof Error) throw text
    this.#again.clear()
    for (const [i, [kind, id]] of again.entries()) {
      const text = texts[i]
      this.#take(kind, id, typeof text === 'string' ? text : undefined)
    }
  }

  async #listAll(): Promise<void> {
    // Before the lists: what changes while they are read is followed from here.
    const newest = this.#keys.changes()
    const [meta, last] = await this.#link.commands([
      { key: this.#keys.meta(), name: 'EXISTS', args: [this.#keys.meta()] },
      { key: newest, name: 'XREVRANGE', args: [newest, '+', '-', 'COUNT', 1] },
    ])
    if (meta instanceof Error) throw meta
    if (last instanceof Error) throw last
    // An emptied server knows no keys. They are not revoked by that: an operator decides what is to be done.
    if (meta === 0) return
    for (const kind of Array.from(this.#watched.keys())) this.#takeAll(kind, await this.#list(kind))
    this.#followed = (last as readonly (readonly [string])[])[0]?.[0] ?? null
    this.#unsure = false
  }

  /** One look at the store after the other. */
  #look<T>(look: () => Promise<T>): Promise<T> {
    const result = this.#last.then(async () => {
      this.#written = new Set()
      try {
        return await look()
      } finally {
        this.#written = null
      }
    })
    this.#last = result.catch(() => undefined)
    return result
  }

  // === Telling ===

  #note(kind: string, id: string): void {
    if (this.#watched.has(kind)) this.#again.set(nameOf(kind, id), [kind, id])
  }

  /** This process's own change is told at once. */
  #wrote(kind: string, id: string, text: string | undefined): void {
    const watched = this.#watched.get(kind)
    if (watched === undefined) return
    this.#written?.add(nameOf(kind, id))
    if (text === undefined) watched.told.delete(id)
    else {
      const print = fingerprint(text)
      // A look that was under way has seen it, and was faster.
      if (watched.told.get(id) === print) return
      watched.told.set(id, print)
    }
    tell(watched, id, text)
  }

  #takeAll(kind: string, texts: ReadonlyMap<string, string>): void {
    const watched = this.#watched.get(kind)
    if (watched === undefined) return
    for (const [id, text] of texts) this.#take(kind, id, text)
    for (const id of watched.told.keys()) if (!texts.has(id)) this.#take(kind, id, undefined)
  }

  /** What a look has found: told unless it is known. */
  #take(kind: string, id: string, text: string | undefined): void {
    const watched = this.#watched.get(kind)
    if (watched === undefined) return
    if (this.#written?.has(nameOf(kind, id)) === true) {
      this.#note(kind, id)
      return
    }
    const { told } = watched
    if (text === undefined) {
      if (!told.delete(id)) return
    } else {
      const print = fingerprint(text)
      if (told.get(id) === print) return
      told.set(id, print)
    }
    tell(watched, id, text)
  }
}

function tell({ listeners }: Watched, id: string, text: string | undefined): void {
  for (const listener of listeners) listener(id, text === undefined ? undefined : JSON.parse(text) as Value)
}

/** 48 bits: the chance to take a change for none is one in 10^14, and a hundred thousand keys cost a few megabytes. */
function fingerprint(text: string): number {
  return createHash('sha1').update(text).digest().readUIntBE(0, 6)
}

function nameOf(kind: string, id: string): string {
  return JSON.stringify([kind, id])
}
