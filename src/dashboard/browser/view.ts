import htm from 'htm'
import { Fragment, h, render } from 'preact'
import type { ComponentChildren, FunctionComponent, VNode } from 'preact'
import { useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks'

/** The door to what draws: texts in it become text nodes, whatever they hold. */
export const html = (htm as unknown as { bind(draw: typeof h): (strings: TemplateStringsArray, ...values: unknown[]) => VNode }).bind(h)

export { Fragment, render, useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useRef, useState }
export type { FunctionComponent, VNode }
export type Children = ComponentChildren
