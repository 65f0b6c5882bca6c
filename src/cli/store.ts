import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { configOption, readConfig } from './config-file.ts'
import { doorOptions, throughDoor } from './door.ts'

export const storeCommands: readonly Command[] = [
  {
    name: 'store info', summary: 'the store: where it is, whether it admits, what sinks have not taken yet',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate store info'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/store')
      if (input.flag('json')) {
        printJson(around, answer)
        return 0
      }
      const { waiting, ...rest } = answer
      const lines = Object.entries(rest).filter(([, value]) => value !== null).map(([name, value]) => [name, String(value)] as const)
      const sinks = Object.entries((waiting ?? {}) as Record<string, unknown>).map(([sink, count]) => [`waiting for ${sink}`, String(count)] as const)
      const width = Math.max(...[...lines, ...sinks].map(([name]) => name.length))
      print(around, [...lines, ...sinks].map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n'))
      return 0
    }),
  },
  {
    name: 'store repair', summary: 'writes what can be read of a damaged embedded store to a copy beside it, with a report',
    options: [configOption, jsonOption],
    examples: ['tallygate store repair'],
    async run(input, around) {
      const { store } = await readConfig(input, around)
      if (store.kind !== 'embedded') throw new CommandFailed(`only an embedded store can be repaired; this one is ${store.kind}`, 2)
      const { repair } = await import('../stores/index.ts')
      let report
      try {
        report = repair(store.dir, around.clock.nowMs())
      } catch (error) {
        throw new CommandFailed(error instanceof Error ? error.message : String(error))
      }
      if (input.flag('json')) printJson(around, report)
      else {
        print(around, [...report.findings, `${report.rowsKept} rows kept, ${report.rowsLost.length} lost.`,
          `The copy is ${report.copy}, with report.txt. Nothing was changed in ${store.dir}: to use the copy, stop the gateway and move it there.`].join('\n'))
      }
      return 0
    },
  },
]
