/**
 * Commands that the server has not acknowledged yet, kept over a reload. Each has a `clientMsgId`, under which it may be
 * sent any number of times and is carried out once.
 *
 * @typedef {{clientMsgId: string, order: number, text?: string, runId?: string, acked?: boolean, failed?: string}} Entry
 *   `text`: a message to send; `runId`: a run to try again. `failed`: the refusal's code; it waits for the person.
 */

/** A UUID, version 4. `crypto.randomUUID` exists on https and localhost alone; a ward's test server may be neither. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** Browsers that block cookies throw at the mere mention of localStorage. @returns {Storage | null} */
export function usableStorage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

export class Outbox {
  #prefix;
  #storage;
  /** @type {Map<string, Entry>} */
  #entries = new Map();

  /** One storage key per entry: two tabs on one session cannot overwrite each other's.
   * @param {string} sessionId @param {Storage | null} storage null: nothing outlives the page */
  constructor(sessionId, storage) {
    this.#prefix = `moorline:unsent:${sessionId}:`;
    this.#storage = storage;
    const found = Object.keys(storage ?? {})
      .filter((key) => key.startsWith(this.#prefix))
      .map((key) => parse(storage?.getItem(key)))
      .filter((entry) => entry !== null)
      .sort((a, b) => a.order - b.order);
    for (const entry of found) this.#entries.set(entry.clientMsgId, entry);
  }

  /** Oldest first. */
  get entries() {
    return [...this.#entries.values()];
  }

  /** @param {{text: string} | {runId: string}} command @returns {Entry} */
  add(command) {
    const entry = { clientMsgId: uuid(), order: Date.now(), ...command };
    this.#entries.set(entry.clientMsgId, entry);
    this.#save(entry);
    return entry;
  }

  /** The one to send next. @returns {Entry | undefined} */
  next() {
    return this.entries.find((entry) => !entry.acked && !entry.failed);
  }

  /** Committed: no need to keep it over a reload. A message stays in view until the log shows it.
   * @param {string} clientMsgId */
  acknowledge(clientMsgId) {
    const entry = this.#entries.get(clientMsgId);
    if (entry?.text === undefined) return this.remove(clientMsgId);
    this.#storage?.removeItem(this.#prefix + clientMsgId);
    this.#entries.set(clientMsgId, { ...entry, acked: true });
  }

  /** Refused for good. @param {string} clientMsgId @param {string} code */
  fail(clientMsgId, code) {
    const entry = this.#entries.get(clientMsgId);
    if (!entry) return;
    if (entry.text === undefined) return this.remove(clientMsgId);
    const failed = { ...entry, failed: code };
    this.#entries.set(clientMsgId, failed);
    this.#save(failed);
  }

  /** @param {string} clientMsgId */
  remove(clientMsgId) {
    this.#entries.delete(clientMsgId);
    this.#storage?.removeItem(this.#prefix + clientMsgId);
  }

  /** @param {Entry} entry */
  #save(entry) {
    try {
      this.#storage?.setItem(this.#prefix + entry.clientMsgId, JSON.stringify(entry));
    } catch {
      // Storage is full: the entry lives as long as the page does.
    }
  }
}

/** @param {string | null | undefined} text @returns {Entry | null} */
function parse(text) {
  try {
    const entry = JSON.parse(text ?? '');
    return typeof entry.clientMsgId === 'string' ? entry : null;
  } catch {
    return null;
  }
}
