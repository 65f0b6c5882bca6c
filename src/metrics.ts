import { AggregatorRegistry, Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { CounterConfiguration, HistogramConfiguration, LabelValues, MetricObjectWithValues, MetricValue, MetricValueWithName } from 'prom-client'

/** What one process has measured: plain data that can be sent to another. */
export type MetricsSnapshot = readonly MetricObjectWithValues<MetricValue<string>>[]

const secondsOfCalls = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
const secondsToBegin = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
const secondsPerToken = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1]
const secondsOfOurs = [0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1]

interface LabelNode<Series> {
  series: Series | null
  readonly next: Map<string | number | undefined, LabelNode<Series>>
}

/** Something for each combination of labels, found without making a text of them: that would cost more than all the rest. */
class SeriesOf<L extends string, Series> {
  readonly all: Series[] = []
  readonly #names: readonly L[]
  readonly #begin: (labels: LabelValues<L>) => Series
  readonly #root: LabelNode<Series> = { series: null, next: new Map() }

  constructor(names: readonly L[], begin: (labels: LabelValues<L>) => Series) {
    this.#names = names
    this.#begin = begin
  }

  of(labels: LabelValues<L>): Series {
    let node = this.#root
    for (let i = 0; i < this.#names.length; i++) {
      const value = labels[this.#names[i]!]
      let next = node.next.get(value)
      if (next === undefined) node.next.set(value, next = { series: null, next: new Map() })
      node = next
    }
    if (node.series === null) this.all.push(node.series = this.#begin(labels))
    return node.series
  }
}

/** For what every call counts: it is added up here, and told to prom-client, which costs ten times as much, when it is read. */
class CallCounter<L extends string> extends Counter<L> {
  readonly #untold: SeriesOf<L, { readonly labels: LabelValues<L>; value: number }>
  readonly #tell: (labels: LabelValues<L>, value: number) => void

  constructor(configuration: CounterConfiguration<L> & { readonly labelNames: L[] }) {
    super(configuration)
    this.#untold = new SeriesOf(configuration.labelNames, (labels) => ({ labels, value: 0 }))
    this.#tell = this.inc.bind(this)
    this.inc = (labels: unknown, value?: number): void => {
      this.#untold.of(labels as LabelValues<L>).value += value ?? 1
    }
  }

  override get(): Promise<MetricObjectWithValues<MetricValue<L>>> {
    for (const series of this.#untold.all) {
      this.#tell(series.labels, series.value)
      series.value = 0
    }
    return super.get()
  }
}

const noLabels = {}

/** The same for what every call measures: prom-client makes a text of every bucket's bound each time. */
class CallHistogram<L extends string> extends Histogram<L> {
  readonly #series: SeriesOf<L, { readonly labels: LabelValues<L>; readonly counts: number[]; sum: number }>
  readonly #bounds: readonly number[]
  readonly #about: { readonly name: string; readonly help: string }

  constructor(configuration: HistogramConfiguration<L> & { readonly labelNames: L[]; readonly buckets: number[] }) {
    super(configuration)
    const { name, help, labelNames, buckets } = configuration
    this.#bounds = buckets
    this.#about = { name, help }
    this.#series = new SeriesOf(labelNames, (labels) => ({ labels, counts: [...buckets.map(() => 0), 0], sum: 0 }))
    if (labelNames.length === 0) this.#series.of(noLabels)
    this.observe = (labels: unknown, value?: number): void => {
      if (typeof labels === 'number') this.#observe(noLabels, labels)
      else this.#observe(labels as LabelValues<L>, value ?? NaN)
    }
  }

  #observe(labels: LabelValues<L>, value: number): void {
    if (!Number.isFinite(value)) throw new TypeError(`${this.#about.name}: ${value} is no duration`)
    const series = this.#series.of(labels)
    let bucket = 0
    while (bucket < this.#bounds.length && value > this.#bounds[bucket]!) bucket += 1
    series.counts[bucket]! += 1
    series.sum += value
  }

  override async get(): Promise<MetricObjectWithValues<MetricValueWithName<L>>> {
    const { name } = this.#about
    const values: MetricValueWithName<L>[] = []
    for (const { labels, counts, sum } of this.#series.all) {
      let below = 0
      for (const [index, count] of counts.entries()) {
        below += count
        values.push({ value: below, labels: { le: this.#bounds[index] ?? '+Inf', ...labels }, metricName: `${name}_bucket` })
      }
      values.push({ value: sum, labels, metricName: `${name}_sum` }, { value: below, labels, metricName: `${name}_count` })
    }
    // Its types are not what it gives.
    return { ...this.#about, type: 'histogram', aggregator: 'sum', values } as unknown as MetricObjectWithValues<MetricValueWithName<L>>
  }

  /** What the registry asks for when it writes text. */
  getForPromString(): Promise<MetricObjectWithValues<MetricValueWithName<L>>> {
    return this.get()
  }
}

/**
 * Everything measured, in one place. Label values come from closed sets or from the configuration: nothing that a caller sends becomes a label. What the names
 * mean is told in docs/metrics.md, and a test compares the two.
 */
export class Metrics {
  readonly registry = new Registry()
  /** Run before anything is read: what is only worth knowing then. */
  readonly beforeReading: (() => void)[] = []

  // What callers ask, and what they get. `model`: a name or pattern of the configuration, else `other`.
  readonly requests = this.#callCounter('tallygate_requests_total', 'Requests by outcome.', ['provider', 'endpoint', 'outcome'])
  readonly refusals = this.#counter('tallygate_refusals_total', 'Refused and failed requests by reason.', ['reason'])
  readonly tokens = this.#callCounter('tallygate_tokens_total', 'Settled tokens by type.', ['provider', 'model', 'type'])
  readonly duration = this.#histogram('tallygate_request_duration_seconds', 'From the request to the end of its answer.', ['endpoint'], secondsOfCalls)
  readonly firstByte = this.#histogram('tallygate_time_to_first_byte_seconds', 'From the request to the first byte of its answer.', ['endpoint'], secondsToBegin)
  readonly firstToken = this.#histogram('tallygate_time_to_first_token_seconds', 'From the request to the first piece of a streamed answer.', ['provider', 'model'], secondsToBegin)
  readonly perToken = this.#histogram('tallygate_time_per_output_token_seconds', 'Time for each output token of a streamed answer after its first piece.', ['provider', 'model'], secondsPerToken)
  readonly upstreamDuration = this.#histogram('tallygate_upstream_duration_seconds', 'From sending to an upstream to the end of its answer.', ['upstream'], secondsOfCalls)
  readonly overhead = this.#histogram('tallygate_gateway_overhead_seconds', 'What the gateway itself added to a completed call.', [], secondsOfOurs)
  readonly open = this.#gauge('tallygate_exchanges_open', 'Exchanges in flight.', [])
  readonly rejected = this.#counter('tallygate_rejected_total', 'Requests refused at the edge as malformed, by why.', ['why'])
  readonly badKeys = this.#counter('tallygate_bad_keys_total', 'Requests with an unknown key.', ['braked'])

  // What is billed.
  readonly settlements = this.#callCounter('tallygate_settlements_total', 'Settlements by how the exchange ended and who counted.', ['end', 'usage_source'])
  readonly zeroCharges = this.#counter('tallygate_zero_charges_total', 'Completed answers that were billed with no usage, or with an estimate.', ['provider', 'why'])
  readonly alarms = this.#counter('tallygate_meter_alarms_total', 'Answers whose usage was missing, unreadable or conflicting.', ['provider', 'alarm'])
  readonly overruns = this.#counter('tallygate_overruns_total', 'Settlements beyond every ceiling.', [])
  readonly shadowed = this.#counter('tallygate_shadow_refusals_total', 'Calls that a shadow limit would have refused, by limit; other: a limit that is not of the plan.', ['plan', 'limit'])

  // The books.
  readonly storeLatency = this.#histogram('tallygate_store_seconds', 'Store moves.', ['move'], [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1])
  readonly storeAdmitting = this.#gauge('tallygate_store_admitting', '1 while the store admits.', [], 'min')
  readonly reservations = this.#gauge('tallygate_reservations_open', 'Reservations that calls in flight hold.', [])
  readonly unsettled = this.#gauge('tallygate_settlements_waiting', 'Settlements not yet durable.', [])
  readonly spoolEntries = this.#gauge('tallygate_spool_settlements', 'Settlements on this gateway\'s disk that the store has not taken yet.', [])
  readonly spoolBytes = this.#gauge('tallygate_spool_bytes', 'Size of what is in the spool.', [])
  readonly spoolAge = this.#gauge('tallygate_spool_oldest_seconds', 'Age of the oldest settlement in the spool.', [], 'max')

  // What is told to others.
  readonly outboxLag = this.#gauge('tallygate_outbox_events', 'Events not yet delivered, by sink.', ['sink'], 'max')
  readonly outboxAge = this.#gauge('tallygate_outbox_oldest_seconds', 'How long the oldest event has waited since it could be delivered, by sink.', ['sink'], 'max')
  readonly dead = this.#gauge('tallygate_dead_events', 'Buried events, by sink.', ['sink'], 'max')
  readonly outboxMissed = this.#counter('tallygate_outbox_missed_total', 'Events that were removed before a sink had them, by sink: it was not configured then.', ['sink'])
  readonly delivered = this.#counter('tallygate_delivered_total', 'Events delivered, by sink.', ['sink'])
  readonly deliveryRetries = this.#counter('tallygate_delivery_retries_total', 'Failed delivery attempts, by sink.', ['sink'])
  readonly ambiguous = this.#counter('tallygate_delivery_ambiguous_total', 'Records whose delivery was not answered, by sink: they may have been booked.', ['sink'])
  readonly refusedRecords = this.#counter('tallygate_delivery_refused_total', 'Records that a receiver refused for good, by sink.', ['sink'])
  readonly duplicates = this.#counter('tallygate_delivery_duplicates_total', 'Records that a receiver said it knew already, by sink.', ['sink'])
  readonly unmapped = this.#counter('tallygate_delivery_unmapped_total', 'Events of accounts without a customer at the receiver, by sink.', ['sink'])
  readonly quarantined = this.#gauge('tallygate_quarantined_records', 'Records that wait for an operator, by sink: whether they were booked is not known.', ['sink'], 'max')
  readonly sinkPaused = this.#gauge('tallygate_sink_paused', '1 while a sink is paused (its key or its settings are refused) or not open.', ['sink'], 'max')
  readonly unexplained = this.#gauge('tallygate_unexplained_differences', 'Differences from a receiver\'s books that ours did not explain, by sink, when they were last compared.', ['sink'], 'max')
  readonly notices = this.#counter('tallygate_notices_total', 'Notices that this gateway was the first to tell, by type.', ['type'])
  readonly webhookDeliveries = this.#counter('tallygate_webhook_deliveries_total', 'Notices sent to a webhook: delivered, failed attempts, and given up.', ['webhook', 'outcome'])
  readonly webhookWaiting = this.#gauge('tallygate_webhook_notices', 'Notices that a webhook has not taken yet.', ['webhook'], 'max')
  readonly webhookAge = this.#gauge('tallygate_webhook_oldest_seconds', 'Age of the oldest notice that a webhook has not taken.', ['webhook'], 'max')
  readonly telemetryExports = this.#counter('tallygate_telemetry_exports_total', 'Batches of traces and metrics sent to the OpenTelemetry receiver.', ['signal', 'result'])

  // The process.
  readonly reloads = this.#counter('tallygate_config_reloads_total', 'Config reloads by result.', ['result'])
  /** Only the process that reads the configuration sets it; workers leave it at 0. */
  readonly lastReload = this.#gauge('tallygate_config_last_reload_successful', '1 unless the configuration on disk has mistakes and an older one is in use.', [], 'max')
  readonly workers = this.#gauge('tallygate_workers', 'Worker processes that answer calls.', [])
  readonly workerRestarts = this.#counter('tallygate_worker_restarts_total', 'Worker processes that ended and were started again.', [])
  readonly build = this.#gauge('tallygate_build_info', 'Always 1; the label tells the version.', ['version'], 'max')
  readonly cpu = this.#counter('tallygate_process_cpu_seconds_total', 'Processor time used, all processes together.', [])
  readonly memory = this.#gauge('tallygate_process_resident_memory_bytes', 'Memory in use, all processes together.', [])
  #cpuSeconds = 0

  constructor() {
    // A series that is born with its first event shows no increase over it: those that alerts look at begin at 0.
    for (const result of ['applied', 'unchanged', 'refused']) this.reloads.inc({ result }, 0)
    this.beforeReading.push(() => this.#measureProcess())
  }

  #measureProcess(): void {
    const { user, system } = process.cpuUsage()
    const seconds = (user + system) / 1e6
    this.cpu.inc(Math.max(0, seconds - this.#cpuSeconds))
    this.#cpuSeconds = seconds
    this.memory.set(process.memoryUsage.rss())
  }

  #counter<L extends string>(name: string, help: string, labelNames: L[]): Counter<L> {
    return new Counter({ name, help, labelNames, registers: [this.registry] })
  }
  #callCounter<L extends string>(name: string, help: string, labelNames: L[]): Counter<L> {
    return new CallCounter({ name, help, labelNames, registers: [this.registry] })
  }
  /** `over`: how the values of several processes become one. */
  #gauge<L extends string>(name: string, help: string, labelNames: L[], over: 'sum' | 'min' | 'max' = 'sum'): Gauge<L> {
    return new Gauge({ name, help, labelNames, registers: [this.registry], aggregator: over })
  }
  #histogram<L extends string>(name: string, help: string, labelNames: L[], buckets: number[]): Histogram<L> {
    return new CallHistogram({ name, help, labelNames, buckets, registers: [this.registry] })
  }
  async snapshot(): Promise<MetricsSnapshot> {
    for (const task of this.beforeReading) task()
    return await this.registry.getMetricsAsJSON()
  }
  /** Prometheus text: of this process alone, or together with what others have measured. */
  async text(others: readonly MetricsSnapshot[] = []): Promise<string> {
    const own = await this.snapshot()
    if (others.length === 0) return await this.registry.metrics()
    return await AggregatorRegistry.aggregate([own, ...others].map((each) => [...each])).metrics()
  }
}

/** What only ever grows, of several snapshots in one, for processes that are gone: a sum must not fall when one of them ends. */
export async function grown(snapshots: readonly MetricsSnapshot[]): Promise<MetricsSnapshot> {
  const lasting = snapshots.map((snapshot) => snapshot.filter(({ type }) => String(type) !== 'gauge'))
  return await AggregatorRegistry.aggregate(lasting).getMetricsAsJSON()
}
