import type { Config, Model } from '../config/config.ts'
import { longestMatch } from './glob.ts'

interface ModelIndex {
  readonly exact: ReadonlyMap<string, Model>
  readonly globs: ReadonlyMap<string, Model>
}

const indexes = new WeakMap<Config['models'], ModelIndex>()

/** The configured model by its exact name, else by the longest glob that matches. */
export function modelOf({ models }: Pick<Config, 'models'>, name: string): Model | null {
  let index = indexes.get(models)
  if (index === undefined) {
    const entries = models.map((model) => [model.pattern, model] as const)
    index = { exact: new Map(entries.filter(([pattern]) => !pattern.includes('*'))), globs: new Map(entries.filter(([pattern]) => pattern.includes('*'))) }
    indexes.set(models, index)
  }
  const exact = index.exact.get(name)
  if (exact !== undefined) return exact
  if (index.globs.size === 0) return null
  const glob = longestMatch([...index.globs.keys()], name)
  return glob === null || glob === undefined ? null : index.globs.get(glob) ?? null
}
