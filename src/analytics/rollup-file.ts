import { DatabaseSync } from 'node:sqlite'
import type { SQLInputValue, StatementSync } from 'node:sqlite'
import { inOrder, RefusalAnswering } from './answering.ts'
import { addHistogram, addHistogramText, histogramOf, histogramText, noHistogram, SUMS } from './counts.ts'
import type { Counts, Sum } from './counts.ts'
import { COMBINED, keptIn, MODELS_MAX, MODELS_OF_ALL, OTHER, SEPARATOR, sourceOf, tableRows, TABLES } from './gathering.ts'
import type { Gathered, Table, TableRow } from './gathering.ts'
import { bucketOf, bucketsBetween, DIMENSIONS, REFUSAL_DIMENSIONS, REFUSAL_UNITS, ROWS_MAX, segmentsOf, UNITS } from './rollups.ts'
import type { Dimension, Kept, RefusalCount, RefusalQuestion, RefusalRow, Unit, UsageQuestion, UsageRow } from './rollups.ts'
import { aroundOf, TopSearch } from './top-search.ts'

/**
 * Roll-ups in a SQLite file, used in a thread of its own. It holds nothing that cannot be made again from the events, so it is not synced at every step:
 * rows and the ids of the last batch are one transaction, and what a power cut takes back is found to be uncounted, together.
 *
 * | table | rows |
 * | --- | --- |
 * | `usage`, `accounts`, `mix` | see gathering.ts; by bucket first, so that what is written now lies together, and what is old goes together |
 * | `combinations` | of names in the other dimensions, by a number |
 * | `refusals` | refused calls |
 * | `models` | which models an account (''; all of them) has named on a day: beyond a bound they are `other` |
 * | `state` | ids of the last batch, and how far minutes are folded |
 * | `whole` | before when buckets of a unit were removed |
 */

const FORMAT = 4
/** The mark of a file whose roll-ups were once made whole. */
const COMPLETE = 1
/** Of refused calls, of an account and bucket. */
const REFUSAL_ROWS_MAX = 200
/** Money may grow beyond what a column holds in nanos: whole units, and what is left of them. Neither is carried over. */
const numbers = [...SUMS, 'cost_units', 'cost_nanos'] as const
const NANOS = 1_000_000_000n
const measures = [...numbers, 'latency', 'first_token'] as const
/** What is remembered of the file. It can be read again. */
const COMBINATIONS_KEPT = 50_000
const MODEL_DAYS_KEPT = 20_000
const REFUSED_KEPT = 20_000

/** Of minutes, that are not added up into longer units yet: an answer has to look at them one by one. */
const UNFOLDED_MAX = 25_000
const UNFOLDED_MS = 3_600_000

export class RollupFile {
  readonly #db: DatabaseSync
  readonly #statements: Statements | null
  readonly #combinations = new Map<string, number>()
  /** `day account` → its models; the days that are being counted. */
  readonly #models = new Map<string, Set<string>>()
  /** Minutes before this one are in hours, days and months; what is of later ones will be. */
  #foldedMs = 0
  #unfolded = 0
  /** Unit, bucket and account → how many rows of refusals there are. */
  readonly #refused = new Map<string, number>()

