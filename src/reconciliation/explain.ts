/** An amount that the receiver was told, in one short span of time. */
export interface Piece<T> {
  readonly of: T
  readonly units: bigint
}

/** What makes the receiver's total of a span differ from ours: the simplest that adds up. */
export interface Explanation<T> {
  /** Of those whose delivery is not known: they are in its total. */
  readonly booked: readonly T[]
  readonly missing: readonly T[]
  readonly doubled: readonly T[]
  /** What nothing accounts for. */
  readonly rest: bigint
  /** Others would add up as well: the amount is right, which records they are is not sure. */
  readonly guess: boolean
}

/** Of so many unknown ones every choice is tried; of more, those that were first, and single ones. */
const choicesMax = 12

/**
 * A receiver that tells totals only has `difference` more than what was surely delivered (`firm`); some of `open` may be in it. Both in the order of their
 * delivery. Tried in turn: only open ones; one that is missing or doubled; two; one of each; all of them.
 */
export function explained<T>(difference: bigint, firm: readonly Piece<T>[], open: readonly Piece<T>[]): Explanation<T> {
  const of = (pieces: readonly Piece<T>[]): T[] => pieces.map((piece) => piece.of)
  const choices = choicesOf(open)
  for (const booked of choices) if (sum(booked) === difference) return { booked: of(booked), missing: [], doubled: [], rest: 0n, guess: false }
  const byUnits = new Map<bigint, Piece<T>[]>()
  for (const piece of firm) byUnits.set(piece.units, [...byUnits.get(piece.units) ?? [], piece])
  for (const search of [single, pair, oneOfEach, all]) {
    for (const booked of choices) {
      const rest = difference - sum(booked)
      const found = search(rest, firm, byUnits)
      if (found !== null) return { booked: of(booked), missing: of(found.missing), doubled: of(found.doubled), rest: 0n, guess: found.guess }
    }
  }
  return { booked: [], missing: [], doubled: [], rest: difference, guess: false }
}

interface Found<T> {
  readonly missing: readonly Piece<T>[]
  readonly doubled: readonly Piece<T>[]
  readonly guess: boolean
}

type ByUnits<T> = ReadonlyMap<bigint, readonly Piece<T>[]>

function single<T>(rest: bigint, _firm: readonly Piece<T>[], byUnits: ByUnits<T>): Found<T> | null {
  const missing = byUnits.get(-rest) ?? []
  const doubled = byUnits.get(rest) ?? []
  const guess = missing.length + doubled.length > 1
  if (missing[0] !== undefined) return { missing: [missing[0]], doubled: [], guess }
  return doubled[0] === undefined ? null : { missing: [], doubled: [doubled[0]], guess }
}

function pair<T>(rest: bigint, firm: readonly Piece<T>[], byUnits: ByUnits<T>): Found<T> | null {
  for (const one of firm) {
    const lost = other(byUnits, -rest - one.units, one)
    if (lost !== undefined) return { missing: [one, lost], doubled: [], guess: firm.length > 2 }
    const twice = other(byUnits, rest - one.units, one)
    if (twice !== undefined) return { missing: [], doubled: [one, twice], guess: firm.length > 2 }
  }
  return null
}

function oneOfEach<T>(rest: bigint, firm: readonly Piece<T>[], byUnits: ByUnits<T>): Found<T> | null {
  for (const missing of firm) {
    const doubled = other(byUnits, rest + missing.units, missing)
    if (doubled !== undefined) return { missing: [missing], doubled: [doubled], guess: firm.length > 2 }
  }
  return null
}

function all<T>(rest: bigint, firm: readonly Piece<T>[]): Found<T> | null {
  if (firm.length === 0) return null
  const whole = sum(firm)
  if (rest === -whole) return { missing: firm, doubled: [], guess: false }
  return rest === whole ? { missing: [], doubled: firm, guess: false } : null
}

function other<T>(byUnits: ByUnits<T>, units: bigint, than: Piece<T>): Piece<T> | undefined {
  return units === 0n ? undefined : byUnits.get(units)?.find((piece) => piece !== than)
}

/** Which of the open ones may have been booked, the likelier first: none, all, the first few, each by itself, and where they are few every choice. */
function choicesOf<T>(open: readonly Piece<T>[]): readonly (readonly Piece<T>[])[] {
  const choices: (readonly Piece<T>[])[] = [[]]
  if (open.length === 0) return choices
  choices.push(open)
  if (open.length <= choicesMax) {
    for (let bits = 1; bits < 2 ** open.length - 1; bits++) choices.push(open.filter((_piece, index) => (bits & (1 << index)) !== 0))
    return choices
  }
  // One that has been added to does not have to be added up again, but what is open is never much where it is not the end of the books.
  for (let count = 1; count < Math.min(open.length, 500); count++) choices.push(open.slice(0, count))
  for (const piece of open.slice(0, 500)) choices.push([piece])
  return choices
}

function sum<T>(pieces: readonly Piece<T>[]): bigint {
  return pieces.reduce((total, { units }) => total + units, 0n)
}
