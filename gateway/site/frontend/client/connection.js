/**
 * A way to the server: a WebSocket, or polling where none opens. It comes back by itself, at once where there is reason
 * to think that it can, else with back-off (reconnect.js), and ends where the server says not to come back.
 *
 * @typedef {import('./transcript.js').ServerEvent} ServerEvent
 * @typedef {import('./sender.js').Channel} Channel
 * @typedef {import('./types.js').State} State
 * @typedef {{position: () => import('./types.js').Transcript, use: (channel: Channel | null) => void,
 *   receive: (event: ServerEvent) => boolean, state: (change: Partial<State>) => void}} Session
 *   What a connection serves. `use`: commands go here from now on, or nowhere; `receive` takes an event, a snapshot with
 *   its epoch. False: something before it was missed, or a snapshot is of another chat, which the session has told the
 *   connection.
 */
import { HttpError, Poller, within } from './polling.js';
import {
  DELETED,
  MISSING_REASON,
  NO_SOCKET_REASON,
  delay,
  finalReason,
  isAbnormal,
  outageReason,
  refusalReason,
  toldByReason,
} from './reconnect.js';
import { ChatSocket } from './socket.js';
import { Version1 } from './version1.js';

/** What a server of version 2 selects. A server of version 1 does not know it, and so never gets a `hello`. */
const SUBPROTOCOL = 'moorline';

/** A socket that held for this long makes the next outage a new one. */
const STABLE = 5_000;
/** So many sockets in a row that never opened: say "disconnected", and poll. */
const BLOCKED = 3;
/** A dial that is older than this when the network returns was made into the void. */
const FRESH = 2_000;
/** A token or ticket that takes longer than this to get fails the dial, as a server that does not answer would. */
const TOKEN_TIMEOUT = 20_000;

/** The code of a socket that this side has left, as if the server went away: there is no fault to ask for. */
const LEFT = 1001;

/** Where a start begins. What the server was stays known. @type {Omit<State, 'version' | 'scripted'>} */
export const INITIAL = {
  status: 'connecting',
  transport: null,
  retryAt: null,
  offline: false,
  reason: '',
  final: false,
  ended: null,
};

export class Connection {
  /** @type {ChatSocket | null} */ #socket = null;
  /** @type {Poller | null} */ #poller = null;
  #life = new AbortController();
  #failures = 0;
  #unopened = 0;
  #reconnectAfter = 0;
  #reconnectWithin = 0;
  /** Until when clients come back from a restart that was announced. */
  #returning = 0;
  #timer = 0;
  /** Of the socket. @type {ServerEvent | null} */ #hello = null;
  #reason = '';
  /** @type {1 | 2} */ #version = 2;
  /** Whether the server selects the subprotocol; one of version 2 may not. */
  #selects = true;
  /** The socket, where it is of version 1. @type {Version1 | null} */ #version1 = null;
  /** The life in which a token or ticket is being waited for. @type {AbortController | null} */ #asking = null;
  #url;
  #credential;
  #token;
  #polling;
  #session;

