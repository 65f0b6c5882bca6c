// test: alone
// How long a person looks at nothing.

import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { openBrowser, openPage } from './browser.ts'
import { config, settled } from './rig.ts'

t.test('something is painted within a second, also for the first who looks after a start', async (t) => {
  const browser = await openBrowser(t)
  const gateway = await startGatewayProcess(t, config())
  const paintedMs: number[] = []
  const thereMs: number[] = []
  for (let n = 0; n < 4; n += 1) {
    // Each has a browser's memory of its own.
    const { page } = await openPage(browser)
    const beganMs = performance.now()
    await page.goto(gateway.adminUrl)
    await settled(page)
    thereMs.push(Math.round(performance.now() - beganMs))
    paintedMs.push(await page.evaluate(() => new Promise<number>((resolve) => {
      new PerformanceObserver((list) => {
        const [entry] = list.getEntriesByName('first-contentful-paint')
        if (entry !== undefined) resolve(Math.round(entry.startTime))
      }).observe({ type: 'paint', buffered: true })
    })))
    await page.context().close()
  }
  t.ok(Math.max(...paintedMs) < 1_000, `first paints after ${paintedMs.join(', ')} ms`)
  t.comment(`first paint ${paintedMs.join(', ')} ms, everything there after ${thereMs.join(', ')} ms; the first is that of a gateway that has just started`)
})
