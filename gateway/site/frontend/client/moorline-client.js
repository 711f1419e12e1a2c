/**
 * A chat session that holds: protocol version 2 over a WebSocket, HTTP polling where no WebSocket passes, and what is
 * possible with servers that know version 1 alone (version1.js).
 *
 *     const client = new MoorlineClient({ patientId: 'patient:demo', sessionId: 'a1' });
 *     client.addEventListener('change', () => draw(client.transcript, client.unsent));
 *     client.addEventListener('state', () => show(client.state));
 *     client.connect();
 *     client.send('Hello');              // before, during or after an outage: it is kept until the server has it
 *
 * How a frame travels: connection.js has it from a socket (socket.js) or a poll (polling.js) and hands it to
 * `#receive`, which folds it into the transcript (transcript.js). Where something was missed, the connection asks for
 * it. The other way, sender.js sends what outbox.js keeps.
 *
 * `transcript`, `state` and `unsent` are new objects at each change and the same ones otherwise. Events: `state`,
 * `change`, and `refused` (detail: {code, message}) for a command that is no unsent message.
 *
 * @typedef {import('./transcript.js').ServerEvent} ServerEvent
 * @typedef {import('./types.js').State} State
 * @typedef {import('./types.js').Transcript} Transcript
 */
import { Connection, INITIAL } from './connection.js';
import { Outbox, usableStorage, uuid } from './outbox.js';
import { Polling } from './polling.js';
import { MISSING_REASON } from './reconnect.js';
import { Sender } from './sender.js';
import { EMPTY, fate, fold, place, prepend, questionOf } from './transcript.js';

export { usableStorage, uuid };

const EARLIER_ROWS = 100;

export class MoorlineClient extends EventTarget {
  /** @type {Transcript} */ #transcript = EMPTY;
  /** @type {State} */ #state = { ...INITIAL, version: null, scripted: false };
  /** Where something was missed the last time. */
  #gapAt = -1;
  /** The server cannot fill the gap: it is asked for everything. */
  #incomplete = false;
  /** Of the chat that is written to, once it has begun. @type {string | undefined} */ #epoch;
  #life = new AbortController();
  #polling;
  #outbox;
  #sender;
  #connection;

