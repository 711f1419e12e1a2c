/**
 * Commands that the server has not acknowledged yet, kept over a reload for a day at most. Each has a `clientMsgId`,
 * under which version 2 of the protocol carries it out once, however often it is sent.
 *
 * @typedef {import('./types.js').Entry} Entry
 * @typedef {import('./types.js').UnsentMessage} UnsentMessage
 */

/** A UUID, version 4. `crypto.randomUUID` exists on https and localhost alone; a ward's test server may be neither. */
export function uuid() {
  const digit = () => (crypto.getRandomValues(new Uint8Array(1))[0] % 16).toString(16);
  return 'xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx'.replace(/x/g, digit);
}

/** Browsers that block cookies throw at the mere mention of localStorage. A server that renders pages may have one, too,
 * and would share it among all people. @returns {Storage | null} */
export function usableStorage() {
  try {
    return typeof document === 'undefined' ? null : localStorage;
  } catch {
    return null;
  }
}

/** For how long the browser's storage keeps what was not sent, in milliseconds: several people may use one machine. */
export const KEPT = 24 * 60 * 60 * 1000;
const ROOT = 'moorline:unsent:';
/** The server may have the message or not, and would not notice that it is sent again. */
export const UNCONFIRMED = 'unconfirmed';

export class Outbox {
  #prefix;
  #storage;
  /** Ids of what was written on this page, not by another tab or before a reload. @type {Set<string>} */
  #written = new Set();
  /** Ids of what the storage has taken. @type {Set<string>} */
  #stored = new Set();

  /** Oldest first. A new array at each change, so that `===` tells whether there was one. @type {readonly Entry[]} */
  entries = [];
  /** Those that are messages. @type {readonly UnsentMessage[]} */
  messages = [];

