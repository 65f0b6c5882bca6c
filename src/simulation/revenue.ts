import { planChangesOf } from '../accounts/acting-account.ts'
import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import { DEFAULT_CALENDAR, type Account, type Config, type PriceCard } from '../config/config.ts'
import { InvoicePreview } from '../invoices/invoice.ts'
import { floored, Sum } from '../invoices/sum.ts'
import { termsOf } from '../invoices/terms.ts'
import { periodAt } from '../metering/calendar.ts'
import { toInstant, type UsageEvent } from '../metering/event.ts'
import type { Quantities } from '../metering/meter.ts'
import { eachPart, ratesFor } from '../metering/price.ts'
import type { Subscription } from '../metering/subscription.ts'

/** A configuration with everybody who calls under it. */
export interface Side {
  readonly config: Config
  readonly directory: StoredKeyDirectory
}

/** Money of one currency, in 10⁻ˢᶜᵃˡᵉ of it. */
export interface Money {
  readonly currency: string
  readonly scale: number
  /** Σ of the events' costs. */
  usage: bigint
  /** What billing periods add to that: fees, minimums, what is included, tiers, credits. */
  adjustments: bigint
}

interface Billed {
  readonly from: string
  readonly to: string
  readonly preview: InvoicePreview
}

/** What accounts pay on one side: an invoice for each billing period that the events touch. */
export class Revenue {
  readonly #side: Side
  readonly #billed = new Map<string, Billed[]>()

  constructor(side: Side) {
    this.#side = side
  }

  add(account: string, admittedMs: number, event: Pick<UsageEvent, 'time' | 'data'>): void {
    let billed = this.#billed.get(account)
    if (billed === undefined) this.#billed.set(account, billed = [])
    let last = billed.at(-1)
    if (last === undefined || event.time >= last.to || event.time < last.from) {
      last = billed.find(({ from, to }) => event.time >= from && event.time < to)
      if (last === undefined) billed.push(last = this.#period(account, admittedMs))
    }
    last.preview.add(event)
  }

  /** Periods without any event: fees are due all the same. */
  addPeriods(account: string, fromMs: number, toMs: number): void {
    const { calendar } = this.#side.directory.accountOf(account) ?? { calendar: DEFAULT_CALENDAR }
    for (let atMs = fromMs; atMs <= toMs; atMs = periodAt('billing_period', calendar, atMs).endMs) {
      const time = toInstant(atMs)
      const billed = this.#billed.get(account) ?? []
      this.#billed.set(account, billed)
      if (!billed.some(({ from, to }) => time >= from && time < to)) billed.push(this.#period(account, atMs))
    }
  }

  sums(account: string): readonly Money[] {
    const sums: Money[] = []
    for (const { preview } of this.#billed.get(account) ?? []) {
      for (const { currency, scale, usage, adjustments } of preview.finish().sections) {
        let sum = sums.find((each) => each.currency === currency && each.scale === scale)
        if (sum === undefined) sums.push(sum = { currency, scale, usage: 0n, adjustments: 0n })
        sum.usage += usage
        sum.adjustments += adjustments
      }
    }
    return sums
  }

  /** Of the billing periods that were looked at, the earliest start and the latest end. */
  get span(): { readonly from: string; readonly to: string } | null {
    const all = [...this.#billed.values()].flat()
    if (all.length === 0) return null
    return { from: all.reduce((least, { from }) => (from < least ? from : least), all[0]?.from ?? ''), to: all.reduce((most, { to }) => (to > most ? to : most), '') }
  }

  #period(id: string, atMs: number): Billed {
    const { config: { plans }, directory } = this.#side
    const account = directory.accountOf(id)
    const calendar = account?.calendar ?? DEFAULT_CALENDAR
    const period = periodAt('billing_period', calendar, atMs)
    const changes = account === undefined ? [] : planChangesOf(account, directory.subscriptionOf(id) ?? null, plans)
    const subscription = account === undefined ? null : nearestSubscription(directory, account)
    const preview = new InvoicePreview(termsOf({ id, calendar, subscription, changes }, period, plans, () => null))
    return { from: toInstant(period.startMs), to: toInstant(period.endMs), preview }
  }
}

/** Its own, or that of the nearest account above it. */
function nearestSubscription(directory: StoredKeyDirectory, account: Account): Subscription | null {
  for (let each: Account | undefined = account; each !== undefined; each = each.parent === null ? undefined : directory.accountOf(each.parent)) {
    const subscription = directory.subscriptionOf(each.id)
    if (subscription !== undefined) return subscription
  }
  return null
}

const publicCards = new WeakMap<PriceCard, PriceCard>()

/** What calls cost the operator himself, as far as the public price data knows: Σ at list prices, without the markup. */
export class OwnCost {
  readonly #byMarkup = new Map<number, Sum>()
  calls = 0
  #sum: Sum = new Sum()
  readonly #take = (_meter: string, _price: string, quantity: number, picos: number): void => {
    const product = quantity * picos
    this.#sum.add(Number.isSafeInteger(product) ? product : BigInt(quantity) * BigInt(picos))
  }

  add(card: PriceCard | null, model: string | null, usage: Quantities, correction: boolean): void {
    if (card?.base === undefined || card.markup === undefined) return
    let open = publicCards.get(card)
    if (open === undefined) publicCards.set(card, open = { fromMs: card.fromMs, version: card.version, rates: card.base })
    const rates = ratesFor(open, model)
    if (rates === null) return
    let sum = this.#byMarkup.get(card.markup)
    if (sum === undefined) this.#byMarkup.set(card.markup, sum = new Sum())
    this.#sum = sum
    if (!correction) this.calls += 1
    eachPart(usage, rates, this.#take, correction)
  }

  /** In nanos of US dollars, in which public prices are. */
  get nanos(): bigint {
    let nanos = 0n
    for (const [markup, sum] of this.#byMarkup) nanos += floored(sum.value * 10_000n, BigInt(10_000 + markup) * 1_000n)
    return nanos
  }
}
