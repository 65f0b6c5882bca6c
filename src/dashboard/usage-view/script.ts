// What a person with a key has left, and has used. The key is kept in a variable of this page alone: a reload forgets it.

interface Standing {
  readonly name: string
  readonly meter: string
  readonly window: string | null
  readonly per: string
  readonly limit: number | null
  readonly used: number
  readonly reserved: number
  readonly remaining: number | null
  readonly resets_at: string | null
  readonly exhausts_at: string | null
}

interface Granted {
  readonly id: string
  readonly limit: string
  readonly meter: string
  readonly amount: number
  readonly remaining: number
  readonly effective_at: string | null
  readonly expires_at: string | null
}

interface Usage {
  readonly account: string
  readonly key: string
  readonly plan: string
  readonly as_of: string
  readonly subscription?: { readonly state: string; readonly until: string | null; readonly term: { readonly start: string; readonly end: string } | null }
  readonly limits: readonly Standing[]
  readonly grants: readonly Granted[]
}

interface Used {
  readonly requests: number
  readonly input_tokens: number
  readonly output_tokens: number
  readonly total_tokens: number
  readonly cost: Readonly<Record<string, string>>
  readonly refused: number | null
}

interface Past {
  readonly from: string
  readonly to: string
  readonly complete_until: string | null
  readonly rows: readonly (Used & { readonly from: string })[]
}

interface Day extends Used {
  readonly from: string
}

