/** What a browser gets at the admin port: what is there, and nothing that is not. */
export function adminPage(version: string): string {
  const entries: readonly (readonly [string, string])[] = [
    ['/api/v1/health', 'is the gateway well?'],
    ['/api/v1/accounts', 'accounts'],
    ['/api/v1/keys', 'keys'],
    ['/api/v1/plans', 'plans'],
    ['/api/v1/usage?by=account,model', 'usage of the last 24 hours'],
    ['/api/v1/events?since=1h', 'usage events of the last hour'],
    ['/api/v1/notices?since=7d', 'what was told in the last week'],
    ['/api/v1/sinks', 'sinks: what each has not taken yet'],
    ['/api/v1/config', 'the config in use'],
    ['/metrics', 'metrics for Prometheus'],
    ['/api/v1/openapi.json', 'everything the admin API can do'],
  ]
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tallygate</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; color: #222; background: #fff }
  code { background: #f2f2f2; padding: .1em .3em }
  li { margin: .3em 0 }
  @media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } code { background: #2a2a2a } a { color: #8bf } }
</style>
<h1>Tallygate</h1>
<p>The admin port of this gateway. Config <code>${escaped(version)}</code>. Plain JSON for now:</p>
<ul>
${entries.map(([path, about]) => `<li><a href="${escaped(path)}">${escaped(path)}</a> – ${escaped(about)}</li>`).join('\n')}
</ul>
<p>Changes are made with the command line: <code>npx tallygate --help</code>.
Where admin tokens are configured, requests need <code>Authorization: Bearer …</code>, which a browser does not send by itself.</p>
</html>
`
}

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}
