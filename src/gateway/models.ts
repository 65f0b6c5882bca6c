import type { Config, Upstream } from '../config/config.ts'
import { GatewayError } from '../errors.ts'
import { mayUseModel, resolveEntitlement } from '../metering/entitlement.ts'
import type { Provider } from '../providers/provider.ts'
import type { Exchange } from './exchange.ts'
import type { Workings } from './parts.ts'
import { respondJson } from './respond.ts'
import { connectionOf, headerPlan } from './upstream-request.ts'
import { upstreamRequestHeaders } from './headers.ts'

const keepMs = 60_000
const patienceMs = 2_000
const listBytesMax = 4 * 1_048_576
const entriesMax = 10_000

interface Listed {
  readonly names: readonly string[]
  readonly untilMs: number
}

/** The models an upstream lists, for a minute. An upstream that does not answer lists what it listed last. */
export class ModelLists {
  readonly #lists = new WeakMap<Upstream, Listed>()
  readonly #asking = new WeakMap<Upstream, Promise<readonly string[]>>()

  async of(upstream: Upstream, provider: Provider, config: Config, w: Workings): Promise<readonly string[]> {
    const known = this.#lists.get(upstream)
    if (known !== undefined && w.clock.monotonicMs() < known.untilMs) return known.names
    let asking = this.#asking.get(upstream)
    if (asking === undefined) {
      asking = fetchNames(upstream, provider, config, w).then((names) => {
        const kept = names ?? known?.names ?? []
        this.#lists.set(upstream, { names: kept, untilMs: w.clock.monotonicMs() + keepMs })
        this.#asking.delete(upstream)
        return kept
      })
      this.#asking.set(upstream, asking)
    }
    return asking
  }
}

/** null: it could not be read. */
function fetchNames(upstream: Upstream, provider: Provider, config: Config, w: Workings): Promise<readonly string[] | null> {
  return new Promise((resolve) => {
    const chunks: Uint8Array[] = []
    let bytes = 0
    let ok = false
    const finish = (names: readonly string[] | null): void => {
      cancel()
      resolve(names)
    }
    const giveUp = (): void => {
      call.abort()
      finish(null)
    }
    const cancel = w.clock.after(patienceMs, giveUp, { unref: true })
    const call = w.forwarder.forward({
      ...connectionOf(upstream, config.server.timeouts.connectMs), method: 'GET', target: `${upstream.pathPrefix}${provider.basePath}/models`, body: null,
      headers: upstreamRequestHeaders(headerPlan(upstream, provider), ['accept', 'application/json', ...provider.versionHeaders], 'models', false),
    }, {
      onSent: () => undefined,
      onHead: (status) => { ok = status === 200 },
      onData: (chunk) => {
        bytes += chunk.length
        if (bytes > listBytesMax) giveUp()
        else chunks.push(chunk)
      },
      onEnd: () => finish(ok ? namesIn(Buffer.concat(chunks).toString('utf8')) : null),
      onFailed: () => finish(null),
    })
  })
}

function namesIn(text: string): readonly string[] | null {
  let list: unknown
  try {
    list = JSON.parse(text)
  } catch {
    return null
  }
  const data = typeof list === 'object' && list !== null && 'data' in list ? list.data : null
  if (!Array.isArray(data)) return null
  const names: string[] = []
  for (const entry of data.slice(0, entriesMax) as unknown[]) {
    if (typeof entry === 'object' && entry !== null && 'id' in entry && typeof entry.id === 'string' && entry.id.length <= 256) names.push(entry.id)
  }
  return names
}

/**
 * `GET /v1/models`: everything this key may use, configured or listed by an upstream. The path is OpenAI's and Anthropic's alike, and so is the
 * answer: one list with the fields of both, of which each SDK reads its own.
 */
export async function answerModels(x: Exchange, w: Workings): Promise<void> {
  const { route, principal, config } = x
  if (route === null || principal === null) throw new Error('nothing is known of the call')
  const ask = { endpoint: route.name, endpointByDefault: route.endpoint.byDefault, known: true, model: null, features: [], endUser: null }
  const entitlement = resolveEntitlement(principal, ask, config.plans)
  if (entitlement instanceof GatewayError) throw entitlement

  const names = new Set(config.models.map((model) => model.pattern).filter((pattern) => !pattern.includes('*')))
  const lists = await Promise.all([...config.upstreams.values()].flatMap((upstream) => {
    const provider = w.providers.find(({ name, listsModels }) => listsModels && upstream.providers.includes(name))
    return provider === undefined ? [] : [w.modelLists.of(upstream, provider, config, w)]
  }))
  for (const list of lists) for (const name of list) names.add(name)
  const usable = [...names].filter((name) => mayUseModel(principal, name)).sort()

  x.status = 200
  x.end = 'complete'
  respondJson(x.d, 200, {
    object: 'list',
    data: usable.map((id) => ({ id, object: 'model', created: 0, owned_by: 'tallygate', type: 'model', display_name: id, created_at: '1970-01-01T00:00:00Z' })),
    has_more: false, first_id: usable[0] ?? null, last_id: usable.at(-1) ?? null,
  }, [route.provider.requestIdHeader, x.id])
}
