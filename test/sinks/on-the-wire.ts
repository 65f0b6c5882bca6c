import type { Test } from 'tap'
import { DeliveryFailed, type MeterRecord, type Sink } from '../../src/sinks/sink.ts'
import { opened } from './conformance.ts'
import type { Call, Dialect } from './kit/dialect.ts'
import type { Fake, FakeOptions } from './kit/fake.ts'
import { httpSubject } from './kit/http-fake.ts'

/** A sink, the fake it is pointed at, and the deliveries as they came. */
export async function onTheWire(t: Test, dialect: Dialect, options: FakeOptions = {}): Promise<{ sink: Sink; fake: Fake; calls: Call[] }> {
  const calls: Call[] = []
  const watched: Dialect = {
    ...dialect,
    read(call) {
      calls.push(call)
      return dialect.read(call)
    },
  }
  const subject = httpSubject(watched)
  const fake = await subject.start(options)
  t.teardown(() => fake.stop())
  return { fake, calls, sink: await opened(t, subject, fake) }
}

/** Yesterday, so that every receiver takes it. */
export const wireTimeMs = new Date().setUTCHours(0, 0, 0, 123) - 86_400_000

export function meterRecord(more: Partial<MeterRecord> = {}): MeterRecord {
  return {
    is: 'meter', id: '019aa000-0000-7000-8000-000000000001:llm_output_tokens', timeMs: wireTimeMs, code: 'llm_output_tokens', customer: 'cus_acme', account: 'acme', value: '1250',
    valueProperty: 'value', properties: { model: 'gpt-4o', provider: 'openai' }, ...more,
  }
}

export const attempt = (): AbortSignal => AbortSignal.timeout(15_000)

/** What a delivery fails with. */
export async function failureOf(delivery: Promise<unknown>): Promise<DeliveryFailed> {
  const error: unknown = await delivery.then(() => null, (reason: unknown) => reason)
  if (error instanceof DeliveryFailed) return error
  throw new Error('it should have failed', { cause: error })
}
