import t from 'tap'
import { conformance } from './conformance.ts'
import { openmeterV1, openmeterV3 } from './kit/dialects/openmeter.ts'
import { httpSubject } from './kit/http-fake.ts'
import { wireTable } from './wire.ts'

conformance(t, httpSubject(openmeterV1))
conformance(t, httpSubject(openmeterV3))

wireTable(t, 'openmeter', openmeterV1.kind, (url) => openmeterV1.settings(url, true))
