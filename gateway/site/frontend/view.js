/** Rows to elements. Text goes in as text nodes alone, so what people write is shown as text, never run. */

/** @typedef {import('./client/transcript.js').Row} Row */
/** @typedef {import('./client/outbox.js').Entry} Entry */
/** @typedef {{label: string, act: () => void}} Action */
/** @typedef {{id: string, role: string, text: string, note: string, bad?: boolean, thinking?: boolean, kind?: string,
 *   actions: Action[]}} Bubble */

/** What a person is told for an error code of the protocol. */
const ERRORS = new Map([
  ['busy', 'An answer is still being written.'],
  ['rejected', 'This message could not be sent again.'],
  ['too_large', 'This message is too long. Please shorten it.'],
  ['rate_limited', 'Too many messages. Please wait a moment.'],
  ['llm_unavailable', 'The assistant cannot be reached right now.'],
  ['llm_busy', 'The assistant is busy. Please try again shortly.'],
  ['llm_misconfigured', 'The assistant is not set up correctly. Please tell the operator of this site.'],
  ['too_long', 'This chat has become too long for the assistant. Please start a new one.'],
  ['filtered', 'The assistant declined to answer this.'],
  ['forbidden', 'This chat is not open to you.'],
  ['not_found', 'This is no longer there.'],
  ['bad_request', 'The server did not understand this.'],
  ['lost', 'The connection was lost before the answer came, and this server cannot repeat it.'],
  ['unconfirmed', 'The connection was lost before the server confirmed it. It may have been received or not.'],
  ['unsupported', 'This server cannot do that.'],
  ['expired', 'It was written more than a day ago.'],
]);

const FINISHES = new Map([
  ['cancelled', 'Stopped.'],
  ['interrupted', 'The answer was cut off.'],
  ['length', 'The answer reached its longest length.'],
]);

/** @param {string} code */
export function plainWords(code) {
  return ERRORS.get(code) ?? 'Something went wrong on our side. Please try again.';
}

/** How a row looks. @param {Row} row @param {Action | string | null} retry how to get a better answer, or what is said
 * while that is under way; null: not offered
 * @returns {Bubble} */
export function rowBubble(row, retry) {
  const failed = row.finish === 'error';
  const end = failed ? plainWords(row.error?.code ?? '') : (FINISHES.get(row.finish ?? '') ?? '');
  const again = end && (!failed || row.error?.retryable) ? retry : null;
  const note = typeof again === 'string' ? `${end} ${again}` : end;
  return {
    id: row.id,
    role: row.role,
    text: row.content,
    note: row.writing && !row.content ? 'Thinking' : note,
    bad: failed,
    thinking: row.writing && !row.content,
    actions: again && typeof again !== 'string' ? [again] : [],
  };
}

/** How a message looks that the log does not hold yet. @param {Entry} entry @param {string} note
 * @param {Action[]} actions @returns {Bubble} */
export function unsentBubble(entry, note, actions) {
  const kind = entry.failed ? 'failed' : note ? 'pending' : '';
  return { id: entry.clientMsgId, role: 'user', text: entry.text ?? '', note, kind, actions };
}

/** Keeps the elements of a list of bubbles in step with it, touching what changed alone. */
export class BubbleList {
  #root;
  /** @type {Map<string, {bubble: Bubble, element: HTMLElement}>} */
  #drawn = new Map();

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
  }

  /** @param {Bubble[]} bubbles */
  draw(bubbles) {
    const wanted = new Set(bubbles.map((bubble) => bubble.id));
    for (const [id, { element }] of this.#drawn) {
      if (wanted.has(id)) continue;
      element.remove();
      this.#drawn.delete(id);
    }
    let place = this.#root.firstElementChild;
    for (const bubble of bubbles) {
      const element = this.#element(bubble);
      if (element === place) place = place.nextElementSibling;
      else this.#root.insertBefore(element, place);
    }
  }

  /** @param {Bubble} bubble */
  #element(bubble) {
    const drawn = this.#drawn.get(bubble.id);
    const element = drawn?.element ?? frame(bubble.role);
    if (!drawn || !same(drawn.bubble, bubble)) fill(element, bubble);
    this.#drawn.set(bubble.id, { bubble, element });
    return element;
  }
}

/** @param {Bubble} a @param {Bubble} b */
function same(a, b) {
  return a.text === b.text && a.note === b.note && a.kind === b.kind && a.actions.length === b.actions.length;
}

/** @param {string} role */
function frame(role) {
  const element = make('article', `message ${role}`);
  element.append(make('span', 'hidden', role === 'user' ? 'You: ' : 'Assistant: '));
  element.append(make('div', 'text'), make('div', 'meta'));
  return element;
}

/** @param {HTMLElement} element @param {Bubble} bubble */
function fill(element, { role, text, note, bad, thinking, kind, actions }) {
  element.className = `message ${role} ${kind ?? ''}`.trim();
  const [, body, meta] = /** @type {HTMLElement[]} */ ([...element.children]);
  const shown = body.firstChild;
  // Appending to the text node keeps a selection in a growing answer.
  if (shown instanceof Text && text.startsWith(shown.data)) shown.appendData(text.slice(shown.data.length));
  else body.textContent = text;
  meta.className = `meta${bad ? ' bad' : ''}${thinking ? ' thinking' : ''}`;
  meta.replaceChildren(...(note ? [make('span', '', note)] : []), ...actions.map(button));
}

/** @param {Action} action */
function button({ label, act }) {
  const element = /** @type {HTMLButtonElement} */ (make('button', 'quiet', label));
  element.type = 'button';
  element.addEventListener('click', act);
  return element;
}

/** @param {string} tag @param {string} [className] @param {string} [text] */
function make(tag, className = '', text = '') {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
