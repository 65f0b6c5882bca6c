import { CommandFailed, jsonOption, print, printJson } from './command.ts'
import type { Command } from './command.ts'
import { doorOptions, throughDoor } from './door.ts'
import type { Answer } from './door.ts'

const lookMs = 500

export const analyticsCommands: readonly Command[] = [
  {
    name: 'analytics rebuild', summary: 'make the roll-ups of usage again from the events of the archive and the store',
    options: [{ flags: '--no-wait', about: 'end when it has begun' }, jsonOption, ...doorOptions],
    examples: ['tallygate analytics rebuild', 'tallygate analytics rebuild --no-wait'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      let answer = await door.ask('POST', '/api/v1/analytics/rebuild')
      const began = answer
      while (door.running && !input.flag('no-wait') && isUnderWay(answer)) {
        await around.clock.sleep(lookMs)
        answer = await door.ask('GET', '/api/v1/analytics')
      }
      if (answer['state'] === 'failing') throw new CommandFailed(`the roll-ups cannot be made just now: ${String(answer['failure'])}; the gateway goes on trying`)
      if (input.flag('json')) printJson(around, answer)
      else if (isUnderWay(answer)) print(around, 'the roll-ups are being made again')
      else print(around, `the roll-ups are made again${typeof began['archived'] === 'number' ? `, with ${began['archived']} events of the archive` : ''}; everything until ${String(answer['complete_until'])} is in them`)
      return 0
    }),
  },
  {
    name: 'analytics status', summary: 'how far usage is rolled up',
    options: [jsonOption, ...doorOptions],
    examples: ['tallygate analytics status', 'tallygate analytics status --json'],
    run: (input, around) => throughDoor(input, around, async (door) => {
      const answer = await door.ask('GET', '/api/v1/analytics')
      if (input.flag('json')) printJson(around, answer)
      else if (answer['state'] === 'off') print(around, 'analytics are off; see analytics in the configuration')
      else if (answer['state'] === 'rebuilding') print(around, rebuildWords(answer))
      else print(around, `${String(answer['state'])}: ${String(answer['behind'])} events are still to be counted; everything until ${String(answer['complete_until'])} is in the roll-ups${typeof answer['failure'] === 'string' ? `; ${answer['failure']}` : ''}`)
      return 0
    }),
  },
]

function rebuildWords({ rebuild, behind }: Answer): string {
  const own = rebuild as { started_at: string; archived: number } | null
  return `rebuilding${own === null ? ' elsewhere' : ` since ${own.started_at}: ${own.archived} events of the archive are in so far`}; ${String(behind)} of the store are still to be counted`
}

/** Made, and what the store has counted behind it. */
function isUnderWay(answer: Answer): boolean {
  return answer['state'] === 'rebuilding' || answer['state'] === 'behind'
}
