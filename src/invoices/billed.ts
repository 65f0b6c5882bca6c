import type { Plan, PriceCard } from '../config/config.ts'
import { METERS, type BuiltinMeter, type Quantities } from '../metering/meter.ts'

/** What a usage event tells of money. Its data come from a store or a file: nothing is taken for granted. */

export type EventData = Readonly<Record<string, unknown>>

/** As events name quantities, where that is another name than the meter's. */
const names: { readonly [M in BuiltinMeter]?: string } = { compute_seconds: 'compute_ms' }
const priced = (Object.keys(METERS) as BuiltinMeter[]).filter((meter) => meter !== 'cost' && meter !== 'concurrency' && meter !== 'seats').map((meter) => [meter, names[meter] ?? meter] as const)

export function quantitiesOf(data: EventData): Quantities {
  const quantities: Quantities = {}
  for (const [meter, name] of priced) {
    const value = data[name]
    // Of what is counted in thousandths, events show whole ones with a fraction.
    if (typeof value === 'number') quantities[meter] = meter === 'audio_seconds' ? Math.round(value * METERS.audio_seconds.scale) : value
  }
  return quantities
}

export function textOf(data: EventData, name: string): string | null {
  const value = data[name]
  return typeof value === 'string' ? value : null
}

export function featuresOf(data: EventData): readonly string[] {
  const value = data['features']
  return Array.isArray(value) ? value.filter((each) => typeof each === 'string') : none
}

const none: readonly string[] = []

/** The prices by which an event was settled: its plan's of the version that it names; null: they are no longer known. */
export function cardOf(plans: ReadonlyMap<string, Plan>, plan: string | null, version: string | null): PriceCard | null {
  if (plan === null || version === null) return null
  return plans.get(plan)?.prices?.versions.find((each) => each.version === version) ?? null
}
