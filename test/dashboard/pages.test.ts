// test: timeout 300 s
// Every page as people see it, in both themes; the pictures are kept in test/artefacts, or where CI_ARTEFACTS says.

import { readFile } from 'node:fs/promises'
import type { Page } from 'playwright-core'
import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { artefacts, axeFaults, openBrowser, openPage, picture } from './browser.ts'
import { acmeSecret, call, config, pages, settled } from './rig.ts'

t.test('pages are for everybody', async (t) => {
  const browser = await openBrowser(t)
  const gateway = await startGatewayProcess(t, config())
  for (let n = 0; n < 40; n += 1) await call(gateway, acmeSecret, `llama-${n % 5}`)
  const made = await fetch(`${gateway.adminUrl}/api/v1/keys`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ account: 'corner-shop', id: 'till' }) })
  const { secret } = await made.json() as { secret: string }
  for (let n = 0; n < 6; n += 1) await call(gateway, secret)
  await fetch(`${gateway.adminUrl}/api/v1/grants`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ account: 'corner-shop', limit: 'calls', amount: 1, note: 'a bad week' }) })
  const { page, faults } = await openPage(browser)

  await t.test('every page in both themes: nothing that axe calls serious, nothing wider than the window', async (t) => {
    for (const theme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme: theme, reducedMotion: 'reduce' })
      for (const [name, path] of pages) {
        await page.goto(`${gateway.adminUrl}${path}`)
        await settled(page)
        if (name === 'live' || name === 'account') await page.locator('.plot canvas').waitFor()
        t.same(await axeFaults(page), [], `${name}, ${theme}`)
        await picture(page, `${name}-${theme}`)
      }
    }
    await page.setViewportSize({ width: 360, height: 780 })
    for (const theme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme: theme, reducedMotion: 'reduce' })
      for (const [name, path] of pages) {
        await page.goto(`${gateway.adminUrl}${path}`)
        await settled(page)
        t.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, `${name} on a phone, ${theme}`)
        await picture(page, `${name}-phone-${theme}`)
      }
    }
    t.comment(`${pages.length * 4} pictures are in ${artefacts}`)
  })

  await t.test('the keyboard reaches everything, and themes are chosen', async (t) => {
    await page.goto(`${gateway.adminUrl}/plans`)
    await settled(page)
    await page.keyboard.press('Tab')
    t.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the content')
    await page.keyboard.press('Enter')
    t.equal(await page.evaluate(() => document.activeElement?.id), 'main')
    await page.getByRole('link', { name: 'Sinks', exact: true }).focus()
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { level: 1, name: 'Sinks' }).waitFor()
    t.equal(await page.evaluate(() => document.activeElement?.tagName), 'H1', 'a new page is read from its heading on')
    t.equal(await page.title(), 'Sinks · Tallygate')
    await page.getByRole('button', { name: /^Colours: system/ }).click()
    t.equal(await page.evaluate(() => getComputedStyle(document.body).colorScheme), 'light')
    await page.getByRole('button', { name: /^Colours: light/ }).click()
    await page.reload()
    t.equal(await page.evaluate(() => getComputedStyle(document.body).colorScheme), 'dark', 'and remembered')
    await page.getByRole('button', { name: /^Colours: dark/ }).click()
    t.same(faults, [])
  })
})

