/**
 * The chats that the page has left while messages of theirs were unsent. Each keeps its connection until they are sent,
 * so that "New chat" loses none; a message that the server refuses stays until the person opens its chat.
 *
 * @typedef {import('./client/moorline-client.js').MoorlineClient} MoorlineClient
 */

/** The messages of a chat that the server does not have, as far as is known. @param {MoorlineClient} client */
export function unsentOf(client) {
  return client.unsent.filter((entry) => !entry.acked);
}

export class Unfinished {
  /** @type {Map<string, {client: MoorlineClient, life: AbortController}>} */ #chats = new Map();
  #onChange;

  /** @param {() => void} onChange */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** The messages of all these chats, and the chat that was left last. */
  get summary() {
    const entries = [...this.#chats.values()].flatMap(({ client }) => unsentOf(client));
    const sessionId = [...this.#chats.keys()].at(-1) ?? null;
    return { count: entries.length, failed: entries.filter((entry) => entry.failed).length, sessionId };
  }

  /** @param {(sessionId: string, client: MoorlineClient) => boolean} holds */
  every(holds) {
    return [...this.#chats].every(([sessionId, { client }]) => holds(sessionId, client));
  }

  /** Take a chat that is being left. @param {string} sessionId @param {MoorlineClient} client */
  leave(sessionId, client) {
    const life = new AbortController();
    this.#chats.set(sessionId, { client, life });
    client.addEventListener('change', () => this.#settle(sessionId, client), { signal: life.signal });
    this.#settle(sessionId, client);
  }

  /** Give a chat back, if it is here. @param {string} sessionId @returns {MoorlineClient | null} */
  take(sessionId) {
    const chat = this.#chats.get(sessionId);
    if (!chat) return null;
    chat.life.abort();
    this.#chats.delete(sessionId);
    this.#onChange();
    return chat.client;
  }

  /** @param {string} sessionId @param {MoorlineClient} client */
  #settle(sessionId, client) {
    if (unsentOf(client).length) this.#onChange();
    else this.take(sessionId)?.close();
  }
}
