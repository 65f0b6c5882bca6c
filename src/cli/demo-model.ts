import { CommandFailed, print } from './command.ts'
import type { Command } from './command.ts'

export const demoModelCommand: Command = {
  name: 'demo-model', summary: 'the stand-in model server alone, to point a gateway at',
  options: [{ flags: '--port <port>', about: 'listen there on 127.0.0.1; 8000 unless given, 0 for a free one' }],
  examples: ['tallygate demo-model --port 8000'],
  async run(input, around) {
    const port = Number(input.text('port') ?? '8000')
    if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new CommandFailed(`"${input.text('port') ?? ''}" is not a port`, 2)
    const { startDemoModel } = await import('../demo/demo-model.ts')
    const model = await startDemoModel({ host: '127.0.0.1', port }, around.clock).catch((error: unknown) => {
      throw new CommandFailed(`cannot listen on 127.0.0.1:${port}: ${error instanceof Error && 'code' in error ? String(error.code) : String(error)}`)
    })
    print(around, `the demo model answers on http://${model.address.host}:${model.address.port}/v1`)
    await new Promise<void>((resolve) => around.onSignal('stop', resolve))
    await model.close()
    return 0
  },
}
