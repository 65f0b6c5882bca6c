import { DatabaseSync } from 'node:sqlite'
import type { StatementSync } from 'node:sqlite'
import { addHistogram, Adding, histogramOf, histogramText, noHistogram, SUMS } from './counts.ts'
import type { Counts, Sum } from './counts.ts'
import { bucketOf, DIMENSIONS, REFUSAL_DIMENSIONS, ROWS_MAX, UNITS } from './rollups.ts'
import type {
  Counted, Dimension, Dimensions, Increment, Kept, RefusalCount, RefusalQuestion, RefusalRow, UsageQuestion, UsageRow,
} from './rollups.ts'

/**
 * Roll-ups in a SQLite file, used in a thread of its own. It holds nothing that cannot be made again from the events, so it is not synced at every step:
 * rows and the ids of the last batch are one transaction, and what a power cut takes back is found to be uncounted, together.
 *
 * | table | rows |
 * | --- | --- |
 * | `usage` | of an account and bucket, one for each combination of the other dimensions (`combinations`) |
 * | `totals` | of a bucket over all accounts, one for each value of one dimension; of the dimension '' one in all |
 * | `refusals` | refused calls |
 * | `models` | which models an account has named on a day: beyond MODELS_MAX they are `other` |
 * | `counted` | ids of the last batch |
 */

const FORMAT = 1
/** The mark of a file whose roll-ups were once made whole. */
const COMPLETE = 1
/** Of an account and day: their names are the callers' own text. */
const MODELS_MAX = 200
/** Of refused calls, of an account and bucket. */
const REFUSAL_ROWS_MAX = 200
const OTHER = 'other'
const SEPARATOR = '\u001f'

const combined = DIMENSIONS.filter((dimension) => dimension !== 'account')
/** Dimensions that have totals. Keys are as many as accounts, and are asked for within one. */
const totalled = DIMENSIONS.filter((dimension) => dimension !== 'key')
/** Longer than this, what is told apart by more than one dimension is added up from days. */
const LONGEST_OF_USAGE = UNITS.indexOf('day')
const numbers = [...SUMS, 'cost_nanos'] as const
const measures = [...numbers, 'latency', 'first_token'] as const

export class RollupFile {
  readonly #db: DatabaseSync
  readonly #statements: Statements
  readonly #combinations = new Map<string, number>()
  /** `day account` → its models; the days that are being counted. */
  readonly #models = new Map<string, Set<string>>()
  #last: Set<string>

  /** Opens the file or makes it; one of another format is made anew. */
  constructor(path: string) {
    this.#db = new DatabaseSync(path, { timeout: 5_000 })
    this.#db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16000')
    this.#db.function('merged', { deterministic: true }, (one, other) => merged(String(one), String(other)))
    this.#db.aggregate('histogram', { start: '', step: (sum, text) => merged(String(sum), String(text)) })
    if (this.#db.prepare('PRAGMA user_version').get()?.['user_version'] !== FORMAT) this.#make()
    this.#statements = prepareAll(this.#db)
    this.#last = new Set(this.#db.prepare('SELECT id FROM counted').all().map(({ id }) => String(id)))
    for (const row of this.#db.prepare('SELECT * FROM combinations').all()) this.#combinations.set(combined.map((name) => String(row[name])).join(SEPARATOR), Number(row['id']))
  }

  count(batch: readonly Counted[]): void {
    const fresh = batch.filter(({ id }) => !this.#last.has(id))
    this.#transaction(() => {
      this.#add(fresh.map(({ increment }) => increment))
      this.#statements.forget.run()
      for (const { id } of batch) this.#statements.remember.run(id)
    })
    this.#last = new Set(batch.map(({ id }) => id))
  }

  countArchived(batch: readonly Increment[]): void {
    this.#transaction(() => this.#add(batch))
  }

  countRefusals(batch: readonly RefusalCount[]): void {
    this.#transaction(() => {
      for (const { atMs, dimensions, refused } of batch) {
        for (const [unit, name] of UNITS.entries()) {
          const bucket = bucketOf(name, atMs)
          const known = this.#statements.refusal.get(unit, dimensions.account, bucket, ...REFUSAL_DIMENSIONS.slice(1).map((dimension) => dimensions[dimension])) !== undefined
          const full = !known && Number(this.#statements.refusalRows.get(unit, dimensions.account, bucket)?.['n']) >= REFUSAL_ROWS_MAX
          const kept = full ? { ...dimensions, key: OTHER, model: OTHER } : dimensions
          this.#statements.refuse.run(unit, kept.account, bucket, ...REFUSAL_DIMENSIONS.slice(1).map((dimension) => kept[dimension]), refused)
        }
      }
    })
  }

