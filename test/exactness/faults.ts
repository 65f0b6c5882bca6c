import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis } from '../fixtures/redis.ts'
import type { Fleet } from './fleet.ts'

export type Faults = (running: () => boolean) => Promise<void>

export interface Told { count: number }

/** SIGKILL to one gateway after the other, `everyMs`; each is started again at once. */
export function killGateways(fleet: Fleet, everyMs: number, told: Told): Faults {
  return async (running) => {
    const starting = new Map<number, Promise<void>>()
    for (let turn = 0; running(); turn++) {
      await sleep(everyMs)
      const victim = turn % fleet.gateways.length
      // On a busy machine a start may take longer than all the others' turns.
      if (!running() || starting.has(victim)) continue
      const gateway = fleet.gateways[victim]!
      await gateway.kill()
      told.count += 1
      starting.set(victim, startAgain(() => gateway.start()).then(() => { starting.delete(victim) }))
    }
    await Promise.all(starting.values())
  }
}

/** A gateway that finds no Redis ends, as it says: whoever supervises it starts it again. */
async function startAgain(start: () => Promise<void>): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      return await start()
    } catch (error) {
      if (tries === 5) throw error
      await sleep(300)
    }
  }
}

/** SIGKILL to Redis, `everyMs`; it comes back after `awayMs`. */
export function restartRedis(redis: Redis, everyMs: number, awayMs: number, told: Told): Faults {
  return async (running) => {
    while (running()) {
      await sleep(everyMs)
      if (!running()) return
      await redis.stop('SIGKILL')
      told.count += 1
      await sleep(awayMs)
      await redis.start()
    }
  }
}

export function both(one: Faults, other: Faults): Faults {
  return async (running) => { await Promise.all([one(running), other(running)]) }
}