  /** Touches nothing of the browser but its storage, so that a server may construct one to render a page.
   *
   * @param {import('./types.js').MoorlineClientOptions} options */
  constructor(options) {
    super();
    const { patientId, sessionId, origin, storage = usableStorage() } = options;
    const { credentials = 'same-origin', token = null, headers = {}, ticket, explain } = options;
    const path = [patientId, sessionId].map(encodeURIComponent).join('/').replaceAll('%3A', ':');
    const given = origin && new URL(origin).origin;
    const base = () => given || location.origin;
    this.#polling = new Polling(base, patientId, sessionId, { credentials, token, headers, explain });
    this.#outbox = new Outbox(sessionId, storage);
    this.#sender = new Sender(
      this.#outbox,
      () => this.#emit('change'),
      ({ code, message = '' }) => this.#emit('refused', { code, message }),
      () => this.#transcript,
    );
    const url = () => `${base().replace(/^http/, 'ws')}/ws/chat/${path}`;
    const bearer = token ? async () => `jwt.${await token()}` : null;
    const credential = ticket ? async () => `ticket.${await this.#polling.ticket()}` : bearer;
    this.#connection = new Connection(url, credential, token, this.#polling, {
      // Without an epoch the server sends everything.
      position: () => (this.#incomplete ? { ...this.#transcript, epoch: '' } : this.#transcript),
      use: (channel) => this.#use(channel),
      receive: (event) => this.#receive(event),
      state: (change) => this.#setState(change),
    });
  }

  get transcript() {
    return this.#transcript;
  }

  get state() {
    return this.#state;
  }

  /** Messages that the transcript does not show yet. */
  get unsent() {
    return this.#outbox.messages;
  }

  /** The message being sent right now, if any: its `clientMsgId`. */
  get sending() {
    return this.#sender.inFlight;
  }

  /** The run that was asked to stop and has not ended yet, if any. */
  get stopping() {
    return this.#sender.stopping;
  }

  /** Whether a new answer in place of this run's has been asked for and has not begun. @param {string} runId */
  retrying(runId) {
    return this.#outbox.retryOf(runId) !== undefined;
  }

  /** Call `listener` after each change of `transcript`, `unsent` or `state`; returns what ends it. Bound, so that it
   * may be passed on as it is: `useSyncExternalStore(client.subscribe, () => client.transcript)`.
   * @param {() => void} listener */
  subscribe = (listener) => {
    this.addEventListener('change', listener);
    this.addEventListener('state', listener);
    return () => {
      this.removeEventListener('change', listener);
      this.removeEventListener('state', listener);
    };
  };

  // What a person does ------------------------------------------------------------------------------------------------

  /** Connect and stay connected, until `close()` or until the server says not to come back. */
  connect() {
    this.#life.abort();
    this.#life = new AbortController();
    const { signal } = this.#life;
    addEventListener('storage', (event) => this.#outbox.storageChanged(event) && this.#emit('change'), { signal });
    // Before the connection hears of it, which would send what is unsent.
    addEventListener('pageshow', (event) => event.persisted && this.#outbox.recheck() && this.#emit('change'), { signal });
    this.#connection.start();
  }

  close() {
    this.#life.abort();
    // The state first, then what follows from it: a listener that closes the client would be called without end.
    this.#setState({ status: 'disconnected', transport: null, retryAt: null });
    this.#connection.stop();
  }

  /** Try now instead of at `state.retryAt`. */
  reconnect() {
    this.#connection.reconnect();
  }

  /** Send a message; it is kept until the server has committed it. @param {string} text @returns {string} its id */
  send(text) {
    return this.#enqueue({ text });
  }

  /** Ask for a new answer where one did not end well. Version 1 has no such command: there the question is sent once
   * more. @param {string} runId @returns {string | null} the command's id; null: the question is not known */
  retry(runId) {
    // A second click wants no second answer.
    const waiting = this.#outbox.retryOf(runId);
    if (waiting) return waiting.clientMsgId;
    if (this.#state.version !== 1) return this.#enqueue({ runId });
    const text = questionOf(this.#transcript, runId);
    if (text) return this.#enqueue({ text, runId });
    this.#emit('refused', { code: 'unsupported', message: '' });
    return null;
  }

  /** Stop the answer being written. @param {string | null} [runId] */
  async cancel(runId = this.#transcript.runId) {
    if (!runId) return;
    if (this.#state.version === 1) return this.#emit('refused', { code: 'unsupported', message: '' });
    this.#sender.stop(runId);
    this.#emit('change');
    if (this.#sender.open) return;
    try {
      await this.#polling.post('cancel', { run_id: runId }, this.#life.signal);
    } catch {
      // The server cannot be reached. `cancel` is sent again once it can, if the answer is still being written then.
    }
  }

  /** Send a message again that has failed. @param {string} clientMsgId */
  resend(clientMsgId) {
    this.#outbox.revive(clientMsgId, this.#epoch);
    this.#sender.flush();
    this.#emit('change');
  }

  /** Take back a message that was not sent, or all of them; they leave the browser's storage, too.
   * @param {string} [clientMsgId] */
  discard(clientMsgId) {
    if (clientMsgId !== undefined) this.#outbox.remove(clientMsgId);
    else for (const entry of this.#outbox.entries) this.#outbox.remove(entry.clientMsgId);
    this.#emit('change');
  }

  /** Erase the chat: on the server, and what this browser keeps of it. Rejects where the server did not do so. */
  async erase() {
    // A database that lacks it would have nothing to erase, and the one that has it may come back.
    if (this.#state.reason === MISSING_REASON) throw new Error(MISSING_REASON);
    await this.#polling.erase();
    this.#outbox.forget();
  }

  /** Load rows from before the transcript's first. */
  async loadEarlier() {
    const first = this.#transcript.rows[0]?.seq;
    if (first === undefined) return;
    const rows = await this.#polling.earlier(first, EARLIER_ROWS);
    // A snapshot may have come meanwhile, and begin elsewhere.
    if (this.#transcript.rows[0]?.seq !== first) return;
    this.#transcript = prepend(this.#transcript, rows, rows.length === EARLIER_ROWS);
    this.#emit('change');
  }

  // What the connection brings ----------------------------------------------------------------------------------------

  /** Where there is a channel, a snapshot that was to come is here: it may show a message that is unsent, or a run under
   * way. @param {import('./sender.js').Channel | null} channel */
  #use(channel) {
    this.#sender.use(channel);
    this.#sender.flush();
    this.#emit('change');
  }

  /** @param {ServerEvent} event @returns {boolean} false: something before it was missed */
  #receive(event) {
    if (event.type === 'ack') this.#sender.acknowledged(/** @type {any} */ (event));
    else if (event.type === 'error') this.#refused(event);
    else if (event.type === 'snapshot') return this.#begin(event);
    else if (event.type === 'deleted') this.#apply(event);
    else if (typeof event.seq === 'number') return this.#follow(event);
    return true;
  }

  /** @param {ServerEvent} snapshot @returns {boolean} false: the connection has ended, or waits */
  #begin(snapshot) {
    const found = fate(this.#transcript, snapshot);
    // What a socket is told that is open at the erasure. Of a chat that is missing, what is shown may be all there is.
    if (found === 'deleted') this.#apply({ type: 'deleted' });
    if (found !== 'on') {
      this.#connection[found]();
      return false;
    }
    this.#incomplete = false;
    if (this.#epoch) this.#outbox.move(this.#epoch, snapshot.epoch);
    this.#apply(snapshot);
    return true;
  }

  /** @param {ServerEvent} event */
  #follow(event) {
    const where = place(this.#transcript, event);
    if (where === 'next') this.#apply(event);
    if (where !== 'gap') return true;
    // Missed twice at one place.
    if (this.#gapAt === this.#transcript.seq) this.#incomplete = true;
    this.#gapAt = this.#transcript.seq;
    return false;
  }

  /** @param {ServerEvent} event */
  #apply(event) {
    this.#transcript = fold(this.#transcript, event);
    this.#note(event);
    const shown = event.type === 'snapshot' ? event.messages : [event];
    for (const { client_msg_id: id } of shown) if (id) this.#outbox.remove(id);
    if (event.type === 'deleted') this.#outbox.forget();
    this.#sender.moved(this.#transcript.runId);
    // After a message of a person comes the run for it: nothing else can be sent in between. An erased chat gets none.
    if (event.type !== 'user' && event.type !== 'deleted') this.#sender.flush();
    this.#emit('change');
  }

  /** Which chat is written to. Of an erased one that stays so: what is written there still does not begin another.
   * @param {ServerEvent} event */
  #note({ type }) {
    if (type === 'deleted') return;
    const { epoch, seq } = this.#transcript;
    this.#epoch = (seq && epoch) || undefined;
    if (this.#epoch) this.#outbox.move(undefined, this.#epoch);
  }

  /** @param {ServerEvent} error */
  #refused(error) {
    const { client_msg_id: id, code, message } = error;
    if (id) this.#sender.refused(id, /** @type {any} */ (error));
    else this.#emit('refused', { code, message });
  }

  /** @param {{text?: string, runId?: string}} command */
  #enqueue(command) {
    const { clientMsgId } = this.#outbox.add({ ...command, epoch: this.#epoch });
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
