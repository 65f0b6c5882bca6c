import { hash } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import type { Asset } from './asset.ts'

export interface PageRequest {
  readonly path: string
  readonly acceptEncoding: string | undefined
  readonly ifNoneMatch: string | undefined
}

export interface PageAnswer {
  readonly status: 200 | 304
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array
}

/** Everything comes from here, nothing is written in the page itself, and no other page may show this one. */
export const PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
  + "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'; trusted-types 'none'"

const ENTRY = 'main.ts'
/** Loaded when a chart is shown. */
const LATE: ReadonlySet<string> = new Set(['uplot.mjs'])
/** Addresses of the page; `{id}` stands for one segment. */
export const PAGE_PATHS = ['/', '/accounts', '/accounts/{id}', '/plans', '/sinks', '/sinks/{id}', '/events', '/events/{id}', '/notices'] as const
const PAGES = new RegExp(`^(?:${PAGE_PATHS.map((path) => path.replace('{id}', '[^/]+')).join('|')})$`)
const ICON = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='3.5' fill='%232f6f5e'/%3E"
  + "%3Cpath d='M4.2 4v8M6.7 4v8M9.2 4v8M11.7 4v8M2.8 10.4 13.2 5.6' stroke='%23fff' stroke-width='1.2' stroke-linecap='round'/%3E%3C/svg%3E"

interface Built {
  /** By path. */
  readonly assets: ReadonlyMap<string, Asset>
  readonly page: Asset
}

/**
 * The operators' page: one HTML document for every address of it, and the files that make it up. They are made in a thread of their own, so that no call
 * waits for it, and kept in memory.
 */
export class Dashboard {
  #built: Promise<Built> | null = null

  /** Begins to make the files, so that the first browser need not wait for them. */
  prepare(): void {
    // Whoever asks for the page makes another attempt, and is told what became of it.
    this.#files().catch(() => undefined)
  }

  /** undefined: nothing of the page is there. */
  async answer(request: PageRequest): Promise<PageAnswer | undefined> {
    const isPage = PAGES.test(request.path)
    if (!isPage && !request.path.startsWith('/assets/')) return undefined
    const { assets, page } = await this.#files()
    const asset = isPage ? page : assets.get(request.path)
    if (asset === undefined) return undefined
    // An asset's address changes with what it holds.
    const caching = isPage ? 'no-cache' : 'public, max-age=31536000, immutable'
    const headers = { etag: asset.etag, 'cache-control': caching, vary: 'accept-encoding', ...(isPage ? { 'content-security-policy': PAGE_POLICY } : {}) }
    if (request.ifNoneMatch?.includes(asset.etag) === true) return { status: 304, headers, body: new Uint8Array() }
    const [encoding, body] = isPage ? [null, asset.plain] : encoded(asset, request.acceptEncoding ?? '')
    return { status: 200, headers: { ...headers, 'content-type': asset.type, ...(encoding === null ? {} : { 'content-encoding': encoding }) }, body }
  }

  #files(): Promise<Built> {
    this.#built ??= build().catch((error: unknown) => {
      this.#built = null
      throw error
    })
    return this.#built
  }
}

function encoded(asset: Asset, accepted: string): readonly ['br' | 'gzip' | null, Uint8Array] {
  const takes = (name: string): boolean => accepted.split(',').some((part) => part.split(';')[0]?.trim() === name && !/;\s*q=0(?:\.0*)?\s*$/.test(part))
  if (takes('br')) return ['br', asset.brotli]
  return takes('gzip') ? ['gzip', asset.gzip] : [null, asset.plain]
}

async function build(): Promise<Built> {
  const assets = await assetsFromThread()
  const version = hash('sha256', assets.map(({ name, etag }) => `${name}${etag}`).join()).slice(0, 12)
  const at = (name: string): string => `/assets/${version}/${name}`
  return { assets: new Map(assets.map((asset) => [at(asset.name), asset])), page: pageOf(assets.map(({ name }) => name), at) }
}

function assetsFromThread(): Promise<readonly Asset[]> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./build-thread.ts', import.meta.url))
    // A gateway that ends meanwhile does not wait for it.
    worker.unref()
    worker.once('message', (assets: readonly Asset[]) => resolve(assets))
    worker.once('error', reject)
    worker.once('exit', () => reject(new Error('the page was not made')))
  })
}

function pageOf(names: readonly string[], at: (name: string) => string): Asset {
  const scripts = names.filter((name) => !name.endsWith('.css') && name !== ENTRY && !LATE.has(name))
  const plain = Buffer.from(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Tallygate</title>
<link rel="icon" href="${ICON}">
<link rel="stylesheet" href="${at('dashboard.css')}">
<script type="module" src="${at(ENTRY)}"></script>
${scripts.map((name) => `<link rel="modulepreload" href="${at(name)}">`).join('\n')}
</head>
<body>
<div id="app"><p class="first">Tallygate</p></div>
<noscript><p class="first">This page needs JavaScript. The same is told by the command line, and by the API under /api/v1.</p></noscript>
</body>
</html>
`)
  return { name: '', type: 'text/html; charset=utf-8', plain, brotli: plain, gzip: plain, etag: `"${hash('sha256', plain).slice(0, 20)}"` }
}
