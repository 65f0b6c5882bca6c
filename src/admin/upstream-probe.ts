import { request as httpRequest } from 'node:http'
import type { ServerResponse } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { Upstream } from '../config/config.ts'
import { Problem } from './problem.ts'

const probeTimeoutMs = 10_000

/** Passes an upstream's own `/health` or `/metrics` on, under `headers`: what it says may be a page, and is not ours. No credential goes along: these are for probes. */
export function passProbe(upstream: Upstream, probe: 'health' | 'metrics', answer: ServerResponse, headers: Readonly<Record<string, string>>): Promise<void> {
  return new Promise((resolve, reject) => {
    const url = new URL(`${upstream.origin}${upstream.pathPrefix}/${probe}`)
    const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(url, { timeout: probeTimeoutMs, headers: { accept: '*/*' } })
    let begun = false
    request.on('response', (response) => {
      begun = true
      answer.writeHead(response.statusCode ?? 502, { ...headers, 'content-type': response.headers['content-type'] ?? 'text/plain' })
      response.pipe(answer)
      response.on('error', () => answer.destroy())
      response.on('close', resolve)
    })
    request.on('timeout', () => request.destroy(new Problem(504, `upstream "${upstream.name}" did not answer within ${probeTimeoutMs / 1_000} s`)))
    request.on('error', (error) => {
      if (begun) answer.destroy()
      else if (error instanceof Problem) reject(error)
      else reject(new Problem(502, `upstream "${upstream.name}" cannot be reached`))
      resolve()
    })
    answer.on('close', () => request.destroy())
    request.end()
  })
}
