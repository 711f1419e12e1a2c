/** Elements from tags and properties. Text is a property like others, so none is ever parsed as HTML. */

/** @template {keyof HTMLElementTagNameMap} K @param {K} tag @param {Partial<HTMLElementTagNameMap[K]>} [properties]
 * @returns {HTMLElementTagNameMap[K]} */
export function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

/** @param {string} textContent @param {() => void} act @param {Partial<HTMLButtonElement>} [properties] */
export function quietButton(textContent, act, properties = {}) {
  const button = make('button', { type: 'button', className: 'quiet', textContent, ...properties });
  button.addEventListener('click', act);
  return button;
}
