import type { Clock } from '../clock.ts'
import type { Random } from '../random.ts'
import type { Records } from '../stores/store.ts'
import { recordKinds, toAuditEntry } from './account-records.ts'
import type { AuditEntry, Ban, Rotation, StoredKey } from './account-records.ts'
import type { StoredKeyDirectory } from './key-directory.ts'
import { LATEST_MS } from './latest-instant.ts'
import { hashOfSecret, newSecret } from './secret.ts'

/** The operator asked for something that cannot be done; the message is a sentence for him. */
export class ChangeRefused extends Error {
  override name = 'ChangeRefused'
  readonly why: 'not_found' | 'conflict' | 'invalid'
  constructor(why: 'not_found' | 'conflict' | 'invalid', message: string) {
    super(message)
    this.why = why
  }
}

export interface NewKey {
  /** undefined: one is made up. */
  readonly id: string | undefined
  readonly account: string | null
  readonly plan: string | null
  readonly expiresMs: number | null
  /** The operator's own name for this: said again it makes no second key. undefined: it has none. */
  readonly changeId?: string | undefined
}

/** What an operator may call a change. */
export function mustBeChangeId(changeId: string | undefined): void {
  if (changeId !== undefined && !/^[\x21-\x7e]{1,128}$/.test(changeId)) throw new ChangeRefused('invalid', 'a change id is 1 to 128 printable ASCII characters without spaces')
}

/** Of keys and accounts, as the file has it. */
export const idGrammar = /^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$/

/**
 * What operators change at run time: keys, revocations, suspensions. Every change is journaled with who and when before it is made, and
 * one is finished before the next begins.
 */
export class AccountChanges {
  readonly #records: Records
  readonly #directory: StoredKeyDirectory
  readonly #clock: Clock
  readonly #random: Random
  #last: Promise<unknown> = Promise.resolve()

  constructor(records: Records, directory: StoredKeyDirectory, clock: Clock, random: Random) {
    this.#records = records
    this.#directory = directory
    this.#clock = clock
    this.#random = random
  }

