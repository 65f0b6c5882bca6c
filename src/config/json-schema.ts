import { pathToFileURL } from 'node:url'
import { root } from './schema.ts'
import type { Json } from './shape.ts'
import { definitions } from './shape.ts'

/** The JSON Schema of the configuration, for editors: shapes only. What lies between the parts, `tallygate check` says. */
export function jsonSchema(): Json {
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'Tallygate configuration',
    ...(root.json as { readonly [key: string]: Json }),
    $defs: definitions(),
  }
}

export function jsonSchemaText(): string {
  return `${JSON.stringify(jsonSchema(), null, 2)}\n`
}

// `npm run schema` writes what this prints to config/tallygate.schema.json.
if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) process.stdout.write(jsonSchemaText())
