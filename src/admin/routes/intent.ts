import type { Intent } from '../../accounts/subscriptions.ts'
import type { Asked, Fields } from '../route.ts'

/** How every change says what it is based on, and that it is the same one again. */
export const intentFields: Fields = {
  revision: { type: 'integer', about: 'the revision that is to be changed, as it was read; 0: there must be none yet. Refused with 409 when it is another by now' },
  change: { type: 'string', about: 'a name of your own for this change: sent again, it changes nothing more' },
}

export function intentOf({ body, who }: Pick<Asked, 'body' | 'who'>): Intent {
  const { revision, change } = body
  return { who, revision: typeof revision === 'number' ? revision : undefined, changeId: typeof change === 'string' ? change : undefined }
}