  /** Opens the file or makes it; one of another format is made anew. */
  constructor(path: string, readOnly: boolean) {
    this.#db = new DatabaseSync(path, { timeout: 5_000, readOnly })
    this.#db.function('merged', { deterministic: true }, (one, other) => merged(String(one), String(other)))
    this.#db.aggregate('histogram', { start: () => new Map<number, number>() as unknown as SQLInputValue, step: added, result: (sum) => histogramText(sum as unknown as Map<number, number>) })
    if (readOnly) {
      this.#statements = null
      return
    }
    this.#db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16000; PRAGMA wal_autocheckpoint = 4000')
    if (this.#db.prepare('PRAGMA user_version').get()?.['user_version'] !== FORMAT) this.#make()
    this.#statements = prepareAll(this.#db)
    this.#foldedMs = this.#folded()
  }

  /** Ids of the events that were counted last. */
  last(): readonly string[] {
    const ids = String(this.#db.prepare('SELECT last FROM state').get()?.['last'] ?? '')
    return ids === '' ? [] : ids.split('\n')
  }

  count(rows: readonly Gathered[], ids: readonly string[] | null): void {
    let newestMs = 0
    this.#transaction((statements) => {
      for (const { atMs } of rows) newestMs = Math.max(newestMs, atMs)
      const folds = (minute: number): boolean => minute >= this.#foldedMs
      for (const row of tableRows(rows, (day, account, model) => this.#model(statements, day, account, model), folds)) this.#add(statements, row)
      if (ids !== null) statements.remember.run(ids.join('\n'))
    })
    this.#unfolded += rows.length
    if (this.#unfolded < UNFOLDED_MAX && (ids === null || newestMs < this.#foldedMs + UNFOLDED_MS)) return
    this.#unfolded = 0
    // The newest minute is not over; what still comes for those before is added to the longer units at once.
    this.#fold(newestMs)
  }

  /**
   * Adds minutes up into hours, days and months, in one step with the mark of how far. Writing the longer units with every event would cost five rows more for each;
   * together they are few, and SQLite does it by itself.
   */
  #fold(untilMs: number): void {
    if (untilMs <= this.#foldedMs) return
    this.#transaction(({ addHours, folds, markFolded }) => {
      addHours.run(this.#foldedMs, untilMs)
      for (const fold of folds) fold.run()
      markFolded.run(untilMs)
    })
    this.#foldedMs = untilMs
  }

  #folded(): number {
    return Number(this.#db.prepare('SELECT folded FROM state').get()?.['folded'] ?? 0)
  }

  countRefusals(batch: readonly RefusalCount[]): void {
    this.#transaction((statements) => {
      for (const { atMs, dimensions, refused } of batch) for (const unit of REFUSAL_UNITS) this.#refuse(statements, UNITS.indexOf(unit), bucketOf(unit, atMs), dimensions, refused)
    })
  }

  usage(question: UsageQuestion): UsageRow[] {
    if (question.fromMs >= question.untilMs) return []
    // What is folded meanwhile, by the thread that writes, must not be seen twice or not at all.
    this.#db.exec('BEGIN')
    try {
      return this.#usage(question)
    } finally {
      this.#db.exec('COMMIT')
    }
  }

