import t from 'tap'
import { conformance } from './conformance.ts'
import { webhookBatched, webhookStructured, webhookGzip } from './kit/dialects/webhook.ts'
import { httpSubject } from './kit/http-fake.ts'

conformance(t, httpSubject(webhookBatched))
conformance(t, httpSubject(webhookStructured))
conformance(t, httpSubject(webhookGzip))
