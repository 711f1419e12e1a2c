/**
 * A way to the server: a WebSocket, or polling where none opens. It comes back by itself, at once where there is reason
 * to think that it can, else with back-off (reconnect.js), and ends where the server says not to come back.
 *
 * @typedef {import('./transcript.js').ServerEvent} ServerEvent
 * @typedef {import('./sender.js').Channel} Channel
 * @typedef {'connecting' | 'connected' | 'reconnecting' | 'disconnected'} Status
 * @typedef {{status: Status, transport: 'socket' | 'polling' | null, retryAt: number | null, offline: boolean,
 *   reason: string, final: boolean, scripted: boolean}} State
 *   `retryAt`: when the next try starts (Date.now()); `offline`: the browser says that there is no network; `final`:
 *   only `connect()` tries again, and `reason` says why; `scripted`: the server has no model, a script answers
 * @typedef {{position: () => {epoch: string, seq: number}, up: (channel: Channel, recovered: boolean) => void,
 *   down: () => void, receive: (event: ServerEvent) => boolean, state: (change: Partial<State>) => void}} Session
 *   What a connection serves. `up`: commands go here from now on, and without `recovered` a snapshot comes first;
 *   `receive` takes an event, a snapshot with its epoch, and says false where something before it was missed.
 */
import { HttpError, Poller, within } from './polling.js';
import { delay, finalReason, refusalReason } from './reconnect.js';
import { ChatSocket } from './socket.js';

/** A socket that held for this long makes the next outage a new one. */
const STABLE = 5_000;
/** So many sockets in a row that never opened: say "disconnected", and poll. */
const BLOCKED = 3;
/** A dial that is older than this when the network returns was made into the void. */
const FRESH = 2_000;
/** A token that takes longer than this to get fails the dial, as a server that does not answer would. */
const TOKEN_TIMEOUT = 20_000;

export class Connection {
  /** @type {ChatSocket | null} */ #socket = null;
  /** @type {Poller | null} */ #poller = null;
  #life = new AbortController();
  #failures = 0;
  #unopened = 0;
  #reconnectAfter = 0;
  #timer = 0;
  #epoch = '';
  /** The life in which a token is being waited for. @type {AbortController | null} */ #asking = null;
  #url;
  #token;
  #polling;
  #session;

  /** @param {string} url the socket's @param {(() => string | Promise<string>) | null} token
   * @param {import('./polling.js').Polling} polling @param {Session} session */
  constructor(url, token, polling, session) {
    this.#url = url;
    this.#token = token;
    this.#polling = polling;
    this.#session = session;
    this.#life.abort();
  }