  #usage(question: UsageQuestion): UsageRow[] {
    const { by, series, latencies, top } = question
    // Of a reader it is another thread's.
    const unfolded = { fromMs: this.#statements === null ? this.#folded() : this.#foldedMs, untilMs: this.#newestMinute() + 60_000 }
    let { from, given } = sourceFor(question, unfolded, null)
    const columns = by.map((dimension) => `"${dimension}"`)
    let where = ''
    if (top !== null && by.length > 0) {
      // Which ones, first: adding up one number is much cheaper than adding up all.
      const best = this.#best(question, unfolded, top)
      if (best.length === 0) return []
      where = `WHERE (${columns.join(', ')}) IN (VALUES ${best.map(() => `(${columns.map(() => '?').join(', ')})`).join(', ')})`
      const at = by.indexOf('account')
      if (at >= 0) ({ from, given } = sourceFor(question, unfolded, [...new Set(best.map((names) => names[at]!))]))
      given = [...given, ...best.flat()]
    }
    const groups = [...(series ? ['bucket'] : []), ...columns, 'currency']
    const added = [...numbers.map((name) => `sum(${name}) AS ${name}`), ...(latencies ? ['histogram(latency) AS latency', 'histogram(first_token) AS first_token'] : [])]
    const statement = this.#db.prepare(`SELECT ${[...groups.map((group, index) => `${group} AS g${index}`), ...added].join(', ')} FROM ${from} ${where} GROUP BY ${groups.join(', ')}`)
    statement.setReadBigInts(true)
    const rows = new Map<string, UsageRow & { readonly costs: Map<string, bigint> }>()
    for (const row of statement.iterate(...given) as IterableIterator<Record<string, unknown>>) {
      const names = by.map((_dimension, index) => String(row[`g${index + (series ? 1 : 0)}`]))
      const fromMs = series ? bucketOf(question.unit, Number(row['g0'])) : null
      const text = `${fromMs}${SEPARATOR}${names.join(SEPARATOR)}`
      const nanos = BigInt(row['cost_units'] as bigint) * NANOS + BigInt(row['cost_nanos'] as bigint)
      const counts: Counts = {
        ...Object.fromEntries(SUMS.map((name) => [name, Number(row[name])])) as Record<Sum, number>, cost_nanos: nanos,
        latency: latencies ? histogramOf(String(row['latency'])) : noHistogram, first_token: latencies ? histogramOf(String(row['first_token'])) : noHistogram,
      }
      const before = rows.get(text)
      const costs = before?.costs ?? new Map<string, bigint>()
      const currency = String(row[`g${groups.length - 1}`])
      if (currency !== '') costs.set(currency, (costs.get(currency) ?? 0n) + nanos)
      rows.set(text, {
        fromMs, by: Object.fromEntries(by.map((dimension, index) => [dimension, names[index] ?? ''])), counts: before === undefined ? counts : together(before.counts, counts), costs,
      })
      if (top === null && rows.size >= ROWS_MAX) break
    }
    return inOrder([...rows.values()], top?.of ?? 'requests')
  }

