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
  /** There were too many to try everything: what is left may be some of them after all. */
  readonly cut: boolean
}

/** Of so many unknown ones every choice is tried; of more, those that were first, and single ones. */
const choicesMax = 12
/** Records that are looked at for one difference. */
const stepsMax = 200_000
/** After so many others have their turn: a gateway has calls to answer meanwhile. */
const turnSteps = 5_000

/**
 * A receiver that tells totals only has `difference` more than what was surely delivered (`firm`); some of `open` may be in it. Both in the order of their
 * delivery. Tried in turn: only open ones; one that is missing or doubled; two; one of each; all of them. `turn` lets others go on.
 */
export async function explained<T>(difference: bigint, firm: readonly Piece<T>[], open: readonly Piece<T>[], turn: () => Promise<void>): Promise<Explanation<T>> {
  const of = (pieces: readonly Piece<T>[]): T[] => pieces.map((piece) => piece.of)
  const choices = choicesOf(open)
  for (const { booked, units } of choices) if (units === difference) return { booked: of(booked), missing: [], doubled: [], rest: 0n, guess: false, cut: false }
  const books = await booksOf(firm, turn)
  let steps = 0
  let sinceTurn = 0
  let cut = false
  for (const { search, costs } of searches) {
    for (const { booked, units } of choices) {
      const cost = costs(firm.length)
      if (cost > 1 && steps + cost > stepsMax) {
        cut = true
        break
      }
      steps += cost
      sinceTurn += cost
      if (sinceTurn >= turnSteps) {
        sinceTurn = 0
        await turn()
      }
      const found = search(difference - units, books)
      if (found !== null) return { booked: of(booked), missing: of(found.missing), doubled: of(found.doubled), rest: 0n, guess: found.guess, cut: false }
    }
  }
  return { booked: [], missing: [], doubled: [], rest: difference, guess: false, cut }
}

interface Found<T> {
  readonly missing: readonly Piece<T>[]
  readonly doubled: readonly Piece<T>[]
  readonly guess: boolean
}

interface Books<T> {
  readonly firm: readonly Piece<T>[]
  readonly byUnits: ReadonlyMap<bigint, readonly Piece<T>[]>
  readonly whole: bigint
}

async function booksOf<T>(firm: readonly Piece<T>[], turn: () => Promise<void>): Promise<Books<T>> {
  const byUnits = new Map<bigint, Piece<T>[]>()
  let whole = 0n
  for (const [index, piece] of firm.entries()) {
    if (index % turnSteps === turnSteps - 1) await turn()
    whole += piece.units
    const alike = byUnits.get(piece.units)
    if (alike === undefined) byUnits.set(piece.units, [piece])
    else alike.push(piece)
  }
  return { firm, byUnits, whole }
}

interface Search {
  search<T>(rest: bigint, books: Books<T>): Found<T> | null
  /** Steps, of so many records. */
  costs(count: number): number
}

const searches: readonly Search[] = [{ search: single, costs: () => 1 }, { search: pair, costs: (count) => count }, { search: oneOfEach, costs: (count) => count }, { search: all, costs: () => 1 }]

function single<T>(rest: bigint, { byUnits }: Books<T>): Found<T> | null {
  const missing = byUnits.get(-rest) ?? []
  const doubled = byUnits.get(rest) ?? []
  const guess = missing.length + doubled.length > 1
  if (missing[0] !== undefined) return { missing: [missing[0]], doubled: [], guess }
  return doubled[0] === undefined ? null : { missing: [], doubled: [doubled[0]], guess }
}

function pair<T>(rest: bigint, { firm, byUnits }: Books<T>): Found<T> | null {
  for (const one of firm) {
    const lost = other(byUnits, -rest - one.units, one)
    if (lost !== undefined) return { missing: [one, lost], doubled: [], guess: firm.length > 2 }
    const twice = other(byUnits, rest - one.units, one)
    if (twice !== undefined) return { missing: [], doubled: [one, twice], guess: firm.length > 2 }
  }
  return null
}

function oneOfEach<T>(rest: bigint, { firm, byUnits }: Books<T>): Found<T> | null {
  for (const missing of firm) {
    const doubled = other(byUnits, rest + missing.units, missing)
    if (doubled !== undefined) return { missing: [missing], doubled: [doubled], guess: firm.length > 2 }
  }
  return null
}

function all<T>(rest: bigint, { firm, whole }: Books<T>): Found<T> | null {
  if (firm.length === 0) return null
  if (rest === -whole) return { missing: firm, doubled: [], guess: false }
  return rest === whole ? { missing: [], doubled: firm, guess: false } : null
}

function other<T>(byUnits: Books<T>['byUnits'], units: bigint, than: Piece<T>): Piece<T> | undefined {
  return units === 0n ? undefined : byUnits.get(units)?.find((piece) => piece !== than)
}

interface Choice<T> {
  readonly booked: readonly Piece<T>[]
  readonly units: bigint
}

/** Which of the open ones may have been booked, the likelier first: none, all, the first few, each by itself, and where they are few every choice. */
function choicesOf<T>(open: readonly Piece<T>[]): readonly Choice<T>[] {
  const choices: Choice<T>[] = [{ booked: [], units: 0n }]
  if (open.length === 0) return choices
  choices.push({ booked: open, units: sum(open) })
  if (open.length <= choicesMax) {
    for (let bits = 1; bits < 2 ** open.length - 1; bits++) {
      const booked = open.filter((_piece, index) => (bits & (1 << index)) !== 0)
      choices.push({ booked, units: sum(booked) })
    }
    return choices
  }
  // What is open is never much where it is not the end of the books.
  const first = open.slice(0, 500)
  let units = 0n
  for (const [index, piece] of first.entries()) {
    units += piece.units
    choices.push({ booked: open.slice(0, index + 1), units })
  }
  for (const piece of first) choices.push({ booked: [piece], units: piece.units })
  return choices
}

function sum<T>(pieces: readonly Piece<T>[]): bigint {
  return pieces.reduce((total, { units }) => total + units, 0n)
}
