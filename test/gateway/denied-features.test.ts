// What everybody has, a plan may deny: refused with 403 before anything is held or forwarded, in the words of each dialect.

import t from 'tap'
import { anthropic } from '../fixtures/anthropic-scripts.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { json, openScriptedUpstream, steps } from '../fixtures/scripted-upstream.ts'
import { prompt, startRig } from './exchange/rig.ts'

const say = [{ role: 'user', content: 'Hello' }]
const picture = [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://pictures.test/a.png' } }] }]
const seen = [{ role: 'user', content: [{ type: 'image', source: { type: 'url', url: 'https://pictures.test/a.png' } }] }]
const limits = (more: string): string[] => [`{ name: rpm, meter: requests, limit: 100, window: 1m }${more}`]

t.test('OpenAI’s dialect: streaming, vision, tools and batches', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, {
    entitlements: '{ models: ["*"], deny_features: [tools, vision, streaming, batch], endpoints: [chat.completions, responses, "POST /v1/batches"] }',
    limits: limits('\n  seeing:\n    public: true\n    entitlements: { deny_features: [streaming], endpoints: [chat.completions, responses, "POST /v1/batches"] }\n  hidden: {}'),
  })
  const cases: readonly (readonly [string, object])[] = [
    ['vision', { messages: picture }], ['tools', { tools: [{ type: 'function', function: { name: 'f', parameters: {} } }] }], ['streaming', { stream: true }],
  ]
  for (const [feature, more] of cases) {
    for (const [target, body] of [['/v1/chat/completions', { ...prompt, ...more }], ['/v1/responses', { model: 'm', input: 'x', ...more, ...('messages' in more ? { input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'https://pictures.test/a.png' }] }] } : {}) }]] as const) {
      const answer = await rig.request({ method: 'POST', target, body })
      t.equal(answer.status, 403, `${feature} at ${target}`)
      t.match(answer.json(), { error: { code: 'feature_unavailable', reason: 'feature_unavailable', message: `The feature '${feature}' is not part of your plan 'main'.${feature === 'streaming' ? '' : ' Plans that have it: seeing.'}` } })
      t.equal(answer.header('x-should-retry'), 'false')
    }
  }
  t.match((await rig.request({ method: 'POST', target: '/v1/batches', body: { input_file_id: 'f' } })).status, 403)
  t.equal(upstream.executions, 0)
  t.equal((await rig.chat({ messages: say })).status, 200, 'what is left is served')
  t.match(await rig.usage(), { rpm: { used: 1 } }, 'a refusal counts nothing')
  const [event] = await rig.events()
  t.notOk('uses' in (event ?? {}))
})

t.test('Anthropic’s dialect; a plan that denies nothing serves it all, and the event says what was used', async (t) => {
  const upstream = await openScriptedUpstream(t, anthropic())
  const rig = await startRig(t, upstream.url, { entitlements: '{ deny_features: [vision, streaming] }', limits: limits('') })
  const ask = (more: object): ReturnType<typeof rig.request> => rig.request({ method: 'POST', target: '/v1/messages', body: { model: 'claude', max_tokens: 5, messages: say, ...more } })
  for (const [feature, more] of [['vision', { messages: seen }], ['streaming', { stream: true }]] as const) {
    const answer = await ask(more)
    t.equal(answer.status, 403, feature)
    t.match(answer.json(), { type: 'error', error: { type: 'permission_error', message: `The feature '${feature}' is not part of your plan 'main'.`, details: { reason: 'feature_unavailable' } } })
  }
  t.equal((await ask({ tools: [{ name: 'f', input_schema: { type: 'object' } }] })).status, 200)
  await rig.configure({ entitlements: '{ features: [vision], deny_features: [vision] }', limits: limits('') })
  t.equal((await ask({ messages: seen })).status, 200, 'granted by name')
  t.equal((await ask({ stream: true })).status, 200)
  t.same((await rig.events()).map((event) => event['uses']), [['tools'], ['vision'], undefined])
})

t.test('batches are served where they are named and not denied', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(json(200, { id: 'batch_1' })))
  const rig = await startRig(t, upstream.url, { entitlements: '{ endpoints: [chat.completions, responses, "POST /v1/batches"] }', limits: limits('') })
  t.equal((await rig.request({ method: 'POST', target: '/v1/batches', body: { input_file_id: 'f' } })).status, 200)
  t.same((await rig.events()).map((event) => event['uses']), [['batch']])
})
