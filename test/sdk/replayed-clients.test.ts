// Clients that cannot be started here, by the requests they are known to send: Open WebUI, Claude Code, Codex.

import t from 'tap'
import { anthropic, anthropicAnswer, messagesEvents } from '../fixtures/anthropic-scripts.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { keyLine, openFront, secretOf } from './front.ts'
import { baseUrl } from './recipes.ts'

const model = await openScriptedUpstream(t, openai({ reasoningTokens: 2, cachedTokens: 3 }, ['gpt-oss-20b', 'llama-3.1-8b', 'secret-model']))
const claude = await openScriptedUpstream(t, anthropic({ cacheReadTokens: 100, cacheWriteTokens: 20 }))
const front = await openFront(t, `
upstreams:
  model: { url: "${model.url}", provider: openai }
  claude: { url: "${claude.url}", provider: anthropic }
plans:
  team:
    entitlements: { models: ["gpt-oss-*", "llama-*", "claude-*"] }
    limits:
      - { name: rpm,   meter: requests,     limit: 100, window: 1m }
      - { name: daily, meter: total_tokens, limit: 5M,  window: day }
keys:
${keyLine('team', 'plan: team')}
`)
const bearer = { authorization: `Bearer ${secretOf('team')}` }
const post = (url: string, headers: Record<string, string>, body: object): Promise<Response> =>
  fetch(url, { method: 'POST', headers: { ...bearer, 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) })

t.test('Open WebUI: the models of the plan, a streamed chat, and the title it asks for afterwards', async (t) => {
  const base = baseUrl('Open WebUI', front.gateway.url)
  const listed = await (await fetch(`${base}/models`, { headers: bearer })).json() as { object: string; data: { id: string; object: string }[] }
  t.equal(listed.object, 'list')
  t.same(listed.data.map(({ id }) => id), ['gpt-oss-20b', 'llama-3.1-8b'])

  const about = { 'x-openwebui-user-name': 'Ada', 'x-openwebui-user-id': '7', 'http-referer': 'https://openwebui.com/', 'x-title': 'Open WebUI', accept: '*/*' }
  const messages = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Say hello.' }]
  const streamed = await post(`${base}/chat/completions`, about, { model: 'llama-3.1-8b', stream: true, stream_options: { include_usage: true }, messages })
  t.match(streamed.headers.get('content-type'), 'text/event-stream')
  const text = await streamed.text()
  t.match(text, /"usage":\{"prompt_tokens":9/)
  t.ok(text.endsWith('data: [DONE]\n\n'))
  const booked = { input_tokens: 9, cached_input_tokens: 3, output_tokens: 4, reasoning_tokens: 2, usage_source: 'upstream', end: 'complete' }
  t.match(await front.event(streamed.headers.get('x-request-id')), { ...booked, stream: true })

  const title = await post(`${base}/chat/completions`, about, { model: 'llama-3.1-8b', stream: false, max_completion_tokens: 1000, messages })
  t.match(await title.json(), { choices: [{ message: { content: 'Hello, world!' } }] })
  t.match(await front.event(title.headers.get('x-request-id')), { ...booked, stream: false })
})

t.test('Claude Code: the look whether anyone is there, tokens counted, a turn with tools, cache and thinking', async (t) => {
  const base = baseUrl('Claude Code', front.gateway.url)
  t.equal((await fetch(base, { method: 'HEAD' })).status, 200)
  const headers = {
    'anthropic-version': '2023-06-01', 'user-agent': 'claude-cli/2.1.37 (external, cli)', 'x-app': 'cli', 'x-stainless-lang': 'js', 'x-stainless-retry-count': '0',
    'x-stainless-timeout': '600', 'anthropic-dangerous-direct-browser-access': 'true', 'accept-encoding': 'gzip, deflate, br, zstd',
    'anthropic-beta': 'claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,prompt-caching-scope-2026-01-05',
  }
  const body = {
    model: 'claude-sonnet-4-5',
    system: [
      { type: 'text', text: 'You are Claude Code, Anthropic\'s official CLI for Claude.', cache_control: { type: 'ephemeral' } },
      { type: 'text', text: 'You are an interactive CLI tool.', cache_control: { type: 'ephemeral' } },
    ],
    messages: [
      { role: 'user', content: [{ type: 'text', text: '<system-reminder>…</system-reminder>' }, { type: 'text', text: 'List the files.', cache_control: { type: 'ephemeral' } }] },
      { role: 'assistant', content: [{ type: 'thinking', thinking: 'I list them.', signature: 'c2ln' }, { type: 'tool_use', id: 'toolu_1', name: 'Bash', input: { command: 'ls' } }] },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: 'README.md', is_error: false }] },
    ],
    tools: [
      { name: 'Bash', description: 'Runs a command.', input_schema: { type: 'object', properties: { command: { type: 'string' } }, required: ['command'], additionalProperties: false } },
      { name: 'Read', description: 'Reads a file.', input_schema: { type: 'object', properties: {} }, cache_control: { type: 'ephemeral' } },
    ],
  }
  const counted = await post(`${base}/v1/messages/count_tokens?beta=true`, { ...headers, 'anthropic-beta': `${headers['anthropic-beta']},token-counting-2024-11-01` }, body)
  t.match(await counted.json(), { input_tokens: 9 })

  const turn = {
    ...body, max_tokens: 32_000, stream: true, metadata: { user_id: 'user_0123_account__session_4567' }, thinking: { type: 'enabled', budget_tokens: 31_999 },
    context_management: { edits: [{ type: 'clear_thinking_20251015', keep: 'all' }] },
  }
  const streamed = await post(`${base}/v1/messages?beta=true`, headers, turn)
  t.equal(streamed.status, 200)
  t.equal(await streamed.text(), messagesEvents({ ...anthropicAnswer, model: 'claude-sonnet-4-5', cacheReadTokens: 100, cacheWriteTokens: 20 }).join(''), 'byte for byte')
  const seen = claude.requests.at(-1)!
  t.equal(seen.target, '/v1/messages?beta=true')
  t.same(seen.json(), turn, 'nothing of the request is lost')
  t.equal(seen.header('anthropic-beta'), headers['anthropic-beta'])
  t.match(await front.event(streamed.headers.get('request-id')), {
    endpoint: 'messages', input_tokens: 129, cached_input_tokens: 100, cache_write_tokens: 20, output_tokens: 4, usage_source: 'upstream', end: 'complete',
  })

  const refused = await post(`${base}/v1/messages?beta=true`, headers, { ...turn, model: 'other', stream: true })
  t.equal(refused.status, 403)
  t.match(await refused.json(), { type: 'error', error: { type: 'permission_error' } })
})

