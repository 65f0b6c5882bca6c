import type uPlot from 'uplot'
import { exact, instant } from './format.ts'
import { onPaint } from './theme.ts'
import { html, useEffect, useRef, useState } from './view.ts'
import type { VNode } from './view.ts'

export interface Line {
  readonly name: string
  /** One for each instant. */
  readonly values: readonly number[]
}

export interface ChartProps {
  /** What it shows, in a sentence; heard instead of the picture. */
  readonly about: string
  /** Where buckets begin, ms since 1970, one step apart. */
  readonly times: readonly number[]
  readonly stepMs: number
  /** Stacked, the first at the bottom. */
  readonly lines: readonly Line[]
  write(value: number): string
}

export const COLOURS = 8
const HEIGHT = 220

interface Pointed {
  readonly index: number
  readonly left: number
}

/** Stacked bars over time, with a legend, and the values of the bucket that is pointed at. */
export function Chart({ about, times, stepMs, lines, write }: ChartProps): VNode {
  const place = useRef<HTMLDivElement>(null)
  const drawn = useRef<uPlot | null>(null)
  const [pointed, setPointed] = useState<Pointed | null>(null)
  const [painted, setPainted] = useState(0)
  const names = lines.map(({ name }) => name).join('\u0000')
  useEffect(() => onPaint(() => setPainted((before) => before + 1)), [])
  useEffect(() => {
    const element = place.current
    if (element === null) return undefined
    let gone = false
    let plot: uPlot | null = null
    const fit = new ResizeObserver(() => plot?.setSize({ width: element.clientWidth, height: HEIGHT }))
    void import('uplot').then(({ default: Plot }) => {
      if (gone) return
      plot = new Plot(optionsOf(Plot, element, lines, stepMs, setPointed), dataOf(times, lines), element)
      drawn.current = plot
      fit.observe(element)
    })
    return () => {
      gone = true
      drawn.current = null
      fit.disconnect()
      plot?.destroy()
    }
    // What only changes values is drawn by the effect below.
  }, [names, stepMs, painted])
  useEffect(() => { drawn.current?.setData(dataOf(times, lines)) }, [times, lines])
  const at = pointed === null ? undefined : times[pointed.index]
  return html`<figure class="chart">
    <div class="plot" ref=${place} role="img" aria-label=${about}></div>
    ${pointed === null || at === undefined ? null : html`<div class=${`tip ${pointed.left > 0.5 ? 'left' : 'right'}`} aria-hidden="true"><p>${instant(new Date(at).toISOString())}</p>
      ${lines.map((line, index) => ({ line, index })).filter(({ line }) => (line.values[pointed.index] ?? 0) !== 0).reverse().map(({ line, index }) => html`<p key=${line.name}><i class=${`dot c${index % COLOURS}`}></i>${line.name} <b>${write(line.values[pointed.index] ?? 0)}</b></p>`)}</div>`}
    <figcaption>${lines.length < 2 ? null : html`<ul class="legend">${lines.map((line, index) => html`<li key=${line.name}><i class=${`dot c${index % COLOURS}`} aria-hidden="true"></i><bdi>${line.name}</bdi> <span class="muted">${write(total(line))}</span></li>`)}</ul>`}</figcaption>
  </figure>`
}

function total({ values }: Line): number {
  return values.reduce((all, value) => all + value, 0)
}

/** Each line is drawn on top of those before it. */
function dataOf(times: readonly number[], lines: readonly Line[]): uPlot.AlignedData {
  const stacked: number[][] = []
  let below = times.map(() => 0)
  for (const { values } of lines) {
    below = below.map((sum, index) => sum + (values[index] ?? 0))
    stacked.push(below)
  }
  // The highest is painted first, so that those below cover its lower part.
  return [times.map((ms) => ms / 1_000), ...stacked.reverse()]
}

function optionsOf(Plot: typeof uPlot, element: HTMLElement, lines: readonly Line[], stepMs: number, point: (pointed: Pointed | null) => void): uPlot.Options {
  const paint = (name: string): string => paintOf(element, name)
  const axis = { stroke: paint('axis'), grid: { stroke: paint('grid'), width: 1 }, ticks: { show: false }, font: '12px system-ui, sans-serif' }
  const bars = Plot.paths.bars?.({ size: [0.86, 48], align: 1, radius: 0 })
  return {
    width: element.clientWidth, height: HEIGHT, legend: { show: false }, padding: [8, 20, 0, 0],
    cursor: { points: { show: false }, drag: { x: false, y: false }, y: false },
    scales: {
      x: { time: true, range: (_plot, from, to) => [from, to + stepMs / 1_000] },
      y: { range: (_plot, _from, to) => [0, to > 0 ? to * 1.08 : 1] },
    },
    axes: [{ ...axis, grid: { show: false }, values: timeWords(stepMs), space: 64, size: 30 }, { ...axis, size: 52, values: (_plot, ticks) => ticks.map((tick) => axisWords(tick)) }],
    series: [{}, ...lines.map((_line, index) => ({ fill: paint(`c${index % COLOURS}`), width: 0, ...(bars === undefined ? {} : { paths: bars }), points: { show: false } })).reverse()],
    hooks: {
      setCursor: [(plot) => {
        const { idx, left } = plot.cursor
        point(idx === null || idx === undefined || left === undefined || left < 0 ? null : { index: idx, left: left / plot.over.clientWidth })
      }],
    },
  }
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' })
const date = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' })

function timeWords(stepMs: number): uPlot.Axis.DynamicValues {
  return (_plot, ticks) => ticks.map((seconds) => {
    const at = new Date(seconds * 1_000)
    return stepMs >= 86_400_000 || (at.getHours() === 0 && at.getMinutes() === 0) ? date.format(at) : clock.format(at)
  })
}

const axisNumbers = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 })

function axisWords(value: number): string {
  return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : value < 1_000 ? exact(value) : axisNumbers.format(value)
}

/** The colour that the style sheet gives a class, as it is painted now. */
function paintOf(element: HTMLElement, name: string): string {
  const probe = document.createElement('i')
  probe.className = `paint ${name}`
  element.append(probe)
  const colour = getComputedStyle(probe).color
  probe.remove()
  return colour
}
