import { anthropic } from './anthropic.ts'
import { http } from './http.ts'
import { openai } from './openai.ts'
import type { Provider } from './provider.ts'

/** Every dialect there is. Where two know one path, the earlier one has it. */
export const providers: readonly Provider[] = [openai, anthropic, http]

export { httpEndpoint } from './http.ts'