const codexBody = {
  model: 'gpt-oss-20b', instructions: 'You are a coding agent running in the Codex CLI.', tool_choice: 'auto', parallel_tool_calls: false,
  reasoning: { effort: 'medium', summary: 'auto' }, store: false, stream: true, include: ['reasoning.encrypted_content'], prompt_cache_key: '0199-0123', text: { verbosity: 'medium' },
  client_metadata: { 'x-codex-installation-id': '0199-4567' },
  input: [
    { type: 'message', role: 'developer', content: [{ type: 'input_text', text: '<permissions instructions>…' }] },
    { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'List the files.' }] },
    { type: 'reasoning', summary: [], encrypted_content: 'Z0FBQUFB', content: null },
    { type: 'function_call', name: 'shell_command', arguments: '{"command":"ls"}', call_id: 'call_1' },
    { type: 'function_call_output', call_id: 'call_1', output: 'README.md' },
  ],
}
const codexTools = [
  { type: 'function', name: 'shell_command', description: 'Runs a command.', strict: false, parameters: { type: 'object', properties: { command: { type: 'string' } }, required: ['command'] } },
  { type: 'custom', name: 'apply_patch', description: 'Edits files.', format: { type: 'grammar', syntax: 'lark', definition: 'start: "x"' } },
  { type: 'local_shell' },
  { type: 'namespace', name: 'mcp__files', description: 'Files.', tools: [{ type: 'function', name: 'read', parameters: { type: 'object', properties: {} } }] },
  { type: 'tool_search', execution: 'client', description: 'Finds tools.', parameters: { type: 'object', properties: {} } },
]
const codexHeaders = { accept: 'text/event-stream', originator: 'codex_cli_rs', 'session-id': '0199-0123', 'user-agent': 'codex_cli_rs/0.162.1 (Debian 13; x86_64) xterm', 'x-codex-turn-metadata': '{"turn_id":"1"}' }

t.test('Codex: a streamed response with tools that it runs itself, kept nowhere', async (t) => {
  const base = baseUrl('Codex', front.gateway.url)
  const body = { ...codexBody, tools: codexTools }
  const streamed = await post(`${base}/responses`, codexHeaders, body)
  t.equal(streamed.status, 200)
  const text = await streamed.text()
  t.match(text, /^event: response\.created\n/)
  t.match(text, /event: response\.completed\ndata: .*"input_tokens":9/)
  const { max_output_tokens: bound, ...sent } = model.requests.at(-1)!.json()
  t.same(sent, body, 'nothing of the request is lost')
  t.ok(Number(bound) > 0, 'and a bound is written into it')
  t.match(await front.event(streamed.headers.get('x-request-id')), {
    endpoint: 'responses', input_tokens: 9, cached_input_tokens: 3, output_tokens: 4, reasoning_tokens: 2, usage_source: 'upstream', end: 'complete',
  })
})

t.test('Codex: web search, which costs beyond tokens, is refused by name unless the plan grants it', async (t) => {
  const before = model.executions
  for (const tool of [{ type: 'web_search', external_web_access: false }, { type: 'tool_search', execution: 'server' }, { type: 'shell', environment: { type: 'container_auto' } },
    { type: 'namespace', name: 'x', tools: [{ type: 'web_search' }] }]) {
    const refused = await post(`${baseUrl('Codex', front.gateway.url)}/responses`, codexHeaders, { ...codexBody, tools: [...codexTools, tool] })
    t.equal(refused.status, 403, JSON.stringify(tool))
    t.match(await refused.json(), { error: { code: 'feature_unavailable', message: /hosted_tools/ } })
  }
  t.equal(model.executions, before)
})
