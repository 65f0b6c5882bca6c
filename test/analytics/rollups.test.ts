import { join } from 'node:path'
import t from 'tap'
import { openLocalRollups } from '../../src/analytics/local-rollups.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { inOneRow, rollupLaws } from './rollups.ts'

const dir = tmpDir(t)
let files = 0
let path = ''
t.beforeEach(() => { path = join(dir, `analytics-${++files}.db`) })
rollupLaws(t, 'in a file', () => openLocalRollups(path), inOneRow)
