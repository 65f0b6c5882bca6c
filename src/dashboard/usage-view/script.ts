// What a person with a key has left. The key is kept in a variable of this page alone: a reload forgets it.

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

(() => {
  const numbers = new Intl.NumberFormat('en', { maximumFractionDigits: 6 })
  const instants = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' })
  const windows: Readonly<Record<string, string>> = { minute: 'a minute', hour: 'an hour', day: 'a day', week: 'a week', month: 'a month', billing_period: 'a billing period', term: 'a term', lifetime: 'ever' }
  const form = document.querySelector('form') as HTMLFormElement
  const input = document.querySelector('input') as HTMLInputElement
  const problem = document.querySelector('#problem') as HTMLElement
  const result = document.querySelector('#result') as HTMLElement
  const shown = document.querySelector('#shown') as HTMLElement
  let key = ''

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

  const ask = async (): Promise<void> => {
    problem.textContent = ''
    const response = await fetch('/-/usage', { headers: { authorization: `Bearer ${key}`, accept: 'application/json' }, cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer' })
    const answer = await response.json() as Usage & { error?: { message?: string } }
    if (response.ok) show(answer)
    else throw new Error(answer.error?.message ?? `The gateway answered ${response.status}.`)
  }

  const askAndTell = (): void => {
    ask().catch((error: unknown) => { problem.textContent = error instanceof Error && !(error instanceof TypeError) ? error.message : 'The gateway cannot be reached.' })
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
    shown.replaceChildren()
    result.hidden = true
    form.hidden = false
    input.focus()
  })
})()
