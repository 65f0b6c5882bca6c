import { ApiProblem } from './api.ts'
import { every } from './clock.ts'
import { useCallback, useEffect, useRef, useState } from './view.ts'

export interface Loaded<T> {
  /** The newest there is; stays while more is fetched. */
  readonly data: T | undefined
  /** Why the last attempt failed. */
  readonly problem: ApiProblem | undefined
  reload(): void
}

/** Fetches when `key` changes, and again every `everyMs` while somebody looks. Answers that come too late are dropped. */
export function useLoaded<T>(key: string, fetchIt: (signal: AbortSignal) => Promise<T>, everyMs = 0): Loaded<T> {
  const [state, setState] = useState<{ readonly key: string; readonly data?: T; readonly problem?: ApiProblem }>({ key })
  const fetcher = useRef(fetchIt)
  fetcher.current = fetchIt
  const [turn, setTurn] = useState(0)
  useEffect(() => {
    const abort = new AbortController()
    fetcher.current(abort.signal).then(
      (data) => { if (!abort.signal.aborted) setState({ key, data }) },
      (error: unknown) => {
        if (abort.signal.aborted) return
        const problem = error instanceof ApiProblem ? error : new ApiProblem(-1, 'Something broke in this page. Load it anew.')
        setState((before) => (before.key === key ? { ...before, problem } : { key, problem }))
      },
    )
    return () => abort.abort()
  }, [key, turn])
  useEffect(() => (everyMs === 0 ? undefined : every(everyMs, () => { if (!document.hidden) setTurn((before) => before + 1) })), [everyMs])
  const reload = useCallback(() => setTurn((before) => before + 1), [])
  const current = state.key === key ? state : { key }
  return { data: current.data, problem: current.problem, reload }
}

/** Runs a change and remembers what became of it. */
export function useChange(): { readonly busy: boolean; readonly problem: string; run(change: () => Promise<void>): void; forget(): void } {
  const [state, setState] = useState({ busy: false, problem: '' })
  const run = useCallback((change: () => Promise<void>) => {
    setState({ busy: true, problem: '' })
    change().then(
      () => setState({ busy: false, problem: '' }),
      (error: unknown) => setState({ busy: false, problem: error instanceof ApiProblem ? error.message : 'Something broke in this page. Load it anew.' }),
    )
  }, [])
  const forget = useCallback(() => setState({ busy: false, problem: '' }), [])
  return { ...state, run, forget }
}
