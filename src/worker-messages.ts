import type { TrafficReport } from './analytics/traffic.ts'
import type { Piece } from './config/pieces.ts'
import type { MetricsSnapshot } from './metrics.ts'

/** What the primary tells a worker. The configuration travels in pieces; the first one opens the worker's books and its port. */
export type ToWorker =
  | { readonly kind: 'number'; readonly number: number }
  | { readonly kind: 'config'; readonly piece: Piece }
  | { readonly kind: 'metrics'; readonly question: number }
  /** Drain; said again: cut what runs. */
  | { readonly kind: 'stop' }

/** What a worker tells the primary. */
export type FromWorker =
  | { readonly kind: 'ready'; readonly version: string; readonly host: string; readonly port: number }
  /** It cannot start; `sentence` says what to do. */
  | { readonly kind: 'failed'; readonly sentence: string }
  | { readonly kind: 'using'; readonly version: string }
  | { readonly kind: 'refused'; readonly version: string; readonly sentence: string }
  | { readonly kind: 'metrics'; readonly question: number; readonly snapshot: MetricsSnapshot }
  /** What it has seen of calls since it told the last time. */
  | { readonly kind: 'traffic'; readonly report: TrafficReport }
