import { Counter, Gauge, Histogram, Registry } from 'prom-client'

/** Everything measured, in one place. Label values come from closed sets only: nothing that a caller sends becomes a label. */
export class Metrics {
  readonly registry = new Registry()
  readonly requests = this.#counter('tallygate_requests_total', 'Requests by outcome.', ['provider', 'endpoint', 'outcome'])
  readonly refusals = this.#counter('tallygate_refusals_total', 'Refused requests by reason.', ['reason'])
  readonly tokens = this.#counter('tallygate_tokens_total', 'Settled tokens by type.', ['provider', 'type'])
  readonly settlements = this.#counter('tallygate_settlements_total', 'Settlements by how the exchange ended and who counted.', ['end', 'usage_source'])
  readonly alarms = this.#counter('tallygate_meter_alarms_total', 'Answers whose usage was missing, unreadable or conflicting.', ['provider', 'alarm'])
  readonly overruns = this.#counter('tallygate_overruns_total', 'Settlements beyond every ceiling.', [])
  readonly shadowed = this.#counter('tallygate_shadow_refusals_total', 'Calls that a shadow limit would have refused.', [])
  readonly rejected = this.#counter('tallygate_rejected_total', 'Requests refused at the edge as malformed, by why.', ['why'])
  readonly badKeys = this.#counter('tallygate_bad_keys_total', 'Requests with an unknown key.', ['braked'])
  readonly duration = this.#histogram('tallygate_request_duration_seconds', 'From the request to the end of its answer.', ['endpoint'],
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300])
  readonly firstByte = this.#histogram('tallygate_time_to_first_byte_seconds', 'From admission to the first byte of the answer.', ['endpoint'],
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60])
  readonly storeLatency = this.#histogram('tallygate_store_seconds', 'Store moves.', ['move'], [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1])
  readonly open = this.#gauge('tallygate_exchanges_open', 'Exchanges in flight.', [])
  readonly storeAdmitting = this.#gauge('tallygate_store_admitting', '1 while the store admits.', [])
  readonly unsettled = this.#gauge('tallygate_settlements_waiting', 'Settlements not yet durable.', [])
  readonly outboxLag = this.#gauge('tallygate_outbox_events', 'Events not yet delivered, by sink.', ['sink'])
  readonly outboxAge = this.#gauge('tallygate_outbox_oldest_seconds', 'Age of the oldest undelivered event, by sink.', ['sink'])
  readonly dead = this.#gauge('tallygate_dead_events', 'Buried events, by sink.', ['sink'])
  readonly delivered = this.#counter('tallygate_delivered_total', 'Events delivered, by sink.', ['sink'])
  readonly deliveryRetries = this.#counter('tallygate_delivery_retries_total', 'Failed delivery attempts, by sink.', ['sink'])
  readonly reloads = this.#counter('tallygate_config_reloads_total', 'Config reloads by result.', ['result'])

  #counter<L extends string>(name: string, help: string, labelNames: L[]): Counter<L> {
    return new Counter({ name, help, labelNames, registers: [this.registry] })
  }
  #gauge<L extends string>(name: string, help: string, labelNames: L[]): Gauge<L> {
    return new Gauge({ name, help, labelNames, registers: [this.registry] })
  }
  #histogram<L extends string>(name: string, help: string, labelNames: L[], buckets: number[]): Histogram<L> {
    return new Histogram({ name, help, labelNames, buckets, registers: [this.registry] })
  }
  /** Prometheus text. */
  text(): Promise<string> {
    return this.registry.metrics()
  }
}