  /** Makes a key and gives its secret, which is kept nowhere. `secret` null: this change has been made before, and the secret was told then. */
  createKey(wanted: NewKey & { readonly changeId?: undefined }, who: string): Promise<{ id: string; secret: string }>
  createKey(wanted: NewKey, who: string): Promise<{ id: string; secret: string | null }>
  createKey(wanted: NewKey, who: string): Promise<{ id: string; secret: string | null }> {
    return this.#inTurn(async () => {
      const { config } = this.#directory
      mustBeChangeId(wanted.changeId)
      const done = this.#madeBy(wanted)
      if (done !== undefined) return { id: done, secret: null }
      if ((wanted.account === null) === (wanted.plan === null)) throw new ChangeRefused('invalid', 'a key belongs to an account or names a plan: give one of the two')
      if (wanted.account !== null && !this.#directory.accounts.has(wanted.account)) throw new ChangeRefused('not_found', `there is no account "${wanted.account}"`)
      if (wanted.account !== null && this.#directory.actingChainOf(wanted.account, this.#clock.nowMs()).plan?.name === undefined) {
        throw new ChangeRefused('conflict', `the account "${wanted.account}" has no plan, and no account above it: its keys would open nothing; give it one first`)
      }
      if (wanted.plan !== null && !config.plans.has(wanted.plan)) throw new ChangeRefused('not_found', `there is no plan "${wanted.plan}"`)
      const nowMs = this.#clock.nowMs()
      if (wanted.expiresMs !== null && wanted.expiresMs <= nowMs) throw new ChangeRefused('invalid', 'the key would already have expired')
      if (wanted.expiresMs !== null && wanted.expiresMs > LATEST_MS) throw new ChangeRefused('invalid', 'the key would expire after the year 9999; without an expiry it never does')
      const id = wanted.id ?? `${wanted.account ?? wanted.plan ?? 'key'}-${this.#keySuffix(wanted)}`
      if (!idGrammar.test(id)) throw new ChangeRefused('invalid', 'an id is 1 to 128 letters, digits and . _ @ + -, beginning with a letter or digit')
      const taken = this.#whereIs(id)
      if (taken !== undefined) throw new ChangeRefused('conflict', `there is already a key "${id}" (${taken})`)
      // A key that is its own account must not take over the counters of a real one.
      if (wanted.plan !== null && (this.#directory.accounts.has(id) || this.#directory.storedAccounts.has(id))) throw new ChangeRefused('conflict', `"${id}" is an account; a key with a plan is its own account and needs another id`)
      const secret = newSecret(this.#random)
      const key: StoredKey = {
        hash: hashOfSecret(secret), account: wanted.account, plan: wanted.plan, expires_ms: wanted.expiresMs, created_ms: nowMs, created_by: who,
        change: wanted.changeId ?? null,
      }
      await this.#journal(who, 'key.create', id, { account: wanted.account, plan: wanted.plan, expires_ms: wanted.expiresMs, ...named(wanted.changeId) })
      // Another replica may be making a key of this id at this moment, and has not been heard of yet: one of the two secrets must not open anything.
      if (!await this.#records.swap(recordKinds.key, id, undefined, { ...key })) {
        await this.#journal(who, 'key.create_refused', id, { reason: 'made at the same time elsewhere' })
        const other = await this.#records.get(recordKinds.key, id)
        if (wanted.changeId !== undefined && other?.['change'] === wanted.changeId) return { id, secret: null }
        throw new ChangeRefused('conflict', `there is already a key "${id}" (store)`)
      }
      return { id, secret }
    })
  }

  /** A new secret; the old one works for `graceMs` more. `secret` null: this change has been made before. */
  rotateKey(id: string, graceMs: number, who: string): Promise<{ id: string; secret: string; graceUntilMs: number }>
  rotateKey(id: string, graceMs: number, who: string, changeId: string | undefined): Promise<{ id: string; secret: string | null; graceUntilMs: number }>
  rotateKey(id: string, graceMs: number, who: string, changeId?: string): Promise<{ id: string; secret: string | null; graceUntilMs: number }> {
    return this.#inTurn(async () => {
      mustBeChangeId(changeId)
      this.#mustExist(id)
      const last = this.#directory.rotationOf(id)
      if (last !== undefined && changeId !== undefined && last.change === changeId) return { id, secret: null, graceUntilMs: last.previous.at(-1)?.until_ms ?? last.at_ms }
      if (this.#directory.revocationOf(id) !== undefined) throw new ChangeRefused('conflict', `the key "${id}" is revoked; lift the revocation first`)
      const nowMs = this.#clock.nowMs()
      const graceUntilMs = nowMs + graceMs
      if (graceUntilMs > LATEST_MS) throw new ChangeRefused('invalid', 'the grace would end after the year 9999; give a shorter one')
      const secret = newSecret(this.#random)
      const retired = last?.previous.filter((old) => old.until_ms <= nowMs) ?? []
      const live = this.#directory.hashesOf(id, nowMs).map(({ hash, untilMs }) => ({ hash, until_ms: Math.min(untilMs ?? graceUntilMs, graceUntilMs) }))
      const rotation: Rotation = { hash: hashOfSecret(secret), previous: [...retired, ...live], at_ms: nowMs, by: who, change: changeId ?? null }
      await this.#journal(who, 'key.rotate', id, { grace_ms: graceMs, ...named(changeId) })
      await this.#records.put(recordKinds.rotation, id, { ...rotation })
      return { id, secret, graceUntilMs }
    })
  }

  /** From now on nobody gets in with this key, also when the YAML has it. Gives where it still stands. */
  revokeKey(id: string, reason: string | null, who: string): Promise<{ where: string }> {
    return this.#inTurn(async () => {
      const where = this.#mustExist(id)
      await this.#ban(recordKinds.revocation, 'key.revoke', id, reason, who)
      return { where }
    })
  }

