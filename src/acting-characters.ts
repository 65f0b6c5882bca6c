/** What JSON leaves as it is although a terminal or a reader of logs acts on it: DEL and C1 controls, line separators, marks that turn the direction of writing. */
const acting = /[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/
const allActing = new RegExp(acting, 'g')
// oxlint-disable-next-line no-control-regex
const allOfText = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** The same JSON: inside of texts, the only place where such characters can be, an escape means the same. */
export function harmlessJson(json: string): string {
  return acting.test(json) ? json.replace(allActing, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`) : json
}

/** A text to be read on a terminal: question marks in their place. */
export function harmlessText(text: string): string {
  return text.replace(allOfText, '?')
}
