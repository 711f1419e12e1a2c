/**
 * What the page keeps in the browser, and the person's choice to keep nothing.
 *
 * In localStorage: the session that a patient's page showed last, and when each session was last written to. No text but
 * what was not sent yet, which the client's outbox keeps under `moorline:unsent:`. In sessionStorage, which ends with the
 * tab: the session that this tab shows, and the draft of each session. Without storage, or where the person has switched it off, all lasts as long as the
 * page.
 *
 * @typedef {{sessionId: string, at: number}} Chat `at`: when it was last written to
 */

const CHOICE = 'moorline:keep';
const SESSION = 'moorline:session:';
const CHAT = 'moorline:chat:';
const DRAFT = 'moorline:draft:';
const UNSENT = 'moorline:unsent:';
/** The rest of an outbox's key, behind the session's id: `:` and a UUID. */
const UNSENT_TAIL = 37;
/** Of one patient. The oldest ones are forgotten, as the list is for finding again what was left lately. */
const MOST_CHATS = 50;

export class Keeping {
  #local;
  #tab;
  /** @type {Map<string, string>} */ #drafts = new Map();

  /** @param {Storage | null} local @param {Storage | null} tab null: the browser allows none */
  constructor(local, tab) {
    this.#local = local;
    this.#tab = tab;
  }

  /** Whether anything is kept. */
  get on() {
    return this.#local !== null && this.#local.getItem(CHOICE) !== 'off';
  }

  /** Whether it can be. */
  get possible() {
    return this.#local !== null;
  }

  /** Where the client may keep what was not sent. */
  get storage() {
    return this.on ? this.#local : null;
  }

  /** Keep things from now on, or erase what is kept. Nothing may be unsent in any tab. @param {boolean} on */
  set(on) {
    for (const key of on ? [] : keys(this.#local, 'moorline:')) this.#local?.removeItem(key);
    for (const key of on ? [] : keys(this.#tab, 'moorline:')) this.#tab?.removeItem(key);
    if (on) this.#local?.removeItem(CHOICE);
    else write(this.#local, CHOICE, 'off');
  }

  /** Whether another tab has made the choice. @param {StorageEvent} event */
  chosen({ key, storageArea }) {
    const chosen = storageArea === this.#local && key === CHOICE;
    if (chosen && !this.on) for (const kept of keys(this.#tab, 'moorline:')) this.#tab?.removeItem(kept);
    return chosen;
  }

  // Sessions ----------------------------------------------------------------------------------------------------------

  /** The session that this tab shows, or that the patient's page showed last, or an empty string: "New chat" in another
   * tab must not take a tab's chat and draft from it at a reload. @param {string} patientId */
  session(patientId) {
    const shown = this.on ? this.#tab?.getItem(SESSION + patientId) : null;
    return shown ?? this.storage?.getItem(SESSION + patientId) ?? '';
  }

  /** @param {string} patientId @param {string} sessionId */
  setSession(patientId, sessionId) {
    write(this.storage, SESSION + patientId, sessionId);
    if (this.on) write(this.#tab, SESSION + patientId, sessionId);
  }

  /** The patient's sessions, the last one first. @param {string} patientId @returns {Chat[]} */
  chats(patientId) {
    const found = keys(this.storage, CHAT).map((key) => ({ sessionId: key.slice(CHAT.length), ...this.#record(key) }));
    return found.filter((chat) => chat.patientId === patientId).sort((a, b) => b.at - a.at);
  }

  /** A session was written to. @param {string} patientId @param {string} sessionId @param {number} at */
  wrote(patientId, sessionId, at) {
    write(this.storage, CHAT + sessionId, JSON.stringify({ patientId, at }));
    for (const chat of this.chats(patientId).slice(MOST_CHATS)) this.forget(chat.sessionId);
  }

  /** Whether a session is in the list. @param {string} sessionId */
  knows(sessionId) {
    return this.storage?.getItem(CHAT + sessionId) != null;
  }

  /** @param {string} sessionId */
  forget(sessionId) {
    this.#local?.removeItem(CHAT + sessionId);
    this.setDraft(sessionId, '');
  }

  /** The patient's sessions that hold messages that were not sent. @param {string} patientId @returns {string[]} */
  unsent(patientId) {
    const sessions = new Set(keys(this.storage, UNSENT).map((key) => key.slice(UNSENT.length, -UNSENT_TAIL)));
    return this.chats(patientId).map((chat) => chat.sessionId).filter((sessionId) => sessions.has(sessionId));
  }

  /** Whether a message is kept that was not sent. @param {string} sessionId @param {string} clientMsgId */
  holds(sessionId, clientMsgId) {
    return this.storage?.getItem(`${UNSENT}${sessionId}:${clientMsgId}`) != null;
  }

  /** Whether unsent messages of any session are kept. */
  get holdsUnsent() {
    return keys(this.storage, UNSENT).length > 0;
  }

  /** @param {string} key @returns {{patientId: string, at: number}} */
  #record(key) {
    try {
      const { patientId, at } = JSON.parse(this.storage?.getItem(key) ?? '');
      return { patientId: String(patientId), at: Number(at) };
    } catch {
      return { patientId: '', at: 0 };
    }
  }

  // Drafts ------------------------------------------------------------------------------------------------------------

  /** @param {string} sessionId */
  draft(sessionId) {
    const kept = this.on ? this.#tab?.getItem(DRAFT + sessionId) : null;
    return kept ?? this.#drafts.get(sessionId) ?? '';
  }

  /** Whether a draft outlives a reload. @param {string} sessionId @param {string} text */
  holdsDraft(sessionId, text) {
    return this.on && this.#tab?.getItem(DRAFT + sessionId) === text;
  }

  /** @param {string} sessionId @param {string} text empty: sent, or given up */
  setDraft(sessionId, text) {
    if (text) this.#drafts.set(sessionId, text);
    else this.#drafts.delete(sessionId);
    if (text && this.on) write(this.#tab, DRAFT + sessionId, text);
    else this.#tab?.removeItem(DRAFT + sessionId);
  }
}

/** sessionStorage, unless the browser blocks it. @returns {Storage | null} */
export function tabStorage() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

/** @param {Storage | null} storage @param {string} prefix */
function keys(storage, prefix) {
  return Object.keys(storage ?? {}).filter((key) => key.startsWith(prefix));
}

/** @param {Storage | null} storage @param {string} key @param {string} value */
function write(storage, key, value) {
  try {
    storage?.setItem(key, value);
  } catch {
    // Storage is full: it lasts as long as the page does.
  }
}
