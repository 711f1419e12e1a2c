/** The dialog with the patient's chats, and the choice to keep nothing in this browser. */
import { make, quietButton } from './elements.js';

const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

/** @typedef {{chats: () => import('./listed.js').Listed[], load: () => Promise<void>, more: () => boolean,
 *   loadMore: () => Promise<void>, current: () => string, keeps: () => boolean,
 *   mayChange: () => boolean, open: (sessionId: string) => void, erase: (sessionId: string) => Promise<void>,
 *   keep: (on: boolean) => void}} Page what the dialog shows, and what it can do */

export class ChatsDialog {
  #dialog;
  #list;
  #keep;
  #why;
  #older;
  #page;

  /** @param {HTMLDialogElement} dialog @param {Page} page */
  constructor(dialog, page) {
    this.#dialog = dialog;
    this.#page = page;
    this.#list = /** @type {HTMLElement} */ (dialog.querySelector('ul'));
    this.#keep = /** @type {HTMLInputElement} */ (dialog.querySelector('input'));
    this.#why = /** @type {HTMLElement} */ (dialog.querySelector('[data-why]'));
    this.#keep.addEventListener('change', () => {
      page.keep(this.#keep.checked);
      this.draw();
    });
    this.#older = /** @type {HTMLElement} */ (dialog.querySelector('[data-older]'));
    this.#older.addEventListener('click', () => this.#loaded(page.loadMore()));
    dialog.querySelector('[data-close]')?.addEventListener('click', () => dialog.close());
  }

  show() {
    this.draw();
    this.#dialog.showModal();
    this.#loaded(this.#page.load());
  }

  /** Draw what comes, and stay with what is there where nothing does. @param {Promise<void>} loading */
  async #loaded(loading) {
    try {
      await loading;
    } catch {
      return;
    }
    // A question that waits for its answer stays.
    if (this.#list.querySelector('.danger')) return;
    const focused = document.activeElement;
    this.draw();
    if (focused instanceof HTMLButtonElement) this.#focus(focused.textContent, focused.value);
  }

  /** Give the focus to a button of this chat's, which has been drawn anew. @param {string | null} label
   * @param {string} sessionId */
  #focus(label, sessionId) {
    const buttons = [...this.#list.querySelectorAll('button')];
    buttons.find((button) => button.textContent === label && button.value === sessionId)?.focus();
  }

  draw() {
    const chats = this.#page.chats();
    this.#keep.checked = this.#page.keeps();
    this.#keep.disabled = !this.#page.mayChange();
    this.#why.hidden = !this.#keep.disabled;
    const none = make('li', { textContent: 'None yet.' });
    this.#list.replaceChildren(...(chats.length ? chats.map((chat) => this.#row(chat)) : [none]));
    this.#older.hidden = !this.#page.more();
  }

  /** @param {import('./listed.js').Listed} chat */
  #row({ sessionId, at, words }) {
    const time = TIME.format(at);
    const shown = sessionId === this.#page.current();
    const row = make('li');
    // Several chats may be of one minute: the time alone names none of them.
    const named = words ? `${time}: ${words}` : time;
    const told = { ariaLabel: `Open the chat of ${named}`, value: sessionId };
    const open = quietButton('Open', () => this.#open(sessionId), told);
    const ask = () => this.#ask(row, sessionId, withWords(`Erase the chat of ${time} for everyone, for good?`, words));
    const erase = quietButton('Erase', ask, { ariaLabel: `Erase the chat of ${named}`, value: sessionId });
    const name = withWords(shown ? `${time} (this chat)` : time, words);
    row.append(name, ...(shown ? [] : [open]), erase);
    return row;
  }

  /** @param {string} sessionId */
  #open(sessionId) {
    this.#dialog.close();
    this.#page.open(sessionId);
  }

  /** Erasing cannot be undone, so it takes a second click. @param {HTMLElement} row @param {string} sessionId
   * @param {HTMLElement} question */
  #ask(row, sessionId, question) {
    const erase = quietButton('Erase', () => this.#erase(row, sessionId), { className: 'quiet danger' });
    const keep = quietButton('Keep', () => {
      this.draw();
      this.#focus('Erase', sessionId);
    });
    row.replaceChildren(question, erase, keep);
    keep.focus();
  }

  /** @param {HTMLElement} row @param {string} sessionId */
  async #erase(row, sessionId) {
    row.replaceChildren(make('span', { textContent: 'Erasing' }));
    try {
      await this.#page.erase(sessionId);
      this.draw();
    } catch {
      const again = quietButton('Try again', () => this.#erase(row, sessionId));
      row.replaceChildren(make('span', { textContent: 'The server has not erased this chat.' }), again);
    }
    this.#dialog.focus();
  }
}

/** @param {string} textContent @param {string} [words] the first of the chat */
function withWords(textContent, words) {
  const text = make('span', { textContent });
  if (words) text.append(make('span', { textContent: words, className: 'words' }));
  return text;
}
