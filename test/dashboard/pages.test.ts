// test: timeout 300 s
// Every page as people see it, in both themes; the pictures are kept in test/artefacts, or where CI_ARTEFACTS says.

import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
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
