// A repeated move changes nothing, and its answer still promises what the first one wrote: it must not come before that is on disk.
import t from 'tap'
import { embeddedIn, newDir, SteppedClock } from './embedded-fixture.ts'
import { check, newId, reserveOf, settleOf } from './sample-moves.ts'

const tokens = check('tokens', null, 100)

/** The end of a turn, at which the journal sends, comes when the test says so. */
class HeldTurns extends SteppedClock {
  hold = false
  #held: (() => void)[] = []
  override afterTurn(task: () => void): void {
    if (this.hold) this.#held.push(task)
    else super.afterTurn(task)
  }
  release(): void {
    this.hold = false
    for (const task of this.#held.splice(0)) task()
  }
}

/** Everything that needs no disk has run. Without a turn of the event loop no word comes from the journal's thread. */
async function microtasks(): Promise<void> {
  for (let i = 0; i < 50; i++) await Promise.resolve()
}

for (const [name, inFlight] of [['waits for its commit', false], ['is being committed', true]] as const) {
  t.test(`the repetition of a move that ${name} is answered after it, not before`, async (t) => {
    const clock = new HeldTurns()
    const store = await embeddedIn(newDir(t), { clock })
    const id = newId(clock.nowMs())
    const moves = [
      ['reserve', () => store.reserve(reserveOf(id, clock.nowMs(), 'acme', [tokens])), ['admitted', 'admitted']],
      ['settle', () => store.settle(settleOf(id, clock.nowMs(), 'acme', [tokens], [7])), ['settled', 'already_settled']],
    ] as const
    for (const [move, make, outcomes] of moves) {
      const answered: string[] = []
      const send = (which: string): Promise<{ outcome: string }> => make().then((answer) => {
        answered.push(which)
        return answer
      })
      clock.hold = true
      const first = send('first')
      await microtasks()
      if (inFlight) clock.release()
      const repeated = send('repeated')
      await microtasks()
      t.same(answered, [], `${move}: nothing is on disk yet`)
      clock.release()
      t.same((await Promise.all([first, repeated])).map((answer) => answer.outcome), outcomes)
      t.same(answered, ['first', 'repeated'], move)
    }
    await store.close()
  })
}
