// config/prometheus: each alert fires for what it is about, not before its time, and a gateway that is well fires none.

import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { parse } from 'yaml'
import { promtool } from '../fixtures/prometheus.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'

const dir = fileURLToPath(new URL('../../config/prometheus/', import.meta.url))
const rules = (parse(readFileSync(`${dir}rules.yml`, 'utf8')) as { groups: { rules: { alert: string; expr: string; labels: { severity: string }; annotations: Record<string, string> }[] }[] }).groups.flatMap((group) => group.rules)

/** Two hours of a gateway that is well, a sample each 15 s. */
const well: Readonly<Record<string, string>> = {
  'up{job="tallygate", instance="a"}': '1x480',
  'tallygate_store_admitting{instance="a"}': '1x480',
  'tallygate_settlements_waiting{instance="a"}': '3x480',
  'tallygate_spool_settlements{instance="a"}': '0x480',
  'tallygate_spool_oldest_seconds{instance="a"}': '0x480',
  'tallygate_outbox_oldest_seconds{instance="a", sink="file"}': '1x480',
  'tallygate_dead_events{instance="a", sink="file"}': '0x480',
  'tallygate_quarantined_records{instance="a", sink="file"}': '0x480',
  'tallygate_sink_paused{instance="a", sink="file"}': '0x480',
  'tallygate_unexplained_differences{instance="a", sink="billing"}': '0x480',
  'tallygate_outbox_missed_total{instance="a", sink="file"}': '0x480',
  'tallygate_zero_charges_total{instance="a", provider="openai", why="zero"}': '0x480',
  'tallygate_zero_charges_total{instance="a", provider="openai", why="estimated"}': '0+1x480',
  'tallygate_settlements_total{instance="a", end="complete", usage_source="upstream"}': '0+100x480',
  'tallygate_overruns_total{instance="a"}': '0x480',
  'tallygate_refusals_total{instance="a", reason="rate_limited"}': '0+2x480',
  'tallygate_refusals_total{instance="a", reason="upstream_unavailable"}': '0+1x480',
  'tallygate_requests_total{instance="a", provider="openai", endpoint="chat.completions", outcome="complete"}': '0+100x480',
  'tallygate_bad_keys_total{instance="a", braked="no"}': '0+1x480',
  'tallygate_config_last_reload_successful{instance="a"}': '1x480',
  'tallygate_gateway_overhead_seconds_bucket{instance="a", le="0.005"}': '0+100x480',
  'tallygate_gateway_overhead_seconds_bucket{instance="a", le="0.25"}': '0+100x480',
  'tallygate_gateway_overhead_seconds_bucket{instance="a", le="+Inf"}': '0+100x480',
  'tallygate_worker_restarts_total{instance="a"}': '0x240 1x240',
  'tallygate_webhook_oldest_seconds{instance="a", webhook="1234"}': '5x480',
  'tallygate_webhook_deliveries_total{instance="a", webhook="1234", outcome="delivered"}': '0+1x480',
  'tallygate_webhook_deliveries_total{instance="a", webhook="1234", outcome="given_up"}': '0x480',
}

