import t from 'tap'
import type { Model } from '../../src/config/config.ts'
import { GatewayError } from '../../src/errors.ts'
import type { Entitlement } from '../../src/metering/entitlement.ts'
import { boundOf, inputBound, opaqueBound, outputRange } from '../../src/metering/estimate.ts'
import { Ledger } from '../../src/metering/ledger.ts'
import { amountsOf, draftReservation, extendedChecks, outputBoundReport } from '../../src/metering/reservation.ts'
import { resolveEntitlement } from '../../src/metering/entitlement.ts'
import type { RequestFacts } from '../../src/providers/provider.ts'
import { accountOf, cardOf, limitOf, planOf, policy, principalOf } from './people.ts'
import { readTable } from './table.ts'

const facts: RequestFacts = {
  model: 'llama', streamed: false, usageAsked: false, outputAsked: null, outputDefault: null, boundsOutput: true, choices: 1, outputFloor: 0, clampable: true,
  inputBytes: 0, inputMessages: 0, inputTools: 0, inputMediaTokens: 0, inputTokensExact: null, inputUnseen: false, features: [], user: null, texts: () => [],
}
const model: Model = {
  pattern: 'llama', upstream: null, upstreamModel: null, contextTokens: null, outputTokensMax: null, outputField: null, inputFactor: 1, templateTokens: null,
  encoding: null, imageTokens: null, hiddenOutput: false,
}
const noon = Date.UTC(2026, 10, 22, 12)

t.test('bounds are what estimate.txt says', async (t) => {
  for (const { line, text, left: [asked], right } of readTable('estimate.txt')) {
    const [what, ...words] = asked!.split(/\s+/)
    const value = (name: string): string | undefined => words.find((word) => word.startsWith(`${name}=`))?.slice(name.length + 1)
    const number = (name: string): number | null => (value(name) === undefined ? null : Number(value(name)))
    const template = value('template')?.split(',').map(Number)
    const request: RequestFacts = {
      ...facts, outputAsked: number('asked'), outputDefault: number('default'), outputFloor: number('needs') ?? 0, clampable: !words.includes('unclampable'),
      boundsOutput: !words.includes('unbounded'), inputBytes: number('bytes') ?? 0, inputMessages: number('messages') ?? 0, inputTools: number('tools') ?? 0,
      inputMediaTokens: number('media') ?? 0, inputImages: number('images') ?? 0, inputImageTokens: number('image_tokens') ?? 0, inputTokensExact: number('exact'), inputUnseen: words.includes('unseen'),
    }
    const served: Model = {
      ...model, outputTokensMax: number('model'), contextTokens: number('context'), inputFactor: number('factor') ?? 1, imageTokens: number('per_image'),
      templateTokens: template === undefined ? null : { perCall: template[0]!, perMessage: template[1]!, perTool: template[2]! },
    }
    if (what === 'input') {
      t.equal(String(inputBound(request, served, { perCall: 64, perMessage: 8, perTool: 0 }) ?? 'unknown'), right[0], `line ${line}: ${text}`)
      continue
    }
    const entitlement: Pick<Entitlement, 'maxOutputTokens' | 'maxContextTokens' | 'policy'> = {
      maxOutputTokens: number('plan'),
      maxContextTokens: number('plan_context'),
      policy: { ...policy, outputDefault: number('output_default') ?? 4096, clampFloor: number('floor') ?? 1024, onInsufficient: words.includes('refuse') ? 'refuse' : 'clamp' },
    }
    const range = outputRange(request, served, entitlement, number('input'))
    const found = [`${range.uMin}..${range.uMax}`, range.write ? 'gateway' : 'caller', ...(range.lacking === 0 ? [] : [`lacking ${range.lacking}`])]
    t.same(found, right, `line ${line}: ${text}`)
  }
  t.same(outputRange(facts, null, { maxOutputTokens: null, maxContextTokens: null, policy }, null).uMax, 4096, 'nothing is known of the model')
})

/** A draft of a call with these limits: input, then the caller's output bound (null: none) and choices. */
function draftOf(limits: string[], input: number | null, outputAsked: number | null, more: Partial<RequestFacts> & { refuse?: boolean; priced?: boolean } = {}) {
  const plan = planOf('p', limits.map(limitOf), {
    policy: { ...policy, onInsufficient: more.refuse === true ? 'refuse' : 'clamp' },
    prices: more.priced === true ? cardOf([{ models: ['*'], picosPer: { input_tokens: 1_000_000, cache_write_tokens: 1_250_000, output_tokens: 4_000_000 } }]) : null,
  })
  const entitlement = resolveEntitlement(principalOf(plan, [accountOf('acme')]), { endpoint: 'chat', known: true, endpointByDefault: true, model: 'llama', features: [], endUser: null }, new Map())
  if (entitlement instanceof GatewayError) throw entitlement
  const request = { ...facts, ...more, outputAsked }
  return draftReservation(entitlement, boundOf(request, input, 500), outputRange(request, null, entitlement, input), noon)
}

