import type { TelemetryConfig } from './config.ts'
import type { Path, Report } from './problem.ts'
import { pathOf } from './problem.ts'
import type { RawTelemetry } from './schema.ts'
import { otlpUrl } from './schema.ts'
import type { Node } from './yaml.ts'
import { looseText } from './yaml.ts'

const defaultShare = 0.1
const defaultName = 'tallygate'

/** What the file says; where it says nothing, what the variables say by which OpenTelemetry is switched on everywhere. undefined: off. */
export function telemetryOf(raw: RawTelemetry | null, env: (name: string) => string | undefined, warnOfReadable: (node: Node, path: Path) => void, report: Report): TelemetryConfig | undefined {
  if (raw === 'off') return undefined
  const serviceName = env('OTEL_SERVICE_NAME') ?? defaultName
  if (raw === null) {
    const variable = 'OTEL_EXPORTER_OTLP_ENDPOINT'
    const given = env(variable)
    if (given === undefined || env('OTEL_SDK_DISABLED')?.toLowerCase() === 'true') return undefined
    const endpoint = otlpUrl.read(looseText(`environment ${variable}`, given), null, report)
    if (endpoint === undefined) return undefined
    if (isGrpc(endpoint)) report.wholeWarning(`environment ${variable}`, grpcSentence)
    return { endpoint, headers: {}, sampleShare: defaultShare, serviceName }
  }
  const headers = raw.node.entries.get('headers')?.value
  if (headers?.kind === 'map') for (const [name, { value }] of headers.entries) warnOfReadable(value, pathOf(pathOf(raw.trail, 'headers'), name))
  if (isGrpc(raw.otlp)) report.warn(raw.node.entries.get('otlp')?.value ?? raw.node, pathOf(raw.trail, 'otlp'), grpcSentence)
  return {
    endpoint: raw.otlp, headers: raw.headers === null ? {} : Object.fromEntries(raw.headers), sampleShare: raw.sample === null ? defaultShare : raw.sample / 100,
    serviceName: raw.service_name ?? serviceName,
  }
}

function isGrpc(endpoint: string): boolean {
  return new URL(endpoint).port === '4317'
}

const grpcSentence = 'names port 4317, where receivers speak gRPC; telemetry is sent over HTTP, which is usually on port 4318'
