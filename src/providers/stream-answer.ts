import type { StreamEnd } from '../metering/event.ts'
import type { Quantities } from '../metering/meter.ts'
import { emptyBytes } from './byte-hold.ts'
import type { AnswerMeter, Metered, MeterAlarm, RequestFacts } from './provider.ts'
import { EventStream, type EventReader, type Verdict } from './sse.ts'
import { boundedOutput, countedInput, estimatedInput, TextTally, tokensOf } from './text-tally.ts'

/**
 * What the meters of streamed answers have in common: the event stream, the text seen, and what follows when the upstream
 * never says what it used. A dialect reads the events.
 */
export abstract class StreamAnswer implements AnswerMeter, EventReader {
  readonly facts: RequestFacts
  readonly tally = new TextTally()
  readonly alarms: MeterAlarm[] = []
  readonly stream: EventStream
  modelServed: string | null = null
  serviceTier: string | null = null
  /** What the upstream reported last. `final`: for the whole answer, not for a part of it. */
  reported: Quantities | null = null
  final = false
  /** Input that was reported without the output (Anthropic's first event). */
  reportedInput: Quantities | null = null
  failed = false
  /** Something of the answer has been seen: the upstream worked. */
  begun = false
  /** The dialect's last event, or its error event, has been seen. */
  terminal = false

  constructor(facts: RequestFacts) {
    this.facts = facts
    this.stream = new EventStream(this)
  }

  abstract event(bytes: Uint8Array, start: number, end: number, isError: boolean): Verdict
  abstract piece(bytes: Uint8Array, start: number, end: number): void
  abstract pieceEnd(): Verdict
  abstract renderQuotaStop(metered: Metered): Uint8Array
  /** Without a terminal event: is there still reason to take a stream that ended by itself for whole? */
  abstract looksWhole(): boolean

  get ended(): boolean {
    return this.terminal
  }

  pass(chunk: Uint8Array): Uint8Array {
    return this.stream.pass(chunk)
  }

  counted(): Quantities {
    if (this.reported !== null) return this.reported
    if (!this.begun) return {}
    const output = boundedOutput(this.facts, this.tally.estimate())
    const input = this.reportedInput
    return input === null ? tokensOf(estimatedInput(this.facts), output) : withOutput(input, output)
  }

  finish(end: StreamEnd): Metered {
    const held = this.stream.end(end === 'complete')
    const whole = this.terminal || (end === 'complete' && this.looksWhole())
    if (this.stream.overflowed) this.alarm('malformed_event')
    const base = {
      rest: whole || end === 'complete' ? held : emptyBytes,
      whole,
      alarms: this.alarms,
      ...(this.modelServed === null ? {} : { modelServed: this.modelServed }),
      ...(this.serviceTier === null ? {} : { serviceTier: this.serviceTier }),
      ...(this.failed ? { failed: true } : {}),
    }
    if (this.reported !== null) return { ...base, usage: this.reported, source: this.final || end === 'complete' ? 'upstream' : 'upstream_partial' }
    if (end === 'complete' && !this.failed) this.alarm('usage_missing')
    // An error without content costs nothing, nor does an answer that never began.
    if (!this.begun || (this.failed && this.tally.empty && this.reportedInput === null)) {
      return { ...base, usage: {}, source: 'estimated', ...(this.failed || end === 'complete' ? { failed: true } : {}) }
    }
    const { facts, tally, reportedInput } = this
    const source = reportedInput !== null ? 'upstream_partial' : tally.whole ? 'counted' : 'estimated'
    return {
      ...base,
      usage: this.counted(),
      source,
      countLater: async () => {
        const output = boundedOutput(facts, await tally.count(facts.model))
        return reportedInput === null ? tokensOf(await countedInput(facts), output) : withOutput(reportedInput, output)
      },
    }
  }

  alarm(alarm: MeterAlarm): void {
    if (!this.alarms.includes(alarm)) this.alarms.push(alarm)
  }
}

function withOutput(input: Quantities, output: number): Quantities {
  return { ...input, output_tokens: output, total_tokens: (input.input_tokens ?? 0) + output }
}