/** From an hour on something is wrong: what then comes of one series, when nobody is called yet, and when somebody is. */
const ill: readonly (readonly [alert: string, series: string, values: string, silentAt: string, firingAt: string])[] = [
  ['TallygateDown', 'up{job="tallygate", instance="a"}', '1x240 0x240', '60m30s', '62m'],
  ['TallygateStoreNotAdmitting', 'tallygate_store_admitting{instance="a"}', '1x240 0x240', '60m15s', '61m'],
  ['TallygateSettlementsWaiting', 'tallygate_settlements_waiting{instance="a"}', '3x240 150x240', '60m30s', '62m'],
  ['TallygateSpoolGrowing', 'tallygate_spool_settlements{instance="a"}', '0x240 5+5x240', '62m', '67m'],
  ['TallygateSpoolOld', 'tallygate_spool_oldest_seconds{instance="a"}', '0x240 0+15x240', '74m', '78m'],
  ['TallygateOutboxOld', 'tallygate_outbox_oldest_seconds{instance="a", sink="file"}', '1x240 0+15x240', '66m', '72m'],
  ['TallygateDeadEvents', 'tallygate_dead_events{instance="a", sink="file"}', '0x240 1x240', '59m', '61m'],
  ['TallygateRecordsQuarantined', 'tallygate_quarantined_records{instance="a", sink="file"}', '0x240 2x240', '59m', '61m'],
  ['TallygateSinkPaused', 'tallygate_sink_paused{instance="a", sink="file"}', '0x240 1x240', '64m', '66m'],
  ['TallygateDifferencesUnexplained', 'tallygate_unexplained_differences{instance="a", sink="billing"}', '0x240 3x240', '59m', '61m'],
  ['TallygateEventsMissed', 'tallygate_outbox_missed_total{instance="a", sink="file"}', '0x240 7x240', '59m', '61m'],
  ['TallygateAnswersForNothing', 'tallygate_zero_charges_total{instance="a", provider="openai", why="zero"}', '0x240 1x240', '59m', '61m'],
  ['TallygateEstimatedUsage', 'tallygate_zero_charges_total{instance="a", provider="openai", why="estimated"}', '0+1x240 240+40x240', '65m', '85m'],
  ['TallygateOverruns', 'tallygate_overruns_total{instance="a"}', '0x240 1x240', '59m', '61m'],
  ['TallygateRefusalsSpike', 'tallygate_refusals_total{instance="a", reason="rate_limited"}', '0+2x240 480+60x240', '65m', '80m'],
  ['TallygateUpstreamFailing', 'tallygate_refusals_total{instance="a", reason="upstream_unavailable"}', '0+1x240 240+20x240', '61m', '70m'],
  ['TallygateKeysGuessed', 'tallygate_bad_keys_total{instance="a", braked="no"}', '0+1x240 240+60x240', '65m', '80m'],
  ['TallygateConfigReloadFailed', 'tallygate_config_last_reload_successful{instance="a"}', '1x240 0x240', '60m30s', '62m'],
  ['TallygateOverheadHigh', 'tallygate_gateway_overhead_seconds_bucket{instance="a", le="0.005"}', '0+100x240 24000+90x240', '65m', '80m'],
  ['TallygateWorkersRestart', 'tallygate_worker_restarts_total{instance="a"}', '0x240 0+1x240', '59m', '65m'],
  ['TallygateWebhookOld', 'tallygate_webhook_oldest_seconds{instance="a", webhook="1234"}', '5x240 0+15x240', '76m', '85m'],
  ['TallygateNoticesGivenUp', 'tallygate_webhook_deliveries_total{instance="a", webhook="1234", outcome="given_up"}', '0x240 1x240', '59m', '61m'],
]

const firing = (alert: string): string => `count(ALERTS{alertname="${alert}", alertstate="firing"})`
const seriesOf = (series: Readonly<Record<string, string>>): object[] => Object.entries(series).map(([name, values]) => ({ series: name, values }))

t.test('promtool finds nothing wrong with what is shipped, and would', async (t) => {
  t.match(await promtool('check', 'rules', `${dir}rules.yml`), new RegExp(`SUCCESS: ${rules.length} rules found`))
  t.match(await promtool('check', 'config', '--syntax-only', `${dir}scrape.yml`), /SUCCESS/)
  const broken = tmpDir(t)
  writeFileSync(join(broken, 'rules.yml'), readFileSync(`${dir}rules.yml`, 'utf8').replace('tallygate_dead_events > 0', 'tallygate_dead_events >'))
  await t.rejects(promtool('check', 'rules', join(broken, 'rules.yml')), /unexpected end of input/)
})

t.test('every alert says what it is about, how bad it is, and what to do', async (t) => {
  t.same(new Set(ill.map(([alert]) => alert)), new Set(rules.map(({ alert }) => alert)), 'each has a case below')
  for (const { alert, labels, annotations } of rules) {
    t.match(labels.severity, /^(critical|warning)$/, alert)
    t.match(annotations, { summary: /\S{3}/, description: /\S{3}/ })
  }
})

t.test('each alert fires for what it is about, not before its time, and one that is well fires none', async (t) => {
  const where = tmpDir(t)
  cpSync(`${dir}rules.yml`, join(where, 'rules.yml'))
  const world = (series: Readonly<Record<string, string>>, cases: readonly object[]): object => ({ interval: '15s', input_series: seriesOf(series), promql_expr_test: cases })
  const silent = (alert: string, eval_time: string): object => ({ expr: firing(alert), eval_time, exp_samples: [] })
  const fires = (alert: string, eval_time: string): object => ({ expr: firing(alert), eval_time, exp_samples: [{ labels: '{}', value: 1 }] })
  t.ok(ill.every(([, series]) => series in well), 'what goes wrong was well before')
  const tests = [
    world(well, rules.map(({ alert }) => silent(alert, '85m'))),
    // All at once: no two of them look at the same.
    world({ ...well, ...Object.fromEntries(ill.map(([, series, values]) => [series, values])) }, ill.flatMap(([alert, , , silentAt, firingAt]) => [silent(alert, silentAt), fires(alert, firingAt)])),
  ]
  const file = (name: string, cases: readonly object[]): string => {
    writeFileSync(join(where, name), JSON.stringify({ rule_files: ['rules.yml'], evaluation_interval: '15s', tests: cases }))
    return join(where, name)
  }
  t.match(await promtool('test', 'rules', file('all.yml', tests)), /SUCCESS/)
  await t.rejects(promtool('test', 'rules', file('wrong.yml', [world(well, [fires('TallygateDown', '10m')])])), /FAILED/)
})
