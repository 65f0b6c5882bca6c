import { hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'

export interface UsageView {
  readonly html: Uint8Array
  /** Of the Content-Security-Policy header. */
  readonly policy: string
}

let made: UsageView | null = null

/** The page on which a person with a key looks what is left: one document with its style and script inside, and no address but its own. */
export function usageView(): UsageView {
  made ??= make()
  return made
}

function make(): UsageView {
  const style = readFileSync(new URL('./usage-view/page.css', import.meta.url), 'utf8')
  const script = stripTypeScriptTypes(readFileSync(new URL('./usage-view/script.ts', import.meta.url), 'utf8'))
  return {
    policy: `default-src 'none'; script-src '${sourceOf(script)}'; style-src '${sourceOf(style)}'; connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; `
      + "require-trusted-types-for 'script'; trusted-types 'none'",
    html: Buffer.from(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What is left</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<main>
<h1>What is left</h1>
<form>
<label for="key">Your API key</label>
<input id="key" type="password" required autocomplete="off" spellcheck="false" aria-describedby="about">
<p class="muted" id="about">It is sent to this gateway alone, and forgotten when you leave this page.</p>
<button type="submit" class="primary">Show what is left</button>
</form>
<section id="result" hidden aria-label="Usage">
<div id="shown" aria-live="polite"></div>
<div id="past"></div>
<div class="buttons"><button type="button" id="again">Look again</button><button type="button" id="forget">Forget the key</button></div>
</section>
<p id="problem" role="alert"></p>
<noscript><p>Without JavaScript, ask with a command: <code>curl &lt;this address&gt; -H 'authorization: Bearer &lt;your key&gt;'</code></p></noscript>
</main>
<script>${script}</script>
</body>
</html>
`),
  }
}

/** How a policy names text that is written in the page. */
function sourceOf(text: string): string {
  return `sha256-${hash('sha256', text, 'base64')}`
}
