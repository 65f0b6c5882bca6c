import t from 'tap'
import { openai } from '../../src/providers/openai.ts'
import { conformance } from './conformance.ts'

conformance(t, openai)
