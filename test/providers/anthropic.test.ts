import t from 'tap'
import { anthropic } from '../../src/providers/anthropic.ts'
import { conformance } from './conformance.ts'

conformance(t, anthropic)
