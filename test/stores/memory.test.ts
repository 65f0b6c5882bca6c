import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import { AnomalyStore } from './anomaly-store.ts'
import { storeSuite, type StoreSuiteOptions } from './conformance.ts'
import { FORGET_AFTER_MS } from './sample-moves.ts'

const open = () => openMemory({ clock: systemClock, forgetAfterMs: FORGET_AFTER_MS, hotMs: 86_400_000 })
const options: StoreSuiteOptions = {
  name: 'memory', open, reopen: async (store) => store,
  supports: { durable: false, damage: null },
  skip: { 'everything acknowledged is there after the store is opened again': 'it keeps nothing beyond its process' },
}

storeSuite(t, options)
storeSuite(t, { ...options, name: 'memory behind a wrapper that fails at nothing', open: async () => new AnomalyStore(await open()) })
