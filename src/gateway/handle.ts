import { GatewayError } from '../errors.ts'
import { admit, changesOf, entitle, holdOf } from './admission.ts'
import { Answer, type Outcome } from './answer.ts'
import { authenticate, hasCredential } from './authenticate.ts'
import { skeletonOf } from './books.ts'
import { closeBooks, waitsForBooks } from './close-books.ts'
import { admitted, type Exchange } from './exchange.ts'
import { answerModels } from './models.ts'
import type { Workings } from './parts.ts'
import { requireJson } from './request-body.ts'
import { destinationOf, opaqueRoute, type Route } from './route.ts'
import { answerUsageHistory, usageHistoryPath } from './usage-history.ts'
import { answerUsage, usagePath } from './usage-page.ts'

/** The journey of a request, on one page. What is thrown here becomes the answer, in the dialect's words (gateway.ts). */
export async function handle(x: Exchange, w: Workings): Promise<void> {
  const { d, config } = x
  if (d.path === usagePath) return answerUsage(x, w)
  if (d.path === usageHistoryPath) return answerUsageHistory(x, w)

  // 1. Who is asking, and for what?
  const route = x.route = routeOf(x, w)
  x.principal = await authenticate(d, w)
  if (route.endpoint.local === 'models') return answerModels(x, w)
  const askedMs = w.clock.monotonicMs()
  x.body = route.known && route.endpoint.body === 'none' ? x.body : await d.readBody(config.server.bodyMaxBytes)
  x.readingMs = w.clock.monotonicMs() - askedMs
  // What was inspected must be what the upstream reads: a body that calls itself something else is refused.
  if (route.known && route.endpoint.body === 'json') requireJson(d.header('content-type'))
  x.facts = route.endpoint.inspect(x.body)

  // 2. May they? Everything is held before anything is forwarded.
  x.entitlement = entitle(x)
  x.destination = destinationOf(config, route.provider, x.facts.model)
  if (route.endpoint.metered) await admit(x, w)

  // 3. Forward. This never throws: an admitted exchange has exactly one outcome.
  const outcome = await forward(x, w)

  // 4. Make the books true, then let the client see the end.
  const closed = await closeBooks(x, w, outcome)
  if (closed.durable || !waitsForBooks(x, outcome)) outcome.release(closed.balances)
  // Nobody but this process knows of it yet, and a process may die: an answer that may never be billed is not completed.
  else d.cut()
}

/** Throws `not_found`, `method_not_allowed`. */
function routeOf(x: Exchange, w: Workings): Route {
  const { d } = x
  const match = w.routes.match(d)
  if (match.outcome === 'found') return match.route
  if (match.outcome === 'wrong_method') {
    x.route = match.route
    throw new GatewayError('method_not_allowed', `This endpoint is called with ${match.allow}.`, { details: { allow: match.allow } })
  }
  // An endpoint that no dialect knows exists only for plans that name it: who shows no key is told nothing of it.
  const route = hasCredential(d) ? opaqueRoute(w.providers, w.httpEndpoint, d) : null
  if (route === null) throw new GatewayError('not_found', 'There is no such endpoint.')
  return route
}

async function forward(x: Exchange, w: Workings): Promise<Outcome> {
  const answer = x.answer = new Answer(x, w, changesOf(x, w), holdOf(x, w))
  if (x.draft !== null) x.skeleton ??= skeletonOf(x)
  if (x.holding) {
    x.living = {
      place: -1, id: x.id, home: admitted(x).principal.home,
      counted: () => answer.counted(), nextCheckpoint: () => ++x.checkpoint, lost: () => answer.lost(),
    }
    w.lease.add(x.living)
  }
  return answer.run()
}
