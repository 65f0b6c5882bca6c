import t from 'tap'
import { conformance } from './conformance.ts'
import { lagoPostgres, lagoClickhouse } from './kit/dialects/lago.ts'
import { httpSubject } from './kit/http-fake.ts'
import { wireTable } from './wire.ts'

conformance(t, httpSubject(lagoPostgres))
conformance(t, httpSubject(lagoClickhouse))

wireTable(t, 'lago', lagoPostgres.kind, (url) => lagoPostgres.settings(url, true))
