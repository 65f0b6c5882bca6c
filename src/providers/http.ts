import { openaiErrorBody } from './openai.ts'
import { nothingToRead, passingMeter } from './passing.ts'
import type { Endpoint, Provider } from './provider.ts'

/**
 * What a path means that no dialect knows, when a plan names it: nothing is read or changed, body and answer stream through, and
 * requests, bytes and time are counted. `method` and `path` are placeholders: the route carries the real ones.
 */
export const httpEndpoint: Endpoint = {
  name: 'http',
  method: 'POST',
  path: '*',
  body: 'none',
  byDefault: false,
  metered: true,
  inspect: () => nothingToRead,
  prepare: (body) => body,
  meter: () => passingMeter(),
}

/** Any upstream. It has no endpoints of its own: plans name what may be called. */
export const http: Provider = {
  name: 'http',
  endpoints: [],
  renderError: (error) => Buffer.from(openaiErrorBody(error)),
  renderStreamError: () => new Uint8Array(0),
  keyHeaders: ['authorization', 'x-api-key', 'api-key'],
  credentialHeaders: (credential) => [['authorization', `Bearer ${credential}`]],
  requestIdHeader: 'x-request-id',
  upstreamRequestIdHeaders: ['x-request-id'],
  quotaHeaders: 'none',
  listsModels: false,
  versionHeaders: [],
  basePath: '',
}