(() => {
  const numbers = new Intl.NumberFormat('en', { maximumFractionDigits: 6 })
  const instants = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' })
  const days = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', timeZone: 'UTC' })
  const months = new Intl.DateTimeFormat('en-GB', { month: 'long', timeZone: 'UTC' })
  const amounts = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 })
  const small = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 6 })
  const dayMs = 86_400_000
  const daysShown = 30
  const windows: Readonly<Record<string, string>> = { minute: 'a minute', hour: 'an hour', day: 'a day', week: 'a week', month: 'a month', billing_period: 'a billing period', term: 'a term', lifetime: 'ever' }
  const form = document.querySelector('form') as HTMLFormElement
  const input = document.querySelector('input') as HTMLInputElement
  const problem = document.querySelector('#problem') as HTMLElement
  const result = document.querySelector('#result') as HTMLElement
  const shown = document.querySelector('#shown') as HTMLElement
  const past = document.querySelector('#past') as HTMLElement
  let key = ''
  /** An answer to what was asked before the key was forgotten, or before it was asked again, is not shown. */
  let asked = 0

  const make = (name: string, text = '', className = ''): HTMLElement => {
    const element = document.createElement(name)
    element.textContent = text
    if (className !== '') element.className = className
    return element
  }
  const at = (text: string): string => instants.format(new Date(text))
  const words = (meter: string): string => (meter === 'concurrency' ? 'calls' : meter.replaceAll('_', ' '))

  const limitOf = (limit: Standing): HTMLElement => {
    const item = make('li')
    const share = limit.limit === null ? 0 : limit.limit === 0 ? 1 : (limit.used + limit.reserved) / limit.limit
    const head = make('div', '', 'row')
    const window = limit.window === null ? 'at once' : `in ${windows[limit.window] ?? limit.window}`
    head.append(make('strong', limit.name), make('span', `${words(limit.meter)} ${window}`, 'muted'))
    const bar = make('div', '', share >= 1 ? 'bar full' : share >= 0.8 ? 'bar nearly' : 'bar')
    const used = make('i')
    used.style.width = `${Math.min(100, share * 100)}%`
    bar.append(used)
    bar.setAttribute('aria-hidden', 'true')
    const foot = make('p')
    foot.textContent = limit.limit === null ? `${numbers.format(limit.used)} used, no limit` : `${numbers.format(limit.remaining ?? 0)} left of ${numbers.format(limit.limit)}`
    const more = [
      limit.limit === null ? '' : `${numbers.format(limit.used)} used`, limit.reserved > 0 ? `${numbers.format(limit.reserved)} held by calls in flight` : '',
      limit.resets_at === null ? '' : `begins anew ${at(limit.resets_at)}`, limit.exhausts_at === null ? '' : `at this rate used up ${at(limit.exhausts_at)}`,
    ].filter((part) => part !== '')
    item.append(head, bar, foot, make('p', more.join(' · '), 'muted'))
    return item
  }

  const grantOf = (grant: Granted): HTMLElement => {
    const ends = grant.expires_at === null ? 'does not expire' : `expires ${at(grant.expires_at)}`
    return make('li', `${numbers.format(grant.remaining)} of ${numbers.format(grant.amount)} ${words(grant.meter)} beyond ${grant.limit}, ${ends}`)
  }

  const listOf = (items: readonly HTMLElement[], none: string): HTMLElement => {
    if (items.length === 0) return make('p', none, 'muted')
    const list = make('ul')
    list.append(...items)
    return list
  }

  const show = (usage: Usage): void => {
    const head = make('h2', usage.account)
    const about = make('p', `Key ${usage.key}, plan ${usage.plan}, as of ${at(usage.as_of)}`, 'muted')
    const subscription = usage.subscription === undefined ? [] : [make('p', `Subscription: ${words(usage.subscription.state)}${usage.subscription.until === null ? '' : ` until ${at(usage.subscription.until)}`}`)]
    shown.replaceChildren(
      head, about, ...subscription, make('h3', 'Limits'), listOf(usage.limits.map(limitOf), 'No limit is shown for this key.'),
      ...(usage.grants.length === 0 ? [] : [make('h3', 'Grants'), listOf(usage.grants.map(grantOf), '')]),
    )
    form.hidden = true
    result.hidden = false
  }

  const sumOf = (rows: readonly Used[]): Used => {
    // To the billionth of a unit, and never a float on the way.
    const costs = new Map<string, bigint>()
    for (const { cost } of rows) for (const [currency, text] of Object.entries(cost)) costs.set(currency, (costs.get(currency) ?? 0n) + BigInt(text.replace('.', '')))
    const sum = (of: (row: Used) => number): number => rows.reduce((all, row) => all + of(row), 0)
    return {
      requests: sum((row) => row.requests), input_tokens: sum((row) => row.input_tokens), output_tokens: sum((row) => row.output_tokens), total_tokens: sum((row) => row.total_tokens), refused: sum((row) => row.refused ?? 0),
      cost: Object.fromEntries([...costs].map(([currency, nanos]) => [currency, `${nanos < 0n ? '-' : ''}${String(nanos < 0n ? -nanos : nanos).padStart(10, '0').replace(/(?=.{9}$)/, '.')}`])),
    }
  }
  const amountOf = (text = '0'): string => (Math.abs(Number(text)) < 1 ? small : amounts).format(Number(text))
  const money = (cost: Used['cost']): string[] => Object.entries(cost).map(([currency, text]) => `${amountOf(text)} ${currency}`)
  const counted = (count: number, one: string): string => `${numbers.format(count)} ${one}${count === 1 ? '' : 's'}`

  const spentIn = (name: string, used: Used, currencies: readonly string[]): HTMLElement => {
    const item = make('div')
    const [first, ...others] = money(Object.fromEntries(currencies.map((currency) => [currency, used.cost[currency] ?? '0'])))
    item.append(make('p', name, 'muted'), make('strong', first ?? counted(used.requests, 'request')), ...others.map((amount) => make('strong', amount)))
    item.append(make('p', first === undefined ? counted(used.total_tokens, 'token') : `${counted(used.requests, 'request')}, ${counted(used.total_tokens, 'token')}`, 'muted'))
    return item
  }

  const drawn = (name: string, attributes: Readonly<Record<string, string | number>>): SVGElement => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', name)
    for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, String(value))
    return element
  }

  const chartOf = (shownDays: readonly Day[]): HTMLElement => {
    const [of, one] = shownDays.some(({ total_tokens: tokens }) => tokens > 0) ? ['total_tokens', 'token'] as const : ['requests', 'request'] as const
    const most = Math.max(1, ...shownDays.map((day) => day[of]))
    const peak = shownDays.find((day) => day[of] === most)
    const all = counted(sumOf(shownDays)[of], one)
    const chart = drawn('svg', {
      viewBox: `0 0 ${shownDays.length * 10} 100`, preserveAspectRatio: 'none', role: 'img',
      'aria-label': `${all} in ${shownDays.length} days${peak === undefined ? '' : `, most on ${days.format(new Date(peak.from))}: ${numbers.format(most)}`}`,
    })
    for (const [index, day] of shownDays.entries()) {
      const height = day[of] > 0 ? Math.max(3, (day[of] / most) * 100) : 1
      const bar = drawn('rect', { x: index * 10 + 1, y: 100 - height, width: 8, height, class: day[of] > 0 ? 'some' : 'none' })
      const words = drawn('title', {})
      words.textContent = `${days.format(new Date(day.from))}: ${counted(day[of], one)}`
      bar.append(words)
      chart.append(bar)
    }
    const box = make('figure')
    const ends = make('div', '', 'row muted')
    ends.append(make('span', days.format(new Date(shownDays[0]?.from ?? 0))), make('span', days.format(new Date(shownDays.at(-1)?.from ?? 0))))
    box.append(make('figcaption', `${all} in the last ${shownDays.length} days`), chart, ends)
    return box
  }

  const tableOf = (rows: readonly Day[]): HTMLElement => {
    const [currency, second] = new Set(rows.flatMap(({ cost }) => Object.keys(cost)))
    const spentOn = ({ cost }: Day): string => (second === undefined ? amountOf(cost[currency ?? '']) : money(cost).join(' + '))
    const refusals = rows.some(({ refused }) => (refused ?? 0) > 0)
    const line = (name: 'th' | 'td', texts: readonly string[]): HTMLElement => {
      const row = make('tr')
      row.append(...texts.map((text, index) => {
        const cell = make(index === 0 ? 'th' : name, text)
        if (cell instanceof HTMLTableCellElement && (name === 'th' || index === 0)) cell.scope = name === 'th' ? 'col' : 'row'
        return cell
      }))
      return row
    }
    const head = make('thead')
    head.append(line('th', ['Day', 'Requests', 'Tokens', ...(currency === undefined ? [] : [second === undefined ? currency : 'Spent']), ...(refusals ? ['Refused'] : [])]))
    const body = make('tbody')
    body.append(...rows.toReversed().map((row) => line('td', [
      days.format(new Date(row.from)), numbers.format(row.requests), numbers.format(row.total_tokens), ...(currency === undefined ? [] : [spentOn(row)]), ...(refusals ? [numbers.format(row.refused ?? 0)] : []),
    ])))
    const table = make('table')
    table.append(head, body)
    const wide = make('div', '', 'wide')
    wide.tabIndex = 0
    wide.setAttribute('role', 'region')
    wide.setAttribute('aria-label', 'Day by day')
    wide.append(table)
    const details = make('details')
    details.append(make('summary', 'Day by day'), wide)
    return details
  }

  const showPast = ({ from, to, complete_until: until, rows }: Past): void => {
    if (rows.length === 0) return past.replaceChildren(make('h3', 'History'), make('p', 'Nothing yet.', 'muted'))
    const todayMs = Date.parse(to) - dayMs
    const today = new Date(todayMs).toISOString()
    const inMonth = rows.filter((row) => row.from.slice(0, 7) === today.slice(0, 7))
    const monthName = from.slice(0, 10) > `${today.slice(0, 7)}-01` ? `Since ${days.format(new Date(from))}` : months.format(new Date(todayMs))
    const firstMs = Math.max(Date.parse(from), todayMs - (daysShown - 1) * dayMs)
    const shownDays = Array.from({ length: Math.round((todayMs - firstMs) / dayMs) + 1 }, (_, index): Day => {
      const atMs = firstMs + index * dayMs
      return rows.find((row) => Date.parse(row.from) === atMs) ?? { from: new Date(atMs).toISOString(), ...sumOf([]) }
    })
    const spent = make('div', '', 'spent')
    const month = sumOf(inMonth)
    const currencies = Object.keys(month.cost)
    spent.append(spentIn(monthName, month, currencies), spentIn('Today', sumOf(rows.filter((row) => row.from.slice(0, 10) === today.slice(0, 10))), currencies))
    past.replaceChildren(
      make('h3', currencies.length > 0 ? 'Spent' : 'Used'), spent, make('h3', 'History'), chartOf(shownDays), tableOf(rows),
      make('p', `By this key alone. Days are in UTC. ${until === null ? 'These sums are being made again, and may be too low.' : `Counted up to ${at(until)}.`}`, 'muted'),
    )
  }

  /** null: the gateway has no such thing. Throws what it says instead of an answer. */
  const fetched = async <Answer>(path: string): Promise<Answer | null> => {
    const response = await fetch(path, { headers: { authorization: `Bearer ${key}`, accept: 'application/json' }, cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer' })
    const answer = await response.json() as Answer & { error?: { message?: string } }
    if (response.status === 404) return null
    if (!response.ok) throw new Error(answer.error?.message ?? `The gateway answered ${response.status}.`)
    return answer
  }

  const ask = async (): Promise<void> => {
    asked += 1
    const mine = asked
    problem.textContent = ''
    const usage = await fetched<Usage>('/-/usage')
    if (mine !== asked) return
    if (usage === null) throw new Error('There is no such page any more.')
    show(usage)
    try {
      const found = await fetched<Past>('/-/usage/history?unit=day&since=31d')
      if (mine !== asked) return
      if (found === null) past.replaceChildren()
      else showPast(found)
    } catch (error) {
      if (mine === asked) past.replaceChildren(make('h3', 'History'), make('p', wordsOf(error), 'muted'))
    }
  }

  const wordsOf = (error: unknown): string => (error instanceof Error && !(error instanceof TypeError) ? error.message : 'The gateway cannot be reached.')

  const askAndTell = (): void => {
    ask().catch((error: unknown) => { problem.textContent = wordsOf(error) })
  }

  form.addEventListener('submit', (event) => {
    event.preventDefault()
    key = input.value.trim()
    input.value = ''
    askAndTell()
  })
  document.querySelector('#again')?.addEventListener('click', askAndTell)
  document.querySelector('#forget')?.addEventListener('click', () => {
    key = ''
    asked += 1
    shown.replaceChildren()
    past.replaceChildren()
    result.hidden = true
    form.hidden = false
    input.focus()
  })
})()
