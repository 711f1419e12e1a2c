/**
 * A chat session that holds: protocol version 2 over a WebSocket, HTTP polling where no WebSocket passes.
 *
 *     const client = new MoorlineClient({ patientId: 'patient:demo', sessionId: 'a1' });
 *     client.addEventListener('change', () => draw(client.transcript, client.unsent));
 *     client.addEventListener('state', () => show(client.state));
 *     client.connect();
 *     client.send('Hello');              // before, during or after an outage: it is kept until the server has it
 *
 * How a frame travels: `#dial` opens a socket and says hello with the transcript's position; `#receive` folds what
 * follows into the transcript (transcript.js) and reconnects when something was missed; `#lost` asks reconnect.js whether
 * and when to come back; sender.js sends what outbox.js keeps.
 *
 * Events: `state`, `change`, and `refused` (detail: {code, message}) for a command that no message of ours stands for.
 *
 * @typedef {import('./transcript.js').Transcript} Transcript
 * @typedef {import('./transcript.js').ServerEvent} ServerEvent
 * @typedef {import('./outbox.js').Entry} Entry
 * @typedef {'connecting' | 'connected' | 'reconnecting' | 'disconnected'} Status
 * @typedef {{status: Status, transport: 'socket' | 'polling' | null, retryAt: number | null, reason: string,
 *   final: boolean, scripted: boolean}} State `retryAt`: when the next try starts (Date.now()); `final`: only `connect()`
 *   tries again; `scripted`: the server has no model, a script answers
 */
import { Outbox, usableStorage, uuid } from './outbox.js';
import { HttpError, Polling } from './polling.js';
import { delay, finalReason, refusalReason } from './reconnect.js';
import { Sender } from './sender.js';
import { ChatSocket } from './socket.js';
import { EMPTY, fold, place, prepend } from './transcript.js';

export { usableStorage, uuid };

/** A socket that held for this long makes the next outage a new one. */
const STABLE = 5_000;
/** So many sockets in a row that never opened: say "disconnected", and poll. */
const BLOCKED = 3;
const EARLIER_ROWS = 100;

export class MoorlineClient extends EventTarget {
  /** @type {Transcript} */ #transcript = EMPTY;
  /** @type {State} */
  #state = { status: 'connecting', transport: null, retryAt: null, reason: '', final: false, scripted: false };
  /** @type {ChatSocket | null} */ #socket = null;
  /** @type {AbortController} */ #life = new AbortController();
  /** @type {AbortController | null} */ #poll = null;
  #failures = 0;
  #unopened = 0;
  #reconnectAfter = 0;
  #dialTimer = 0;
  #url;
  #polling;
  #outbox;
  #sender;

  /** @param {{patientId: string, sessionId: string, origin?: string, storage?: Storage | null}} options
   * `storage` keeps unsent messages over a reload; null keeps them in memory alone */
  constructor({ patientId, sessionId, origin = location.origin, storage = usableStorage() }) {
    super();
    const path = [patientId, sessionId].map(encodeURIComponent).join('/').replaceAll('%3A', ':');
    this.#url = `${origin.replace(/^http/, 'ws')}/ws/chat/${path}`;
    this.#polling = new Polling(origin, patientId, sessionId);
    this.#outbox = new Outbox(sessionId, storage);
    this.#sender = new Sender(this.#outbox, () => this.#emit('change'));
  }

  get transcript() {
    return this.#transcript;
  }

  get state() {
    return this.#state;
  }

  /** Messages that the transcript does not show yet. @returns {Entry[]} */
  get unsent() {
    return this.#outbox.entries.filter((entry) => entry.text !== undefined);
  }

  /** The message being sent right now, if any: its `clientMsgId`. */
  get sending() {
    return this.#sender.inFlight;
  }

  // What a person does ------------------------------------------------------------------------------------------------

