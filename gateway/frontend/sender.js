/** Sends what the outbox holds: oldest first, one command at a time, again under its old id until it is acknowledged. */
import { HttpError } from './polling.js';

/** A retryable refusal without `retry_after`, in seconds. */
const RETRY_AFTER = 1;

/** @typedef {{write: (command: any) => void} | {post: (path: string, fields: any) => Promise<void>}} Channel */

export class Sender {
  #outbox;
  #onChange;
  #timer = 0;
  /** @type {Channel | null} */ #channel = null;
  /** @type {string | null} */ #inFlight = null;

  /** @param {import('./outbox.js').Outbox} outbox @param {() => void} onChange */
  constructor(outbox, onChange) {
    this.#outbox = outbox;
    this.#onChange = onChange;
  }

  /** The id of the command under way, if any. */
  get inFlight() {
    return this.#inFlight;
  }

  /** Whether the server would say `busy`. */
  blocked = false;

  /** Send through `channel` from now on; null: nothing can be sent. What was under way is sent again.
   * @param {Channel | null} channel */
  use(channel) {
    clearTimeout(this.#timer);
    this.#channel = channel;
    this.#inFlight = null;
  }

  flush() {
    if (this.#inFlight || this.blocked || !this.#channel) return;
    const entry = this.#outbox.next();
    if (!entry) return;
    const { clientMsgId, text, runId } = entry;
    const fields = { client_msg_id: clientMsgId, ...(text === undefined ? { run_id: runId } : { message: text }) };
    const retry = text === undefined;
    this.#inFlight = clientMsgId;
    if ('write' in this.#channel) this.#channel.write({ type: retry ? 'retry' : 'send', ...fields });
    else this.#post(this.#channel, retry ? 'retry' : 'messages', fields);
  }

  /** @param {string} clientMsgId */
  acknowledged(clientMsgId) {
    if (this.#inFlight === clientMsgId) this.#inFlight = null;
    this.#outbox.acknowledge(clientMsgId);
    this.#onChange();
  }

  /** @param {string} clientMsgId @param {{code: string, retryable: boolean, retry_after?: number}} error */
  refused(clientMsgId, { code, retryable, retry_after: retryAfter = RETRY_AFTER }) {
    if (this.#inFlight === clientMsgId) this.#inFlight = null;
    if (!retryable) this.#outbox.fail(clientMsgId, code);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), retryable ? retryAfter * 1000 : 0);
    this.#onChange();
  }

  /** @param {Extract<Channel, {post: any}>} channel @param {string} path @param {{client_msg_id: string}} fields */
  async #post(channel, path, fields) {
    try {
      await channel.post(path, fields);
      if (channel !== this.#channel) return;
      this.acknowledged(fields.client_msg_id);
      this.flush();
    } catch (error) {
      if (channel !== this.#channel) return;
      const refusal = error instanceof HttpError ? error.refusal : { code: 'internal', retryable: true };
      this.refused(fields.client_msg_id, refusal);
    }
  }
}
