// What docs/clients.md tells users is what the tests do.

import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { clientsDocument, documentedBaseUrls, documentedOrigin } from './recipes.ts'

const openaiBase = `${documentedOrigin}/v1`
const bare = documentedOrigin

t.test('every client of the table has a test that calls the gateway by its base URL', async (t) => {
  const here = new URL('.', import.meta.url)
  const used = new Set(readdirSync(here).filter((name) => name.endsWith('.test.ts'))
    .flatMap((name) => [...readFileSync(new URL(name, here), 'utf8').matchAll(/baseUrl\('([^']+)'/g)].map(([, client]) => client!)))
  t.same([...documentedBaseUrls.keys()].sort(), [...used].sort())
  t.ok(documentedBaseUrls.size >= 9)
})

t.test('every recipe has the base URL of its row', async (t) => {
  const recipes: [string, string, readonly string[]][] = [
    ['OpenAI SDK', 'OpenAI SDK (JavaScript, Python)', [openaiBase, openaiBase]],
    ['Anthropic SDK', 'Anthropic SDK (JavaScript, Python)', [bare, bare]],
    ['LangChain', 'LangChain (ChatOpenAI)', [openaiBase, bare]],
    ['Vercel AI', 'Vercel AI (@ai-sdk/openai, @ai-sdk/openai-compatible)', [openaiBase, openaiBase, openaiBase]],
    ['Open WebUI', 'Open WebUI', [openaiBase]],
    ['Claude Code', 'Claude Code', [bare]],
    ['Codex', 'Codex', [openaiBase]],
  ]
  for (const [title, row, expected] of recipes) {
    const section = clientsDocument.split(/^## /m).find((part) => part.startsWith(`${title}\n`))
    const blocks = [...(section ?? '').matchAll(/^```\w*\n([\s\S]*?)^```/gm)].map(([, text]) => text!).join('')
    // From inside a container the same gateway has another name.
    const urls = [...blocks.replaceAll('host.docker.internal', 'localhost').matchAll(/http:\/\/localhost:8080[^\s'",]*/g)].map(([url]) => url)
    t.same(urls, expected, title)
    t.equal(documentedBaseUrls.get(row), expected[0], row)
  }
  t.equal(documentedBaseUrls.get('LangChain (ChatAnthropic)'), bare)
  t.equal(documentedBaseUrls.get('Vercel AI (@ai-sdk/anthropic)'), openaiBase)
})

t.test('the README says the same', async (t) => {
  const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')
  t.same([...readme.matchAll(/baseURL: '([^']+)'/g)].map(([, url]) => url), [documentedBaseUrls.get('OpenAI SDK (JavaScript, Python)')])
})