  /** Connect and stay connected, until `close()` or until the server says not to come back. */
  connect() {
    this.close();
    this.#life = new AbortController();
    const { signal } = this.#life;
    const wake = () => document.visibilityState === 'visible' && this.#wake();
    addEventListener('online', wake, { signal });
    addEventListener('pageshow', wake, { signal });
    document.addEventListener('visibilitychange', wake, { signal });
    this.#failures = this.#unopened = 0;
    this.#setState({ status: 'connecting', retryAt: null, reason: '', final: false });
    this.#dial();
  }

  close() {
    this.#life.abort();
    this.#poll?.abort();
    this.#poll = null;
    this.#sender.use(null);
    clearTimeout(this.#dialTimer);
    this.#socket?.drop(1000);
    this.#socket = null;
  }

  /** Try now instead of at `state.retryAt`. */
  reconnect() {
    if (!this.#socket) this.#dial();
  }

  /** Send a message; it is kept until the server has committed it. @param {string} text @returns {string} its id */
  send(text) {
    return this.#enqueue({ text });
  }

  /** Ask for a new answer where one did not end well. @param {string} runId @returns {string} the command's id */
  retry(runId) {
    return this.#enqueue({ runId });
  }

  /** Stop the answer being written. @param {string} [runId] */
  async cancel(runId = this.#transcript.runId ?? '') {
    if (this.#socket?.ready) return this.#socket.write({ type: 'cancel', run_id: runId });
    try {
      await this.#polling.post('cancel', { run_id: runId }, this.#life.signal);
    } catch (error) {
      this.#emit('refused', { code: error instanceof HttpError ? error.code : 'internal', message: '' });
    }
  }

  /** Take back a message that was not sent. @param {string} clientMsgId */
  discard(clientMsgId) {
    this.#outbox.remove(clientMsgId);
    this.#emit('change');
  }

  /** Load rows from before the transcript's first. */
  async loadEarlier() {
    const rows = await this.#polling.earlier(this.#transcript.rows[0].seq, EARLIER_ROWS);
    this.#transcript = prepend(this.#transcript, rows, rows.length === EARLIER_ROWS);
    this.#emit('change');
  }

  // Connecting --------------------------------------------------------------------------------------------------------

  #dial() {
    clearTimeout(this.#dialTimer);
    const { epoch, seq } = this.#transcript;
    const hello = { type: 'hello', v: 2, ...(epoch && { resume: { epoch, seq } }) };
    this.#socket = new ChatSocket(
      this.#url,
      hello,
      (event) => this.#receive(event),
      (code, opened) => this.#lost(code, opened),
    );
    if (this.#state.retryAt !== null) this.#setState({ retryAt: null });
  }

  /** @param {number} code @param {boolean} opened */
  #lost(code, opened) {
    if ((this.#socket?.age ?? 0) > STABLE) this.#failures = 0;
    this.#socket = null;
    if (!this.#poll) this.#sender.use(null);
    const final = finalReason(code);
    if (final) return this.#stop(final);
    this.#failures += 1;
    this.#unopened = opened ? 0 : this.#unopened + 1;
    const wait = this.#reconnectAfter + delay(this.#failures, code, Math.random());
    this.#reconnectAfter = 0;
    this.#dialTimer = setTimeout(() => this.#dial(), wait);
    if (!this.#poll) this.#setDown(Date.now() + wait);
    if (!opened) this.#askWhy();
  }

  /** @param {number | null} retryAt */
  #setDown(retryAt) {
    const status = this.#unopened >= BLOCKED ? 'disconnected' : 'reconnecting';
    this.#setState({ status, transport: null, retryAt, reason: '' });
    this.#emit('change');
  }

  /** @param {string} reason */
  #stop(reason) {
    this.close();
    this.#setState({ status: 'disconnected', transport: null, retryAt: null, reason, final: true });
    this.#emit('change');
  }

  /** The machine woke up, the network is back or the page is looked at again: do not wait for a timer. */
  #wake() {
    this.#socket?.check();
    this.reconnect();
  }

  // Receiving ---------------------------------------------------------------------------------------------------------

  /** @param {ServerEvent} event */
  #receive(event) {
    if (event.type === 'hello') this.#welcome(event);
    else if (event.type === 'ack') this.#sender.acknowledged(event.client_msg_id);
    else if (event.type === 'error') this.#refused(event);
    else if (event.type === 'goaway') this.#reconnectAfter = (event.reconnect_after ?? 0) * 1000;
    else if (event.type === 'snapshot' || event.type === 'deleted' || event.seq !== undefined) this.#apply(event);
  }

  /** @param {ServerEvent} hello */
  #welcome(hello) {
    this.#poll?.abort();
    this.#poll = null;
    this.#unopened = 0;
    this.#sender.use(this.#socket);
    this.#transcript = { ...this.#transcript, epoch: hello.epoch };
    const scripted = hello.scripted === true;
    this.#setState({ status: 'connected', transport: 'socket', retryAt: null, reason: '', scripted });
    // With a snapshot to come, what is unsent is known only after it: it may show the message, or a run under way.
    if (hello.recovered) this.#sender.flush();
  }

  /** @param {ServerEvent} event */
  #apply(event) {
    const where = event.seq === undefined ? 'next' : place(this.#transcript, event);
    if (where === 'known') return;
    if (where === 'gap') return this.#socket?.end();
    this.#transcript = fold(this.#transcript, event);
    const shown = event.type === 'snapshot' ? event.messages : [event];
    for (const { client_msg_id: id } of shown) if (id) this.#outbox.remove(id);
    this.#sender.blocked = this.#transcript.runId !== null;
    this.#sender.flush();
    this.#emit('change');
  }

  /** @param {ServerEvent} error */
  #refused(error) {
    const { client_msg_id: id, code, message } = error;
    if (id) this.#sender.refused(id, /** @type {any} */ (error));
    else this.#emit('refused', { code, message });
  }

