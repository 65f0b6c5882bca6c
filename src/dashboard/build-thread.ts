import { hash } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { createRequire, stripTypeScriptTypes } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parentPort } from 'node:worker_threads'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'
import type { Asset } from './asset.ts'

const SCRIPT = 'text/javascript; charset=utf-8'
const STYLE = 'text/css; charset=utf-8'
const BROTLI_QUALITY = 5

/** Packages by the name that modules import them by, and the file that is served for them. */
const packages: readonly { readonly name: string; readonly file: string; readonly served: string }[] = [
  { name: 'preact', file: 'dist/preact.mjs', served: 'preact.mjs' },
  { name: 'preact/hooks', file: 'hooks/dist/hooks.mjs', served: 'preact-hooks.mjs' },
  { name: 'htm', file: 'dist/htm.mjs', served: 'htm.mjs' },
  { name: 'uplot', file: 'dist/uPlot.iife.min.js', served: 'uplot.mjs' },
]

/** Reads the page's own modules and the packages' files, and makes of them what browsers get: no types, addresses instead of package names, compressed. */
function build(): readonly Asset[] {
  const root = fileURLToPath(new URL('./browser/', import.meta.url))
  const own = readdirSync(root).filter((name) => name.endsWith('.ts')).map((name) => toAsset(name, SCRIPT, addressed(stripTypeScriptTypes(readFileSync(join(root, name), 'utf8')))))
  return [
    ...own, ...packages.map(({ name, file, served }) => toAsset(served, SCRIPT, addressed(packageText(name, file)))),
    toAsset('dashboard.css', STYLE, `${readFileSync(join(folderOf('uplot'), 'dist/uPlot.min.css'), 'utf8')}\n${readFileSync(join(root, 'dashboard.css'), 'utf8')}`),
  ]
}

function packageText(name: string, file: string): string {
  const text = readFileSync(join(folderOf(name.split('/')[0] ?? name), file), 'utf8').replace(/^\/\/# sourceMappingURL=.*$/m, '')
  // Of uPlot only the script for old browsers is made small by its makers; it declares one variable.
  return name === 'uplot' ? `${text}\nexport default uPlot\n` : text
}

/** Where a package lies: beside its package.json, which not every package lets itself be asked for. */
function folderOf(name: string): string {
  let folder = dirname(createRequire(import.meta.url).resolve(name))
  while (!folder.endsWith(`node_modules/${name}`)) folder = dirname(folder)
  return folder
}

/** Browsers know no packages: their names become addresses beside the module. */
function addressed(text: string): string {
  return text.replace(/(\bfrom\s*|\bimport\(\s*)(["'])([^"'./][^"']*)\2/g, (whole, before: string, quote: string, name: string) => {
    const found = packages.find((each) => each.name === name)
    return found === undefined ? whole : `${before}${quote}./${found.served}${quote}`
  })
}

function toAsset(name: string, type: string, text: string): Asset {
  const plain = Buffer.from(text)
  return {
    name, type, plain, brotli: brotliCompressSync(plain, { params: { [constants.BROTLI_PARAM_QUALITY]: BROTLI_QUALITY } }), gzip: gzipSync(plain),
    etag: `"${hash('sha256', plain).slice(0, 20)}"`,
  }
}

parentPort?.postMessage(build())
