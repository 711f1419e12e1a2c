/** One WebSocket from dialling to its end, whichever way it ends: a close, a refusal, or silence. */

/** From dialling to the server's hello: a gateway may hold the handshake while its backend restarts. */
const OPEN_TIMEOUT = 20_000;
/** The server pings once per heartbeat; silence for so many of them means that the connection is dead. */
const SILENT_HEARTBEATS = 2;
/** The protocol's default, for a hello that names none. */
const HEARTBEAT = 20;
/** A command is answered once it is committed, which a busy database may delay. */
const REPLY_TIMEOUT = 10_000;
/** A ping is answered at once. */
const PROBE_TIMEOUT = 5_000;
/** A timer for the whole silence would not count the time that the machine sleeps; the clock, asked often, does. */
const TICK = 1_000;

export class ChatSocket {
  #socket;
  #onEnd;
  #bornAt = Date.now();
  #greetedAt = 0;
  #silence = OPEN_TIMEOUT;
  #deadline = Date.now() + OPEN_TIMEOUT;
  #watchdog;

  /** Throws where the page may open no WebSocket at all.
   * @param {string} url @param {string[]} protocols the server must select the first, if there is any
   * @param {object | null} hello the first frame; null in version 1, which has none
   * @param {{opened: () => void, frame: (frame: any) => void, ended: (code: number, greeted: boolean, reason: string) =>
   * void}} owner
   * `opened`: a socket of version 1 takes messages; `ended` is called once, `greeted`: it was ready before */
  constructor(url, protocols, hello, { opened, frame: onFrame, ended }) {
    this.#onEnd = ended;
    this.#socket = new WebSocket(url, protocols);
    this.#socket.onopen = () => {
      // Most browsers fail such a handshake themselves, as the HTML standard has it; RFC 6455 leaves it to the client.
      if (this.#socket.protocol !== (protocols[0] ?? '')) return this.end();
      if (hello) return this.#write(hello);
      this.#greet(Infinity);
      this.#deadline = Infinity;
      opened();
    };
    this.#socket.onmessage = ({ data }) => {
      const frame = parse(data);
      // A server that sends anything else does not speak this protocol.
      if (!frame) return this.end();
      if (frame.type === 'hello') this.#greet(frame.heartbeat);
      this.#deadline = Date.now() + this.#silence;
      onFrame(frame);
    };
    this.#socket.onclose = ({ code, reason }) => this.#end(code, reason);
    // A dead connection may take minutes to close; what counts is that nothing was received.
    this.#watchdog = setInterval(() => this.#watch(), TICK);
  }

  /** Whether the server takes commands: it has said hello, or its version has none. */
  get ready() {
    return this.#greetedAt > 0;
  }

  /** For how long the socket has been ready, or has been dialled, in milliseconds. */
  get age() {
    return Date.now() - (this.#greetedAt || this.#bornAt);
  }

  /** Say something that the server answers. @param {object} command @param {number} [time] for the answer */
  ask(command, time = REPLY_TIMEOUT) {
    this.#write(command);
    this.expect(time);
  }

  /** The next frame must come within this time, or the connection is dead. @param {number} time */
  expect(time) {
    this.#deadline = Math.min(this.#deadline, Date.now() + time);
  }

  /** Find out soon whether the server still answers: after a sleep, or on another network, no event says so. */
  probe() {
    this.#watch();
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    this.#write({ type: 'ping' });
    this.expect(PROBE_TIMEOUT);
  }

  /** Close it without a call of `onEnd`. @param {number} [code] */
  drop(code) {
    clearInterval(this.#watchdog);
    this.#onEnd = () => {};
    this.#socket.onmessage = this.#socket.onopen = null;
    this.#socket.close(code);
  }

  /** End it as if it had been lost. */
  end() {
    this.#end(1006);
  }

  /** @param {object} frame */
  #write(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  /** @param {unknown} seconds */
  #greet(seconds) {
    this.#silence = SILENT_HEARTBEATS * (Number(seconds) || HEARTBEAT) * 1000;
    this.#greetedAt = Date.now();
  }

  #watch() {
    const now = Date.now();
    // A clock that was set back by an hour would wait for an hour longer.
    this.#deadline = Math.min(this.#deadline, now + this.#silence);
    if (now > this.#deadline) this.end();
  }

  /** @param {number} code @param {string} [reason] */
  #end(code, reason = '') {
    const report = this.#onEnd;
    this.drop();
    report(code, this.ready, reason);
  }
}

/** @param {unknown} data @returns {any} the frame, or null for what is none */
function parse(data) {
  try {
    const frame = JSON.parse(/** @type {string} */ (data));
    return typeof frame === 'object' ? frame : null;
  } catch {
    return null;
  }
}
