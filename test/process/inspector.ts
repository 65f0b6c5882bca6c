// Node's own debugger as a way into a running gateway: faults are injected and memory is measured without a hook in the product.

import type { GatewayProcess } from '../fixtures/gateway-process.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'

/** For the environment of a gateway that is to be looked into: the debugger takes any free port. */
export const inspectable = { NODE_OPTIONS: '--inspect-port=0' }

export interface Inspector {
  /** Runs an expression in the gateway's main thread and gives its value. */
  evaluate(expression: string): Promise<unknown>
  /** Bytes of live objects, after everything dead was collected. */
  heapBytes(): Promise<number>
}

interface Reply { readonly id?: number; readonly result?: { readonly result?: { readonly value?: unknown } } }

export async function inspect(t: Teardown, gateway: GatewayProcess): Promise<Inspector> {
  gateway.signal('SIGUSR1')
  const address = await waitFor('the debugger', () => [...gateway.output().matchAll(/Debugger listening on (ws:\S+)/g)].at(-1)?.[1])
  const socket = new WebSocket(address)
  await new Promise<void>((resolve, reject) => {
    socket.addEventListener('open', () => resolve())
    socket.addEventListener('error', () => reject(new Error('the debugger did not answer')))
  })
  t.teardown(() => socket.close())
  const waiting = new Map<number, (reply: Reply) => void>()
  let next = 0
  socket.addEventListener('message', ({ data }) => {
    const reply = JSON.parse(String(data)) as Reply
    if (reply.id !== undefined) waiting.get(reply.id)?.(reply)
  })
  const ask = (method: string, params: object = {}): Promise<Reply> => new Promise((resolve) => {
    const id = ++next
    waiting.set(id, resolve)
    socket.send(JSON.stringify({ id, method, params }))
  })
  const evaluate = async (expression: string): Promise<unknown> => (await ask('Runtime.evaluate', { expression, returnByValue: true })).result?.result?.value
  return {
    evaluate,
    async heapBytes() {
      await ask('HeapProfiler.collectGarbage')
      return Number(await evaluate('process.memoryUsage().heapUsed'))
    },
  }
}
