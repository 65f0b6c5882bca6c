/** What upstreams taught us: kept while the process lives, bounded, never a matter of correctness. */
export class UpstreamMemory {
  readonly #noUsageOption = new Set<string>()
  readonly #outputFields = new Map<string, string>()

  /** Does this upstream take `stream_options`? True until it rejected them. */
  asksUsage(upstream: string): boolean {
    return !this.#noUsageOption.has(upstream)
  }

  rejectedUsageOption(upstream: string): void {
    this.#noUsageOption.add(upstream)
  }

  /** The field this model wants its output bound in, where it rejected the usual one. */
  outputField(upstream: string, model: string | null): string | null {
    return this.#outputFields.get(`${upstream}\n${model ?? ''}`) ?? null
  }

  wantsOutputField(upstream: string, model: string | null, field: string): void {
    if (this.#outputFields.size >= 1_000) this.#outputFields.clear()
    this.#outputFields.set(`${upstream}\n${model ?? ''}`, field)
  }
}
