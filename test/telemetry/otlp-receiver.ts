// A receiver of OTLP over HTTP, in JSON: it keeps what it was told, and the very bytes.

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Teardown } from '../fixtures/tmp-dir.ts'

export interface ReceivedSpan {
  readonly traceId: string
  readonly spanId: string
  /** '': it has none. */
  readonly parentSpanId: string
  readonly name: string
  /** 2: server, 3: client. */
  readonly kind: number
  readonly startNanos: bigint
  readonly endNanos: bigint
  readonly failed: boolean
  readonly traceState: string
  readonly attributes: Readonly<Record<string, unknown>>
  readonly resource: Readonly<Record<string, unknown>>
}

export interface ReceivedPoint {
  readonly metric: string
  readonly unit: string
  readonly attributes: Readonly<Record<string, unknown>>
  readonly resource: Readonly<Record<string, unknown>>
  readonly count: number
  readonly sum: number
  readonly bounds: readonly number[]
}

export interface OtlpReceiver {
  readonly url: string
  readonly spans: ReceivedSpan[]
  /** Of the latest message of each process, for they are cumulative. */
  points(): readonly ReceivedPoint[]
  readonly bodies: string[]
  readonly headers: Readonly<Record<string, unknown>>[]
  /** How the next messages are answered; 0: not at all. */
  status: number
}

interface Value { stringValue?: string; intValue?: number | string; doubleValue?: number; boolValue?: boolean }
type Pairs = { key: string; value: Value }[]

function valuesOf(pairs: Pairs = []): Record<string, unknown> {
  return Object.fromEntries(pairs.map(({ key, value }) => [key, value.stringValue ?? value.doubleValue ?? value.boolValue ?? (value.intValue === undefined ? undefined : Number(value.intValue))]))
}

interface Message {
  resourceSpans?: { resource: { attributes: Pairs }; scopeSpans: { spans: {
    traceId: string; spanId: string; parentSpanId?: string; name: string; kind: number; startTimeUnixNano: string; endTimeUnixNano: string; traceState?: string; status: { code?: number }; attributes: Pairs
  }[] }[] }[]
  resourceMetrics?: { resource: { attributes: Pairs }; scopeMetrics: { metrics: {
    name: string; unit: string; histogram?: { dataPoints: { attributes: Pairs; count: number | string; sum: number; explicitBounds: number[] }[] }
  }[] }[] }[]
}

export async function startOtlpReceiver(t: Teardown): Promise<OtlpReceiver> {
  const latest = new Map<string, ReceivedPoint[]>()
  const receiver = { url: '', spans: [] as ReceivedSpan[], bodies: [] as string[], headers: [] as Record<string, unknown>[], status: 200, points: () => [...latest.values()].flat() }
  const take = (message: Message): void => {
    for (const { resource, scopeSpans } of message.resourceSpans ?? []) {
      for (const span of scopeSpans.flatMap(({ spans }) => spans)) {
        receiver.spans.push({
          traceId: span.traceId, spanId: span.spanId, parentSpanId: span.parentSpanId ?? '', name: span.name, kind: span.kind, startNanos: BigInt(span.startTimeUnixNano), endNanos: BigInt(span.endTimeUnixNano),
          failed: span.status.code === 2, traceState: span.traceState ?? '', attributes: valuesOf(span.attributes), resource: valuesOf(resource.attributes),
        })
      }
    }
    for (const { resource, scopeMetrics } of message.resourceMetrics ?? []) {
      const values = valuesOf(resource.attributes)
      latest.set(String(values['service.instance.id']), scopeMetrics.flatMap(({ metrics }) => metrics).flatMap(({ name, unit, histogram }) => (histogram?.dataPoints ?? []).map((point) => (
        { metric: name, unit, attributes: valuesOf(point.attributes), resource: values, count: Number(point.count), sum: point.sum, bounds: point.explicitBounds }))))
    }
  }
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString()
      receiver.bodies.push(body)
      receiver.headers.push({ ...request.headers, path: request.url })
      if (receiver.status === 0) return
      if (receiver.status === 200) take(JSON.parse(body) as Message)
      response.writeHead(receiver.status, { 'content-type': 'application/json' }).end('{}')
    })
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  receiver.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return receiver
}
