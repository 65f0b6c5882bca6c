const KEY = 'tallygate-theme'
export const THEMES = ['system', 'light', 'dark'] as const
export type Theme = (typeof THEMES)[number]

const listeners = new Set<() => void>()

export function theme(): Theme {
  const kept = read()
  return THEMES.find((each) => each === kept) ?? 'system'
}

/** What is painted now. */
export function paints(): 'light' | 'dark' {
  const chosen = theme()
  return chosen === 'system' ? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light') : chosen
}

export function setTheme(chosen: Theme): void {
  try {
    localStorage.setItem(KEY, chosen)
  } catch (error) {
    // A browser that keeps nothing still shows it until the page is left.
    if (!(error instanceof DOMException)) throw error
  }
  apply(chosen)
}

export function startTheme(): void {
  apply(theme())
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => listeners.forEach((listener) => listener()))
}

/** Calls when other colours are painted. */
export function onPaint(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

function apply(chosen: Theme): void {
  if (chosen === 'system') delete document.documentElement.dataset['theme']
  else document.documentElement.dataset['theme'] = chosen
  listeners.forEach((listener) => listener())
}

function read(): string | null {
  try {
    return localStorage.getItem(KEY)
  } catch (error) {
    if (error instanceof DOMException) return null
    throw error
  }
}
