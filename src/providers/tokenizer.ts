import { MessageChannel } from 'node:worker_threads'

/**
 * Counts tokens as OpenAI's encodings do. The tables take a third of a second and a hundred megabytes to load, so an
 * encoding is loaded when it is first needed: when an upstream reports no usage, or a prompt's byte bound does not fit.
 */
export type Encoding = 'o200k_base' | 'o200k_harmony' | 'cl100k_base'

interface LoadedEncoding {
  countTokens(text: string, options: { allowedSpecial: Set<string>; disallowedSpecial: Set<string> }): number
  setMergeCacheSize(size: number): void
}

/** Merging is quadratic in an unbroken run of letters: 20,000 of them stop the process for half a second, 1,500 for 3 ms or more. */
const SLICE_CHARS = 1_500
/** So a run that offers no place to cut is cut sooner; each cut costs a token at most. */
const RUN_CHARS = 500
/** How far a cut may move back to stand at white space, where it changes no count. */
const CUT_BACK_CHARS = 300
/** Slices between two turns of the event loop. */
const SLICES_A_TURN = 4
/** Beyond this much text the rest is taken to be like what was counted. */
export const COUNTED_CHARS_MAX = 1024 * 1024
/** The library remembers the merges of words; each entry costs some 100 bytes. */
const MERGE_CACHE_ENTRIES = 10_000

const loaded = new Map<Encoding, Promise<LoadedEncoding>>()

function load(encoding: Encoding): Promise<LoadedEncoding> {
  let loading = loaded.get(encoding)
  if (loading === undefined) {
    loading = importEncoding(encoding).then((encoder) => {
      encoder.setMergeCacheSize(MERGE_CACHE_ENTRIES)
      return encoder
    })
    loaded.set(encoding, loading)
  }
  return loading
}

function importEncoding(encoding: Encoding): Promise<LoadedEncoding> {
  switch (encoding) {
    case 'o200k_base': return import('gpt-tokenizer/encoding/o200k_base')
    case 'o200k_harmony': return import('gpt-tokenizer/encoding/o200k_harmony')
    case 'cl100k_base': return import('gpt-tokenizer/encoding/cl100k_base')
  }
}

/** The encoding to count a model's text with. `known`: it is that model's own, so that the count may admit a call. */
export function encodingOf(model: string | null): { readonly encoding: Encoding; readonly known: boolean } {
  const bare = (model ?? '').toLowerCase().replace(/^.*\//, '')
  if (bare.startsWith('gpt-oss')) return { encoding: 'o200k_harmony', known: true }
  if (/^(gpt-4o|chatgpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|o1|o3|o4)(?![a-z0-9])/.test(bare)) return { encoding: 'o200k_base', known: true }
  if (/^(gpt-4|gpt-3\.5|text-embedding-3|text-embedding-ada-002)(?![0-9o])/.test(bare)) return { encoding: 'cl100k_base', known: true }
  return { encoding: 'o200k_base', known: false }
}

export function isEncoding(text: string): text is Encoding {
  return text === 'o200k_base' || text === 'o200k_harmony' || text === 'cl100k_base'
}

// Special tokens in a prompt are text like any other: a user may write "<|endoftext|>".
const asText = { allowedSpecial: new Set<string>(), disallowedSpecial: new Set<string>() }

/** A turn of the event loop, so that other exchanges go on while a long text is counted. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel()
    port1.once('message', () => {
      port1.close()
      resolve()
    })
    port2.postMessage(null)
  })
}

/** Where a slice that begins at `start` ends: at white space if some is near, never within a surrogate pair. */
export function sliceEnd(text: string, start: number): number {
  const end = start + SLICE_CHARS
  if (end >= text.length) return text.length
  for (let cut = end; cut > end - CUT_BACK_CHARS; cut--) {
    // Encodings join a space to the word that follows it: the cut stands before the space.
    const code = text.charCodeAt(cut)
    if ((code === 0x20 || code === 0x0a) && text.charCodeAt(cut - 1) > 0x20) return cut
  }
  const cut = start + RUN_CHARS
  const before = text.charCodeAt(cut - 1)
  return before >= 0xd800 && before <= 0xdbff ? cut - 1 : cut
}

/**
 * Tokens of all texts together. Beyond what is counted at most, the rest is taken to be alike; with `atMost` it counts a token a byte,
 * so that the number may admit a call. Rejects only if the encoding cannot be loaded.
 */
export async function countTokens(texts: Iterable<string>, encoding: Encoding, atMost = false): Promise<number> {
  const loadedEncoding = await load(encoding)
  let tokens = 0
  let counted = 0
  let total = 0
  let restBytes = 0
  let slices = 0
  for (const text of texts) {
    total += text.length
    let start = 0
    while (start < text.length && counted < COUNTED_CHARS_MAX) {
      const end = sliceEnd(text, start)
      tokens += loadedEncoding.countTokens(text.slice(start, end), asText)
      counted += end - start
      start = end
      if (++slices % SLICES_A_TURN === 0) await turn()
    }
    if (start < text.length) restBytes += Buffer.byteLength(text.slice(start))
  }
  if (atMost) return tokens + restBytes
  return counted < total ? Math.ceil(tokens * (total / counted)) : tokens
}

/** What admission needs of all this: never less than the text has. */
export const tokenizer = {
  count: (encoding: string, texts: Iterable<string>): Promise<number> =>
    isEncoding(encoding) ? countTokens(texts, encoding, true) : Promise.reject(new Error(`no such encoding: ${encoding}`)),
  encodingOf,
}
