import { invoiceText } from '../invoices/document.ts'
import type { InvoiceAnswer } from '../admin/invoice-report.ts'
import { jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { doorOptions, throughDoor } from './door.ts'
import { given } from './keys.ts'

export const invoiceCommand: Command = {
  name: 'invoice', summary: 'preview of the invoice of an account for a billing period',
  arguments: [{ name: 'account', about: 'which account' }],
  options: [
    { flags: '--period <period>', about: 'current (the default), previous, a month such as 2026-11 in which it begins, or a day in it' },
    { flags: '--with-children', about: 'the accounts under it as well, each with its own invoice' },
    jsonOption, ...doorOptions,
  ],
  examples: ['tallygate invoice acme', 'tallygate invoice acme --period 2026-11 --json', 'tallygate invoice research --period previous --with-children'],
  run: (input, around) => throughDoor(input, around, async (door) => {
    const query = given({ period: input.text('period'), with: input.flag('with-children') ? 'children' : undefined })
    const answer = await door.ask('GET', `/api/v1/invoices/${encodeURIComponent(input.arguments[0] ?? '')}`, { query })
    if (input.flag('json')) printJson(around, answer)
    else print(around, textOf(answer as unknown as InvoiceAnswer))
    return 0
  }),
}

function textOf(answer: InvoiceAnswer): string {
  const { known_since: since, children = [], family } = answer
  const invoices = [answer, ...children].map(invoiceText)
  const sums = family === undefined ? [] : [`All together: ${family.map(({ currency, total }) => `${total} ${currency}`).join(', ') || 'nothing to pay'}`]
  const warning = since === null ? [] : [`Not everything is here: events that were settled before ${since} are no longer kept. \`events: { archive: DIRECTORY }\` in the config keeps them.`]
  return [...invoices, ...sums, ...warning].join('\n\n')
}
