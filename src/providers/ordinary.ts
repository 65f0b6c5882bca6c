/** What a call does that a plan has unless it denies it. The lists are made once: every call has one. */
const lists: readonly (readonly string[])[] = Array.from({ length: 8 }, (_, bits) => ['streaming', 'tools', 'vision'].filter((_name, bit) => (bits & (1 << bit)) !== 0))

/** `tools`: there are some to call. `sees`: the input has pictures, videos, or documents whose pages are looked at. */
export function ordinaryFeatures(streams: boolean, tools: boolean, sees: boolean): readonly string[] {
  return lists[(streams ? 1 : 0) + (tools ? 2 : 0) + (sees ? 4 : 0)] ?? []
}
