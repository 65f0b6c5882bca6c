import { harmlessText } from '../acting-characters.ts'
import type { Explanation, RefusalExplanation } from '../admin/explanation.ts'
import type { PriceExplanation } from '../invoices/explanation.ts'
import { jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { doorOptions, throughDoor } from './door.ts'
import { toTable } from './table.ts'

export const explainCommand: Command = {
  name: 'explain', summary: 'how a call was held, settled and priced, or why it was refused',
  arguments: [{ name: 'id', about: 'the id of the call: its answer carries it as x-request-id' }],
  options: [jsonOption, ...doorOptions],
  examples: ['tallygate explain 019a2b3c-4d5e-7f60-8123-456789abcdef'],
  run: (input, around) => throughDoor(input, around, async (door) => {
    const answer = await door.ask('GET', `/api/v1/explain/${encodeURIComponent(input.arguments[0] ?? '')}`)
    if (input.flag('json')) printJson(around, answer)
    else print(around, textOf(answer as unknown as Explanation | RefusalExplanation))
    return 0
  }),
}

function textOf(explanation: Explanation | RefusalExplanation): string {
  if (explanation.state === 'refused') return refusalOf(explanation)
  const { corrections, notes } = explanation
  return [
    headOf(explanation), limitsOf(explanation), ...(explanation.price === null ? [] : [priceOf(explanation.price)]),
    ...corrections.map(({ id, settled_at: at, price }) => `Correction ${id}, settled ${at}\n${priceOf(price)}`),
    ...(notes.length === 0 ? [] : [notes.join('\n')]),
  ].join('\n\n')
}

function headOf(call: Explanation): string {
  const { bound, usage } = call
  const asked = bound === null ? [] : [
    ...(bound.input === undefined ? [] : [bound.input === null ? 'input of unknown length' : `${bound.input} input tokens at most`]),
    ...(bound.output === undefined ? [] : [`${bound.output} output tokens${bound.choices === undefined ? '' : ` for each of ${bound.choices}`}`]), `${bound.bytes} bytes`,
  ]
  const used = Object.entries(usage).filter(([, amount]) => amount !== 0).map(([name, amount]) => `${amount} ${name}`)
  const lines: readonly (readonly [string, string])[] = [
    ['Call', `${call.id}, ${call.state.replace('_', ' ')}`],
    ['Who', `account ${call.account}, key ${call.key}, plan ${call.plan} version ${call.plan_version}`],
    ['What', [call.endpoint, ...(call.model === null ? [] : [`model ${call.model}`]), ...(call.model_served === null ? [] : [`served as ${call.model_served}`]), `by ${call.upstream} (${call.provider})`, ...(call.stream ? ['streamed'] : []), ...call.features].join(', ')],
    ['When', `admitted ${call.admitted_at}${call.settled_at === null ? '' : `, settled ${call.settled_at}`}${call.expires_at === null ? '' : `, given up at ${call.expires_at} unless its gateway shows a sign of life`}`],
    ['Ended', call.end === null ? '' : `${call.end}${call.status === null ? '' : `, status ${call.status}`}${call.usage_source === null ? '' : `, counted by: ${call.usage_source}`}`],
    ['Asked for', asked.join(', ')], ['Lowered to', call.output_bound ?? ''], ['Used', used.join(', ')], ['Would be refused by', call.shadow.join(', ')],
    ['Overrun', call.overruns.map(({ bucket, amount }) => `${amount} beyond ${bucket}`).join(', ')],
  ]
  return toLines(lines)
}

function refusalOf({ id, account, key, model, refused_at: at, reason, limit, ceiling, used, remaining, resets_at: resetsAt }: RefusalExplanation): string {
  const figures = [
    ...(limit === null ? [] : [limit]), ...(ceiling === null ? [] : [`at most ${amountOf(ceiling)}`]), ...(used === null ? [] : [`${amountOf(used)} used`]), ...(remaining === null ? [] : [`${amountOf(remaining)} left`]),
  ]
  const lines: readonly (readonly [string, string])[] = [
    ['Call', `${id}, refused`], ['Who', `account ${account}, key ${key}`], ['What', model === null ? '' : `model ${model}`], ['When', at],
    ['Why', `${reason}${reasons[reason] === undefined ? '' : `: ${reasons[reason]}`}`], ['Limit', figures.join(', ')], ['Anew from', resetsAt ?? ''],
  ]
  return `${toLines(lines)}\n\nNothing of it was counted, and it cost nothing.`
}

const reasons: Readonly<Record<string, string>> = {
  rate_limited: 'too many in a short time', usage_limit_reached: 'what the limit allows was used up', capacity_reserved: 'what was left was held by calls in flight', concurrency_limit: 'as many calls as may be were in flight',
  no_credit_available: 'what was given was used up', request_too_large: 'the call asked for more than the limit can ever give', feature_unavailable: 'the plan does not have what was asked for',
  subscription_inactive: 'the account was suspended, had not begun, or was past its end', metering_unavailable: 'the store was away', bad_request: 'the request was not understood',
}

function toLines(lines: readonly (readonly [string, string])[]): string {
  return lines.filter(([, text]) => text !== '').map(([title, text]) => `${title.padEnd(10)}  ${harmlessText(text)}`).join('\n')
}

function limitsOf({ limits, account }: Explanation): string {
  return toTable(limits, [
    { title: 'LIMIT', cell: ({ name, of, mode }) => `${of === account ? '' : `${of}/`}${name}${mode === 'shadow' ? ' (shadow)' : ''}` },
    { title: 'METER', cell: ({ meter }) => meter },
    { title: 'WINDOW', cell: ({ window }) => window },
    { title: 'FROM', cell: ({ from }) => from },
    { title: 'UNTIL', cell: ({ until }) => until },
    { title: 'LIMIT', cell: ({ limit }) => limit ?? 'unlimited' },
    { title: 'HELD', cell: ({ held }) => amountOf(held) },
    { title: 'USED', cell: ({ used }) => amountOf(used) },
    { title: 'DRAWN FROM', cell: ({ buckets }) => buckets.filter(({ drawn }) => drawn !== 0).map(({ bucket, drawn }) => (buckets.length === 1 ? bucket : `${bucket}: ${drawn}`)).join(', ') },
  ], 'no limit applies')
}

function priceOf({ parts, sum, cost, currency, price_version: version, in_force_from: from, rate, note }: PriceExplanation): string {
  const table = parts.length === 0 ? [] : [toTable(parts, [
    { title: 'COUNTED', cell: ({ counted }) => counted },
    { title: 'PRICE OF', cell: ({ price }) => price },
    { title: 'QUANTITY', cell: ({ quantity }) => quantity },
    { title: 'EACH', cell: ({ unit_price: each }) => each },
    { title: 'AMOUNT', cell: ({ amount }) => amount },
  ], '')]
  const by = version === null ? '' : `, by prices ${version}${from === null ? '' : ` (from ${from})`}${rate === null ? '' : ` for ${rate.join(', ')}`}`
  const total = cost === null ? [] : [`Cost ${cost} ${currency ?? ''}${by}${sum === null ? '' : `; exactly ${sum}`}`]
  return [...table, ...total.map(harmlessText), ...(note === null ? [] : [note])].join('\n')
}

/** Money has more digits than a table's cell shows. */
function amountOf(amount: number | null): string | null {
  return amount === null ? null : amount.toLocaleString('en-US', { maximumFractionDigits: 9 })
}
