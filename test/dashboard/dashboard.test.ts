// test: timeout 300 s
// An operator's day in a real Chromium, against a real gateway.

import { rmSync, symlinkSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import type { GatewayProcess } from '../fixtures/gateway-process.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { axeFaults, openBrowser, openPage, picture } from './browser.ts'
import { acmeSecret, adminTokens, call, chat, config, hostile, hostileLabel, lagoSink, opsSecret, pages, settled, startLago, viewSecret } from './rig.ts'

/** The figure of a tile. */
async function figure(page: Page, words: string): Promise<number> {
  const text = await page.locator('.tile', { hasText: words }).locator('.figure').first().textContent()
  return Number.parseFloat((text ?? '').replaceAll(',', ''))
}

t.test('an operator walks through the page: first start, live traffic, limits, a refusal, a key, a grant, a sink, a viewer, brute force', async (t) => {
  const browser: Browser = await openBrowser(t)
  const started = performance.now()
  let gateway!: GatewayProcess
  let demoSecret = ''
  let secretOfUi = ''
  const lago = await startLago()
  t.teardown(() => lago.stop())
  const { page, faults } = await openPage(browser, { permissions: ['clipboard-read', 'clipboard-write'], acceptDownloads: true })

  await t.test('first start: it says what there is to see, and weighs little', async (t) => {
    gateway = await startGatewayProcess(t.parent as typeof t, config())
    demoSecret = (await readFile(join(gateway.dir, 'data/demo-key'), 'utf8')).trim()
    await page.goto(gateway.adminUrl)
    await page.getByText('No calls in the last hour.').first().waitFor()
    t.equal(await page.getByRole('heading', { level: 1 }).textContent(), 'Live')
    t.equal(await page.locator('.who').getByText('local').count(), 1, 'nobody has to log in on this machine while no token is configured')
    await page.locator('.feed.live').waitFor()
    await picture(page, 'live-first-start')
    const bytes = await weightOf(browser, gateway.adminUrl)
    t.ok(bytes < 150 * 1_024, `${bytes} bytes`)
    t.comment(`${Math.round(bytes / 1_024)} KiB over the wire, compressed, with the charts`)
  })

  await t.test('live traffic appears within two seconds', async (t) => {
    const tookMs: number[] = []
    // At every part of a second: what is shown goes by seconds, too.
    for (const partMs of [0, 300, 600, 900]) {
      await waitFor('quiet', async () => (await figure(page, 'Requests / s')) === 0, { deadlineMs: 10_000, everyMs: 20 })
      await page.waitForTimeout(partMs)
      t.equal(await call(gateway, acmeSecret), 200)
      const endedMs = performance.now()
      await waitFor('the tile', async () => (await figure(page, 'Requests / s')) > 0, { deadlineMs: 10_000, everyMs: 20 })
      tookMs.push(Math.round(performance.now() - endedMs))
    }
    t.ok(Math.max(...tookMs) < 2_000, `${tookMs.join(', ')} ms`)
    t.comment(`calls appeared after ${tookMs.join(', ')} ms`)
    const streams = Array.from({ length: 3 }, () => chat(gateway, acmeSecret, 'demo', true).then((response) => response.text()))
    await page.waitForFunction(() => /[1-9]/.test([...document.querySelectorAll('.tile')].find((tile) => tile.textContent?.includes('Calls open') === true)?.querySelector('.figure')?.textContent ?? ''))
    await Promise.all(streams)
    t.pass('streams that are open are shown')
  })

  await t.test("an account's limits, used and left", async (t) => {
    for (let n = 0; n < 6; n += 1) await call(gateway, acmeSecret, `llama-${n % 3}`)
    await page.getByRole('link', { name: 'Accounts', exact: true }).click()
    await page.getByRole('link', { name: 'acme', exact: true }).first().click()
    await page.waitForURL(`${gateway.adminUrl}/accounts/acme`)
    const daily = page.getByRole('meter', { name: 'daily' })
    await waitFor('the use', async () => Number(await daily.getAttribute('aria-valuenow')) > 0)
    t.match(await daily.getAttribute('aria-valuetext'), /^\d+ of 100,000 tokens used, [\d,]+ left$/)
    t.equal(await page.getByRole('meter').count(), 5)
    await page.locator('.plot canvas').waitFor()
    t.match(await page.locator('.plot').getAttribute('aria-label'), /Tokens by model .*: (demo|llama)/, 'who cannot see the chart is told what it shows')
    await page.getByRole('button', { name: 'by key' }).click()
    t.match(page.url(), /\?by=key$/, 'what is shown is in the address')
    await page.locator('.table', { hasText: 'Usage by key' }).getByText('acme-dev').waitFor()
    t.equal(await page.getByText(hostileLabel).count(), 1, 'a label is a text')
    t.equal(await page.getByRole('columnheader', { name: 'Upstream median' }).count(), 1, 'of whom a time is, is said')
    const limits = page.getByRole('region', { name: 'Limits', exact: true })
    await limits.getByText('What accounts under it use counts here too').getByRole('link', { name: 'bolt' }).waitFor()
    await page.getByRole('button', { name: 'Give a grant …' }).click()
    t.same(await page.getByLabel('Beyond the limit').getByRole('option').allTextContents(), ['daily (total tokens)', 'monthly (total tokens)', 'budget (cost)'], 'what can have none is not offered')
    await page.keyboard.press('Escape')
    t.match(await page.getByRole('region', { name: 'Invoice preview' }).textContent(), /Total0\.\d+ USD/)
  })

  await t.test('a key is created, shown once and used; a refusal is explained', async (t) => {
    await page.goto(`${gateway.adminUrl}/accounts/corner-shop`)
    await page.getByRole('button', { name: 'New key …' }).click()
    await page.getByRole('dialog').waitFor()
    await page.keyboard.press('Escape')
    t.equal(await page.getByRole('dialog').count(), 0, 'Esc closes')
    t.equal(await page.evaluate(() => document.activeElement?.textContent), 'New key …', 'and the focus is where it was')
    await page.keyboard.press('Enter')
    await page.getByLabel('Name').fill('shop-till')
    await picture(page, 'dialog-new-key')
    await page.getByRole('button', { name: 'Create key' }).click()
    secretOfUi = (await page.locator('#secret').textContent()) ?? ''
    t.match(secretOfUi, /^tg_[\w-]{36}$/)
    t.same(await axeFaults(page), [])
    await page.getByRole('button', { name: 'I have kept it' }).click()
    await page.getByRole('cell', { name: 'shop-till', exact: true }).waitFor()
    t.notMatch(await page.content(), secretOfUi, 'it is not in the page any more')
    t.same([await call(gateway, secretOfUi), await call(gateway, secretOfUi), await call(gateway, secretOfUi)], [200, 200, 429])
    const row = page.getByRole('region', { name: 'Recent refusals' }).getByRole('row', { name: /Allowance used up/ })
    await row.waitFor()
    t.match(await row.textContent(), /2 of 2 of "calls" were used, 0 left\. It begins anew in/)
    await row.getByRole('link').click()
    await page.getByRole('heading', { name: 'Refused' }).waitFor()
    t.match(await page.locator('.notice').textContent(), /Allowance used up\. 2 of 2 of "calls" were used/)
    await picture(page, 'call-refused')
  })

  await t.test('a grant is given and effective', async (t) => {
    await page.goto(`${gateway.adminUrl}/accounts/corner-shop`)
    await page.getByRole('button', { name: 'Give a grant …' }).click()
    await page.getByLabel('Amount').fill('not a number')
    await page.getByRole('button', { name: 'Give', exact: true }).click()
    t.match(await page.getByRole('dialog').getByRole('alert').textContent(), /^Amount: /, 'a mistake is told where it was made')
    await page.getByLabel('Amount').fill('3')
    await page.getByLabel('Note').fill(hostile[0] ?? '')
    await page.getByRole('button', { name: 'Give', exact: true }).click()
    await page.getByRole('status').getByText('3 requests granted beyond calls.').waitFor()
    await waitFor('the larger limit', async () => /^2 of 5 requests used, 3 left$/.test((await page.getByRole('meter', { name: 'calls' }).getAttribute('aria-valuetext')) ?? ''))
    t.equal(await call(gateway, secretOfUi), 200)
    await waitFor('the grant in use', async () => (await page.getByRole('row', { name: /Take back/ }).getByRole('cell').nth(3).textContent())?.trim() === '1', { deadlineMs: 20_000 })
    await page.getByRole('button', { name: 'Rotate shop-till' }).click()
    await page.getByLabel('The old secret works on for').fill('0s')
    await page.getByRole('button', { name: 'Rotate', exact: true }).click()
    const rotated = (await page.locator('#secret').textContent()) ?? ''
    await page.getByRole('button', { name: 'I have kept it' }).click()
    t.same([await call(gateway, secretOfUi), await call(gateway, rotated)], [401, 200])
    await page.getByRole('button', { name: 'Revoke shop-till' }).click()
    await page.getByLabel('Reason').fill(hostile[1] ?? '')
    await page.getByRole('button', { name: 'Revoke', exact: true }).click()
    await page.getByRole('button', { name: 'Restore shop-till' }).waitFor()
    t.equal(await call(gateway, rotated), 401)
    await page.getByRole('button', { name: 'Restore shop-till' }).click()
    await page.getByRole('button', { name: 'Rotate shop-till' }).waitFor()
  })

  await t.test('a call is explained by its id', async (t) => {
    const id = (await chat(gateway, acmeSecret)).headers.get('x-request-id') ?? ''
    await page.goto(`${gateway.adminUrl}/events`)
    await page.getByLabel('Explain a call').fill(id)
    await page.getByRole('button', { name: 'Explain' }).click()
    await page.getByRole('heading', { name: 'What it was' }).waitFor()
    t.match(await page.locator('main').textContent(), /settled complete/)
    t.match(await page.getByRole('region', { name: 'Price', exact: true }).textContent(), /Cost0\.\d+ USD/)
    t.match(await page.getByRole('row', { name: /^daily/ }).textContent(), /total tokens per day.*100,000/)
    await picture(page, 'call')
    t.same(await axeFaults(page), [])
  })

  await t.test('a sink fails and recovers', async (t) => {
    // A disk without room, as a file.
    rmSync(join(gateway.dir, 'billing.ndjson'), { force: true })
    symlinkSync('/dev/full', join(gateway.dir, 'billing.ndjson'))
    await gateway.kill()
    await page.locator('.feed.lost').waitFor()
    t.pass('a gateway that is gone is seen to be gone')
    await gateway.start()
    await page.locator('.feed.live').waitFor()
    t.pass('and comes back by itself')
    await page.goto(`${gateway.adminUrl}/sinks`)
    for (let n = 0; n < 3; n += 1) await call(gateway, acmeSecret)
    const row = page.getByRole('row', { name: /^billing/ })
    await row.getByText('waiting', { exact: true }).waitFor()
    await row.getByText('ENOSPC').waitFor()
    t.match(await row.textContent(), /tried again (in \d+ (s|ms)|now|\d+ (s|ms) ago)/, 'why, and when it is tried again')
    await page.getByRole('row', { name: /^file/ }).getByText('running', { exact: true }).waitFor()
    await picture(page, 'sink-failing')
    rmSync(join(gateway.dir, 'billing.ndjson'))
    await page.getByRole('link', { name: 'billing', exact: true }).click()
    await page.getByRole('button', { name: 'Try now' }).click()
    await page.getByRole('status').getByText('billing is tried again.').waitFor()
    await page.getByRole('button', { name: 'Try now' }).waitFor({ state: 'detached' })
    await page.getByText('A sink of the kind file cannot be asked what it has.').waitFor()
    t.equal(await page.getByRole('button', { name: 'Compare books' }).count(), 0, 'there is nothing to compare with')
    t.equal(await page.getByLabel('look every record up').count(), 0)
    t.equal(await page.locator('.page-head p').textContent(), 'file, verified.', 'nobody knows of a file what its reader does')
    await page.getByLabel('Period (UTC): a month').fill(new Date().toISOString().slice(0, 7))
    await page.getByRole('button', { name: 'Look at what is known here' }).click()
    await page.getByText('The receiver cannot be asked: this is what is known here.').waitFor()
    await page.goto(`${gateway.adminUrl}/sinks`)
    await row.getByText('running', { exact: true }).waitFor({ timeout: 60_000 })
    t.ok((await readFile(join(gateway.dir, 'billing.ndjson'), 'utf8')).trim().split('\n').length >= 3, 'nothing of it was lost')
  })

  await t.test('a sink is paused with its reason; what it refused is delivered again', async (t) => {
    gateway.configure(config('', lagoSink(lago, { right: false })))
    const row = page.getByRole('row', { name: /^lago/ })
    await row.waitFor({ timeout: 30_000 })
    await call(gateway, acmeSecret)
    await row.getByText('paused', { exact: true }).waitFor()
    t.match(await row.textContent(), /lago, verified.*paused.*401/s)
    await picture(page, 'sink-paused')
    gateway.configure(config('', lagoSink(lago)))
    await row.getByText('running', { exact: true }).waitFor({ timeout: 60_000 })
    lago.judge = ({ code }) => (code === 'llm_output_tokens' ? 'metric_not_found' : null)
    await call(gateway, acmeSecret)
    const refused = page.getByRole('region', { name: 'Refused events' })
    await refused.getByText('metric_not_found').waitFor()
    lago.judge = () => null
    await page.getByRole('button', { name: 'Deliver to lago again' }).click()
    await page.getByRole('status').getByText('lago has taken 1 event.').waitFor()
    await refused.getByText('No sink has refused an event.').waitFor()
  })

  await t.test("a billing system's books are compared: each difference with its reason, and as CSV", async (t) => {
    for (let n = 0; n < 4; n += 1) await call(gateway, acmeSecret)
    await waitFor('everything delivered', async () => {
      const { sinks } = await (await fetch(`${gateway.adminUrl}/api/v1/sinks`)).json() as { sinks: { name: string; waiting: number }[] }
      return sinks.find(({ name }) => name === 'lago')?.waiting === 0
    }, { deadlineMs: 30_000 })
    await page.getByRole('link', { name: 'Compare books of lago' }).click()
    await page.getByText('The books agree.').waitFor()
    // Of the same amount and meter: its total agrees.
    const [lost = '', doubled = ''] = lago.books.bookings({ code: 'llm_output_tokens' }).map(({ received }) => received.id)
    lago.books.plantLoss(lost)
    lago.books.plantDouble(doubled)
    // What was delivered a moment ago may still be on its way.
    await waitFor('both', async () => {
      await page.getByRole('button', { name: 'Compare again' }).click()
      return page.getByText('2 differences are not explained by our books:').waitFor({ timeout: 1_000 }).then(() => true, () => false)
    }, { deadlineMs: 30_000 })
    const differences = page.locator('.table', { hasText: 'Puts it right' })
    await differences.getByRole('row', { name: /^missing/ }).getByRole('link', { name: `Call ${lost.split(':')[0]}` }).waitFor()
    t.match(await differences.getByRole('row', { name: /^missing/ }).textContent(), /Delivered, and not there\./)
    await differences.getByRole('row', { name: /^doubled/ }).getByRole('link', { name: `Call ${doubled.split(':')[0]}` }).waitFor()
    t.same(await axeFaults(page), [])
    await picture(page, 'sink-books-light')
    await page.emulateMedia({ colorScheme: 'dark' })
    t.same(await axeFaults(page), [])
    await picture(page, 'sink-books-dark')
    await page.setViewportSize({ width: 360, height: 780 })
    t.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, 'also on a phone')
    await picture(page, 'sink-books-phone')
    await page.setViewportSize({ width: 1280, height: 900 })
    await page.emulateMedia({ colorScheme: 'light' })
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Differences as CSV' }).click()])
    t.match(await readFile(await download.path(), 'utf8'), new RegExp(`^missing,.*${lost}`, 'm'))
    t.match(page.url(), /\/sinks\/lago\?period=\d{4}-\d\d-\d\d$/, 'a link shows somebody else the same')
    await page.getByLabel('Period (UTC): a month').fill('yesterday')
    await page.getByRole('button', { name: 'Compare books' }).click()
    await page.getByRole('alert').getByText(/is no period/).waitFor()
  })

  await t.test('an account is made, changed and found in the list', async (t) => {
    await page.goto(`${gateway.adminUrl}/accounts`)
    await page.getByRole('button', { name: 'New account …' }).click()
    const dialog = page.getByRole('dialog')
    const name = dialog.getByLabel('Name')
    await name.fill('acme')
    await page.getByRole('button', { name: 'Create account' }).click()
    t.match(await dialog.getByRole('alert').textContent(), /tallygate\.yaml/, 'one of the configuration is not made anew')
    await name.fill('globex')
    await dialog.getByLabel('Plan').selectOption('tiny')
    await picture(page, 'dialog-new-account')
    t.same(await axeFaults(page), [])
    await page.getByRole('button', { name: 'Create account' }).click()
    await page.waitForURL(`${gateway.adminUrl}/accounts/globex`)
    await page.getByText('Plan tiny', { exact: true }).waitFor()
    await page.getByRole('button', { name: 'Change …' }).click()
    await dialog.getByLabel('Plan').selectOption('free')
    await dialog.getByLabel('Under the account').fill('acme')
    await page.getByRole('button', { name: 'Change', exact: true }).click()
    await page.getByText('Plan free, under acme').waitFor()
    await page.getByRole('link', { name: 'Accounts', exact: true }).first().click()
    await page.getByRole('link', { name: 'globex' }).waitFor()
    t.pass('it is in the list')
    await page.goto(`${gateway.adminUrl}/accounts/globex`)
    await page.getByRole('button', { name: 'Change …' }).click()
    await dialog.getByText('More', { exact: true }).click()
    await dialog.getByLabel('Limits of its own').fill('- { name: night, meter: requests, limit: soon, window: 1h }')
    await page.getByRole('button', { name: 'Change', exact: true }).click()
    t.match(await dialog.getByRole('alert').textContent(), /limits\[0\]\.limit: .*soon/i, 'a mistake is told as in the configuration')
    await dialog.getByLabel('Limits of its own').fill('- { name: night, meter: requests, limit: 1k, window: 1h }')
    await dialog.getByLabel('Labels').fill('team: "2"\nregion: eu-1')
    await dialog.getByLabel('Time zone').fill('Europe/Berlin')
    await dialog.getByLabel('Billing periods count from').fill('2027-01-15')
    await picture(page, 'dialog-change-account')
    t.same(await axeFaults(page), [])
    await page.getByRole('button', { name: 'Change', exact: true }).click()
    await page.getByRole('meter', { name: 'night' }).waitFor()
    await page.getByRole('button', { name: 'Change …' }).click()
    t.equal(await dialog.getByLabel('Limits of its own').inputValue(), '- { name: night, meter: requests, limit: 1k, window: 1h }', 'what was written is there again')
    t.equal(await dialog.getByLabel('Labels').inputValue(), 'team: "2"\nregion: eu-1')
    await dialog.getByLabel('Limits of its own').fill('')
    await page.getByRole('button', { name: 'Change', exact: true }).click()
    await waitFor('the limit to be gone', async () => (await page.getByRole('meter', { name: 'night' }).count()) === 0)
    const { terms } = await (await fetch(`${gateway.adminUrl}/api/v1/accounts/globex`)).json() as { terms: unknown }
    t.same(terms, { plan: 'free', parent: 'acme', timezone: 'Europe/Berlin', anchor: '2027-01-15', labels: { team: '2', region: 'eu-1' }, add_ons: [], limits: [], entitlements: {} })
    t.equal((await fetch(`${gateway.adminUrl}/api/v1/accounts/globex`, { method: 'DELETE' })).status, 200)
  })

  await t.test('W1: hostile names are texts: no dialog, no breach of the policy', async (t) => {
    for (const model of hostile) t.equal(await call(gateway, acmeSecret, model), 200, model.slice(0, 40))
    t.equal(await call(gateway, acmeSecret, 'A'.repeat(10_000)), 400, 'a name of ten thousand characters is none')
    for (const model of hostile.slice(0, 8)) await call(gateway, demoSecret, model)
    // What is refused is shown elsewhere.
    for (const model of hostile.slice(0, 8)) await call(gateway, secretOfUi, model)
    await page.goto(`${gateway.adminUrl}/accounts/acme?range=1h`)
    await page.getByText('<img src=x onerror=alert(1)>').first().waitFor()
    await page.getByText('{{7*7}}${7*7}').first().waitFor()
    await page.getByText('\\u202egnp.exe').first().waitFor()
    t.equal(await page.locator('img, iframe, object, embed').count(), 0)
    const shown = await page.locator('main').innerText()
    t.notMatch(shown, /A{121}/, 'a name takes no more room than it gets')
    for (const [, path] of pages) {
      await page.goto(`${gateway.adminUrl}${path}`)
      await settled(page)
    }
    for (const path of ['/accounts/%3Cimg%20src=x%20onerror=alert(1)%3E', '/events/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E', '/accounts?search=%3Csvg%20onload=alert(1)%3E', '/events/%E0%A4%A']) {
      await page.goto(`${gateway.adminUrl}${path}`)
      await settled(page)
    }
    t.same(faults, [])
  })

  await t.test('W2: the CSV of a table has no formula in it', async (t) => {
    await page.goto(`${gateway.adminUrl}/events`)
    await page.getByText('@SUM(1)').first().waitFor()
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Usage events as CSV' }).click()])
    t.equal(download.suggestedFilename(), 'events.csv')
    const text = await readFile(await download.path(), 'utf8')
    t.match(text, /,'@SUM\(1\),/)
    t.match(text, /,"'=HYPERLINK\(""http:\/\/evil\.example"",""x""\)",/)
    t.notMatch(text, /(^|,|")[=@+]/m)
    await page.goto(`${gateway.adminUrl}/accounts`)
    const [all] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Accounts as CSV' }).click()])
    t.match((await readFile(await all.path(), 'utf8')).split('\r\n').map((line) => line.split(',')[0]), ['\ufeffAccount', 'acme', 'bolt', 'corner-shop', 'demo', ''])
  })

  await t.test('with tokens somebody has to log in, and a viewer is prevented from changing', async (t) => {
    await page.goto(`${gateway.adminUrl}/accounts/acme`)
    await page.getByRole('button', { name: 'Suspend …' }).waitFor()
    gateway.configure(config(adminTokens, lagoSink(lago)))
    await page.getByLabel('Admin token').waitFor({ timeout: 30_000 })
    t.pass('the page of who was trusted before asks for a token')
    await page.emulateMedia({ colorScheme: 'light' })
    t.same(await axeFaults(page), [])
    await picture(page, 'login-light')
    await page.emulateMedia({ colorScheme: 'dark' })
    t.same(await axeFaults(page), [])
    await picture(page, 'login-dark')
    await page.emulateMedia({ colorScheme: 'light' })
    await page.getByLabel('Admin token').fill('this-is-not-a-token-at-all')
    await page.getByRole('button', { name: 'Log in' }).click()
    await page.getByRole('alert').getByText('This token is not known.').waitFor()
    await page.getByLabel('Admin token').fill(viewSecret)
    await page.keyboard.press('Enter')
    await page.getByText('view (viewer)').waitFor()
    await page.getByRole('meter', { name: 'daily' }).waitFor()
    for (const name of [/Suspend/, /New key/, /Give a grant/, /Rotate/, /Revoke/, /Take back/]) t.equal(await page.getByRole('button', { name }).count(), 0, String(name))
    const refused = await page.evaluate(async () => {
      const answers = [['POST', '/api/v1/accounts/acme/suspend'], ['POST', '/api/v1/keys'], ['POST', '/api/v1/grants'], ['POST', '/api/v1/keys/acme-dev/revoke'], ['POST', '/api/v1/events/dead/retry'], ['DELETE', '/api/v1/accounts/acme']] as const
      return Promise.all(answers.map(async ([method, path]) => (await fetch(path, { method, ...(method === 'POST' ? { headers: { 'content-type': 'application/json' }, body: '{}' } : {}) })).status))
    })
    t.same(new Set(refused), new Set([403]), 'the gateway refuses what the page does not offer')
    await page.goto(`${gateway.adminUrl}/accounts`)
    await page.getByRole('link', { name: 'bolt', exact: true }).waitFor()
    t.equal(await page.getByRole('button', { name: /New account/ }).count(), 0)
    await page.goto(`${gateway.adminUrl}/sinks/lago?period=${new Date().toISOString().slice(0, 10)}`)
    await page.getByText('2 differences are not explained by our books:').waitFor()
    t.pass('but sees whether the books agree')
    t.equal(await page.evaluate(() => document.cookie), '', 'no script can read the cookie')
    t.equal(await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage })).then((kept) => kept.includes('token-0123')), false)
    const [cookie] = await page.context().cookies()
    t.match(cookie, { name: 'tallygate_session', httpOnly: true, sameSite: 'Strict' })
    await page.getByRole('button', { name: 'Log out' }).click()
    await page.getByLabel('Admin token').waitFor()
    const again = await fetch(`${gateway.adminUrl}/api/v1/plans`, { headers: { cookie: `tallygate_session=${cookie?.value ?? ''}` } })
    t.equal(again.status, 401, 'the session has ended at the gateway')
    await page.getByLabel('Admin token').fill(opsSecret)
    await page.keyboard.press('Enter')
    await page.getByText('ops', { exact: true }).waitFor()
    await page.goto(`${gateway.adminUrl}/accounts/acme`)
    await page.getByRole('button', { name: 'Suspend …' }).click()
    await page.getByLabel('Reason, for the record').fill('unpaid')
    await page.getByRole('button', { name: 'Suspend', exact: true }).click()
    await page.getByText('Suspended: every call is refused.').waitFor()
    t.equal(await call(gateway, acmeSecret), 403)
    await page.getByRole('button', { name: 'Resume' }).click()
    await page.getByRole('button', { name: 'Suspend …' }).waitFor()
    t.equal(await call(gateway, acmeSecret), 200)
  })

  await t.test('W3: another site changes nothing and shows nothing of ours', async (t) => {
    const evil = createServer((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/html' })
      response.end(`<!doctype html><title>evil</title><iframe src="${gateway.adminUrl}/"></iframe>
        <form action="${gateway.adminUrl}/api/v1/accounts/acme/suspend" method="post" enctype="text/plain" target="out"><input name='{"reason":"' value='x"}'></form><iframe name="out"></iframe>`)
    }).listen(0, '127.0.0.1')
    t.teardown(() => evil.close())
    await waitFor('the other site', () => evil.address())
    // The same session, in the same browser.
    const other = await page.context().newPage()
    await other.goto(`http://localhost:${(evil.address() as AddressInfo).port}/`)
    await other.evaluate(() => document.forms[0]?.submit())
    const read = await other.evaluate(async (admin) => Promise.all([
      fetch(`${admin}/api/v1/keys`, { credentials: 'include' }).then(() => 'read', () => 'refused'),
      fetch(`${admin}/api/v1/accounts/acme/suspend`, { method: 'POST', credentials: 'include', mode: 'no-cors', body: '{}' }).then(() => 'sent', () => 'refused'),
      fetch(`${admin}/api/v1/accounts/acme/suspend`, { method: 'POST', credentials: 'include', headers: { 'content-type': 'application/json' }, body: '{}' }).then(() => 'read', () => 'refused'),
    ]), gateway.adminUrl)
    t.equal(read[0], 'refused')
    t.equal(read[2], 'refused')
    t.equal(other.frames().filter((frame) => frame.url().startsWith(gateway.adminUrl)).length, 0, 'the page cannot be framed')
    await other.close()
    t.equal(await call(gateway, acmeSecret), 200, 'the account is not suspended')
  })

  await t.test('W8: nothing of the admin port is found on the public one', async (t) => {
    const headers = { authorization: `Bearer ${opsSecret}` }
    for (const path of ['/metrics', '/api/v1/health', '/api/v1/session', '/api/v1/login', '/api/v1/live', '/api/v1/keys', '/accounts', '/accounts/acme', '/sinks', '/assets/main.ts', '/upstreams/demo/metrics', '/login']) {
      t.equal((await fetch(`${gateway.url}${path}`)).status, 404, path)
      t.ok([401, 404].includes((await fetch(`${gateway.url}${path}`, { headers })).status), `${path} with an admin token`)
    }
    t.notMatch(await (await fetch(`${gateway.url}/`, { headers: { accept: 'text/html' } })).text(), /<html/)
  })

  await t.test('a person with a key sees what is left, and the key stays in the page', async (t) => {
    const { page: own, faults: ownFaults } = await openPage(browser, { viewport: { width: 360, height: 780 } })
    const asked: string[] = []
    own.on('request', (request) => asked.push(request.url()))
    const answer = await own.goto(`${gateway.url}/-/usage`)
    t.match(answer?.headers()['content-security-policy'], /^default-src 'none'; script-src 'sha256-/)
    t.same(await axeFaults(own), [])
    await own.getByLabel('Your API key').fill('wrong-key-0123456789abcdef')
    await own.keyboard.press('Enter')
    await own.getByRole('alert').getByText(/not valid/).waitFor()
    await own.getByLabel('Your API key').fill(acmeSecret)
    await own.keyboard.press('Enter')
    await own.getByRole('heading', { name: 'acme' }).waitFor()
    t.match(await own.locator('#shown').textContent(), /daily.*left of 100,000.*begins anew/s)
    await own.getByRole('heading', { name: 'Spent' }).waitFor()
    t.equal(await own.evaluate(() => document.documentElement.scrollWidth), 360)
    t.same(await axeFaults(own), [])
    await picture(own, 'usage-view-light')
    await own.emulateMedia({ colorScheme: 'dark' })
    t.same(await axeFaults(own), [])
    await picture(own, 'usage-view-dark')
    t.match(await own.locator('#past').textContent(), /Spent.*\d+\.\d{2,6} USD\d+ requests, [\d,]+ tokens.*Today.*USD.*History.*tokens in the last 30 days/s)
    t.equal(await own.locator('#past rect').count(), 30)
    t.match(await own.getByRole('img').getAttribute('aria-label'), /^[\d,]+ tokens in 30 days, most on \d+ \w+: [\d,]+$/, 'who cannot see the bars is told what they show')
    await own.getByText('Day by day', { exact: true }).click()
    const past = await (await fetch(`${gateway.url}/-/usage/history`, { headers: { authorization: `Bearer ${acmeSecret}` } })).json() as { key: string; rows: readonly { requests: number }[] }
    t.equal(past.key, 'acme-dev')
    t.equal(await own.getByRole('row').nth(1).getByRole('cell').first().textContent(), String(past.rows.at(-1)?.requests))
    t.equal(await own.evaluate(() => document.documentElement.scrollWidth), 360)
    t.same(await axeFaults(own), [])
    await picture(own, 'usage-view-history-dark')
    await own.emulateMedia({ colorScheme: 'light' })
    t.same(await axeFaults(own), [])
    await picture(own, 'usage-view-history-light')
    t.notMatch(await own.content(), acmeSecret)
    t.notMatch(asked.join('\n'), acmeSecret)
    t.equal(await own.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage, cookie: document.cookie })), '{"cookie":""}')
    const busy = Array.from({ length: 31 }, (_, index) => ({
      from: new Date(Date.parse('2026-10-21T00:00:00Z') + index * 86_400_000).toISOString(), requests: 40 + index, input_tokens: 1_000 * index, output_tokens: 9, total_tokens: 1_000 * index + ((index * 37) % 11) * 9_000,
      cost: { USD: '1.000000001', ...(index === 30 ? { EUR: '-0.500000000' } : {}) }, refused: index % 9 === 0 ? 2 : 0,
    })).filter(({ requests }) => requests % 8 !== 0)
    for (const [status, body, words] of [
      [200, { from: '2026-10-21T00:00:00Z', to: '2026-11-21T00:00:00Z', complete_until: '2026-11-20T10:00:00Z', rows: busy }, /^SpentNovember18\.00 USD-0\.50 EUR1,090 requests, 1,117,000 tokensToday1\.00 USD-0\.50 EUR70 requests, 120,000 tokensHistory1,569,000 tokens in the last 30 days.*Refused20 Nov70120,0001\.00 USD \+ -0\.50 EUR0/s],
      [200, { from: '2026-11-01T00:00:00Z', to: '2026-11-20T00:00:00Z', complete_until: null, rows: [] }, /^HistoryNothing yet\.$/],
      [404, { error: { message: 'No history of usage is kept here.' } }, /^$/],
      [503, { error: { message: 'The history of usage cannot be read at the moment.' } }, /^HistoryThe history of usage cannot be read at the moment\.$/],
    ] as const) {
      await own.route('**/-/usage/history*', (route) => route.fulfill({ status, json: body }))
      await own.getByRole('button', { name: 'Look again' }).click()
      await waitFor('the page', async () => words.test(await own.locator('#past').textContent() ?? 'none'))
      t.match(await own.locator('#shown').textContent(), /daily.*left of 100,000/s, `${status}: what is left is there in any case`)
      if (await own.locator('rect').count() > 0) await picture(own, 'usage-view-busy')
      await own.unroute('**/-/usage/history*')
    }
    await own.getByRole('button', { name: 'Forget the key' }).click()
    t.notMatch(await own.content(), /left of 100,000/)
    t.equal(await own.locator('#past').textContent(), '')
    t.same(ownFaults, [])
    const json = await fetch(`${gateway.url}/-/usage`, { headers: { accept: 'text/html', authorization: `Bearer ${acmeSecret}` } })
    t.match(json.headers.get('content-type'), /json/, 'who brings a key gets JSON, as before')
    t.equal((await fetch(`${gateway.url}/-/usage`)).status, 401, 'and who brings none and is no browser is told so')
    await own.context().close()
  })

  await t.test('figures of usage that are not whole say so', async (t) => {
    const current = { state: 'current', behind: 0, complete_until: '2026-11-20T10:00:00Z', rebuild: null, missed: 0, failure: null }
    for (const [answer, words] of [
      [{ ...current, state: 'rebuilding', complete_until: null, rebuild: { started_at: new Date(Date.now() - 200_000).toISOString(), archived: 1_234_000 } }, /^Usage is being added up again from the events \(begun 3 min \d+ s ago; 1,234,000 of the archive are in so far\)\./],
      [{ ...current, state: 'behind', behind: 34_000 }, /^34K events are still to be added up\./],
      [{ ...current, state: 'failing', failure: 'the disk is full' }, /^Usage is not added up just now, .*: the disk is full\. Limits and bills have their own books\.$/],
      [{ ...current, missed: 7 }, /^7 events are in no figure of usage/],
    ] as const) {
      await page.route('**/api/v1/analytics', (route) => route.fulfill({ json: answer }))
      for (const path of ['/', '/accounts/acme', '/accounts?sort=cost']) {
        await page.goto(`${gateway.adminUrl}${path}`)
        await page.getByRole('status').filter({ hasText: words }).waitFor()
      }
      t.same(await axeFaults(page), [], answer.state)
      if (answer.state === 'rebuilding') {
        await page.goto(`${gateway.adminUrl}/`)
        await page.getByRole('status').filter({ hasText: words }).waitFor()
        await picture(page, 'live-rebuilding')
      }
      await page.unroute('**/api/v1/analytics')
    }
    await page.goto(`${gateway.adminUrl}/accounts/acme`)
    await page.locator('.plot canvas').waitFor()
    t.equal(await page.locator('.notice').count(), 0, 'and those that are say nothing')
  })

  await t.test('what is not as usual is told as it is', async (t) => {
    const change = (path: string, altered: (document: Record<string, unknown>) => void): Promise<unknown> => page.route(path, async (route) => {
      const response = await route.fetch()
      const json = await response.json() as Record<string, unknown>
      altered(json)
      await route.fulfill({ response, json })
    })
    const id = '019a0000-0000-7000-8000-000000000001'
    await page.route('**/api/v1/explain/*', (route) => route.fulfill({ json: {
      id, state: 'refused', refused_at: '2026-11-20T10:00:00Z', account: 'acme', key: 'acme-dev', model: 'demo', reason: 'upstream_unavailable', limit: null, ceiling: null, used: null, remaining: null, resets_at: null,
    } }))
    await page.goto(`${gateway.adminUrl}/events/${id}`)
    const failed = page.getByRole('region', { name: 'Failed upstream' })
    await failed.waitFor()
    t.match(await failed.textContent(), /could not be reached, answered with an error.*it changed no counter, and nothing was billed/)
    t.notMatch(await failed.textContent(), /never reached/)
    await picture(page, 'call-failed-upstream')

    await change('**/api/v1/config', (config) => { config['last_reload'] = { ok: false, at: '2026-11-20T10:00:00Z', problems: ['tallygate.yaml:3:1: plans: what is "plnas"?', 'tallygate.yaml:9:1: keys: no'] } })
    await change('**/api/v1/accounts/acme', (account) => {
      account['subscription'] = 'pending'
      const standing = account['standing'] as { limits: { window: string | null }[] }
      standing.limits = standing.limits.filter(({ window }) => window === null || window === '1m')
    })
    await page.route('**/api/v1/subscriptions/acme', (route) => route.fulfill({ json: {
      account: 'acme', kind: 'term', state: 'pending', since: null, until: '2027-01-01T00:00:00Z', term: null, start: '2027-01-01T00:00:00Z', end: null, grace_ms: 0, renewal: 'auto', term_length: 'month', trial_end: null, timezone: 'UTC', seats: null,
      suspended: null, plans: [], add_ons: [], next_announcement: null,
    } }))
    await page.route('**/api/v1/analytics', (route) => route.fulfill({ json: { state: 'rebuilding', behind: null, complete_until: null, rebuild: null, missed: 0, failure: null } }))
    await page.goto(`${gateway.adminUrl}/accounts/acme`)
    await page.getByRole('status').filter({ hasText: /^Usage is being added up again from the events \(by another gateway\)\./ }).waitFor()
    t.match(await page.getByRole('region', { name: 'Subscription' }).locator('dl').textContent(), /Begins1 Jan 2027/)
    await page.getByText('No grant can be given: none of its limits').waitFor()
    t.equal(await page.getByRole('button', { name: 'Give a grant …' }).count(), 0)
    const mistakes = page.getByRole('status').filter({ hasText: /^The configuration on disk has mistakes since 20 Nov 2026, 11:00:00; the one before stays in use\. tallygate\.yaml:3:1: plans: what is "plnas"\? \(and 1 more\)$/ })
    await mistakes.waitFor()
    await page.getByRole('link', { name: 'Plans', exact: true }).click()
    await page.getByRole('heading', { name: 'Plans' }).waitFor()
    t.equal(await mistakes.count(), 1, 'on every page')
    t.same(await axeFaults(page), [])
    await picture(page, 'plans-config-refused')

    await change('**/api/v1/sinks', ({ sinks }) => Object.assign((sinks as object[])[0] ?? {}, { state: 'not open', reason: 'the directory is not there', next_try_at: new Date(Date.now() + 20_000).toISOString() }))
    await page.goto(`${gateway.adminUrl}/sinks/file`)
    const delivery = page.getByRole('region', { name: 'Delivery' })
    await delivery.getByRole('button', { name: 'Try now' }).waitFor()
    t.match(await delivery.textContent(), /not open.*the directory is not there.*tried again in \d+ s/)
    await page.unrouteAll({ behavior: 'ignoreErrors' })

    await page.goto(`${gateway.adminUrl}/notices`)
    const changes = page.getByRole('table', { name: 'Changes' })
    t.match(await changes.getByRole('row', { name: /account\.suspend/ }).first().textContent(), /acme\s*reason: unpaid/)
    await changes.getByText('labels: { team: "2", region: eu-1 }').first().waitFor({ state: 'attached' })
    t.same(await axeFaults(page), [])
    await picture(page, 'notices-changes')
  })

  await t.test('login brute force is braked (W4)', async (t) => {
    await page.getByRole('button', { name: 'Log out' }).click()
    const guess = async (token: string): Promise<void> => {
      await page.getByLabel('Admin token').fill(token)
      await page.getByRole('button', { name: 'Log in' }).click()
      await page.waitForFunction(() => document.querySelector('button[type=submit]')?.textContent === 'Log in')
    }
    for (let n = 0; n < 10; n += 1) await guess(`guess-number-${n}-0123456789`)
    await guess(opsSecret)
    t.match(await page.getByRole('alert').textContent(), /^Too many wrong tokens came from this address\. Try again in \d+ s\.$/)
    await picture(page, 'login-braked')
    t.same(faults, [])
  })

  t.comment(`${Math.round((performance.now() - started) / 1_000)} s on the clock`)
})

/** Bytes that come over the wire until a page with a chart is complete, without a cache. */
async function weightOf(browser: Browser, url: string): Promise<number> {
  const { page } = await openPage(browser)
  const session = await page.context().newCDPSession(page)
  await session.send('Network.enable')
  let bytes = 0
  session.on('Network.loadingFinished', ({ encodedDataLength }) => { bytes += encodedDataLength })
  await page.goto(`${url}/accounts/acme`)
  await page.getByText('Nothing was used in this time.').waitFor()
  await page.evaluate(async () => {
    const address = document.querySelector<HTMLLinkElement>('link[rel=modulepreload]')?.href ?? ''
    await (await fetch(new URL('uplot.mjs', address))).text()
  })
  await page.context().close()
  return bytes
}
