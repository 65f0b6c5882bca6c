import { AssertionFailed } from '../../assert.ts'
import { allowance } from './allowance.ts'
import { concurrency } from './concurrency.ts'
import { fixedWindow } from './fixed-window.ts'
import type { LimitKind, Window } from './limit.ts'
import { slidingWindow } from './sliding-window.ts'

/** Every limit kind; a new one is a file and a line here. */
export const limitKinds: readonly LimitKind[] = [fixedWindow, slidingWindow, allowance, concurrency]

/** The kind that handles a window: exactly one does. */
export function kindOf(window: Window): LimitKind {
  for (const kind of limitKinds) if (kind.handles(window)) return kind
  throw new AssertionFailed(`no limit kind handles the window ${window.kind}`)
}