  /** @param {() => string} url the socket's @param {import('./types.js').TokenSource | null} credential what a subprotocol
   * carries: `jwt.TOKEN` or `ticket.TICKET` @param {import('./types.js').TokenSource | null} token what messages of
   * version 1 carry @param {import('./polling.js').Polling} polling @param {Session} session */
  constructor(url, credential, token, polling, session) {
    this.#url = url;
    this.#credential = credential;
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
    for (const change of ['online', 'offline']) addEventListener(change, () => this.#networkChanged(), { signal });
    this.#failures = this.#unopened = this.#reconnectAfter = this.#reconnectWithin = this.#returning = 0;
    this.#version = 2;
    this.#selects = true;
    this.#reason = '';
    this.#session.state({ ...INITIAL, offline: !navigator.onLine });
    this.reconnect();
  }

  stop() {
    this.#life.abort();
    this.#stopPolling();
    clearTimeout(this.#timer);
    this.#socket?.drop(1000);
    this.#socket = null;
    this.#session.use(null);
    this.#endVersion1();
  }

  #stopPolling() {
    this.#poller?.stop();
    this.#poller = null;
  }

  /** End it as the server ends the socket of a session that is erased. */
  deleted() {
    this.#end(/** @type {string} */ (finalReason(DELETED)));
  }

  /** The server does not have the chat: try again as after an outage, until it has. */
  missing() {
    this.#stopPolling();
    if (this.#socket?.ready) {
      this.#socket.drop(1000);
      this.#lost(LEFT, true);
    } else this.#session.use(null);
    this.#explain(MISSING_REASON, { status: 'disconnected', transport: null });
  }

  /** Try now instead of at `retryAt`. */
  reconnect() {
    if (!this.#socket && !this.#life.signal.aborted && this.#asking !== this.#life) this.#dial();
  }

  // The socket --------------------------------------------------------------------------------------------------------

  #dial() {
    clearTimeout(this.#timer);
    // A server of version 1 selects no subprotocol, and browsers fail such a handshake: its messages carry the token.
    const secret = this.#version === 1 ? this.#token : this.#credential;
    if (secret) this.#dialWith(secret);
    else this.#open(this.#selects && this.#version === 2 ? [SUBPROTOCOL] : []);
  }

  /** @param {import('./types.js').TokenSource} secret */
  async #dialWith(secret) {
    const life = (this.#asking = this.#life);
    const version = this.#version;
    try {
      const signal = AbortSignal.any([life.signal, AbortSignal.timeout(TOKEN_TIMEOUT)]);
      const got = await within(secret(), signal);
      if (life.signal.aborted || this.#socket) return;
      // Meanwhile the server may have turned out to be of the other version.
      if (this.#version !== version) this.#dial();
      else if (version === 1) this.#open([], got);
      else this.#open([SUBPROTOCOL, `${SUBPROTOCOL}.${got}`]);
    } catch {
      if (!life.signal.aborted && !this.#socket) this.#lost(1006, false);
    } finally {
      if (this.#asking === life) this.#asking = null;
    }
  }

  /** @param {string[]} protocols @param {string} [token] of version 1 */
  #open(protocols, token) {
    const { epoch, seq } = this.#session.position();
    const hello = this.#version === 1 ? null : { type: 'hello', v: 2, ...(epoch && { resume: { epoch, seq } }) };
    try {
      this.#socket = new ChatSocket(this.#url(), protocols, hello, {
        opened: () => this.#beginVersion1(token),
        frame: (frame) => (this.#version1 ? this.#version1.receive(frame) : this.#receive(frame)),
        ended: (code, greeted, reason) => {
          const told = toldByReason(reason);
          if (told) this.#leave(told);
          this.#lost(code, greeted);
        },
      });
    } catch {
      // A content security policy without ws: makes some browsers throw where others report a socket that failed.
      return this.#lost(1006, false);
    }
    if (!this.#poller) this.#session.state({ retryAt: null });
  }

  /** @param {ServerEvent} frame */
  #receive(frame) {
    if (frame.type === 'hello') this.#welcome(frame);
    else if (frame.type === 'goaway') this.#leave(frame);
    else if (frame.type === 'snapshot') this.#welcome(/** @type {ServerEvent} */ (this.#hello), frame);
    else if (!this.#session.receive(frame)) this.#socket?.end();
  }

  /** @param {Partial<ServerEvent>} goaway */
  #leave({ reconnect_after: after = 0, reconnect_within: within = 0 }) {
    this.#reconnectAfter = after * 1000;
    this.#reconnectWithin = within * 1000;
    this.#returning = Date.now() + this.#reconnectAfter + this.#reconnectWithin;
  }

  /** It says whether the chat goes on or a snapshot says what there is. @param {ServerEvent} hello
   * @param {ServerEvent} [snapshot] once it is here */
  #welcome(hello, snapshot) {
    this.#hello = hello;
    const socket = /** @type {ChatSocket} */ (this.#socket);
    // A snapshot belongs to the epoch of its hello, and follows at once; the one we are in holds until it is here.
    const entered = snapshot ? this.#session.receive({ ...snapshot, epoch: hello.epoch }) : hello.recovered;
    // A listener of it may have closed the connection.
    if (entered && this.#socket === socket) this.#connected(socket, { version: 2, scripted: hello.scripted === true });
  }

  /** @param {string} [token] */
  async #beginVersion1(token) {
    const socket = /** @type {ChatSocket} */ (this.#socket);
    const version1 = (this.#version1 = new Version1(socket, this.#session, token));
    version1.endRun();
    const history = await this.#polling.history(this.#session.position(), this.#life.signal);
    if (this.#version1 !== version1) return;
    if (!Array.isArray(history)) {
      // A server of version 2 has taken the place of the other. It speaks version 1, too, but cannot resume in it.
      this.#version = 2;
      return socket.end();
    }
    version1.recall(history);
    this.#connected(version1, { version: 1, scripted: false });
  }

  #endVersion1() {
    const version1 = this.#version1;
    this.#version1 = null;
    version1?.endRun();
  }

  /** @param {Channel} channel @param {{version: 1 | 2, scripted: boolean}} server */
  #connected(channel, server) {
    const socket = this.#socket;
    this.#stopPolling();
    this.#unopened = this.#returning = 0;
    this.#reason = '';
    this.#session.state({ status: 'connected', transport: 'socket', retryAt: null, reason: '', ...server });
    // A listener of the state may have closed the connection.
    if (this.#socket === socket) this.#session.use(channel);
  }

  /** @param {number} code @param {boolean} greeted */
  #lost(code, greeted) {
    if (greeted && this.#socket && this.#socket.age > STABLE) this.#failures = 0;
    this.#socket = null;
    if (!this.#poller) this.#session.use(null);
    // A listener of the change may have closed the connection.
    if (this.#life.signal.aborted) return;
    this.#endVersion1();
    // By which the gateway knows the socket, where the server says it.
    const requestId = greeted && this.#hello?.request_id;
    this.#hello = null;
    const final = finalReason(code);
    if (final) return this.#end(final);
    this.#failures += 1;
    this.#unopened = greeted ? 0 : this.#unopened + 1;
    const wait = this.#reconnectAfter + delay(this.#failures, code, Math.random(), this.#reconnectWithin);
    this.#reconnectAfter = this.#reconnectWithin = 0;
    this.#timer = setTimeout(() => this.#dial(), wait);
    const status = this.#unopened >= BLOCKED ? 'disconnected' : 'reconnecting';
    if (greeted) this.#reason = '';
    if (!this.#poller) this.#session.state({ status, transport: null, retryAt: Date.now() + wait, reason: this.#reason });
    // Why a dial fails during a restart is known, and a poll for each client would keep the server from it.
    if (!greeted && Date.now() >= this.#returning) this.#askWhy();
    else if (isAbnormal(code)) this.#askCause(requestId);
  }

  /** Who ended the socket, and why: the page sees no more than a code. @param {string} requestId */
  async #askCause(requestId) {
    const { signal } = this.#life;
    // The gateway may have ended as well.
    const ended = await this.#polling.ended(requestId).catch(() => null);
    if (ended && !signal.aborted) this.#session.state({ ended });
  }

  /** A browser hides why an upgrade was refused; the polling address says it, and serves where sockets are blocked. */
  async #askWhy() {
    const { signal } = this.#life;
    let version;
    try {
      version = await this.#polling.version(this.#session.position(), signal);
    } catch (error) {
      if (!signal.aborted && !this.#socket?.ready) this.#refused(error);
      return;
    }
    if (signal.aborted || this.#socket?.ready) return;
    if (version !== this.#version) return this.#speak(version);
    if (version === 2) this.#selects = false;
    if (this.#unopened < BLOCKED || this.#poller) return;
    if (version === 1) return this.#explain(NO_SOCKET_REASON);
    this.#poller = new Poller(this.#polling, this.#session, (error) => this.#refused(error));
    await this.#poller.run();
  }

  /** Dial for the version that the server has turned out to speak: at once, but with back-off where that changes again
   * and again, as with two kinds of servers at one address. @param {1 | 2} version */
  #speak(version) {
    this.#version = version;
    this.#selects = true;
    this.#unopened = 0;
    if (this.#poller) this.#session.use(null);
    this.#stopPolling();
    if (this.#failures > 1) return;
    this.#socket?.drop();
    this.#socket = null;
    this.#dial();
  }

  /** @param {unknown} error */
  #refused(error) {
    const status = error instanceof HttpError ? error.status : 0;
    const reason = refusalReason(status);
    if (reason) this.#end(reason);
    else this.#explain(outageReason(status));
  }

  /** @param {string} reason */
  #explain(reason, change = {}) {
    this.#reason = reason;
    this.#session.state({ ...change, reason });
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
    if (offline) return this.#probe();
    // There is no asking a socket of version 1, and nothing is lost with it.
    if (this.#version1?.idle) this.#socket?.end();
    this.#wake();
  }

  #probe() {
    (this.#version1 ?? this.#socket)?.probe();
  }

  /** The machine woke up, the network returned or the page became visible: do not wait for a timer. */
  #wake() {
    this.#poller?.wake();
    if (this.#socket?.ready) this.#probe();
    else if (this.#socket && this.#socket.age > FRESH) {
      this.#socket.drop();
      this.#socket = null;
    }
    this.reconnect();
  }
}