t.test('each limit needs its own amount, linear in the output bound', async (t) => {
  const limits = [
    'r requests 100 1m', 'i input_tokens 1M 1m', 'ca cached_input_tokens 1M 1m', 'w cache_write_tokens 1M 1m', 'o output_tokens 1M 1m', 're reasoning_tokens 1M 1m',
    't total_tokens 1M 1m', 'bi bytes_in 1M 1m', 'c cost 100$ day', 'f concurrency 4 in_flight', 'mine weighted:input_tokens*1+output_tokens*4 1M 1m',
  ]
  const draft = draftOf(limits, 300, 100, { choices: 3, priced: true })
  if (draft instanceof GatewayError) throw draft
  t.same(draft.checks.map((check) => [check.ceilings[0]!.limit, check.fixed, check.perUnit]), [
    ['r', 1, 0], ['i', 300, 0], ['ca', 300, 0], ['w', 300, 0], ['o', 0, 3], ['re', 0, 3], ['t', 300, 3], ['bi', 500, 0],
    // 300 at the dearer cache write of 1,250 nanos; 3 choices at 4,000.
    ['c', 375_000, 12_000], ['f', 1, 0], ['mine', 300, 12],
  ])
  t.same([draft.uMin, draft.uMax, draft.asked, draft.admittedMs], [100, 100, 100, noon])
  t.same(draft.checks.filter((check) => check.clampable).map((check) => check.ceilings[0]!.limit), ['c'], 'money clamps, a minute does not')

  const usage = { requests: 1, input_tokens: 200, cached_input_tokens: 50, output_tokens: 60, total_tokens: 260, bytes_in: 500 }
  t.same(amountsOf(draft, usage), [1, 200, 50, 0, 60, 0, 260, 500, 440_000, 0, 440], 'what was used is drawn; a call that has ended is not in flight')
  t.same(amountsOf(draft, { ...usage, cost: 7 })[8], 7, 'a cost that is known is not computed again')

  const grown = extendedChecks(draft, { requests: 1, concurrency: 1, input_tokens: 300, output_tokens: 1_000, total_tokens: 1_300, bytes_in: 500 }, noon + 20_000)
  t.same(grown.map((check) => [check.fixed, check.perUnit]).slice(4, 10), [[1_000, 0], [0, 0], [1_300, 0], [500, 0], [4_375_000, 0], [1, 0]])
  t.same(grown.map((check) => check.slots[check.at]), draft.checks.map((check) => check.slots[check.at]), 'booked where the call was admitted')
})

