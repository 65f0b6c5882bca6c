import { isDeepStrictEqual } from 'node:util'
import type { Account, Config, KeyConfig, Plan } from '../../src/config/config.ts'
import type { Records } from '../../src/stores/store.ts'

type Value = Readonly<Record<string, unknown>>

/** Documents in memory, which tell of every change as a store does. */
export class FakeRecords implements Records {
  readonly #kinds = new Map<string, Map<string, Value>>()
  readonly #listeners = new Map<string, Set<(id: string, value: Value | undefined) => void>>()
  writes = 0

  get(kind: string, id: string): Promise<Value | undefined> {
    return Promise.resolve(this.#kinds.get(kind)?.get(id))
  }
  put(kind: string, id: string, value: Value): Promise<void> {
    this.writes += 1
    const documents = this.#kinds.get(kind) ?? new Map<string, Value>()
    this.#kinds.set(kind, documents.set(id, structuredClone(value)))
    for (const listener of this.#listeners.get(kind) ?? []) listener(id, structuredClone(value))
    return Promise.resolve()
  }
  async swap(kind: string, id: string, expected: Value | undefined, value: Value): Promise<boolean> {
    const found = this.#kinds.get(kind)?.get(id)
    if (isDeepStrictEqual(found, value)) return true
    if (!isDeepStrictEqual(found, expected)) return false
    await this.put(kind, id, value)
    return true
  }
  delete(kind: string, id: string, expected?: Value): Promise<void> {
    if (expected !== undefined && !isDeepStrictEqual(this.#kinds.get(kind)?.get(id), expected)) return Promise.resolve()
    this.writes += 1
    this.#kinds.get(kind)?.delete(id)
    for (const listener of this.#listeners.get(kind) ?? []) listener(id, undefined)
    return Promise.resolve()
  }
  list(kind: string): Promise<{ id: string; value: Value }[]> {
    return Promise.resolve([...(this.#kinds.get(kind) ?? [])].map(([id, value]) => ({ id, value })))
  }
  watch(kind: string, listener: (id: string, value: Value | undefined) => void): () => void {
    const listeners = this.#listeners.get(kind) ?? new Set()
    this.#listeners.set(kind, listeners.add(listener))
    return () => listeners.delete(listener)
  }
}

export function plan(name: string): Plan {
  return {
    name, version: 1, public: false, entitlements: { models: ['*'], endpoints: null, maxOutputTokens: null, maxContextTokens: null, priority: null, features: [] }, limits: [], proration: 'none', prices: null, charges: null,
    policy: {
      reserve: 'worst_case', outputDefault: 4096, onInsufficient: 'clamp', clampFloor: 1024, onDisconnect: 'cancel', countFailed: false,
      storeDown: { kind: 'deny' }, waitMs: 0, unpriced: null,
    },
  }
}

export function account(id: string, more: Partial<Account> = {}): Account {
  return {
    id, plan: 'free', parent: null, calendar: { timeZone: 'UTC', anchor: '2026-01-01' }, limits: [], entitlements: {}, labels: {}, suspended: false, subscription: null, addOns: [], planHistory: [], where: 'tallygate.yaml:1', ...more,
  }
}

export function key(id: string, hash: string, more: Partial<KeyConfig> = {}): KeyConfig {
  return {
    id, hash, account: 'acme', plan: null, limits: [], entitlements: {}, labels: {}, expiresMs: null, endUserFrom: null, where: 'tallygate.yaml:1', ...more,
  }
}

/** Only what a key directory looks at. */
export function configOf(keys: readonly KeyConfig[], accounts: readonly Account[] = [account('acme')], plans = ['free', 'pro']): Config {
  return { keys, addOns: new Map(), meters: new Map(), moneyScale: 9, accounts: new Map(accounts.map((each) => [each.id, each])), plans: new Map(plans.map((name) => [name, plan(name)])) } as unknown as Config
}
