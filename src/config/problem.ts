import { closest, distance } from 'fastest-levenshtein'
import type { Node, Source } from './yaml.ts'

/** A mistake in the configuration, said in one sentence. Holds no secret: values that came from a substitution are never quoted. */
export interface Problem {
  readonly file: string
  /** 1-based; 0: the file as a whole. */
  readonly line: number
  readonly column: number
  /** `plans.free.limits[1].windw`; '' for the file as a whole. */
  readonly path: string
  readonly sentence: string
}

/** `file:line:column path: sentence`. */
export function toText(problem: Problem): string {
  const place = problem.line === 0 ? problem.file : `${problem.file}:${problem.line}:${problem.column}`
  return problem.path === '' ? `${place}: ${problem.sentence}` : `${place} ${problem.path}: ${problem.sentence}`
}

/** Where one is in the document; a linked list, so that a hundred thousand keys cost no strings. */
export interface Path { readonly up: Path | null; readonly step: string | number }

export function pathOf(up: Path | null, step: string | number): Path {
  return { up, step }
}

export function pathText(path: Path | null): string {
  const steps: string[] = []
  for (let at = path; at !== null; at = at.up) steps.push(stepText(at.step))
  return steps.reverse().join('').replace(/^\./, '')
}

function stepText(step: string | number): string {
  if (typeof step === 'number') return `[${step}]`
  return /^[\w-]{1,80}$/.test(step) ? `.${step}` : `[${shown(step)}]`
}

/** A value in a sentence: quoted, of bounded length, on one line. */
export function shown(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}...` : text)
}

export function listed(words: Iterable<string>, most = 24): string {
  const all = [...words]
  return all.length <= most ? all.join(', ') : `${all.slice(0, most).join(', ')} and ${all.length - most} more`
}

const suggestionsMax = 100
const candidatesMax = 2_000

/** Collects every mistake, so that all are told at once. */
export class Report {
  readonly problems: Problem[] = []
  readonly warnings: Problem[] = []
  /** Where a value should stand that nobody knows. */
  readonly #unknown = new Map<Source, Set<number>>()
  #suggestions = 0

  problem(node: Node, path: Path | null, sentence: string): void {
    this.problemAt(node.source, node.offset, path, sentence)
  }

  problemAt(source: Source, offset: number, path: Path | null, sentence: string): void {
    if (!this.#isUnknown(source, offset)) this.problems.push(placed(source, offset, path, sentence))
  }

  warn(node: Node, path: Path | null, sentence: string): void {
    this.warnAt(node.source, node.offset, path, sentence)
  }

  warnAt(source: Source, offset: number, path: Path | null, sentence: string): void {
    if (!this.#isUnknown(source, offset)) this.warnings.push(placed(source, offset, path, sentence))
  }

  /** The value of this place cannot be had: that is told, and what else would be found wrong with it is not. */
  unknownAt(source: Source, offset: number, path: Path | null, sentence: string): void {
    this.problemAt(source, offset, path, sentence)
    const offsets = this.#unknown.get(source)
    if (offsets === undefined) this.#unknown.set(source, new Set([offset]))
    else offsets.add(offset)
  }

  #isUnknown(source: Source, offset: number): boolean {
    return this.#unknown.get(source)?.has(offset) === true
  }

  /** A mistake that has no place in a file, or concerns all of it. */
  whole(file: string, sentence: string): void {
    this.problems.push({ file, line: 0, column: 0, path: '', sentence })
  }

  wholeWarning(file: string, sentence: string): void {
    this.warnings.push({ file, line: 0, column: 0, path: '', sentence })
  }

  /** `; did you mean "window"?` when one of the known words is near, else the words themselves when they are few, else nothing. */
  suggestion(word: string, known: Iterable<string>): string {
    // A broken file with a hundred thousand mistakes needs no hundred thousand searches.
    if (++this.#suggestions > suggestionsMax) return ''
    const candidates: string[] = []
    for (const candidate of known) if (candidates.push(candidate) >= candidatesMax) break
    if (candidates.length === 0) return ''
    if (word.length <= 80) {
      const near = closest(word.toLowerCase(), candidates.map((candidate) => candidate.toLowerCase()))
      const found = candidates.find((candidate) => candidate.toLowerCase() === near)
      if (found !== undefined && distance(word.toLowerCase(), near) <= mistypedMax(Math.min(word.length, near.length))) {
        return `; did you mean "${found}"?`
      }
    }
    return candidates.length <= 24 ? `; known here: ${listed(candidates)}` : ''
  }
}

/** Letters that may be wrong in a word of this length; two swapped ones are two. */
function mistypedMax(length: number): number {
  return length < 4 ? 1 : Math.max(2, Math.floor(length / 3))
}

function placed(source: Source, offset: number, path: Path | null, sentence: string): Problem {
  const { line, column } = source.position(offset)
  return { file: source.file, line, column, path: pathText(path), sentence }
}
