/** Does `name` match `glob`? Only `*` is special: it stands for any text, none included. No backtracking: each piece is looked for once, leftmost. */
export function matches(glob: string, name: string): boolean {
  if (glob === '*' || glob === name) return true
  const firstStar = glob.indexOf('*')
  if (firstStar === -1) return false
  const lastStar = glob.lastIndexOf('*')
  const tail = glob.length - lastStar - 1
  // The head and the tail must not share characters of the name.
  if (name.length < firstStar + tail) return false
  if (!name.startsWith(glob.slice(0, firstStar)) || !name.endsWith(glob.slice(lastStar + 1))) return false
  const end = name.length - tail
  let at = firstStar
  for (const piece of glob.slice(firstStar + 1, Math.max(firstStar + 1, lastStar)).split('*')) {
    const found = name.indexOf(piece, at)
    if (found === -1 || found + piece.length > end) return false
    at = found + piece.length
  }
  return true
}

export function matchesAny(globs: readonly string[], name: string): boolean {
  for (const glob of globs) if (matches(glob, name)) return true
  return false
}

/** The glob that is `name` itself, else the longest that matches; the earlier of two equally long ones; null: none. */
export function longestMatch(globs: readonly string[], name: string): string | null {
  let best: string | null = null
  for (const glob of globs) {
    if (glob === name) return glob
    if ((best === null || glob.length > best.length) && matches(glob, name)) best = glob
  }
  return best
}
