/** How many tokens pictures and sound cost at most. Only headers are read, and nothing is ever fetched. */

export interface ImageSize { readonly width: number; readonly height: number }

/** A JPEG may carry this much before it says how large it is. */
const headerCharsMax = 128 * 1024

/** The size that a base64 image says it has; null when it is none of PNG, JPEG, GIF, WebP, or its header is broken. */
export function imageSize(base64: string): ImageSize | null {
  const bytes = Buffer.from(base64.slice(0, headerCharsMax), 'base64')
  const size = pngSize(bytes) ?? gifSize(bytes) ?? webpSize(bytes) ?? jpegSize(bytes)
  return size !== null && size.width > 0 && size.height > 0 ? size : null
}

function pngSize(bytes: Buffer): ImageSize | null {
  if (bytes.length < 24 || bytes.readUInt32BE(0) !== 0x89504e47 || bytes.toString('latin1', 12, 16) !== 'IHDR') return null
  return { width: bytes.readUInt32BE(16), height: bytes.readUInt32BE(20) }
}

function gifSize(bytes: Buffer): ImageSize | null {
  if (bytes.length < 10 || !bytes.toString('latin1', 0, 6).startsWith('GIF8')) return null
  return { width: bytes.readUInt16LE(6), height: bytes.readUInt16LE(8) }
}

function webpSize(bytes: Buffer): ImageSize | null {
  if (bytes.length < 30 || bytes.toString('latin1', 0, 4) !== 'RIFF' || bytes.toString('latin1', 8, 12) !== 'WEBP') return null
  switch (bytes.toString('latin1', 12, 16)) {
    case 'VP8 ': return { width: bytes.readUInt16LE(26) & 0x3fff, height: bytes.readUInt16LE(28) & 0x3fff }
    case 'VP8L': {
      const bits = bytes.readUInt32LE(21)
      return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 }
    }
    case 'VP8X': return { width: bytes.readUIntLE(24, 3) + 1, height: bytes.readUIntLE(27, 3) + 1 }
    default: return null
  }
}

function jpegSize(bytes: Buffer): ImageSize | null {
  if (bytes.length < 4 || bytes.readUInt16BE(0) !== 0xffd8) return null
  let at = 2
  while (at + 9 <= bytes.length) {
    if (bytes[at] !== 0xff) return null
    const marker = bytes[at + 1] ?? 0
    if (marker === 0xff) {
      at++
      continue
    }
    // Start-of-frame markers, but not the tables that share their range.
    if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc) {
      return { width: bytes.readUInt16BE(at + 7), height: bytes.readUInt16BE(at + 5) }
    }
    const standsAlone = marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)
    at += standsAlone ? 2 : 2 + Math.max(2, bytes.readUInt16BE(at + 2))
  }
  return null
}

interface Tiles { readonly kind: 'tiles'; readonly base: number; readonly tile: number }
interface Patches { readonly kind: 'patches'; readonly side: number; readonly budget: number; readonly factor: number }
type ImageRule = Tiles | Patches

/** Longest prefixes first. */
const openaiRules: readonly (readonly [RegExp, ImageRule])[] = [
  [/^gpt-4o-mini/, { kind: 'tiles', base: 2833, tile: 5667 }],
  [/^gpt-(4\.1|5)-mini/, { kind: 'patches', side: 32, budget: 1536, factor: 1.62 }],
  [/^gpt-(4\.1|5)-nano/, { kind: 'patches', side: 32, budget: 1536, factor: 2.46 }],
  [/^o4-mini/, { kind: 'patches', side: 32, budget: 1536, factor: 1.72 }],
  [/^gpt-5\.[23]/, { kind: 'patches', side: 32, budget: 1536, factor: 1.2 }],
  [/^gpt-5\.[45]/, { kind: 'patches', side: 32, budget: 10_000, factor: 1 }],
  [/^gpt-(5\.[6-9]|[6-9])/, { kind: 'patches', side: 32, budget: 30_000, factor: 1.2 }],
  [/^(gpt-5|o1|o3)/, { kind: 'tiles', base: 75, tile: 150 }],
  [/^(gpt-4|chatgpt-4o)/, { kind: 'tiles', base: 85, tile: 170 }],
  [/^computer-use/, { kind: 'tiles', base: 65, tile: 129 }],
]
/** Open models differ; 28 pixels a patch and 16,384 patches is the widest default among those in use. `models.X.image_tokens` says it better. */
const unknownRule: ImageRule = { kind: 'patches', side: 28, budget: 16_384, factor: 1 }

/** Tokens of one image at most. `size` null: not known, the largest. */
export function openaiImageTokens(model: string | null, size: ImageSize | null, detail: string | null): number {
  const bare = (model ?? '').toLowerCase().replace(/^.*\//, '')
  const rule = openaiRules.find(([pattern]) => pattern.test(bare))?.[1] ?? unknownRule
  if (rule.kind === 'patches') {
    const patches = size === null ? rule.budget : Math.min(rule.budget, Math.ceil(size.width / rule.side) * Math.ceil(size.height / rule.side))
    return Math.ceil(patches * rule.factor)
  }
  if (detail === 'low') return rule.base
  // Fitted into 2048 × 2048 with the shorter side at most 768: four tiles by two.
  if (size === null) return rule.base + 8 * rule.tile
  const fit = Math.min(1, 2048 / Math.max(size.width, size.height))
  const shorter = Math.min(size.width, size.height) * fit
  const scale = fit * Math.min(1, 768 / shorter)
  return rule.base + rule.tile * Math.ceil(round(size.width * scale) / 512) * Math.ceil(round(size.height * scale) / 512)
}

/** Sides that are whole but for the error of the division before. */
function round(side: number): number {
  return Math.round(side * 1000) / 1000
}

/** High-resolution models' bound, with the frame around an image. */
const anthropicImageMax = 4_784 + 4

export function anthropicImageTokens(size: ImageSize | null): number {
  if (size === null) return anthropicImageMax
  const patches = Math.ceil(size.width / 28) * Math.ceil(size.height / 28)
  // The older rule, width × height / 750, is up to 2 % more.
  return Math.min(anthropicImageMax, Math.max(patches, Math.ceil((size.width * size.height) / 750)) + 4)
}

/** Sound: 32 tokens a second, of which a second has a thousand bytes at the lowest useful bit rate. */
export function audioTokens(base64Bytes: number): number {
  return Math.ceil((base64Bytes * 3) / 4 / 1000 * 32)
}
