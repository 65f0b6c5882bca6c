import t from 'tap'
import { conformance } from './conformance.ts'
import { orbDialect } from './kit/dialects/orb.ts'
import { httpSubject } from './kit/http-fake.ts'

conformance(t, httpSubject(orbDialect))
