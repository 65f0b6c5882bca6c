// Counting survives every prompt, and stops nobody else while it works.

import { monitorEventLoopDelay } from 'node:perf_hooks'
import t from 'tap'
import { COUNTED_CHARS_MAX, countTokens, encodingOf, sliceEnd, tokenizer } from '../../src/providers/tokenizer.ts'

t.test('counts are those of the encoding', async (t) => {
  t.equal(await countTokens(['hello world'], 'o200k_base'), 2)
  t.equal(await countTokens(['hello world', 'hello world'], 'cl100k_base'), 4)
  t.equal(await countTokens([], 'o200k_base'), 0)
  t.equal(await countTokens([''], 'o200k_base'), 0)
})

t.test('special tokens in a text are text', async (t) => {
  t.ok(await countTokens(['<|endoftext|><|im_start|>'], 'cl100k_base') > 4)
  t.ok(await countTokens(['<|endoftext|>'], 'o200k_harmony') > 2)
})

t.test('cutting into slices changes next to nothing', async (t) => {
  const words = Array.from({ length: 4_000 }, (_, i) => ['the', 'quick', 'brown', 'fox', 'überall', '速い', 'jumps\n'][i % 7]).join(' ')
  const { countTokens: whole } = await import('gpt-tokenizer/encoding/o200k_base')
  t.equal(await countTokens([words], 'o200k_base'), whole(words))
})

t.test('a cut never divides a character', (t) => {
  const text = '🎉'.repeat(5_000)
  for (let at = 0; at < text.length;) {
    const end = sliceEnd(text, at)
    t.ok(end > at)
    if ((text.charCodeAt(end - 1) & 0xfc00) === 0xd800) t.fail(`cut at ${end} divides a character`)
    at = end
  }
  t.end()
})

t.test('a megabyte of anything stops the event loop for less than 50 ms at a time', async (t) => {
  const letters = Array.from({ length: 200_000 }, (_, i) => String.fromCharCode(97 + (Math.imul(i, 2654435761) >>> 27) % 26)).join('')
  await countTokens(['warm'], 'o200k_base')
  for (const [what, text] of [['a', 'a'.repeat(1_000_000)], ['spaces', ' '.repeat(1_000_000)], ['letters', letters], ['line ends', '\n'.repeat(200_000)]] as const) {
    const delay = monitorEventLoopDelay({ resolution: 1 })
    delay.enable()
    const tokens = await countTokens([text], 'o200k_base')
    delay.disable()
    const typicalMs = delay.percentile(90) / 1e6
    t.comment(`${what}: ${tokens} tokens, 90 % of turns within ${typicalMs.toFixed(1)} ms, the longest ${(delay.max / 1e6).toFixed(1)} ms`)
    t.ok(tokens > 0)
    t.ok(typicalMs < 50, `${what}: ${typicalMs} ms`)
  }
})

t.test('beyond the bound the rest is taken to be alike; for admission it counts a token a byte', async (t) => {
  const text = 'hello '.repeat(COUNTED_CHARS_MAX / 4)
  const counted = await countTokens([text], 'o200k_base')
  t.ok(Math.abs(counted - text.length / 6) < text.length / 600, 'alike')
  t.ok(await tokenizer.count('o200k_base', [text]) >= counted + 500_000 * 0.7, 'at most')
  await t.rejects(tokenizer.count('none', ['x']))
})

t.test('the encoding is chosen by the model', (t) => {
  t.strictSame(encodingOf('gpt-4o-mini'), { encoding: 'o200k_base', known: true })
  t.strictSame(encodingOf('openai/gpt-oss-120b'), { encoding: 'o200k_harmony', known: true })
  t.strictSame(encodingOf('gpt-4-turbo'), { encoding: 'cl100k_base', known: true })
  t.strictSame(encodingOf('gpt-4.1'), { encoding: 'o200k_base', known: true })
  t.strictSame(encodingOf('gpt-3.5-turbo-0125'), { encoding: 'cl100k_base', known: true })
  t.strictSame(encodingOf('llama-3.1-8b'), { encoding: 'o200k_base', known: false })
  t.strictSame(encodingOf(null), { encoding: 'o200k_base', known: false })
  t.end()
})