  usage(question: UsageQuestion): UsageRow[] {
    const { by, series, only, latencies } = question
    const named = [...new Set([...by, ...DIMENSIONS.filter((dimension) => only[dimension] !== undefined)])]
    const [single] = named
    const hasTotals = named.length === 0 || (named.length === 1 && single !== 'key')
    const from = hasTotals ? { sql: 'totals', where: ['dimension = ?'], given: [single ?? ''], column: () => 'name' } : usageTable(named)
    const unit = hasTotals ? UNITS.indexOf(question.unit) : Math.min(UNITS.indexOf(question.unit), LONGEST_OF_USAGE)
    const where = [...from.where, 'unit = ?', 'bucket >= ?', 'bucket < ?']
    const given: (string | number)[] = [...from.given, unit, question.fromMs, question.untilMs]
    for (const dimension of DIMENSIONS) {
      const value = only[dimension]
      if (value === undefined) continue
      where.push(`${from.column(dimension)} = ?`)
      given.push(value)
    }
    const columnsOf = by.map((dimension) => from.column(dimension))
    if (question.top !== null && by.length > 0) {
      // Which ones, first: adding up one number is much cheaper than adding up all.
      const best = this.#db.prepare(`SELECT ${columnsOf.map((column, index) => `${column} AS g${index}`).join(', ')} FROM ${from.sql} WHERE ${where.join(' AND ')}
        GROUP BY ${columnsOf.join(', ')} ORDER BY sum(${question.top.of}) DESC LIMIT ?`).all(...given, question.top.count)
      if (best.length === 0) return []
      where.push(`(${columnsOf.join(', ')}) IN (VALUES ${best.map(() => `(${columnsOf.map(() => '?').join(', ')})`).join(', ')})`)
      given.push(...best.flatMap((row) => columnsOf.map((_column, index) => String(row[`g${index}`]))))
    }
    const groups = [...(series ? ['bucket'] : []), ...columnsOf, 'currency']
    const columns = [...numbers.map((name) => `sum(${name}) AS ${name}`), ...(latencies ? ['histogram(latency) AS latency', 'histogram(first_token) AS first_token'] : [])]
    const sql = `SELECT ${[...groups.map((group, index) => `${group} AS g${index}`), ...columns].join(', ')} FROM ${from.sql} WHERE ${where.join(' AND ')} GROUP BY ${groups.join(', ')}`
    const statement = this.#db.prepare(sql)
    statement.setReadBigInts(true)
    const rows = new Map<string, UsageRow>()
    for (const row of statement.iterate(...given) as IterableIterator<Record<string, unknown>>) {
      const key = groups.slice(0, -1).map((_group, index) => String(series && index === 0 ? bucketOf(question.unit, Number(row['g0'])) : row[`g${index}`]))
      const counts: Counts = {
        ...Object.fromEntries(SUMS.map((name) => [name, Number(row[name])])) as Record<Sum, number>, cost_nanos: BigInt(row['cost_nanos'] as bigint),
        latency: latencies ? histogramOf(String(row['latency'])) : noHistogram, first_token: latencies ? histogramOf(String(row['first_token'])) : noHistogram,
      }
      const currency = String(row[`g${groups.length - 1}`])
      const text = key.join(SEPARATOR)
      const before = rows.get(text)
      const costs = new Map(before?.costs)
      if (currency !== '') costs.set(currency, (costs.get(currency) ?? 0n) + counts.cost_nanos)
      const names = series ? key.slice(1) : key
      rows.set(text, {
        fromMs: series ? Number(key[0]) : null, by: Object.fromEntries(by.map((dimension, index) => [dimension, names[index] ?? ''])),
        counts: before === undefined ? counts : new Adding().add(before.counts).add(counts).sum(), costs,
      })
      if (question.top === null && rows.size >= ROWS_MAX) break
    }
    return sorted([...rows.values()], question)
  }

  refusals({ unit, fromMs, untilMs, by, series, only }: RefusalQuestion): RefusalRow[] {
    const where = ['unit = ?', 'bucket >= ?', 'bucket < ?']
    const given: (string | number)[] = [UNITS.indexOf(unit), fromMs, untilMs]
    for (const dimension of REFUSAL_DIMENSIONS) {
      const value = only[dimension]
      if (value === undefined) continue
      where.push(`"${dimension}" = ?`)
      given.push(value)
    }
    const groups = [...(series ? ['bucket'] : []), ...by.map((dimension) => `"${dimension}"`)]
    const statement = this.#db.prepare(`SELECT ${[...groups.map((group, index) => `${group} AS g${index}`), 'sum(refused) AS refused'].join(', ')} FROM refusals WHERE ${where.join(' AND ')}
      ${groups.length === 0 ? '' : `GROUP BY ${groups.join(', ')}`} ORDER BY refused DESC LIMIT ${ROWS_MAX}`)
    return statement.all(...given).filter(({ refused }) => refused !== null).map((row) => ({
      fromMs: series ? Number(row['g0']) : null, by: Object.fromEntries(by.map((dimension, index) => [dimension, String(row[`g${index + (series ? 1 : 0)}`])])), refused: Number(row['refused']),
    }))
  }

  isNew(): boolean {
    return this.#db.prepare('PRAGMA application_id').get()?.['application_id'] !== COMPLETE
  }

  complete(): void {
    this.#db.exec(`PRAGMA application_id = ${COMPLETE}`)
  }

  reset(): void {
    this.#transaction(() => this.#db.exec('DELETE FROM usage; DELETE FROM totals; DELETE FROM models; DELETE FROM counted; DELETE FROM combinations; PRAGMA application_id = 0'))
    this.#last = new Set()
    this.#models.clear()
    this.#combinations.clear()
  }

  prune(nowMs: number, kept: Kept): void {
    this.#transaction(() => {
      for (const [unit, name] of UNITS.entries()) {
        const oldestMs = nowMs - kept[name]
        for (const table of ['usage', 'totals', 'refusals']) this.#db.prepare(`DELETE FROM ${table} WHERE unit = ? AND bucket < ?`).run(unit, oldestMs)
        if (name === 'day') this.#db.prepare('DELETE FROM models WHERE day < ?').run(oldestMs)
      }
    })
    this.#models.clear()
  }

  close(): void {
    this.#db.close()
  }

  #add(increments: readonly Increment[]): void {
    // Many events come to few rows: they are added up before they are written, by the minute and then for what is longer and coarser.
    const byMinute = new Map<string, { readonly first: Increment; readonly adding: Adding }>()
    for (const increment of increments) {
      const { dimensions, currency, atMs, counts } = increment
      const text = `${bucketOf('minute', atMs)}${SEPARATOR}${currency}${SEPARATOR}${DIMENSIONS.map((dimension) => dimensions[dimension]).join(SEPARATOR)}`
      let known = byMinute.get(text)
      if (known === undefined) byMinute.set(text, known = { first: increment, adding: new Adding() })
      known.adding.add(counts)
    }
    const usage: Gathered = new Map()
    const totals: Gathered = new Map()
    for (const { first: { atMs, dimensions: given, currency }, adding } of byMinute.values()) {
      const counts = adding.sum()
      const dimensions: Dimensions = { ...given, model: this.#model(bucketOf('day', atMs), given.account, given.model) }
      const combination = this.#combination(dimensions)
      for (const [unit, name] of UNITS.entries()) {
        const bucket = bucketOf(name, atMs)
        if (name !== 'month') gather(usage, [unit, dimensions.account, bucket, combination, currency], counts)
        gather(totals, ['', unit, bucket, '', currency], counts)
        for (const dimension of totalled) gather(totals, [dimension, unit, bucket, dimensions[dimension], currency], counts)
      }
    }
    for (const { row, adding } of usage.values()) this.#statements.usage.run(...row, ...valuesOf(adding.sum()))
    for (const { row, adding } of totals.values()) this.#statements.total.run(...row, ...valuesOf(adding.sum()))
  }

  #combination(dimensions: Dimensions): number {
    const values = combined.map((dimension) => dimensions[dimension])
    const text = values.join(SEPARATOR)
    const known = this.#combinations.get(text)
    if (known !== undefined) return known
    const id = Number(this.#statements.combine.run(...values).lastInsertRowid)
    this.#combinations.set(text, id)
    return id
  }

  #model(day: number, account: string, model: string): string {
    const text = `${day}${SEPARATOR}${account}`
    let models = this.#models.get(text)
    if (models === undefined) {
      if (this.#models.size >= MODELS_KEPT) this.#models.clear()
      models = new Set(this.#statements.models.all(day, account).map((row) => String(row['model'])))
      this.#models.set(text, models)
    }
    if (models.has(model)) return model
    if (models.size >= MODELS_MAX) return OTHER
    models.add(model)
    this.#statements.model.run(day, account, model)
    return model
  }

  #transaction(work: () => void): void {
    this.#db.exec('BEGIN IMMEDIATE')
    try {
      work()
      this.#db.exec('COMMIT')
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      // What was remembered of the file may not have become true.
      this.#models.clear()
      this.#combinations.clear()
      throw error
    }
  }

  #make(): void {
    const values = [...numbers.map((name) => `${name} INTEGER NOT NULL`), 'latency TEXT NOT NULL', 'first_token TEXT NOT NULL'].join(', ')
    const texts = (dimensions: readonly string[]): string => dimensions.map((name) => `"${name}" TEXT NOT NULL`).join(', ')
    for (const table of ['usage', 'totals', 'refusals', 'models', 'counted', 'combinations']) this.#db.exec(`DROP TABLE IF EXISTS ${table}`)
    this.#db.exec(`
      BEGIN;
      CREATE TABLE usage (unit INTEGER NOT NULL, account TEXT NOT NULL, bucket INTEGER NOT NULL, combination INTEGER NOT NULL, currency TEXT NOT NULL, ${values},
        PRIMARY KEY (unit, account, bucket, combination, currency)) WITHOUT ROWID;
      CREATE INDEX usage_by_bucket ON usage (unit, bucket);
      CREATE TABLE combinations (id INTEGER PRIMARY KEY, ${texts(combined)}, UNIQUE (${combined.map((name) => `"${name}"`).join(', ')}));
      CREATE TABLE totals (dimension TEXT NOT NULL, unit INTEGER NOT NULL, bucket INTEGER NOT NULL, name TEXT NOT NULL, currency TEXT NOT NULL, ${values},
        PRIMARY KEY (dimension, unit, bucket, name, currency)) WITHOUT ROWID;
      CREATE TABLE refusals (unit INTEGER NOT NULL, ${texts(['account'])}, bucket INTEGER NOT NULL, ${texts(REFUSAL_DIMENSIONS.slice(1))}, refused INTEGER NOT NULL,
        PRIMARY KEY (unit, account, bucket, ${REFUSAL_DIMENSIONS.slice(1).map((name) => `"${name}"`).join(', ')})) WITHOUT ROWID;
      CREATE TABLE models (day INTEGER NOT NULL, account TEXT NOT NULL, model TEXT NOT NULL, PRIMARY KEY (day, account, model)) WITHOUT ROWID;
      CREATE TABLE counted (id TEXT PRIMARY KEY) WITHOUT ROWID;
      PRAGMA application_id = 0;
      PRAGMA user_version = ${FORMAT};
      COMMIT;
    `)
  }
}

const MODELS_KEPT = 50_000

interface Statements {
  readonly usage: StatementSync
  readonly total: StatementSync
  readonly combine: StatementSync
  readonly models: StatementSync
  readonly model: StatementSync
  readonly forget: StatementSync
  readonly remember: StatementSync
  readonly refuse: StatementSync
  readonly refusal: StatementSync
  readonly refusalRows: StatementSync
}

function prepareAll(db: DatabaseSync): Statements {
  const adding = [...numbers.map((name) => `${name} = ${name} + excluded.${name}`), ...['latency', 'first_token'].map((name) => `${name} = merged(${name}, excluded.${name})`)].join(', ')
  const insert = (table: string, keys: readonly string[]): StatementSync =>
    db.prepare(`INSERT INTO ${table} (${[...keys, ...measures].join(', ')}) VALUES (${[...keys, ...measures].map(() => '?').join(', ')}) ON CONFLICT DO UPDATE SET ${adding}`)
  const rest = REFUSAL_DIMENSIONS.slice(1).map((name) => `"${name}"`)
  return {
    usage: insert('usage', ['unit', 'account', 'bucket', 'combination', 'currency']),
    total: insert('totals', ['dimension', 'unit', 'bucket', 'name', 'currency']),
    combine: db.prepare(`INSERT INTO combinations (${combined.map((name) => `"${name}"`).join(', ')}) VALUES (${combined.map(() => '?').join(', ')})`),
    models: db.prepare('SELECT model FROM models WHERE day = ? AND account = ?'),
    model: db.prepare('INSERT OR IGNORE INTO models VALUES (?, ?, ?)'),
    forget: db.prepare('DELETE FROM counted'),
    remember: db.prepare('INSERT OR IGNORE INTO counted VALUES (?)'),
    refuse: db.prepare(`INSERT INTO refusals (unit, account, bucket, ${rest.join(', ')}, refused) VALUES (?, ?, ?, ${rest.map(() => '?').join(', ')}, ?) ON CONFLICT DO UPDATE SET refused = refused + excluded.refused`),
    refusal: db.prepare(`SELECT 1 FROM refusals WHERE unit = ? AND account = ? AND bucket = ? AND ${rest.map((name) => `${name} = ?`).join(' AND ')}`),
    refusalRows: db.prepare('SELECT count(*) AS n FROM refusals WHERE unit = ? AND account = ? AND bucket = ?'),
  }
}

/** Where more than one dimension is asked for. Without an account the index by bucket finds the rows. */
function usageTable(named: readonly Dimension[]): { sql: string; where: string[]; given: string[]; column(dimension: Dimension): string } {
  const joined = named.some((dimension) => dimension !== 'account')
  return {
    sql: `usage${joined ? ' JOIN combinations ON combinations.id = combination' : ''}`, where: [], given: [], column: (dimension) => `"${dimension}"`,
  }
}

type Gathered = Map<string, { readonly row: readonly (string | number)[]; readonly adding: Adding }>

function gather(rows: Gathered, row: readonly (string | number)[], counts: Counts): void {
  const text = row.join(SEPARATOR)
  let known = rows.get(text)
  if (known === undefined) rows.set(text, known = { row, adding: new Adding() })
  known.adding.add(counts)
}

function valuesOf(counts: Counts): (number | bigint | string)[] {
  return [...SUMS.map((name) => counts[name]), counts.cost_nanos, histogramText(counts.latency), histogramText(counts.first_token)]
}

function merged(one: string, other: string): string {
  if (one === '' || other === '') return one === '' ? other : one
  const sum = new Map(histogramOf(one))
  addHistogram(sum, histogramOf(other))
  return histogramText(sum)
}

/** In the order of time, then by how much there is of what was asked for. */
function sorted(rows: readonly UsageRow[], { top }: Pick<UsageQuestion, 'top'>): UsageRow[] {
  const of = top?.of ?? 'requests'
  return [...rows].sort((a, b) => (a.fromMs ?? 0) - (b.fromMs ?? 0) || Number(b.counts[of]) - Number(a.counts[of])).slice(0, ROWS_MAX)
}
