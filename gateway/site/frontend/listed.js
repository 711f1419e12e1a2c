/**
 * The patient's chats as the server lists them, page by page. Only moorline's own backend does, and only to those who may
 * open all of the patient's chats; anywhere else there is nothing here.
 */

/** @typedef {import('./keeping.js').Chat & {words?: string}} Listed `words`: the first of the chat */

export class ListedChats {
  #patientId;
  /** @type {Map<string, Listed>} */ #chats = new Map();
  #next = '';

  /** @param {string} patientId */
  constructor(patientId) {
    this.#patientId = patientId;
  }

  /** Whether the server has older ones. */
  get more() {
    return this.#next !== '';
  }

  /** Those that were loaded and those that this browser knows, the last one first. @param {Listed[]} known */
  with(known) {
    const all = new Map([...known.map((chat) => /** @type {const} */ ([chat.sessionId, chat])), ...this.#chats]);
    return [...all.values()].sort((a, b) => b.at - a.at);
  }

  /** Load the newest, in place of what was loaded. */
  async load() {
    await this.#load('', new Map());
  }

  /** Load the page before those that were loaded. */
  async loadMore() {
    await this.#load(`?${new URLSearchParams({ before: this.#next })}`, this.#chats);
  }

  /** @param {string} sessionId */
  forget(sessionId) {
    this.#chats.delete(sessionId);
  }

  /** @param {string} query @param {Map<string, Listed>} chats to which they are added */
  async #load(query, chats) {
    const patient = encodeURIComponent(this.#patientId).replaceAll('%3A', ':');
    const response = await fetch(`/api/patients/${patient}/sessions${query}`, { cache: 'no-store' });
    if (!response.ok) throw new Error(String(response.status));
    const { sessions, next = '' } = await response.json();
    for (const { session_id: sessionId, at, first_words: words } of sessions) {
      chats.set(sessionId, { sessionId, at: Date.parse(at), words });
    }
    this.#chats = chats;
    this.#next = next;
  }
}
