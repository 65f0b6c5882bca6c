/** What a configuration holds, as the API tells it. */
export type Words = string | number | boolean | null | readonly Words[] | { readonly [name: string]: Words }

/** As somebody would write it into the configuration: a line for each item of a list, or each name of a mapping; '' for nothing. */
export function yamlText(value: readonly Words[] | { readonly [name: string]: Words }): string {
  return isList(value) ? value.map((item) => `- ${flow(item)}`).join('\n') : Object.entries(value).map(([name, item]) => `${scalar(name)}: ${flow(item)}`).join('\n')
}

/** In one line. */
export function flow(value: Words): string {
  if (typeof value === 'string') return scalar(value)
  if (value === null || typeof value !== 'object') return String(value)
  if (isList(value)) return `[${value.map(flow).join(', ')}]`
  const entries = Object.entries(value).map(([name, item]) => `${scalar(name)}: ${flow(item)}`)
  return entries.length === 0 ? '{}' : `{ ${entries.join(', ')} }`
}

/** Without quotes where it cannot be taken for anything else. */
function scalar(text: string): string {
  return /^[A-Za-z][\w./-]*$/.test(text) && !/^(true|false|null)$/i.test(text) || /^\d+[A-Za-z%]+$/.test(text) ? text : JSON.stringify(text)
}

function isList(value: object): value is readonly Words[] {
  return Array.isArray(value)
}
