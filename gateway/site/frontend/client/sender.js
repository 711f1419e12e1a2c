/**
 * Sends what the outbox holds: oldest first, one command at a time, again under its old id until it is acknowledged.
 * And the wish to stop an answer, which is said again on each new way to the server until the answer has ended.
 *
 * @typedef {{ask: (command: object) => void, probe: () => void, once?: boolean}
 *   | {post: (path: string, fields: object) => Promise<any>, once?: undefined}} Channel
 *   `once`: the server would take a message twice that is sent twice
 * @typedef {{code: string, message?: string, retryable: boolean, retry_after?: number}} Refusal
 */
import { UNCONFIRMED } from './outbox.js';
import { HttpError } from './polling.js';
import { hasEnded } from './transcript.js';

/** A retryable refusal without `retry_after`, in seconds. */
const RETRY_AFTER = 1;

export class Sender {
  #outbox;
  #onChange;
  #onRefused;
  #transcript;
  #timer = 0;
  /** @type {Channel | null} */ #channel = null;
  /** @type {string | null} */ #inFlight = null;
  /** @type {string | null} */ #stopping = null;

  /** @param {import('./outbox.js').Outbox} outbox @param {() => void} onChange
   * @param {(refusal: Refusal) => void} onRefused a command was refused that leaves nothing to show in the outbox
   * @param {() => import('./types.js').Transcript} transcript as it is now */
  constructor(outbox, onChange, onRefused, transcript) {
    this.#outbox = outbox;
    this.#onChange = onChange;
    this.#onRefused = onRefused;
    this.#transcript = transcript;
  }

  /** The id of the command under way, if any. */
  get inFlight() {
    return this.#inFlight;
  }

  /** The run that is to stop and has not ended yet, if any. */
  get stopping() {
    return this.#stopping;
  }

  /** Whether there is a way to the server. */
  get open() {
    return this.#channel !== null;
  }

  /** Whether the server would say `busy`. */
  blocked = false;

  /** Send through `channel` from now on; null: nothing can be sent. What was under way is sent again, unless it went to
   * a channel that takes it `once`. @param {Channel | null} channel */
  use(channel) {
    clearTimeout(this.#timer);
    if (this.#inFlight && this.#channel?.once) this.#outbox.fail(this.#inFlight, UNCONFIRMED);
    else if (this.#inFlight) this.#outbox.doubt(this.#inFlight);
    if (channel?.once) this.#outbox.hold();
    this.#channel = channel;
    this.#inFlight = null;
    // Each failed try to connect comes here, too.
    this.#outbox.expire();
    if (this.#stopping) this.#cancel(this.#stopping);
  }

  /** Send the next command, if one can be sent. @returns {void} */
  flush() {
    if (this.#inFlight || this.blocked || !this.#channel) return;
    const entry = this.#outbox.next();
    if (!entry) return;
    const { clientMsgId, text, runId, epoch } = entry;
    // Before a reload it was written to a chat that was erased since, or restored from a backup: the person decides.
    const now = this.#transcript().epoch;
    if (epoch && now && epoch !== now) return this.refused(clientMsgId, { code: 'not_found', retryable: false });
    if (this.#channel.once && !this.#outbox.claim(clientMsgId)) return this.flush();
    const retry = text === undefined;
    const fields = { client_msg_id: clientMsgId, ...(retry ? { run_id: runId } : { message: text }) };
    this.#inFlight = clientMsgId;
    if ('ask' in this.#channel) this.#channel.ask({ type: retry ? 'retry' : 'send', ...fields });
    // Unlike a socket, a request does not know which chat its client has seen: that may be erased by now.
    else this.#post(this.#channel, retry ? 'retry' : 'messages', { ...fields, epoch: retry ? undefined : epoch });
  }

  /** @param {string} runId */
  stop(runId) {
    this.#stopping = runId;
    this.#cancel(runId);
  }

  /** The transcript has moved on; `runId` is the run under way now, if any. @param {string | null} runId */
  moved(runId) {
    this.blocked = runId !== null;
    if (this.#stopping !== runId) this.#stopping = null;
  }

  /** @param {{client_msg_id: string, run_id: string, duplicate?: boolean}} ack */
  acknowledged({ client_msg_id: id, run_id: runId, duplicate }) {
    if (this.#inFlight === id) this.#inFlight = null;
    this.#outbox.acknowledge(id);
    this.#onChange();
    // Otherwise a run begins, and its end lets the next one go. A poll may have brought that end before this response.
    if (duplicate || hasEnded(this.#transcript(), runId)) this.flush();
  }

  /** @param {string} clientMsgId @param {Refusal} refusal */
  refused(clientMsgId, refusal) {
    const { code, retryable, retry_after: retryAfter = RETRY_AFTER } = refusal;
    if (this.#inFlight === clientMsgId) this.#inFlight = null;
    if (retryable) this.#outbox.defer(clientMsgId, code);
    else if (!this.#outbox.fail(clientMsgId, code)) this.#onRefused(refusal);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), retryable ? retryAfter * 1000 : 0);
    this.#onChange();
  }

  /** @param {string} runId */
  async #cancel(runId) {
    const channel = this.#channel;
    if (!channel) return;
    const fields = { run_id: runId };
    if ('ask' in channel) {
      channel.ask({ type: 'cancel', ...fields });
      // A run that has ended already is not answered for.
      return channel.probe();
    }
    try {
      await channel.post('cancel', fields);
    } catch (error) {
      if (channel !== this.#channel) return;
      this.#stopping = null;
      this.#onRefused(refusalOf(error));
      this.#onChange();
    }
  }

  /** @param {Extract<Channel, {post: any}>} channel @param {string} path @param {{client_msg_id: string, epoch?: string}} fields */
  async #post(channel, path, fields) {
    try {
      const reply = await channel.post(path, fields);
      // A proxy or a network's sign-in page that says 200 has not kept the message.
      if (typeof reply?.run_id !== 'string') throw new TypeError('not an answer of version 2');
      if (channel === this.#channel) this.acknowledged({ ...reply, ...fields });
    } catch (error) {
      if (channel === this.#channel) this.refused(fields.client_msg_id, refusalOf(error));
    }
  }
}

/** @param {unknown} error @returns {Refusal} */
function refusalOf(error) {
  return error instanceof HttpError ? error.refusal : { code: 'internal', retryable: true };
}
