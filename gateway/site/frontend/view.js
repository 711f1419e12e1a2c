/** Rows to elements. What people write is shown as it is, what a model writes as Markdown; nothing is read as HTML. */
import { make, quietButton } from './elements.js';
import { safeLink, shown } from './markdown-inline.js';
import { MarkdownView, linkTo } from './markdown-view.js';

/** @typedef {import('./client/types.js').Row} Row */
/** @typedef {import('./client/types.js').UnsentMessage} Entry */
/** @typedef {{label: string, act: () => void}} Action */
/** @typedef {{id: string, role: string, text: string, note: string, bad?: boolean, thinking?: boolean, kind?: string,
 *   actions: Action[], sources?: readonly Source[]}} Bubble */
/** @typedef {Extract<import('./client/transcript.js').Part, {kind: 'source'}>} Source */

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
  ['not_found', 'It belongs to a chat that the server does not have any more.'],
  ['bad_request', 'The server did not understand this.'],
  ['lost', 'The connection was lost before the answer came, and this server cannot repeat it.'],
  ['unconfirmed', 'The connection was lost before the server confirmed it. It may have been received or not.'],
  ['unsupported', 'This server cannot do that.'],
  ['signed_out', 'Please sign in again.'],
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
  const sources = /** @type {Source[]} */ (row.parts.filter((part) => part.kind === 'source'));
  const end = failed ? failure(row) : (FINISHES.get(row.finish ?? '') ?? '');
  const again = end && (!failed || row.error?.retryable) ? retry : null;
  // A question alone would look as if it still waited. The server tries no answer again that ended well.
  const isEmpty = row.finish === 'stop' && !row.content.trim() && !sources.length;
  const note = isEmpty ? 'The answer has no text.' : typeof again === 'string' ? `${end} ${again}` : end;
  const busy = row.writing && (!row.content || row.status !== '');
  return {
    id: row.id,
    role: row.role,
    text: row.content,
    note: busy ? row.status || 'Thinking' : note,
    bad: failed,
    thinking: busy,
    sources,
    actions: again && typeof again !== 'string' ? [again] : [],
  };
}

/** Why there is no answer, or only a part of one, which could be taken for the whole. @param {Row} row */
function failure({ content, error }) {
  const why = plainWords(error?.code ?? '');
  return content ? `This answer is unfinished. ${why}` : why;
}

/** How a message looks that the log does not hold yet. @param {Entry} entry @param {string} note
 * @param {Action[]} actions @returns {Bubble} */
export function unsentBubble(entry, note, actions) {
  const kind = entry.failed ? 'failed' : note ? 'pending' : '';
  return { id: entry.clientMsgId, role: 'user', text: entry.text ?? '', note, kind, actions };
}

/** Keeps the elements of a list of bubbles in step with it, changing only what differs. */
export class BubbleList {
  #root;
  /** @type {Map<string, BubbleView>} */ #drawn = new Map();

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
      const { element } = this.#view(bubble);
      if (element === place) place = place.nextElementSibling;
      else this.#root.insertBefore(element, place);
    }
  }

  /** @param {Bubble} bubble */
  #view(bubble) {
    const view = this.#drawn.get(bubble.id) ?? new BubbleView(bubble.role);
    this.#drawn.set(bubble.id, view);
    view.show(bubble);
    return view;
  }
}

/** One bubble: who, the text, and below it its sources, a note and what can be done. */
class BubbleView {
  element = make('article');
  #text = make('div', { className: 'text', dir: 'auto' });
  #sources = make('ul', { className: 'sources', ariaLabel: 'Sources' });
  #meta = make('div', { className: 'meta' });
  /** @type {MarkdownView | null} */ #markdown;
  /** @type {Bubble | null} */ #bubble = null;

  /** @param {string} role */
  constructor(role) {
    const who = make('span', { className: 'hidden', textContent: role === 'user' ? 'You: ' : 'Assistant: ' });
    this.element.append(who, this.#text, this.#sources, this.#meta);
    this.#markdown = role === 'user' ? null : new MarkdownView(this.#text);
  }

  /** @param {Bubble} bubble */
  show(bubble) {
    const before = this.#bubble;
    this.#bubble = bubble;
    if (before?.text !== bubble.text) this.#showText(bubble.text);
    const sources = bubble.sources ?? [];
    if (before?.sources?.length !== sources.length) this.#sources.replaceChildren(...sources.map(source));
    if (before && sameMeta(before, bubble)) return;
    const { role, kind, bad, thinking, note, actions } = bubble;
    this.element.className = `message ${role} ${kind ?? ''}`.trim();
    this.#meta.className = `meta${bad ? ' bad' : ''}${thinking ? ' thinking' : ''}`;
    const buttons = actions.map(({ label, act }) => quietButton(label, act));
    this.#meta.replaceChildren(...(note ? [make('span', { textContent: note })] : []), ...buttons);
  }

  /** @param {string} text */
  #showText(text) {
    if (this.#markdown) this.#markdown.show(text);
    else this.#text.textContent = text;
  }
}

/** A source as a link, or as its title where it has no address. @param {Source} source */
function source({ title, url }) {
  const item = make('li');
  // The address may be a path on this host.
  const href = url && safeLink(url, location.origin);
  if (href) item.append(linkTo(href));
  (item.firstElementChild ?? item).textContent = shown(title || url);
  return item;
}

/** @param {Bubble} a @param {Bubble} b */
function sameMeta(a, b) {
  return a.note === b.note && a.kind === b.kind && a.bad === b.bad && a.actions.length === b.actions.length;
}
