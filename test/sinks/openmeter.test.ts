import t from 'tap'
import { conformance } from './conformance.ts'
import { openmeterV1, openmeterV3 } from './kit/dialects/openmeter.ts'
import { httpSubject } from './kit/http-fake.ts'

conformance(t, httpSubject(openmeterV1))
conformance(t, httpSubject(openmeterV3))