  /** One storage key per entry: two tabs on one session cannot overwrite each other's.
   * @param {string} sessionId @param {Storage | null} storage null: nothing outlives the page */
  constructor(sessionId, storage) {
    this.#prefix = `${ROOT}${sessionId}:`;
    this.#storage = storage;
    const found = Object.keys(storage ?? {}).map((key) => this.#load(key)).filter((entry) => entry !== null);
    this.#set(found.sort((a, b) => a.order - b.order));
  }

  /** What is stored under `key`, if that is an entry of this session. An entry of any session that has expired is
   * erased; a message of this one is still shown, once, as one that failed.
   * @param {string} key @returns {Entry | null} */
  #load(key) {
    if (!key.startsWith(ROOT)) return null;
    const entry = parse(this.#storage?.getItem(key));
    const expired = !entry || isExpired(entry);
    if (expired) this.#storage?.removeItem(key);
    if (!entry || !key.startsWith(this.#prefix)) return null;
    if (!expired) {
      this.#stored.add(entry.clientMsgId);
      return entry;
    }
    return entry.text === undefined ? null : { ...entry, failed: 'expired' };
  }

  /** @param {{text?: string, runId?: string, epoch?: string}} command @param {string} [clientMsgId] @returns {Entry} */
  add(command, clientMsgId = uuid()) {
    // Several may be added within one millisecond, and clocks are set back.
    const order = Math.max(Date.now(), (this.entries.at(-1)?.order ?? 0) + 1);
    const entry = { clientMsgId, order, ...command };
    this.#written.add(clientMsgId);
    this.#set([...this.entries, entry]);
    this.#save(entry);
    return entry;
  }

  /** Send a message again that has failed. @param {string} clientMsgId @param {string} [epoch] of the chat as it is now */
  revive(clientMsgId, epoch) {
    const { text, runId, failed } = this.#find(clientMsgId) ?? {};
    if (!failed) return;
    this.remove(clientMsgId);
    this.add({ text, runId, epoch }, clientMsgId);
  }

  /** What was written to the chat of one epoch (undefined: before it had begun) belongs to that of another.
   * @param {string | undefined} before @param {string} epoch */
  move(before, epoch) {
    for (const entry of this.entries) {
      if (entry.epoch === before && !entry.acked) this.#change({ ...entry, epoch });
    }
  }

  /** What has waited for too long is not sent any more, and leaves the storage, on a page that stays open as well. */
  expire() {
    for (const entry of this.entries.filter(isExpired)) {
      this.#storage?.removeItem(this.#prefix + entry.clientMsgId);
      if (entry.text === undefined) this.remove(entry.clientMsgId);
      else if (!entry.acked && !entry.failed) this.#replace({ ...entry, failed: 'expired' });
    }
  }

  /** The one to send next. @returns {Entry | undefined} */
  next() {
    return this.entries.find((entry) => !entry.acked && !entry.failed);
  }

  /** The wish to try this run again, if it is waiting. @param {string} runId @returns {Entry | undefined} */
  retryOf(runId) {
    return this.entries.find((entry) => entry.runId === runId && !entry.failed);
  }

  /** Before a message goes to a server that would take it twice, note so in storage, where a reload and other tabs find
   * it as failed. False: another tab has done so before. @param {string} clientMsgId */
  claim(clientMsgId) {
    const entry = /** @type {Entry} */ (this.#find(clientMsgId));
    const stored = parse(this.#storage?.getItem(this.#prefix + clientMsgId));
    const failed = stored?.failed;
    if (failed) this.#replace({ ...entry, failed });
    else this.#save({ ...entry, failed: UNCONFIRMED });
    return !failed;
  }

  /** With such a server, what comes from storage waits for the person: the tab where it was written may send it, too. And
   * it has no command to try a run again. */
  hold() {
    for (const entry of this.entries) {
      if (entry.text === undefined) this.remove(entry.clientMsgId);
      else if (!entry.failed && !this.#written.has(entry.clientMsgId)) this.#replace({ ...entry, failed: UNCONFIRMED });
    }
  }

  /** Committed: no need to keep it over a reload. A message stays in view until the log shows it.
   * @param {string} clientMsgId */
  acknowledge(clientMsgId) {
    const entry = this.#find(clientMsgId);
    if (entry?.text === undefined) return this.remove(clientMsgId);
    this.#storage?.removeItem(this.#prefix + clientMsgId);
    this.#replace({ ...entry, acked: true });
  }

  /** It was sent, and the connection ended before the server confirmed it. @param {string} clientMsgId */
  doubt(clientMsgId) {
    const entry = this.#find(clientMsgId);
    if (!entry || entry.acked || entry.failed) return;
    this.#change({ ...entry, unconfirmed: true });
  }

  /** Refused for now. @param {string} clientMsgId @param {string} code */
  defer(clientMsgId, code) {
    const entry = this.#find(clientMsgId);
    if (entry) this.#replace({ ...entry, deferred: code });
  }

  /** Refused for good; false if that leaves nothing to show. @param {string} clientMsgId @param {string} code */
  fail(clientMsgId, code) {
    const entry = this.#find(clientMsgId);
    if (entry?.text === undefined) {
      this.remove(clientMsgId);
      return false;
    }
    const failed = { ...entry, failed: code };
    this.#replace(failed);
    this.#save(failed);
    return true;
  }

  /** @param {string} clientMsgId */
  remove(clientMsgId) {
    this.#storage?.removeItem(this.#prefix + clientMsgId);
    if (this.#find(clientMsgId)) this.#set(this.entries.filter((entry) => entry.clientMsgId !== clientMsgId));
  }

  /** The session was erased: what is in view stays until the page closes, and nothing of it on this machine. */
  forget() {
    for (const { clientMsgId } of this.entries) this.#storage?.removeItem(this.#prefix + clientMsgId);
  }

  /** Another tab has changed what is stored; whether an entry of this outbox was discarded, acknowledged or found to have
   * expired there. @param {StorageEvent} change */
  storageChanged({ key, newValue, storageArea }) {
    if (storageArea !== this.#storage || newValue !== null || !key?.startsWith(this.#prefix)) return false;
    const entry = this.#find(key.slice(this.#prefix.length));
    if (entry && isExpired(entry)) this.expire();
    else if (entry && !entry.acked) this.remove(entry.clientMsgId);
    return entry !== undefined;
  }

  /** The browser shows the page again that it had left (bfcache): no event said what other tabs did meanwhile. What has
   * left the storage was sent there, or discarded, so it waits for the log or the person. Whether there is any. */
  recheck() {
    const gone = this.entries.filter(({ clientMsgId, acked, failed }) =>
      this.#stored.has(clientMsgId) && !acked && !failed && !this.#storage?.getItem(this.#prefix + clientMsgId));
    for (const entry of gone) {
      if (entry.text === undefined) this.remove(entry.clientMsgId);
      else this.#replace({ ...entry, failed: UNCONFIRMED });
    }
    return gone.length > 0;
  }

  /** @param {string} clientMsgId @returns {Entry | undefined} */
  #find(clientMsgId) {
    return this.entries.find((entry) => entry.clientMsgId === clientMsgId);
  }

  /** @param {Entry} changed */
  #replace(changed) {
    this.#set(this.entries.map((entry) => (entry.clientMsgId === changed.clientMsgId ? changed : entry)));
  }

  /** @param {readonly Entry[]} entries */
  #set(entries) {
    this.entries = entries;
    this.messages = /** @type {UnsentMessage[]} */ (entries.filter((entry) => entry.text !== undefined));
  }

  /** Here and in the storage. What has left that stays out of it: the session was erased, or another tab has sent the
   * message. @param {Entry} changed */
  #change(changed) {
    this.#replace(changed);
    if (this.#storage?.getItem(this.#prefix + changed.clientMsgId)) this.#save(changed);
  }

  /** @param {Entry} entry */
  #save(entry) {
    try {
      this.#storage?.setItem(this.#prefix + entry.clientMsgId, JSON.stringify(entry));
      this.#stored.add(entry.clientMsgId);
    } catch {
      // Storage is full: the entry lives as long as the page does.
    }
  }
}

/** Also where the clock was set back by as much. @param {Entry} entry */
function isExpired({ order }) {
  return Math.abs(Date.now() - order) > KEPT;
}

/** @param {string | null | undefined} text @returns {Entry | null} */
function parse(text) {
  try {
    const entry = JSON.parse(text ?? '');
    return typeof entry.clientMsgId === 'string' && typeof entry.order === 'number' ? entry : null;
  } catch {
    return null;
  }
}
