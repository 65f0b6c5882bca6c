import { recordKinds } from '../../accounts/account-records.ts'
import * as answers from '../answers.ts'
import type { Route } from '../route.ts'

/** Everything made at run time that says on what terms calls are served; keys' rotations and revocations do not. */
const kinds = [recordKinds.account, recordKinds.key, recordKinds.subscription, recordKinds.calendar, recordKinds.suspension, recordKinds.grant, recordKinds.grantVoid]

export const simulationRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/simulation/state', shape: answers.simulationState, role: 'viewer', summary: 'What the store knows of accounts, keys, subscriptions and grants, for a simulation elsewhere; without any secret or hash',
    answer: 'state: by kind, a list of id and document',
    async handle(_asked, { records }) {
      const state: Record<string, unknown> = {}
      for (const kind of kinds) state[kind] = (await records.list(kind)).map(({ id, value }) => ({ id, value: 'hash' in value ? { ...value, hash: '' } : value }))
      return { state }
    },
  },
]
