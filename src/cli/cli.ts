import { Command as Parser, CommanderError } from 'commander'
import { accountCommands } from './accounts.ts'
import { analyticsCommands } from './analytics.ts'
import { auditCommand } from './audit.ts'
import { checkCommand } from './check.ts'
import { CommandFailed } from './command.ts'
import type { Command, Input, Surroundings } from './command.ts'
import { demoModelCommand } from './demo-model.ts'
import { eventCommands } from './events.ts'
import { explainCommand } from './explain.ts'
import { invoiceCommand } from './invoice.ts'
import { grantCommands } from './grants.ts'
import { keyCommands } from './keys.ts'
import { noticesCommand } from './notices.ts'
import { planDiffCommand } from './plan-diff.ts'
import { reconcileCommand } from './reconcile.ts'
import { serveCommand } from './serve.ts'
import { simulateCommand } from './simulate.ts'
import { storeCommands } from './store.ts'
import { subscriptionCommands } from './subscriptions.ts'

export const commands: readonly Command[] = [serveCommand, checkCommand, ...keyCommands, ...accountCommands, ...subscriptionCommands, ...grantCommands, ...eventCommands, ...analyticsCommands, reconcileCommand, invoiceCommand, explainCommand, simulateCommand, planDiffCommand, noticesCommand, auditCommand, ...storeCommands, demoModelCommand]

const groups: Readonly<Record<string, string>> = {
  keys: 'keys of callers', accounts: 'who pays', plans: 'what was sold', plan: 'what might be sold', subscriptions: 'from when until when', grants: 'what was given beyond the limits', events: 'usage events on their way to sinks', sinks: 'where usage events go', analytics: 'usage by minute, hour, day and month', store: 'where the books are kept',
}

/** Runs one command line (without the program's name). Gives the exit code: 0 fine, 1 the operation failed, 2 wrong usage or a bad config. */
export async function runCommandLine(words: readonly string[], around: Surroundings): Promise<number> {
  let exitCode = 0
  const parser = toParser(around, (code) => { exitCode = code })
  try {
    await parser.parseAsync([...words], { from: 'user' })
    return exitCode
  } catch (error) {
    // The parser has printed its own sentence; help that was asked for is no failure.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    if (!(error instanceof CommandFailed)) throw error
    around.stderr.write(`${error.message}\n`)
    return error.exitCode
  }
}

function toParser(around: Surroundings, ended: (code: number) => void): Parser {
  const parser = configured(new Parser('tallygate'), around)
    .description('A gateway that counts, limits and bills AI inference exactly.')
    .addHelpText('after', '\nEvery command has --help with examples. The config is ./config/tallygate.yaml, or what TALLYGATE_CONFIG or --config says.')
  const parents = new Map<string, Parser>()
  for (const command of commands) {
    const [first = '', second] = command.name.split(' ')
    let parent = parser
    if (second !== undefined) {
      parent = parents.get(first) ?? configured(parser.command(first), around).description(groups[first] ?? '').addHelpText('after', examplesText(commands.filter(({ name }) => name.startsWith(`${first} `))))
      parents.set(first, parent)
    }
    addCommand(parent, second ?? first, command, around, ended)
  }
  return parser
}

function addCommand(parent: Parser, name: string, command: Command, around: Surroundings, ended: (code: number) => void): void {
  const parser = configured(parent.command(name), around).summary(command.summary).description(`${command.summary[0]?.toUpperCase()}${command.summary.slice(1)}.`)
  for (const argument of command.arguments ?? []) parser.argument(argument.optional === true ? `[${argument.name}]` : `<${argument.name}>`, argument.about)
  for (const option of command.options ?? []) parser.option(option.flags, option.about)
  parser.addHelpText('after', examplesText([command]))
  parser.action(async () => {
    const values = parser.opts<Record<string, unknown>>()
    ended(await command.run(toInput(parser.args, values), around))
  })
}

function examplesText(of: readonly Command[]): string {
  return `\nExamples:\n${of.flatMap(({ examples }) => examples).map((example) => `  ${example}`).join('\n')}`
}

function toInput(args: readonly string[], values: Readonly<Record<string, unknown>>): Input {
  const valueOf = (name: string): unknown => values[name.replace(/-(\w)/g, (_match, letter: string) => letter.toUpperCase())]
  return {
    arguments: args,
    text(name) {
      const value = valueOf(name)
      return typeof value === 'string' ? value : undefined
    },
    // `--no-follow` is kept by the parser as `follow: false`.
    flag: (name) => (name.startsWith('no-') ? valueOf(name.slice(3)) === false : valueOf(name) === true),
  }
}

function configured(parser: Parser, around: Surroundings): Parser {
  return parser.exitOverride().showSuggestionAfterError().configureOutput({
    writeOut: (text) => around.stdout.write(text),
    writeErr: (text) => around.stderr.write(text),
  })
}
