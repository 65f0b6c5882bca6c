import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { ReloadState, Route } from '../route.ts'

export const gatewayRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/health', shape: answers.health, role: null, summary: 'Is the gateway well?', answer: 'status: ok, draining or not_admitting; reason',
    handle(_asked, { gateway, storeStatus }) {
      const { admitting, reason } = storeStatus()
      const status = gateway?.draining() === true ? 'draining' : admitting ? 'ok' : 'not_admitting'
      return { status, reason }
    },
  },
  {
    method: 'GET', path: '/api/v1/config', shape: answers.configInUse, role: 'viewer', summary: 'Which config is in use, and how the last reload went',
    answer: 'version, instance, files, plans, accounts, keys, upstreams, started_at, last_reload',
    handle(_asked, { config, gateway, directory }) {
      const current = config()
      return {
        version: current.version, instance: current.instance, files: current.files,
        plans: current.plans.size, accounts: current.accounts.size, accounts_in_store: directory.storedAccounts.size, keys: current.keys.length, keys_in_store: directory.storedKeys.size,
        upstreams: [...current.upstreams.values()].map(({ name, providers }) => ({ name, providers })),
        sinks: current.sinks.map(({ name, type }) => ({ name, type })),
        started_at: gateway === null ? null : new Date(gateway.startedMs).toISOString(),
        last_reload: gateway === null ? null : toReloadDocument(gateway.reloads()),
      }
    },
  },
  {
    method: 'POST', path: '/api/v1/config/reload', shape: answers.reloaded, role: 'admin', summary: 'Read the config again and use it, all or nothing', answer: 'ok, at, version',
    body: {},
    async handle({ who }, { config, gateway, changes }) {
      if (gateway === null) throw new Problem(409, 'no gateway runs here')
      await changes.note(who, 'config.reload', 'config', {})
      const state = await gateway.reload()
      if (!state.ok) throw new Problem(422, 'the new config has mistakes; the old one stays in use', { problems: state.problems })
      return { ...toReloadDocument(state), version: config().version }
    },
  },
]

function toReloadDocument(state: ReloadState): Readonly<Record<string, unknown>> {
  return { ok: state.ok, at: new Date(state.atMs).toISOString(), problems: state.problems }
}
