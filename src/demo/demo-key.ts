import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { newSecret, secretGrammar } from '../accounts/secret.ts'
import type { Random } from '../random.ts'

export const demoKeyFile = 'demo-key'

/** The demo key of this data folder: made at the first start, the same ever after. Readable by its owner only. null: it is not kept. */
export async function demoKey(dir: string | null, random: Random): Promise<string> {
  if (dir === null) return newSecret(random)
  const path = join(dir, demoKeyFile)
  const kept = await readKept(path)
  if (kept !== undefined && secretGrammar.test(kept)) return kept
  const secret = newSecret(random)
  await mkdir(dir, { recursive: true, mode: 0o700 })
  await writeFile(`${path}.new`, `${secret}\n`, { mode: 0o600 })
  await rename(`${path}.new`, path)
  return secret
}

async function readKept(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}
