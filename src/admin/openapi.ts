import type { Field, Fields, Route } from './route.ts'

/** The OpenAPI 3.1 document of a route table. */
export function toOpenApi(routes: readonly Route[]): unknown {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const route of routes) {
    const path = (paths[route.path] ??= {})
    path[route.method.toLowerCase()] = toOperation(route)
  }
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
      [String(route.status ?? 200)]: { description: route.answer, content: { 'application/json': { schema: { type: 'object' } } } },
      default: { description: 'What went wrong', content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } } },
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
