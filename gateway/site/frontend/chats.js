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
    const focused = document.activeElement?.ariaLabel;
    this.draw();
    if (focused) this.#focus(focused);
  }

  /** Give the focus to the button of this name, which has been drawn anew. @param {string} name */
  #focus(name) {
    [...this.#list.querySelectorAll('button')].find((button) => button.ariaLabel === name)?.focus();
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
    const open = quietButton('Open', () => this.#open(sessionId), { ariaLabel: `Open the chat of ${time}` });
    const ask = () => this.#ask(row, sessionId, time);
    const erase = quietButton('Erase', ask, { ariaLabel: eraseName(time) });
    const name = make('span', { textContent: shown ? `${time} (this chat)` : time });
    if (words) name.append(make('span', { textContent: words, className: 'words' }));
    row.append(name, ...(shown ? [] : [open]), erase);
    return row;
  }

  /** @param {string} sessionId */
  #open(sessionId) {
    this.#dialog.close();
    this.#page.open(sessionId);
  }

  /** Erasing cannot be undone, so it takes a second click. @param {HTMLElement} row @param {string} sessionId
   * @param {string} time */
  #ask(row, sessionId, time) {
    const erase = quietButton('Erase', () => this.#erase(row, sessionId), { className: 'quiet danger' });
    const keep = quietButton('Keep', () => {
      this.draw();
      this.#focus(eraseName(time));
    });
    const question = make('span', { textContent: `Erase the chat of ${time} for everyone, for good?` });
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

/** @param {string} time of the chat */
function eraseName(time) {
  return `Erase the chat of ${time}`;
}
