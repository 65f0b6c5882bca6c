import t from 'tap'
import { conformance } from './conformance.ts'
import { stripeV1, stripeV1WithoutCodes, stripeV2, stripeStream } from './kit/dialects/stripe.ts'
import { httpSubject } from './kit/http-fake.ts'
import { wireTable } from './wire.ts'

conformance(t, httpSubject(stripeV1))
conformance(t, httpSubject(stripeV1WithoutCodes))
conformance(t, httpSubject(stripeV2))
conformance(t, httpSubject(stripeStream))

wireTable(t, 'stripe', stripeV1.kind, (url) => stripeV1.settings(url, true))