  // Polling -----------------------------------------------------------------------------------------------------------

  /** A browser hides why an upgrade was refused; the polling address says it, and serves where sockets are blocked. */
  async #askWhy() {
    const { signal } = this.#life;
    try {
      await this.#polling.ask(signal);
      if (!signal.aborted && this.#unopened >= BLOCKED && !this.#poll) await this.#pollOn();
    } catch (error) {
      const reason = error instanceof HttpError ? refusalReason(error.status) : null;
      if (reason && !signal.aborted && !this.#socket?.ready) this.#stop(reason);
    }
  }

  /** Poll until a socket opens or a poll fails; the next socket that does not open starts it again. */
  async #pollOn() {
    const poll = new AbortController();
    this.#poll = poll;
    /** @param {string} path @param {object} fields */
    const post = (path, fields) => this.#polling.post(path, fields, poll.signal);
    try {
      while (!poll.signal.aborted) {
        const hold = this.#state.transport === 'polling';
        const { epoch, events } = await this.#polling.events(this.#transcript, { signal: poll.signal, hold });
        if (poll.signal.aborted) return;
        this.#transcript = { ...this.#transcript, epoch };
        for (const event of events) this.#apply(event);
        if (hold) continue;
        this.#setState({ status: 'connected', transport: 'polling', retryAt: null, reason: '' });
        this.#sender.use({ post });
        this.#sender.flush();
      }
    } catch {
      if (this.#poll !== poll) return;
      this.#poll = null;
      this.#sender.use(null);
      this.#setDown(null);
    }
  }

  /** @param {{text: string} | {runId: string}} command */
  #enqueue(command) {
    const { clientMsgId } = this.#outbox.add(command);
    this.#sender.flush();
    this.#emit('change');
    return clientMsgId;
  }

  /** @param {Partial<State>} change */
  #setState(change) {
    this.#state = { ...this.#state, ...change };
    this.#emit('state');
  }

  /** @param {string} type @param {unknown} [detail] */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
