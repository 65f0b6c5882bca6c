import { PAGE_PATHS } from '../dashboard/dashboard.ts'
import type { Field, Fields, Operation } from './route.ts'
import { SESSION_COOKIE } from './session.ts'

/** The OpenAPI 3.1 document of these operations and of what the admin port answers beside them. */
export function toOpenApi(operations: readonly Operation[]): unknown {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const operation of operations) {
    const path = (paths[operation.path] ??= {})
    path[operation.method.toLowerCase()] = toOperation(operation)
  }
  for (const page of pages) paths[page.path] = { get: pageOperation(page) }
  return {
    openapi: '3.1.0',
    info: { title: 'Tallygate admin API', version: '1' },
    paths,
    components: {
      securitySchemes: {
        token: { type: 'http', scheme: 'bearer', description: 'An admin token. None is needed from this machine while none is configured.' },
        session: { type: 'apiKey', in: 'cookie', name: SESSION_COOKIE, description: 'Set by POST /api/v1/login. A change with it needs the Origin header, which browsers send.' },
      },
      schemas: {
        Problem: {
          type: 'object', required: ['type', 'title', 'status', 'detail'],
          properties: { type: { type: 'string' }, title: { type: 'string' }, status: { type: 'integer' }, detail: { type: 'string' } },
        },
      },
    },
  }
}

function toOperation(operation: Operation): unknown {
  const inQuery = Object.entries(operation.query ?? {}).map(([name, field]) => ({
    name, in: 'query', required: field.required === true, description: field.about, schema: toSchema(field),
  }))
  const { summary, role, body, status = 200, answer, shape, stream } = operation
  return {
    summary,
    ...(role === null ? { security: [] } : { security: anyAdmin, 'x-tallygate-role': role }),
    parameters: [...inPath(operation.path), ...inQuery],
    ...(body === undefined ? {} : { requestBody: { content: { 'application/json': { schema: toObjectSchema(body) } } } }),
    responses: {
      [status]: stream === true
        ? { description: `Server-sent events. The data of each is JSON, as the schema says: ${answer}`, content: { 'text/event-stream': { schema: shape } } }
        : { description: answer, content: { 'application/json': { schema: shape } } },
      ...problemResponses(problemsOf(operation)),
      default: problem('What went wrong'),
    },
  }
}

const anyAdmin = [{ token: [] }, { session: [] }]

function inPath(path: string): unknown[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({ name, in: 'path', required: true, schema: { type: 'string' } }))
}

const problems: Readonly<Record<number, string>> = {
  400: 'The query cannot be read, or the body is no JSON object', 401: 'An admin token is needed, or this one is not known', 403: 'This token may look but not change anything, or the request comes from elsewhere',
  404: 'What the path or the body names is not there', 409: 'It cannot be done as things are, or somebody has changed them meanwhile', 413: 'The body is too large', 415: 'The body is not application/json',
  421: 'No admin token is configured, and this machine was called by a name that others may have given it', 422: 'What was sent is not right; every mistake is told',
  429: 'Too many wrong tokens came from this address; Retry-After says when to try again', 502: 'The upstream cannot be reached', 503: 'The store cannot be used now', 504: 'The upstream did not answer in time',
}
/** Whoever asks is looked at everywhere, also where nobody needs a token. */
const ofCallers = [401, 403, 421, 429]

/** Which of them an operation may answer with. */
function problemsOf({ method, path, query, body, problems: more }: Operation): readonly number[] {
  if (more !== undefined && 'only' in more) return more.only
  const changes = method !== 'GET'
  return [
    400, ...ofCallers, ...(path.includes('{') || changes ? [404] : []), ...(changes ? [409, 413, 415] : []),
    ...(path.includes('{') || query !== undefined || body !== undefined ? [422] : []), 503, ...(more?.also ?? []),
  ]
}

function problemResponses(statuses: readonly number[]): Record<string, unknown> {
  return Object.fromEntries(statuses.map((status) => [String(status), problem(problems[status] ?? 'What went wrong')]))
}

function problem(description: string): unknown {
  return { description, content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } } }
}

interface Page {
  readonly path: string
  readonly summary: string
  /** Content types that it may have. */
  readonly types: readonly string[]
  /** Whether it needs a token. */
  readonly token: boolean
  /** It has an entity tag, and is not sent to whoever has it already. */
  readonly tagged?: true
  readonly problems: readonly number[]
}

/** What the admin port answers beside the API. */
const pages: readonly Page[] = [
  ...PAGE_PATHS.map((path): Page => ({ path, summary: 'The dashboard; the same document at each of its addresses', types: ['text/html'], token: false, tagged: true, problems: [] })),
  { path: '/assets/{version}/{file}', summary: 'A file of the dashboard; its address changes with what it holds', types: ['text/javascript', 'text/css'], token: false, tagged: true, problems: [404] },
  { path: '/metrics', summary: 'Metrics for Prometheus; without a token where admin.metrics is open', types: ['text/plain'], token: true, problems: ofCallers },
  { path: '/upstreams/{name}/health', summary: 'What an upstream says of its health, passed on', types: ['*/*'], token: true, problems: [...ofCallers, 404, 502, 504] },
  { path: '/upstreams/{name}/metrics', summary: 'An upstream\'s own metrics, passed on', types: ['*/*'], token: true, problems: [...ofCallers, 404, 502, 504] },
]

function pageOperation({ path, summary, types, token, tagged, problems: statuses }: Page): unknown {
  return {
    summary, security: token ? anyAdmin : [], parameters: inPath(path),
    responses: {
      200: { description: summary, content: Object.fromEntries(types.map((type) => [type, { schema: { type: 'string' } }])) },
      ...(tagged === true ? { 304: { description: 'It is still the one of If-None-Match' } } : {}),
      ...problemResponses(statuses),
      default: problem('What went wrong'),
    },
  }
}

function toObjectSchema(fields: Fields): unknown {
  return {
    type: 'object', additionalProperties: false,
    required: Object.entries(fields).filter(([, field]) => field.required === true).map(([name]) => name),
    properties: Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, { ...toSchema(field), description: field.about }])),
  }
}

function toSchema({ type, values, minimum, maximum, orNumber }: Field): Record<string, unknown> {
  if (type === 'list' || type === 'map') return { anyOf: [{ type: type === 'list' ? 'array' : 'object' }, { type: 'string', description: 'The same as YAML.' }] }
  return {
    type: orNumber === true ? [type, 'number'] : type, ...(values === undefined ? {} : { enum: values }), ...(minimum === undefined ? {} : { minimum }), ...(maximum === undefined ? {} : { maximum }),
  }
}
