/** The browser's door to the time. */
export function nowMs(): number {
  return Date.now()
}

/** Runs `task` once; the returned function cancels it. */
export function after(delayMs: number, task: () => void): () => void {
  const timer = setTimeout(task, delayMs)
  return () => clearTimeout(timer)
}

/** Runs `task` again and again until cancelled. */
export function every(periodMs: number, task: () => void): () => void {
  const timer = setInterval(task, periodMs)
  return () => clearInterval(timer)
}
