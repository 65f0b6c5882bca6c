/** What answers look like, in a few words that make JSON Schema: the document of the API says it, and a test holds every answer against it. */
export type AnswerShape = Readonly<Record<string, unknown>>

export const text: AnswerShape = { type: 'string' }
export const whole: AnswerShape = { type: 'integer' }
export const number: AnswerShape = { type: 'number' }
export const flag: AnswerShape = { type: 'boolean' }
/** RFC 3339. */
export const instant: AnswerShape = { type: 'string', format: 'date-time' }
/** Whatever it is. */
export const anything: AnswerShape = {}

/** Exactly these; those in `maybe` are there only where they have something to say. */
export function object(fields: Readonly<Record<string, AnswerShape>>, maybe: Readonly<Record<string, AnswerShape>> = {}): AnswerShape {
  return { type: 'object', required: Object.keys(fields), properties: { ...fields, ...maybe }, additionalProperties: false }
}

/** Names that are not known ahead. */
export function mapOf(of: AnswerShape): AnswerShape {
  return { type: 'object', additionalProperties: of }
}

export function list(of: AnswerShape): AnswerShape {
  return { type: 'array', items: of }
}

export function orNull(of: AnswerShape): AnswerShape {
  return { anyOf: [of, { type: 'null' }] }
}

export function either(...of: readonly AnswerShape[]): AnswerShape {
  return { anyOf: of }
}

export function oneOf(...words: readonly string[]): AnswerShape {
  return { type: 'string', enum: words }
}
