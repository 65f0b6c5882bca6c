// A real Chromium: Debian's, or the one that CHROMIUM names.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import type { Teardown } from '../fixtures/tmp-dir.ts'

const given = process.env['CI_ARTEFACTS'] ?? ''
/** Where pictures are kept. */
export const artefacts = given === '' ? fileURLToPath(new URL('../artefacts/', import.meta.url)) : given

export async function openBrowser(t: Teardown): Promise<Browser> {
  const browser = await chromium.launch({ executablePath: chromiumPath(), args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'] })
  t.teardown(() => browser.close())
  return browser
}

export interface WatchedPage {
  readonly page: Page
  /** What no page of ours may ever have: dialogs, breaches of the policy, errors of scripts. */
  readonly faults: string[]
}

/** A page of its own context whose faults are written down. */
export async function openPage(browser: Browser, options: BrowserContextOptions = {}): Promise<WatchedPage> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: 'en-GB', timezoneId: 'Europe/Berlin', ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(30_000)
  const faults: string[] = []
  page.on('dialog', (dialog) => {
    faults.push(`dialog: ${dialog.message()}`)
    void dialog.dismiss()
  })
  page.on('pageerror', (error) => faults.push(`error: ${error.message}`))
  page.on('console', (message) => {
    if (/Content.Security.Policy|Trusted ?Type/i.test(message.text())) faults.push(`policy: ${message.text()}`)
  })
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => console.error(`Content Security Policy: ${event.violatedDirective} ${event.blockedURI}`))
  })
  return { page, faults }
}

const PICTURE_HEIGHT_MAX = 2_400

/** A picture of the page, kept for people to look at. */
export async function picture(page: Page, name: string): Promise<void> {
  mkdirSync(artefacts, { recursive: true })
  const { width, height } = await page.evaluate(() => ({ width: document.documentElement.clientWidth, height: document.documentElement.scrollHeight }))
  await page.screenshot({ path: join(artefacts, `${name}.png`), fullPage: true, clip: { x: 0, y: 0, width, height: Math.min(height, PICTURE_HEIGHT_MAX) }, animations: 'disabled', timeout: 60_000 })
}

interface AxeWindow {
  readonly axe: { run(options: unknown): Promise<{ violations: readonly { id: string; impact: string; nodes: readonly { html: string; failureSummary: string }[] }[] }> }
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** What axe finds to be a serious or critical fault, one line each. */
export async function axeFaults(page: Page): Promise<string[]> {
  await page.evaluate(`${axe};undefined`)
  const { violations } = await page.evaluate(() => (globalThis as unknown as AxeWindow).axe.run({ resultTypes: ['violations'] }))
  return violations.filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html.slice(0, 160)} ${failureSummary.split('\n')[1] ?? ''}`).join(' | ')}`)
}

/** As root, Debian's is installed where there is none. */
function chromiumPath(): string {
  const given = process.env['CHROMIUM']
  if (given !== undefined && given !== '') return given
  const found = (): string | undefined => ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => existsSync(path))
  if (found() === undefined && process.getuid?.() === 0) {
    spawnSync('sh', ['-c', 'apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium'], { env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } })
  }
  const path = found()
  if (path === undefined) throw new Error('these tests need a Chromium: set CHROMIUM, or install chromium (Debian: apt-get install chromium)')
  return path
}
