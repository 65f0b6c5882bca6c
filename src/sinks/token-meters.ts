import type { MeterMapping } from './sink.ts'

/**
 * A meter for each kind of token, none of them counted twice: input that was neither read from a cache nor written to one, cached input, input written to a
 * cache, output. For receivers that have no names of their own.
 */
export function tokenMeters(): readonly MeterMapping[] {
  const copied = { model: 'model_served', provider: 'provider' }
  const of = (code: string, quantity: string): MeterMapping => ({ code, quantity, copied })
  return [
    of('llm_input_tokens', 'input_tokens - cached_input_tokens - cache_write_tokens'),
    of('llm_cached_input_tokens', 'cached_input_tokens'),
    of('llm_cache_creation_tokens', 'cache_write_tokens'),
    of('llm_output_tokens', 'output_tokens'),
  ]
}