  liftRevocation(id: string, who: string): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#directory.revocationOf(id) === undefined) throw new ChangeRefused('not_found', `the key "${id}" is not revoked`)
      await this.#journal(who, 'key.lift', id, {})
      await this.#records.delete(recordKinds.revocation, id)
    })
  }

  suspendAccount(id: string, reason: string | null, who: string): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.#accountExists(id)) throw new ChangeRefused('not_found', `there is no account "${id}"`)
      await this.#ban(recordKinds.suspension, 'account.suspend', id, reason, who)
    })
  }

  /** Gives whether the config itself still suspends the account. */
  resumeAccount(id: string, who: string): Promise<{ suspendedByConfig: boolean }> {
    return this.#inTurn(async () => {
      const suspendedByConfig = this.#directory.config.accounts.get(id)?.suspended === true
      if (this.#directory.suspensionOf(id) === undefined) {
        const why = suspendedByConfig ? 'it is suspended by the config, which has to be edited' : 'it is not suspended'
        throw new ChangeRefused('conflict', `nothing to lift for account "${id}": ${why}`)
      }
      await this.#journal(who, 'account.resume', id, {})
      await this.#records.delete(recordKinds.suspension, id)
      return { suspendedByConfig }
    })
  }

  /** Notes a change that is made elsewhere. */
  note(who: string, action: string, target: string, details: Readonly<Record<string, unknown>>): Promise<void> {
    return this.#journal(who, action, target, details)
  }

  /** The latest changes, newest first. */
  async audit(count: number, of: string | null = null): Promise<readonly AuditEntry[]> {
    const entries = await this.#records.list(recordKinds.audit)
    const isMeant = ({ target }: AuditEntry): boolean => of === null || target === of || target.startsWith(`${of}/`)
    return entries.map(({ value }) => toAuditEntry(value)).filter(isMeant).sort((a, b) => b.at_ms - a.at_ms).slice(0, count)
  }

  async #ban(kind: string, action: string, id: string, reason: string | null, who: string): Promise<void> {
    const ban: Ban = { at_ms: this.#clock.nowMs(), by: who, reason }
    await this.#journal(who, action, id, reason === null ? {} : { reason })
    await this.#records.put(kind, id, { ...ban })
  }

  async #journal(who: string, action: string, target: string, details: Readonly<Record<string, unknown>>): Promise<void> {
    const atMs = this.#clock.nowMs()
    const entry: AuditEntry = { at_ms: atMs, who, action, target, details }
    await this.#records.put(recordKinds.audit, `${new Date(atMs).toISOString()}-${this.#randomHex(4)}`, { ...entry })
  }

  /** The key that this change has made; undefined: none yet. */
  #madeBy({ changeId, id, account, plan }: NewKey): string | undefined {
    if (changeId === undefined) return undefined
    for (const [keyId, key] of this.#directory.storedKeys) {
      if (key.change !== changeId) continue
      if ((id !== undefined && id !== keyId) || key.account !== account || key.plan !== plan) throw new ChangeRefused('conflict', `the change "${changeId}" was another one (it made the key "${keyId}"); give each change an id of its own`)
      return keyId
    }
    return undefined
  }

  /** A change that is made at two replicas at once makes one key. */
  #keySuffix({ changeId }: NewKey): string {
    return changeId === undefined ? this.#randomHex(4) : hashOfSecret(changeId).slice(0, 16)
  }

  #whereIs(id: string): string | undefined {
    return this.#directory.configuredKey(id)?.where ?? (this.#directory.storedKeys.has(id) ? 'store' : undefined)
  }

  #mustExist(id: string): string {
    const where = this.#whereIs(id)
    if (where === undefined) throw new ChangeRefused('not_found', `there is no key "${id}"`)
    return where
  }

  #accountExists(id: string): boolean {
    if (this.#directory.accounts.has(id)) return true
    const configured = this.#directory.configuredKey(id)
    const plan = configured === undefined ? this.#directory.storedKeys.get(id)?.plan : configured.plan
    return plan !== null && plan !== undefined
  }

  #randomHex(bytes: number): string {
    return Buffer.from(this.#random.bytes(bytes)).toString('hex')
  }

  /** One change at a time: each is decided on what the one before it left. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#last.then(change)
    this.#last = result.catch(() => undefined)
    return result
  }
}

function named(changeId: string | undefined): Readonly<Record<string, unknown>> {
  return changeId === undefined ? {} : { change: changeId }
}