  /** Connect and stay connected, until `stop()` or until the server says not to come back. */
  start() {
    this.stop();
    this.#life = new AbortController();
    const { signal } = this.#life;
    const seen = () => document.visibilityState === 'visible' && this.#wake();
    document.addEventListener('visibilitychange', seen, { signal });
    addEventListener('pageshow', seen, { signal });
    addEventListener('online', () => this.#networkChanged(), { signal });
    addEventListener('offline', () => this.#networkChanged(), { signal });
    this.#failures = this.#unopened = this.#reconnectAfter = 0;
    const offline = !navigator.onLine;
    this.#session.state({ status: 'connecting', transport: null, retryAt: null, offline, reason: '', final: false });
    this.reconnect();
  }

  stop() {
    this.#life.abort();
    this.#poller?.stop();
    this.#poller = null;
    clearTimeout(this.#timer);
    this.#socket?.drop(1000);
    this.#socket = null;
    this.#session.down();
  }

  /** Try now instead of at `retryAt`. */
  reconnect() {
    if (!this.#socket && !this.#life.signal.aborted && this.#asking !== this.#life) this.#dial();
  }

  // The socket --------------------------------------------------------------------------------------------------------

  #dial() {
    clearTimeout(this.#timer);
    if (this.#token) this.#dialWith(this.#token);
    else this.#open([]);
  }

  /** @param {() => string | Promise<string>} token */
  async #dialWith(token) {
    const life = (this.#asking = this.#life);
    try {
      const signal = AbortSignal.any([life.signal, AbortSignal.timeout(TOKEN_TIMEOUT)]);
      const protocols = ['moorline', `moorline.jwt.${await within(token(), signal)}`];
      if (!life.signal.aborted) this.#open(protocols);
    } catch {
      if (!life.signal.aborted) this.#lost(1006, false);
    } finally {
      if (this.#asking === life) this.#asking = null;
    }
  }

  /** @param {string[]} protocols */
  #open(protocols) {
    const { epoch, seq } = this.#session.position();
    const hello = { type: 'hello', v: 2, ...(epoch && { resume: { epoch, seq } }) };
    try {
      this.#socket = new ChatSocket(
        this.#url,
        protocols,
        hello,
        (frame) => this.#receive(frame),
        (code, greeted) => this.#lost(code, greeted),
      );
    } catch {
      // A content security policy without ws: makes some browsers throw where others report a socket that failed.
      return this.#lost(1006, false);
    }
    if (!this.#poller) this.#session.state({ retryAt: null });
  }

  /** @param {ServerEvent} frame */
  #receive(frame) {
    if (frame.type === 'hello') this.#welcome(frame);
    else if (frame.type === 'goaway') this.#reconnectAfter = (frame.reconnect_after ?? 0) * 1000;
    // A snapshot belongs to the epoch of its hello; the one we are in holds until it is here.
    else if (frame.type === 'snapshot') this.#session.receive({ ...frame, epoch: this.#epoch });
    else if (!this.#session.receive(frame)) this.#socket?.end();
  }

  /** @param {ServerEvent} hello */
  #welcome(hello) {
    const socket = /** @type {ChatSocket} */ (this.#socket);
    this.#poller?.stop();
    this.#poller = null;
    this.#unopened = 0;
    this.#epoch = hello.epoch;
    const scripted = hello.scripted === true;
    this.#session.state({ status: 'connected', transport: 'socket', retryAt: null, reason: '', scripted });
    // A listener of the state may have closed the connection.
    if (this.#socket === socket) this.#session.up(socket, hello.recovered === true);
  }

  /** @param {number} code @param {boolean} greeted */
  #lost(code, greeted) {
    if (greeted && this.#socket && this.#socket.age > STABLE) this.#failures = 0;
    this.#socket = null;
    if (!this.#poller) this.#session.down();
    const final = finalReason(code);
    if (final) return this.#end(final);
    this.#failures += 1;
    this.#unopened = greeted ? 0 : this.#unopened + 1;
    const wait = this.#reconnectAfter + delay(this.#failures, code, Math.random());
    this.#reconnectAfter = 0;
    this.#timer = setTimeout(() => this.#dial(), wait);
    const status = this.#unopened >= BLOCKED ? 'disconnected' : 'reconnecting';
    const retryAt = Date.now() + wait;
    if (!this.#poller) this.#session.state({ status, transport: null, retryAt, reason: '' });
    if (!greeted) this.#askWhy();
  }

  /** A browser hides why an upgrade was refused; the polling address says it, and serves where sockets are blocked. */
  async #askWhy() {
    const { signal } = this.#life;
    try {
      await this.#polling.ask(signal);
    } catch (error) {
      if (!signal.aborted && !this.#socket?.ready) this.#refused(error);
      return;
    }
    if (signal.aborted || this.#unopened < BLOCKED || this.#poller) return;
    this.#poller = new Poller(this.#polling, this.#session, (error) => this.#refused(error));
    await this.#poller.run();
  }

  /** @param {unknown} error */
  #refused(error) {
    const reason = error instanceof HttpError ? refusalReason(error.status) : null;
    if (reason) this.#end(reason);
  }

  /** @param {string} reason */
  #end(reason) {
    this.stop();
    this.#session.state({ status: 'disconnected', transport: null, retryAt: null, reason, final: true });
  }

  // What happens around the page --------------------------------------------------------------------------------------

  #networkChanged() {
    const offline = !navigator.onLine;
    this.#session.state({ offline });
    // Without a network the socket is not lost yet, but soon nothing else will say so.
    if (offline) this.#socket?.probe();
    else this.#wake();
  }

  /** The machine woke up, the network is back or the page is looked at again: do not wait for a timer. */
  #wake() {
    this.#poller?.wake();
    if (this.#socket?.ready) this.#socket.probe();
    else if (this.#socket && this.#socket.age > FRESH) {
      this.#socket.drop();
      this.#socket = null;
    }
    this.reconnect();
  }
}
