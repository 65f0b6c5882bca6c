import { followLinks } from './address.ts'
import { App } from './app.ts'
import { startTheme } from './theme.ts'
import { html, render } from './view.ts'

startTheme()
followLinks()
const place = document.getElementById('app')
if (place !== null) {
  place.replaceChildren()
  render(html`<${App} />`, place)
}
