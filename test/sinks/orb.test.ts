import t from 'tap'
import { conformance } from './conformance.ts'
import { orbDialect } from './kit/dialects/orb.ts'
import { httpSubject } from './kit/http-fake.ts'
import { wireTable } from './wire.ts'

conformance(t, httpSubject(orbDialect))

wireTable(t, 'orb', orbDialect.kind, (url) => orbDialect.settings(url, true))
