#!/usr/bin/env node
// Starts main.ts under the pinned Node. `npx tallygate` may be called by a Node too old to run TypeScript, so this file is
// plain JavaScript and does nothing but find the right runtime and step aside.

import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const nodeMajorMin = 24

function pinnedNode() {
  try {
    const node = join(dirname(createRequire(import.meta.url).resolve('node/package.json')), 'bin', 'node')
    return existsSync(node) ? node : undefined
  } catch {
    // The npm package `node` is not installed: the Node that runs this may still do.
    return undefined
  }
}

const currentNode = Number(process.versions.node.split('.')[0]) >= nodeMajorMin ? process.execPath : undefined
const node = pinnedNode() ?? currentNode
if (node === undefined) {
  console.error(`tallygate needs Node ${nodeMajorMin} and this is ${process.version}: run \`npm ci\` in the checkout, which brings its own`)
  process.exit(1)
}

const main = fileURLToPath(new URL('main.ts', import.meta.url))
const child = spawn(node, ['--disable-warning=ExperimentalWarning', main, ...process.argv.slice(2)], { stdio: 'inherit' })

// The child decides when to leave, and this process follows it. A terminal has already sent its SIGINT to both: forwarded
// once more it would read as a second one, which cuts the drain short.
for (const signal of ['SIGTERM', 'SIGHUP', 'SIGUSR2']) process.on(signal, () => child.kill(signal))
process.on('SIGINT', () => {
  if (!process.stdin.isTTY) child.kill('SIGINT')
})
child.on('error', (error) => {
  console.error(`tallygate could not start ${node}: ${error.message}`)
  process.exit(1)
})
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]))