t.test('ten thousand accounts are a page, a search and an order away', async (t) => {
  const many = Array.from({ length: 10_000 }, (_, n) => `  customer-${String(n).padStart(5, '0')}: { plan: free, labels: { region: r${n % 7} } }`)
  const gateway = await startGatewayProcess(t, `
plans: { free: { entitlements: { models: ["*"] }, limits: [{ name: daily, meter: total_tokens, limit: 100k, window: day }, { name: rpm, meter: requests, limit: 20, window: 1m }] } }
accounts:
${many.join('\n')}
keys:
  - { id: till, account: customer-07000, hash: "sha256:${hashOfSecret(acmeSecret)}" }
`)
  await call(gateway, acmeSecret)
  const browser = await openBrowser(t)
  const { page, faults } = await openPage(browser)
  const beganMs = performance.now()
  await page.goto(`${gateway.adminUrl}/accounts`)
  await page.getByText('10,001 in all').waitFor()
  t.comment(`the first of 10,000 accounts are there after ${Math.round(performance.now() - beganMs)} ms`)
  t.equal(await page.getByRole('row').count(), 26, 'a page of them, and its head')
  await page.getByRole('button', { name: 'Next' }).click()
  await page.getByText('customer-00025').waitFor()
  t.match(page.url(), /\?page=2$/)
  await page.getByLabel('Search accounts').fill('CUSTOMER-0700')
  await page.getByText('10 match "CUSTOMER-0700"').waitFor()
  await page.getByLabel('Sorted by').selectOption('requests')
  await page.waitForURL(/search=CUSTOMER-0700&sort=requests|sort=requests&search=CUSTOMER-0700/)
  await page.getByRole('columnheader', { name: 'Requests' }).waitFor()
  await page.getByRole('row', { name: /^customer-07000/ }).waitFor()
  await page.goto(`${gateway.adminUrl}/accounts?page=401`)
  await page.getByText('Page 401 of 401').waitFor()
  t.equal(await page.getByRole('row').count(), 2)
  t.same(faults, [])
})

/** Rows of the table with this caption, a cell each. */
async function cellsOf(page: Page, caption: string, column: string): Promise<string[]> {
  const table = page.getByRole('table', { name: caption })
  const at = (await table.getByRole('columnheader').allTextContents()).findIndex((title) => title.trim().replace(/ [↑↓]$/, '') === column)
  return (await table.locator('tbody tr').all()).reduce<Promise<string[]>>(async (before, row) => [...await before, ((await row.getByRole('cell').nth(at).textContent()) ?? '').trim()], Promise.resolve([]))
}

