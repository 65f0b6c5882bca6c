import { jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
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
]
