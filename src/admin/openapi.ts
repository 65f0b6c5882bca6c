import type { Field, Fields, Route } from './route.ts'

/** The OpenAPI 3.1 document of a route table. */
export function toOpenApi(routes: readonly Route[]): unknown {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const route of routes) {
    const path = (paths[route.path] ??= {})
    path[route.method.toLowerCase()] = toOperation(route)
  }
  for (const [path, ...page] of pages) paths[path] = { get: pageOperation(path, ...page) }
  return {
    openapi: '3.1.0',
    info: { title: 'Tallygate admin API', version: '1' },
    paths,
    components: {
      securitySchemes: { token: { type: 'http', scheme: 'bearer', description: 'An admin token. None is needed from this machine while none is configured.' } },
      schemas: {
        Problem: {
          type: 'object', required: ['type', 'title', 'status', 'detail'],
          properties: { type: { type: 'string' }, title: { type: 'string' }, status: { type: 'integer' }, detail: { type: 'string' } },
        },
      },
    },
  }
}

function toOperation(route: Route): unknown {
  const inPath = [...route.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({ name, in: 'path', required: true, schema: { type: 'string' } }))
  const inQuery = Object.entries(route.query ?? {}).map(([name, field]) => ({
    name, in: 'query', required: field.required === true, description: field.about, schema: toSchema(field),
  }))
  return {
    summary: route.summary,
    ...(route.role === null ? { security: [] } : { security: [{ token: [] }], 'x-tallygate-role': route.role }),
    parameters: [...inPath, ...inQuery],
    ...(route.body === undefined ? {} : { requestBody: { content: { 'application/json': { schema: toObjectSchema(route.body) } } } }),
    responses: {
      [String(route.status ?? 200)]: { description: route.answer, content: { 'application/json': { schema: route.shape } } },
      ...Object.fromEntries(problemsOf(route).map((status) => [String(status), problem(problems[status] ?? 'What went wrong')])),
      default: problem('What went wrong'),
    },
  }
}

const problems: Readonly<Record<number, string>> = {
  400: 'The query cannot be read, or the body is no JSON object', 401: 'An admin token is needed, or this one is not known', 403: 'This token may look but not change anything, or the request comes from elsewhere',
  404: 'What the path or the body names is not there', 409: 'It cannot be done as things are, or somebody has changed them meanwhile', 413: 'The body is too large', 415: 'The body is not application/json',
  422: 'What was sent is not right; every mistake is told', 503: 'The store cannot be used now',
}

/** Which of them a route may answer with. */
function problemsOf({ method, path, role, query, body }: Route): readonly number[] {
  const changes = method !== 'GET'
  return [
    400, ...(role === null ? [] : [401, 403]), ...(path.includes('{') || changes ? [404] : []), ...(changes ? [409, 413, 415] : []),
    ...(path.includes('{') || query !== undefined || body !== undefined ? [422] : []), 503,
  ]
}

function problem(description: string): unknown {
  return { description, content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } } }
}

/** What the admin port answers beside the API. */
const pages: readonly (readonly [path: string, summary: string, type: string, token: boolean])[] = [
  ['/', 'A page that says where everything is', 'text/html', false],
  ['/metrics', 'Metrics for Prometheus; without a token where admin.metrics is open', 'text/plain', true],
  ['/upstreams/{name}/health', 'What an upstream says of its health, passed on', '*/*', true],
  ['/upstreams/{name}/metrics', 'An upstream\'s own metrics, passed on', '*/*', true],
]

function pageOperation(path: string, summary: string, type: string, token: boolean): unknown {
  const named = path.includes('{')
  return {
    summary, ...(token ? { security: [{ token: [] }] } : { security: [] }),
    parameters: named ? [{ name: 'name', in: 'path', required: true, schema: { type: 'string' } }] : [],
    responses: {
      200: { description: summary, content: { [type]: { schema: { type: 'string' } } } },
      ...(token ? { 401: problem(problems[401] ?? '') } : {}), ...(named ? { 404: problem('There is no such upstream'), 502: problem('The upstream cannot be reached'), 504: problem('The upstream did not answer in time') } : {}),
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
