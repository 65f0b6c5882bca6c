import { createServer } from 'node:net'

/**
 * The model server of the benchmark: answers as fast as a socket allows, so that what is measured is the proxy. Plain: a 1 KB chat completion.
 * Streamed: `EVENTS` events of about 200 bytes, each its own write, `GAP_MS` apart, so that the proxy gets them one by one as from a real model.
 */
const EVENTS = Number(process.env['EVENTS'] ?? 200)
const GAP_MS = Number(process.env['GAP_MS'] ?? 5)

const usage = { prompt_tokens: 20, completion_tokens: EVENTS, total_tokens: 20 + EVENTS }
const body = JSON.stringify({
  id: 'chatcmpl-bench', object: 'chat.completion', created: 1795000000, model: 'bench',
  choices: [{ index: 0, message: { role: 'assistant', content: 'x'.repeat(700) }, finish_reason: 'stop' }], usage,
})
const plain = Buffer.from(`HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
const head = Buffer.from('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n')
const chunk = (text: string): Buffer => Buffer.from(`${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`)
const event = (delta: object, finish: string | null, extra: object = {}): string =>
  `data: ${JSON.stringify({ id: 'chatcmpl-bench', object: 'chat.completion.chunk', created: 1795000000, model: 'bench', choices: [{ index: 0, delta, finish_reason: finish }], ...extra })}\n\n`
const word = chunk(event({ content: ' word' }, null))
const end = chunk(`${event({}, 'stop')}data: ${JSON.stringify({ id: 'chatcmpl-bench', object: 'chat.completion.chunk', created: 1795000000, model: 'bench', choices: [], usage })}\n\ndata: [DONE]\n\n`)
const last = Buffer.from('0\r\n\r\n')

const server = createServer((socket) => {
  socket.setNoDelay(true)
  socket.on('error', () => {})
  let pending = Buffer.alloc(0)
  let streams: NodeJS.Timeout | undefined
  socket.on('close', () => clearInterval(streams))
  const answer = (streamed: boolean): void => {
    if (!streamed) { socket.write(plain); return }
    let sent = 0
    socket.write(head)
    streams = setInterval(() => {
      if (sent++ < EVENTS) { socket.write(word); return }
      clearInterval(streams)
      socket.write(end)
      socket.write(last)
    }, GAP_MS)
  }
  socket.on('data', (data) => {
    pending = pending.length === 0 ? data : Buffer.concat([pending, data])
    for (;;) {
      const at = pending.indexOf('\r\n\r\n')
      if (at < 0) return
      const length = Number(/content-length: *(\d+)/i.exec(pending.toString('latin1', 0, at))?.[1] ?? 0)
      if (pending.length < at + 4 + length) return
      const streamed = pending.subarray(at + 4, at + 4 + length).includes('"stream":true')
      pending = pending.subarray(at + 4 + length)
      answer(streamed)
    }
  })
})
server.listen(Number(process.env['PORT'] ?? 0), '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') console.log(JSON.stringify({ port: address.port }))
})