  /** The names of the groups that have most, the most first. */
  #best(question: UsageQuestion, unfolded: Span, { of, count }: NonNullable<UsageQuestion['top']>): readonly (readonly string[])[] {
    const { by } = question
    const whole = { ...question, series: false }
    const around = aroundOf(question)
    if (around === null) return this.#summed(sourceFor(whole, unfolded, null), by, of, count).map(([names]) => names)
    // Ten thousand accounts have a row for each day: too many to be added up while somebody waits.
    const sumsOf = (source: Source, most: number): (readonly [string, number])[] => this.#summed(source, by, of, most).map(([names, sum]) => [names[0]!, sum])
    const search = new TopSearch(count)
    while (!search.isOver) {
      const asked = search.next(sumsOf(sourceFor(around, unfolded, null), search.wanted))
      search.tell(sumsOf(sourceFor(whole, unfolded, asked), asked.length))
    }
    return search.best.map((account) => [account])
  }

  /** Groups and what they have of one sum, the most first. */
  #summed({ from, given }: Source, by: readonly Dimension[], of: Sum | 'cost_nanos', count: number): (readonly [names: readonly string[], sum: number])[] {
    const columns = by.map((dimension) => `"${dimension}"`).join(', ')
    const sum = of === 'cost_nanos' ? `sum(cost_units) * ${NANOS}.0 + sum(cost_nanos)` : `CAST(sum(${of}) AS REAL)`
    const statement = this.#db.prepare(`SELECT ${columns}, ${sum} AS most FROM ${from} GROUP BY ${columns} ORDER BY most DESC LIMIT ?`)
    statement.setReturnArrays(true)
    return (statement.all(...given, Number.isFinite(count) ? count : -1) as unknown as (string | number)[][]).map((row) => [row.slice(0, -1).map(String), Number(row.at(-1))])
  }

  refusals(question: RefusalQuestion): RefusalRow[] {
    const { unit, fromMs, untilMs, by, series, only } = question
    const where = ['unit = ?', 'bucket >= ?', 'bucket < ?']
    const given: (string | number)[] = [UNITS.indexOf(unit === 'month' ? 'day' : unit), fromMs, untilMs]
    for (const dimension of REFUSAL_DIMENSIONS) {
      const value = only[dimension]
      if (value === undefined) continue
      where.push(`"${dimension}" = ?`)
      given.push(value)
    }
    const groups = [...(series ? ['bucket'] : []), ...by.map((dimension) => `"${dimension}"`)]
    const statement = this.#db.prepare(`SELECT ${[...groups.map((group, index) => `${group} AS g${index}`), 'sum(refused) AS refused'].join(', ')} FROM refusals WHERE ${where.join(' AND ')}
      ${groups.length === 0 ? '' : `GROUP BY ${groups.join(', ')}`}`)
    const answering = new RefusalAnswering(question)
    for (const row of statement.iterate(...given)) {
      if (row['refused'] !== null) answering.add(Number(row['g0']), by.map((_dimension, index) => String(row[`g${index + (series ? 1 : 0)}`])), Number(row['refused']))
    }
    return [...answering.rows()]
  }

  isNew(): boolean {
    return this.#db.prepare('PRAGMA application_id').get()?.['application_id'] !== COMPLETE
  }

  wholeSince(): Record<Unit, number> {
    const rows = this.#db.prepare('SELECT unit, since FROM whole').all()
    return Object.fromEntries(rows.map(({ unit, since }) => [UNITS[Number(unit)]!, Number(since)])) as Record<Unit, number>
  }

  complete(): void {
    this.#fold(this.#newestMinute())
    this.#db.exec(`PRAGMA application_id = ${COMPLETE}`)
  }

  #newestMinute(): number {
    return Number(this.#db.prepare('SELECT max(bucket) AS newest FROM usage WHERE unit = 0').get()?.['newest'] ?? 0)
  }

  reset(): void {
    this.#transaction(() => this.#db.exec(`${[...TABLES, 'models', 'combinations'].map((table) => `DELETE FROM ${table}`).join('; ')}; UPDATE state SET last = '', folded = 0; UPDATE whole SET since = 0; PRAGMA application_id = 0`))
    this.#foldedMs = 0
    this.#unfolded = 0
    this.#forget()
  }

  prune(nowMs: number, kept: Kept): void {
    this.#fold(bucketOf('minute', nowMs - kept.minute))
    this.#transaction(() => {
      for (const [unit, name] of UNITS.entries()) {
        // Whole buckets: of a longer one that bounds a search, and of a minute that is not folded yet, nothing may be missing.
        const oldestMs = bucketOf(name, nowMs - kept[name])
        this.#db.prepare('UPDATE whole SET since = max(since, ?) WHERE unit = ?').run(oldestMs, unit)
        for (const table of [...TABLES, 'refusals']) this.#db.prepare(`DELETE FROM ${table} WHERE unit = ? AND bucket < ?`).run(unit, oldestMs)
        if (name !== 'day') continue
        const gone = this.#db.prepare('DELETE FROM models WHERE day < ?').run(oldestMs)
        if (Number(gone.changes) > 0) this.#db.exec('DELETE FROM combinations WHERE id NOT IN (SELECT combination FROM usage UNION SELECT combination FROM mix)')
      }
    })
    this.#forget()
  }

  close(): void {
    this.#db.close()
  }

  #add({ usage, accounts, mix }: Statements, { table, unit, bucket, account, names, currency, adding }: TableRow): void {
    const { sums: s, costNanos, latency, firstToken } = adding
    const at = UNITS.indexOf(unit)
    const values = [s[0]!, s[1]!, s[2]!, s[3]!, s[4]!, s[5]!, s[6]!, s[7]!, s[8]!, s[9]!, s[10]!, s[11]!, s[12]!, s[13]!, s[14]!, costNanos / NANOS, costNanos % NANOS, histogramText(latency), histogramText(firstToken)] as const
    switch (table) {
      case 'usage': usage.run(at, bucket, account, this.#combination(names), currency, ...values); break
      case 'accounts': accounts.run(at, bucket, account, currency, ...values); break
      case 'mix': mix.run(at, bucket, this.#combination(names), currency, ...values); break
    }
  }

  #combination(names: readonly string[]): number {
    const text = names.join(SEPARATOR)
    const known = this.#combinations.get(text)
    if (known !== undefined) return known
    if (this.#combinations.size >= COMBINATIONS_KEPT) this.#combinations.clear()
    const { combination, combine } = this.#statements!
    const id = Number(combination.get(...names)?.['id'] ?? combine.run(...names).lastInsertRowid)
    this.#combinations.set(text, id)
    return id
  }

  #model({ models: known, model: note }: Statements, day: number, account: string, model: string): string {
    const text = `${day}${SEPARATOR}${account}`
    let models = this.#models.get(text)
    if (models === undefined) {
      if (this.#models.size >= MODEL_DAYS_KEPT) this.#models.clear()
      models = new Set(known.all(day, account).map((row) => String(row['model'])))
      this.#models.set(text, models)
    }
    if (models.has(model) || model === OTHER) return model
    if (models.size >= (account === '' ? MODELS_OF_ALL : MODELS_MAX)) return OTHER
    models.add(model)
    note.run(day, account, model)
    return model
  }

  #refuse({ refuse, refusal, refusalRows }: Statements, unit: number, bucket: number, dimensions: RefusalCount['dimensions'], refused: number): void {
    const { account, key, limit, reason, model } = dimensions
    const place = `${unit}${SEPARATOR}${bucket}${SEPARATOR}${account}`
    let rows = this.#refused.get(place)
    if (rows === undefined) {
      if (this.#refused.size >= REFUSED_KEPT) this.#refused.clear()
      rows = Number(refusalRows.get(unit, bucket, account)?.['n'] ?? 0)
    }
    const names = rows < REFUSAL_ROWS_MAX || refusal.get(unit, bucket, account, key, limit, reason, model) !== undefined ? [key, limit, reason, model] : [OTHER, limit, reason, OTHER]
    const { changes } = refuse.run(unit, bucket, account, ...names, refused)
    this.#refused.set(place, Number(changes) > 0 && rows < REFUSAL_ROWS_MAX ? Number(refusalRows.get(unit, bucket, account)?.['n'] ?? 0) : rows)
  }

  #transaction(work: (statements: Statements) => void): void {
    this.#db.exec('BEGIN IMMEDIATE')
    try {
      work(this.#statements!)
      this.#db.exec('COMMIT')
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      // What was remembered of the file may not have become true.
      this.#forget()
      throw error
    }
  }

  #forget(): void {
    this.#models.clear()
    this.#combinations.clear()
    this.#refused.clear()
  }

  #make(): void {
    const values = [...numbers.map((name) => `${name} INTEGER NOT NULL`), 'latency TEXT NOT NULL', 'first_token TEXT NOT NULL'].join(', ')
    const place = 'unit INTEGER NOT NULL, bucket INTEGER NOT NULL'
    const rest = REFUSAL_DIMENSIONS.slice(1)
    const old = this.#db.prepare('SELECT name FROM sqlite_schema WHERE type = \'table\'').all().map(({ name }) => String(name))
    for (const table of old) this.#db.exec(`DROP TABLE IF EXISTS "${table}"`)
    this.#db.exec(`
      BEGIN;
      CREATE TABLE usage (${place}, account TEXT NOT NULL, combination INTEGER NOT NULL, currency TEXT NOT NULL, ${values}, PRIMARY KEY (unit, bucket, account, combination, currency)) WITHOUT ROWID;
      CREATE TABLE accounts (${place}, account TEXT NOT NULL, currency TEXT NOT NULL, ${values}, PRIMARY KEY (unit, bucket, account, currency)) WITHOUT ROWID;
      CREATE TABLE mix (${place}, combination INTEGER NOT NULL, currency TEXT NOT NULL, ${values}, PRIMARY KEY (unit, bucket, combination, currency)) WITHOUT ROWID;
      CREATE TABLE combinations (id INTEGER PRIMARY KEY, ${COMBINED.map((name) => `"${name}" TEXT NOT NULL`).join(', ')}, UNIQUE (${COMBINED.map((name) => `"${name}"`).join(', ')}));
      CREATE TABLE refusals (${place}, account TEXT NOT NULL, ${rest.map((name) => `"${name}" TEXT NOT NULL`).join(', ')}, refused INTEGER NOT NULL,
        PRIMARY KEY (unit, bucket, account, ${rest.map((name) => `"${name}"`).join(', ')})) WITHOUT ROWID;
      CREATE TABLE models (day INTEGER NOT NULL, account TEXT NOT NULL, model TEXT NOT NULL, PRIMARY KEY (day, account, model)) WITHOUT ROWID;
      CREATE TABLE state (last TEXT NOT NULL, folded INTEGER NOT NULL);
      INSERT INTO state VALUES ('', 0);
      CREATE TABLE whole (unit INTEGER PRIMARY KEY, since INTEGER NOT NULL);
      INSERT INTO whole VALUES ${UNITS.map((_unit, index) => `(${index}, 0)`).join(', ')};
      PRAGMA application_id = 0;
      PRAGMA user_version = ${FORMAT};
      COMMIT;
    `)
  }
}

interface Statements {
  readonly usage: StatementSync
  readonly accounts: StatementSync
  readonly mix: StatementSync
  readonly combination: StatementSync
  readonly combine: StatementSync
  readonly models: StatementSync
  readonly model: StatementSync
  readonly remember: StatementSync
  readonly markFolded: StatementSync
  /** From one minute on, before another. */
  readonly addHours: StatementSync
  /** The hours that were added up: into everything longer, one after the other. */
  readonly folds: readonly StatementSync[]
  readonly refuse: StatementSync
  readonly refusal: StatementSync
  readonly refusalRows: StatementSync
}

function prepareAll(db: DatabaseSync): Statements {
  const adding = [...numbers.map((name) => `${name} = ${name} + excluded.${name}`), ...['latency', 'first_token'].map((name) => `${name} = ${mergedSql(name)}`)].join(', ')
  const sums = [...numbers.map((name) => `sum(${name}) AS ${name}`), ...['latency', 'first_token'].map((name) => `coalesce(group_concat(nullif(${name}, '')), '') AS ${name}`)].join(', ')
  const shortened = [...numbers, ...['latency', 'first_token'].map((name) => `CASE WHEN length(${name}) < ${HISTOGRAM_SHORT} THEN ${name} ELSE merged(${name}, '') END`)].join(', ')
  // Hours are added up once, and given to whoever is longer in the order in which it lies.
  db.exec(`CREATE TEMP TABLE usage_hours (bucket, account, combination, currency, ${measures.join(', ')}); CREATE TEMP TABLE account_hours (bucket, account, currency, ${measures.join(', ')})`)
  const fold = (table: 'usage' | 'accounts', unit: Unit): StatementSync => {
    const keys = table === 'usage' ? ['account', 'combination', 'currency'] : ['account', 'currency']
    const bucket = unit === 'month' ? `unixepoch(bucket / 1000, 'unixepoch', 'start of month') * 1000` : unit === 'day' ? 'bucket - bucket % 86400000' : 'bucket'
    return db.prepare(`INSERT INTO ${table} (unit, bucket, ${[...keys, ...measures].join(', ')}) SELECT ${UNITS.indexOf(unit)}, ${bucket}, ${[...keys, ...measures].join(', ')}
      FROM ${table === 'usage' ? 'usage_hours' : 'account_hours'} WHERE true ON CONFLICT DO UPDATE SET ${adding}`)
  }
  const insert = (table: Table, keys: readonly string[]): StatementSync =>
    db.prepare(`INSERT INTO ${table} (${[...keys, ...measures].join(', ')}) VALUES (${[...keys, ...measures].map(() => '?').join(', ')}) ON CONFLICT DO UPDATE SET ${adding}`)
  const rest = REFUSAL_DIMENSIONS.slice(1).map((name) => `"${name}"`)
  const each = COMBINED.map((name) => `"${name}"`)
  return {
    usage: insert('usage', ['unit', 'bucket', 'account', 'combination', 'currency']),
    accounts: insert('accounts', ['unit', 'bucket', 'account', 'currency']),
    mix: insert('mix', ['unit', 'bucket', 'combination', 'currency']),
    combination: db.prepare(`SELECT id FROM combinations WHERE ${each.map((name) => `${name} = ?`).join(' AND ')}`),
    combine: db.prepare(`INSERT INTO combinations (${each.join(', ')}) VALUES (${each.map(() => '?').join(', ')})`),
    models: db.prepare('SELECT model FROM models WHERE day = ? AND account = ?'),
    model: db.prepare('INSERT OR IGNORE INTO models VALUES (?, ?, ?)'),
    remember: db.prepare('UPDATE state SET last = ?'),
    markFolded: db.prepare('UPDATE state SET folded = ?'),
    addHours: db.prepare(`INSERT INTO usage_hours SELECT hour, account, combination, currency, ${shortened} FROM (SELECT bucket - bucket % 3600000 AS hour, account, combination, currency, ${sums}
      FROM usage WHERE unit = 0 AND bucket >= ? AND bucket < ? GROUP BY hour, account, combination, currency)`),
    folds: [
      db.prepare(`INSERT INTO account_hours SELECT bucket, account, currency, ${shortened} FROM (SELECT bucket, account, currency, ${sums} FROM usage_hours GROUP BY bucket, account, currency)`),
      fold('usage', 'hour'), fold('usage', 'day'), fold('accounts', 'hour'), fold('accounts', 'day'), fold('accounts', 'month'),
      db.prepare('DELETE FROM usage_hours'), db.prepare('DELETE FROM account_hours'),
    ],
    refuse: db.prepare(`INSERT INTO refusals (unit, bucket, account, ${rest.join(', ')}, refused) VALUES (?, ?, ?, ${rest.map(() => '?').join(', ')}, ?) ON CONFLICT DO UPDATE SET refused = refused + excluded.refused`),
    refusal: db.prepare(`SELECT 1 FROM refusals WHERE unit = ? AND bucket = ? AND account = ? AND ${rest.map((name) => `${name} = ?`).join(' AND ')}`),
    refusalRows: db.prepare('SELECT count(*) AS n FROM refusals WHERE unit = ? AND bucket = ? AND account = ?'),
  }
}

/** Added behind each other for as long as that is short: counting slots together costs more than writing the row. */
function mergedSql(name: string): string {
  return `CASE WHEN ${name} = '' THEN excluded.${name} WHEN excluded.${name} = '' THEN ${name} WHEN length(${name}) + length(excluded.${name}) < ${HISTOGRAM_SHORT}
    THEN ${name} || ',' || excluded.${name} ELSE merged(${name}, excluded.${name}) END`
}

const HISTOGRAM_SHORT = 400

/** Accounts whose minutes are looked up one by one. */
const LOOKED_UP_MAX = 20

interface Span {
  readonly fromMs: number
  readonly untilMs: number
}

interface Source {
  /** With the columns bucket, those of the dimensions, currency and measures. */
  readonly from: string
  readonly given: readonly (string | number)[]
}

/**
 * Where the rows are that a question is about: in the longest units that lie within its time, unless it wants a row for each bucket; and those of minutes that are not added
 * up into longer units yet. `accounts`: only of these.
 */
function sourceFor({ unit: asked, fromMs, untilMs, by, only, series }: UsageQuestion, unfolded: Span, accounts: readonly string[] | null): Source {
  const named = [...new Set([...by, ...DIMENSIONS.filter((dimension) => only[dimension] !== undefined)])]
  const { table, unit: finest } = sourceOf(asked, named)
  const account = table === 'accounts' && named.length === 0 ? '' : only.account
  const of = account === undefined ? accounts : [account]
  const others = DIMENSIONS.filter((dimension) => dimension !== 'account' && only[dimension] !== undefined)
  const joined = named.some((dimension) => dimension !== 'account')
  const columns = [...(table === 'mix' ? [] : ['account']), ...(joined ? COMBINED.filter((name) => named.includes(name)).map((name) => `"${name}"`) : []), 'currency', ...measures]
  const given: (string | number)[] = []
  const part = (from: Table, unit: Unit, { fromMs: sinceMs, untilMs: beforeMs }: Span, scans = false): string => {
    const where = ['unit = ?']
    given.push(UNITS.indexOf(unit))
    if (of !== null && table !== 'mix' && !scans) {
      // Bucket by bucket, of each only what is theirs.
      where.push('bucket IN (SELECT value FROM json_each(?))', 'account IN (SELECT value FROM json_each(?))')
      given.push(JSON.stringify(bucketsBetween(unit, sinceMs, beforeMs)), JSON.stringify(of))
    } else {
      where.push('bucket >= ?', 'bucket < ?')
      given.push(sinceMs, beforeMs)
      if (of !== null && table !== 'mix') {
        where.push('account IN (SELECT value FROM json_each(?))')
        given.push(JSON.stringify(of))
      } else if (table === 'accounts') where.push('account <> \'\'')
    }
    for (const dimension of others) {
      where.push(`"${dimension}" = ?`)
      given.push(only[dimension] ?? '')
    }
    // The rows' own order is the way in; the other way round would look at every combination in every bucket.
    return `SELECT bucket, ${columns.join(', ')} FROM ${from}${joined ? ' CROSS JOIN combinations ON combinations.id = combination' : ''} WHERE ${where.join(' AND ')}`
  }
  const units = series ? [finest] : UNITS.slice(UNITS.indexOf(finest)).filter((unit) => keptIn(table, account).includes(unit))
  const segments = segmentsOf(units, fromMs, untilMs)
  const parts = segments.map((segment) => part(table, segment.unit, segment))
  if (table === 'usage' || (table === 'accounts' && account !== '')) {
    for (const segment of segments) {
      const minutes = { fromMs: Math.max(segment.fromMs, unfolded.fromMs), untilMs: Math.min(segment.untilMs, unfolded.untilMs) }
      // They are few; of many accounts it would be dearer to look them up.
      if (segment.unit !== 'minute' && minutes.fromMs < minutes.untilMs) parts.push(part('usage', 'minute', minutes, of !== null && of.length > LOOKED_UP_MAX))
    }
  }
  return { from: `(${parts.join(' UNION ALL ')})`, given }
}

function together(one: Counts, other: Counts): Counts {
  const latency = new Map(one.latency)
  const firstToken = new Map(one.first_token)
  addHistogram(latency, other.latency)
  addHistogram(firstToken, other.first_token)
  return { ...Object.fromEntries(SUMS.map((name) => [name, one[name] + other[name]])) as Record<Sum, number>, cost_nanos: one.cost_nanos + other.cost_nanos, latency, first_token: firstToken }
}

function added(sum: SQLInputValue, text: SQLInputValue): SQLInputValue {
  addHistogramText(sum as unknown as Map<number, number>, String(text))
  return sum
}

function merged(one: string, other: string): string {
  const sum = new Map<number, number>()
  addHistogramText(sum, one)
  addHistogramText(sum, other)
  return histogramText(sum)
}
