/**
 * Markdown tokens to elements. Nothing is ever parsed as HTML: each token has its element, and each text a text node.
 *
 * While an answer grows, its tokens are compared with those that are shown, and what differs is changed: a text is
 * continued in its node, so that a selection in it stays, and a block that is complete is not touched again.
 *
 * @typedef {import('./markdown.js').Token} Token
 * @typedef {{token: Token, node: Node, inner: Node, children: Drawn[]}} Drawn `inner`: what holds the children
 */
import { make, quietButton } from './elements.js';
import { EMPTY, parse } from './markdown.js';

/** What makes another element of a token of the same type. */
const ATTRIBUTES = /** @type {const} */ (['level', 'start', 'loose', 'checked', 'align', 'language', 'href']);
const TAGS = new Map(
  /** @type {[string, keyof HTMLElementTagNameMap][]} */ ([
    ['paragraph', 'p'],
    ['quote', 'blockquote'],
    ['rule', 'hr'],
    ['row', 'tr'],
    ['emphasis', 'em'],
    ['strong', 'strong'],
    ['deleted', 'del'],
  ]),
);
/** Level 1 is the page's own heading. */
const TOP_LEVEL = 2;
const LOWEST_LEVEL = 6;
/** For how long a button says that it has copied. */
const COPIED_TIME = 2_000;

/** A text shown in an element as Markdown. */
export class MarkdownView {
  #root;
  #document = EMPTY;
  /** @type {Drawn[]} */ #drawn = [];

  /** @param {HTMLElement} root empty, and changed by nothing else */
  constructor(root) {
    this.#root = root;
  }

  /** @param {string} text */
  show(text) {
    if (text === this.#document.text) return;
    this.#document = parse(text, this.#document);
    update(this.#root, this.#drawn, this.#document.blocks);
  }
}

/** A link without its text, which may name another host than its target: the title shows where it leads.
 * @param {string} href */
export function linkTo(href) {
  return make('a', { href, title: href, target: '_blank', rel: 'noopener noreferrer nofollow' });
}

/** Make the children of a node those of `tokens`. @param {Node} parent @param {Drawn[]} drawn what they are; changed
 * @param {readonly Token[]} tokens */
function update(parent, drawn, tokens) {
  tokens.forEach((token, at) => {
    const before = drawn[at];
    if (before && change(before, token)) return;
    const after = (drawn[at] = draw(token));
    if (before) parent.replaceChild(after.node, before.node);
    else parent.appendChild(after.node);
  });
  for (const { node } of drawn.splice(tokens.length)) parent.removeChild(node);
}

/** Show `token` by the node that is there, if it can. @param {Drawn} drawn @param {Token} token */
function change(drawn, token) {
  const before = drawn.token;
  if (before === token) return true;
  if (before.type !== token.type || ATTRIBUTES.some((name) => before[name] !== token[name])) return false;
  drawn.token = token;
  if (token.text !== undefined) retext(/** @type {Text} */ (drawn.inner), token.text);
  if (token.children) update(drawn.inner, drawn.children, token.children);
  return true;
}

/** @param {Text} node @param {string} text */
function retext(node, text) {
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

/** @param {Token} token @returns {Drawn} */
function draw(token) {
  const { node, inner } = elements(token);
  /** @type {Drawn[]} */ const children = [];
  if (token.children) update(inner, children, token.children);
  return { token, node, inner, children };
}

/** @param {Token} token @returns {{node: Node, inner: Node}} */
function elements(token) {
  switch (token.type) {
    case 'text':
      return within(document.createTextNode(token.text ?? ''));
    case 'code':
      return within(document.createTextNode(token.text ?? ''), make('code'));
    case 'fence':
      return codeBlock(token);
    case 'table':
      return within(make('table'), make('div', { className: 'wide', tabIndex: 0, role: 'group', ariaLabel: 'Table' }));
    case 'item':
      return within(listItem(token));
    default:
      return within(element(token));
  }
}

/** @param {Node} inner @param {Node} [node] what it stands in */
function within(inner, node) {
  node?.appendChild(inner);
  return { node: node ?? inner, inner };
}

/** @param {Token} token */
function element({ type, level = 1, start, loose, align, href }) {
  switch (type) {
    case 'heading':
      return make(/** @type {'h2'} */ (`h${Math.min(level + TOP_LEVEL - 1, LOWEST_LEVEL)}`));
    case 'list':
      return start === undefined ? make('ul', spacing(loose)) : make('ol', { start, ...spacing(loose) });
    case 'header':
      return make('th', { scope: 'col', className: align ?? '' });
    case 'cell':
      return make('td', { className: align ?? '' });
    case 'link':
      return linkTo(/** @type {string} */ (href));
    default:
      return make(/** @type {keyof HTMLElementTagNameMap} */ (TAGS.get(type)));
  }
}

/** @param {boolean} [loose] */
function spacing(loose) {
  return { className: loose ? 'loose' : '' };
}

/** @param {Token} token */
function listItem({ checked }) {
  const item = make('li');
  if (checked === undefined) return item;
  const label = checked ? 'Done' : 'Not done';
  item.className = 'task';
  item.append(make('input', { type: 'checkbox', checked, disabled: true, ariaLabel: label }));
  return item;
}

/** Code with a button that copies it. @param {Token} token */
function codeBlock({ language, text = '' }) {
  const code = document.createTextNode(text);
  const button = quietButton('Copy', () => copyWith(button, code), { ariaLabel: 'Copy code' });
  const bar = make('div', { className: 'code-bar' });
  bar.append(make('span', { textContent: language ?? '' }), button);
  const pre = make('pre', { tabIndex: 0, role: 'group', ariaLabel: language ? `Code, ${language}` : 'Code' });
  pre.append(within(code, make('code')).node);
  const block = make('div', { className: 'code' });
  block.append(bar, pre);
  return { node: block, inner: code };
}

/** @param {HTMLElement} button @param {Text} code */
async function copyWith(button, code) {
  const done = await copy(code);
  button.textContent = done ? 'Copied' : 'Select and copy';
  button.dispatchEvent(new CustomEvent('copied', { bubbles: true, detail: done }));
  setTimeout(() => (button.textContent = 'Copy'), COPIED_TIME);
}

/** Whether the text is in the clipboard now; otherwise it is selected. @param {Text} code */
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.data);
    return true;
  } catch {
    // There is no clipboard on a page without TLS that is not localhost. The older command has no such condition.
    getSelection()?.selectAllChildren(/** @type {Node} */ (code.parentNode));
    return document.execCommand('copy');
  }
}