t.test('costs in two currencies are sorted, exported and drawn apart', async (t) => {
  const gateway = await startGatewayProcess(t, config())
  for (let n = 0; n < 6; n += 1) await call(gateway, acmeSecret, `llama-${n % 3}`)
  gateway.configure(config().replace('currency: USD', 'currency: EUR'))
  const browser = await openBrowser(t)
  const { page, faults } = await openPage(browser, { acceptDownloads: true })
  await page.goto(`${gateway.adminUrl}/accounts/acme?range=1h&measure=cost`)
  await waitFor('calls in the other currency', async () => {
    await call(gateway, acmeSecret, 'llama-2')
    return /EUR/.test(await page.getByRole('table', { name: 'Usage by model' }).textContent() ?? '')
  }, { deadlineMs: 60_000, everyMs: 3_000 })
  await call(gateway, acmeSecret, 'mistral')

  await t.test('a chart of each', async (t) => {
    const choice = page.getByRole('group', { name: 'Currency' })
    await page.getByRole('table', { name: 'Usage by model' }).getByText('mistral').waitFor({ timeout: 60_000 })
    await choice.getByRole('button', { name: 'EUR' }).click()
    t.match(page.url(), /currency=EUR/)
    await page.locator('.plot[aria-label*="mistral"]').waitFor()
    t.match(await page.locator('.legend').textContent(), /^(llama-2|mistral) 0\.\d+ EUR(llama-2|mistral) 0\.\d+ EUR$/)
    t.same(await axeFaults(page), [])
    await picture(page, 'account-currencies-light')
    await choice.getByRole('button', { name: 'USD' }).click()
    await waitFor('the other chart', async () => /^(llama-\d 0\.\d+ USD){3}$/.test(await page.locator('.legend').textContent() ?? ''))
    t.match(await page.locator('.plot').getAttribute('aria-label'), /^Cost by model .*: llama-\d 0\.\d+ USD, llama-\d 0\.\d+ USD, llama-\d 0\.\d+ USD\./)
    await page.setViewportSize({ width: 360, height: 780 })
    t.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, 'also on a phone')
    await picture(page, 'account-currencies-phone')
    await page.setViewportSize({ width: 1280, height: 900 })
    await page.getByRole('button', { name: 'Requests', exact: true }).first().click()
    t.equal(await choice.count(), 0, 'requests have none')
  })

  await t.test('a column of each, exact in the CSV', async (t) => {
    const row = (model: string, cost: Record<string, string>): unknown => ({
      model, cost, requests: 1, input_tokens: 1, output_tokens: 1, total_tokens: 2, refused: 0, p50_ms: 1, p95_ms: 1, ttft_p50_ms: null, tokens_per_second: null, from: new Date().toISOString(),
    })
    const rows = [row('a', { USD: '9.000000000' }), row('b', { USD: '1234.567891234' }), row('c', { EUR: '0.003500000' }), row('d', { USD: '0.001234567' }), row('e', { USD: '-3.000000000', EUR: '2.000000000' }), row('f', {})]
    await page.route('**/api/v1/analytics/usage?*', (route) => route.fulfill({ json: { unit: 'minute', from: new Date(Date.now() - 3_600_000).toISOString(), to: new Date().toISOString(), complete_until: null, truncated: false, rows } }))
    await page.goto(`${gateway.adminUrl}/accounts/acme?range=1h`)
    const table = page.getByRole('table', { name: 'Usage by model' })
    await table.getByRole('button', { name: 'Cost (USD)' }).click()
    t.same(await cellsOf(page, 'Usage by model', 'Cost (USD)'), ['-3.00', '0.00123', '9.00', '1,234.57', '–', '–'])
    await table.getByRole('button', { name: 'Cost (USD)' }).click()
    await waitFor('the other way', async () => /usage\.sort=-cost-USD/.test(page.url()))
    t.same(await cellsOf(page, 'Usage by model', 'Cost (USD)'), ['1,234.57', '9.00', '0.00123', '-3.00', '–', '–'], 'what there is not is last both ways')
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Usage by model as CSV' }).click()])
    const lines = (await readFile(await download.path(), 'utf8')).trim().split('\r\n').map((line) => line.split(','))
    t.same(lines.map((cells) => [cells[0], cells[4], cells[5]]), [
      ['Model', 'Cost (USD)', 'Cost (EUR)'], ['b', '1234.567891234', ''], ['a', '9.000000000', ''], ['d', '0.001234567', ''], ['e', '-3.000000000', '2.000000000'], ['c', '', '0.003500000'], ['f', '', ''],
    ])
    await page.unroute('**/api/v1/analytics/usage?*')
    await page.goto(`${gateway.adminUrl}/accounts?sort=cost`)
    await page.getByRole('columnheader', { name: 'Cost (USD)' }).waitFor()
    t.equal(await page.getByRole('columnheader', { name: 'Cost (EUR)' }).count(), 1)
    const [all] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Accounts as CSV' }).click()])
    t.match(await readFile(await all.path(), 'utf8'), /,Cost \((USD|EUR)\),Cost \((USD|EUR)\),Refused\r\nacme,.*,\d\.\d{9},\d\.\d{9},0\r\n/)
    await page.goto(`${gateway.adminUrl}/events`)
    await page.getByRole('columnheader', { name: 'Cost (EUR)' }).waitFor()
    t.ok((await cellsOf(page, 'Usage events', 'Cost (EUR)')).some((text) => /^0\.\d+$/.test(text)))
  })

  await t.test('the curve of what is live is one of the currency that has most', async (t) => {
    const second = (cost: Record<string, string>): string => `data: ${JSON.stringify({
      at: new Date().toISOString(), requests_per_second: 1, tokens_per_second: 1, cost_per_second: cost, errors_per_second: 0, refused_per_second: 0, open: 0, streams: 0, refusals: {}, sinks: [], analytics_lag: 0,
    })}\n\n`
    const body = [{ USD: '1.000000000' }, { USD: '2.000000000', EUR: '500.000000000' }, { USD: '4.000000000', EUR: '250.500000000' }].map(second).join('')
    await page.route('**/api/v1/live', (route) => route.fulfill({ contentType: 'text/event-stream', body }))
    await page.goto(gateway.adminUrl)
    const tile = page.locator('.tile', { hasText: 'Cost / s' })
    await tile.getByText('4.00 USD').waitFor()
    t.match(await tile.locator('.figure').textContent(), /^4\.00 USD\s*\+ 250\.50 EUR$/)
    const heights = (await tile.locator('polyline').getAttribute('points') ?? '').split(' ').slice(0, 3).map((point) => Number(point.split(',')[1]))
    t.same(heights, [23, 16, 2], 'a quarter, a half and all of the height')
    await picture(page, 'live-currencies')
    await page.unroute('**/api/v1/live')
  })
  t.same(faults, [])
})
