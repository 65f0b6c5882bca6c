import { openEmbedded } from './embedded/embedded.ts'
import { openMemory } from './memory/memory.ts'

export { repair } from './embedded/repair.ts'

/** Every store, by the name that the configuration uses. */
export const STORES = [
  { name: 'embedded', open: openEmbedded },
  { name: 'memory', open: openMemory },
] as const
