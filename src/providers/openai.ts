import type { GatewayError } from '../errors.ts'
import { openaiMeter } from './openai-answer.ts'
import { imagesMeter, inspectImages, prepareImages } from './openai-images.ts'
import { inspectOpenai, prepareOpenai, type OpenaiKind } from './openai-request.ts'
import type { Endpoint, Provider } from './provider.ts'
import { refusalMembers } from './refusal-body.ts'
import { nothingToRead, passingMeter } from './passing.ts'

function post(kind: OpenaiKind, endpoint: string, path: string): Endpoint {
  return {
    name: endpoint,
    method: 'POST',
    path,
    body: 'json',
    byDefault: true,
    metered: true,
    inspect: (body) => inspectOpenai(kind, body),
    prepare: (body, facts, changes) => prepareOpenai(kind, body, facts, changes),
    meter: (facts, response) => openaiMeter(kind, facts, response),
  }
}

const images: Endpoint = {
  name: 'images.generations',
  method: 'POST',
  path: '/v1/images/generations',
  body: 'json',
  byDefault: false,
  metered: true,
  inspect: inspectImages,
  prepare: prepareImages,
  meter: imagesMeter,
}

const models: Endpoint = {
  name: 'models',
  method: 'GET',
  path: '/v1/models',
  body: 'none',
  byDefault: true,
  metered: false,
  local: 'models',
  inspect: () => nothingToRead,
  prepare: (body) => body,
  meter: () => passingMeter(),
}

function typeAndCode(error: GatewayError): { type: string; code: string } {
  switch (error.code) {
    case 'rate_limited': case 'capacity_reserved': case 'concurrency_limit':
      return { type: error.details.counts ?? 'requests', code: 'rate_limit_exceeded' }
    case 'usage_limit_reached': case 'no_credit_available':
      return { type: 'insufficient_quota', code: 'insufficient_quota' }
    case 'metering_unavailable': case 'upstream_unavailable': case 'upstream_busy': case 'upstream_timeout': case 'internal': case 'draining':
      return { type: 'server_error', code: error.code }
    case 'too_many_bad_keys':
      return { type: 'requests', code: error.code }
    default:
      return { type: 'invalid_request_error', code: error.code }
  }
}

/** `{"error":{…}}`, as OpenAI's SDKs and those of its imitators parse it. */
export function openaiErrorBody(error: GatewayError): string {
  return JSON.stringify({ error: { message: error.message, ...typeAndCode(error), param: null, ...refusalMembers(error) } })
}

/** OpenAI's protocol, and that of the many servers that speak it: vLLM, Ollama, Groq, DeepSeek, Azure … */
export const openai: Provider = {
  name: 'openai',
  endpoints: [
    post('chat', 'chat.completions', '/v1/chat/completions'),
    post('completions', 'completions', '/v1/completions'),
    post('embeddings', 'embeddings', '/v1/embeddings'),
    post('responses', 'responses', '/v1/responses'),
    images,
    models,
  ],
  renderError: (error) => Buffer.from(openaiErrorBody(error)),
  renderStreamError: (error) => Buffer.from(`data: ${openaiErrorBody(error)}\n\n`),
  keyHeaders: ['authorization', 'api-key'],
  credentialHeaders: (credential) => [['authorization', `Bearer ${credential}`]],
  requestIdHeader: 'x-request-id',
  upstreamRequestIdHeaders: ['x-request-id', 'apim-request-id', 'x-generation-id'],
  quotaHeaders: 'openai',
  listsModels: true,
  versionHeaders: [],
  basePath: '/v1',
}