t.test('a call that no empty window could hold is too large, and says so', async (t) => {
  // limits | input | output asked | words -> what comes of it
  const minute = 'tpm total_tokens 10k 1m'
  const day = 'daily total_tokens 10k day'
  const rows: [string[], number, number | null, Parameters<typeof draftOf>[3], string][] = [
    [[minute], 5_000, 5_000, {}, '1024..5000'],
    [[minute], 5_000, 5_001, {}, "request_too_large: This request alone can never fit the limit 'tpm': it may need 10001 tokens, the limit is 10000 per minute."],
    [[minute], 10_001, 0, {}, "request_too_large: This request alone can never fit the limit 'tpm': it may need 10001 tokens, the limit is 10000 per minute."],
    [[minute], 5_000, 2_000, { choices: 3 }, "request_too_large: This request alone can never fit the limit 'tpm': it may need 11000 tokens, the limit is 10000 per minute."],
    // A day clamps: it is too large only if the floor does not fit.
    [[day], 5_000, 5_001, {}, '1024..5001'],
    [[day], 8_976, 5_000, {}, '1024..5000'],
    [[day], 8_977, 5_000, {}, "request_too_large: This request alone can never fit the limit 'daily': it may need 10001 tokens, the limit is 10000 per day."],
    [[day], 5_000, 5_001, { refuse: true }, "request_too_large: This request alone can never fit the limit 'daily': it may need 10001 tokens, the limit is 10000 per day."],
    [[day], 5_000, 5_001, { clampable: false }, "request_too_large: This request alone can never fit the limit 'daily': it may need 10001 tokens, the limit is 10000 per day."],
    // A bound that is ours comes down to what an empty window holds, as far as the floor.
    [[minute], 7_000, null, {}, '1024..3000'],
    [[minute], 7_000, null, { refuse: true }, '3000..3000'],
    [[minute], 8_977, null, {}, "request_too_large: This request alone can never fit the limit 'tpm': it may need 10001 tokens, the limit is 10000 per minute."],
    [[minute, 'small output_tokens 1500 1m'], 7_000, null, {}, '1024..1500'],
    // Shadows and unlimited ones refuse nothing; an overdraft counts.
    [[`${minute} shadow`], 50_000, 5_000, {}, '1024..5000'],
    [['free total_tokens - 1m'], 50_000, 5_000, {}, '1024..5000'],
    [['daily total_tokens 10k day overdraft:10%'], 9_976, 5_000, {}, '1024..5000'],
    [['daily total_tokens 10k day overdraft:10%'], 9_977, 5_000, {}, "request_too_large: This request alone can never fit the limit 'daily': it may need 11001 tokens, the limit is 11000 per day."],
    // What cannot be known ahead.
    [[minute], 0, 9_999_999_999_999, { choices: 1_000_000_000 }, "request_too_large: This request alone can never fit the limit 'tpm': it may need 10000000000000000 tokens, the limit is 10000 per minute."],
    [['budget cost 1$ month'], 10, 10, {}, "feature_unavailable: There is no price for this model, and the limit 'budget' depends on it."],
    [['budget cost 1$ month shadow'], 10, 10, {}, '10..10'],
    [[minute], 10, 10, { outputFloor: 0 }, '10..10'],
  ]
  for (const [limits, input, asked, words, expected] of rows) {
    const draft = draftOf(limits, input, asked, words)
    t.equal(draft instanceof GatewayError ? `${draft.code}: ${draft.message}` : `${draft.uMin}..${draft.uMax}`, expected, `${limits.join(', ')} with ${input} and ${asked}`)
  }
  for (const [limit, refused] of [[minute, true], ['r requests 5 1m', false], ['o output_tokens 50k 1m', false], ['c cost 1$ day', true], [`${minute} shadow`, false]] as const) {
    const draft = draftOf([limit], null, 10, { priced: true })
    t.equal(draft instanceof GatewayError && draft.code === 'feature_unavailable', refused, `an input that nobody has seen, and ${limit}`)
  }
  const lacking = draftReservation({ ...(draftOf([minute], 1, 1) as Exclude<ReturnType<typeof draftOf>, GatewayError>).entitlement }, boundOf(facts, 1, 1),
    outputRange({ ...facts, outputFloor: 9_000 }, { ...model, outputTokensMax: 5_000 }, { maxOutputTokens: null, maxContextTokens: null, policy }, 1), noon)
  t.match(lacking, { code: 'feature_unavailable', message: /at least 9000 tokens; your plan and model allow 5000/ })
})

t.test('what only the answer tells needs something left, so that an exhausted limit refuses', async (t) => {
  const limits = ['gpu compute_seconds 5 1m', 'out bytes_out 5 1m', 'in bytes_in 1000 1m', 'r requests 9 1m', 't total_tokens 9 1m']
  const entitlement = (draftOf(limits, 1, 1) as Exclude<ReturnType<typeof draftOf>, GatewayError>).entitlement
  const draft = draftReservation(entitlement, opaqueBound(300), { uMin: 0, uMax: 0 }, noon)
  if (draft instanceof GatewayError) throw draft
  t.same(draft.checks.map((check) => check.fixed), [1, 1, 300, 1, 0])
  const text = draftOf(['i images 5 1m', 'a audio_seconds 5 1m'], 1, 1)
  const media = draftOf(['i images 5 1m', 'a audio_seconds 5 1m'], 1, 1, { inputMediaTokens: 85 })
  t.same(text instanceof GatewayError ? [] : text.checks.map((check) => check.fixed), [0, 0], 'text is no image')
  t.same(media instanceof GatewayError ? [] : media.checks.map((check) => check.fixed), [1, 1])
})

t.test('an answer that was clamped says what was asked for', async (t) => {
  const draft = draftOf(['daily total_tokens 10k day'], 8_000, 5_000)
  if (draft instanceof GatewayError) throw draft
  const { answer } = new Ledger({ forgetAfterMs: 1, timeOf: () => noon }).reserve({
    id: 'a', nowMs: noon, home: 'acme', checks: draft.checks, uMin: draft.uMin, uMax: draft.uMax, deadlineMs: noon, skeleton: {} as never,
  })
  t.match(answer, { outcome: 'admitted', u: 2_000 })
  t.equal(outputBoundReport(draft, 2_000), '2000;asked=5000')
  t.equal(outputBoundReport(draft, 5_000), null)
  const ours = draftOf(['daily total_tokens 10k day'], 8_000, null)
  t.equal(ours instanceof GatewayError ? '' : outputBoundReport(ours, ours.uMax), '2000;asked=4096', 'our own bound is told too where a limit lowers it')
})
