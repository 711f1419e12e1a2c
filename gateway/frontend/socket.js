/** One WebSocket from dialling to its end, whichever way it ends: a close, a refusal, or silence. */

/** From dialling to the server's hello: a gateway may hold the handshake while its backend restarts. */
const OPEN_TIMEOUT = 20_000;
/** The server pings once per heartbeat; silence for so many of them means that the connection is dead. */
const SILENT_HEARTBEATS = 2;

export class ChatSocket {
  #socket;
  #onEnd;
  #opened = false;
  #heartbeat = 0;
  #heardAt = Date.now();
  #greetedAt = 0;
  #watchdog = 0;

  /** @param {string} url @param {object} hello the first frame
   * @param {(frame: any) => void} onFrame @param {(code: number, opened: boolean) => void} onEnd called once */
  constructor(url, hello, onFrame, onEnd) {
    this.#onEnd = onEnd;
    this.#socket = new WebSocket(url);
    this.#socket.onopen = () => {
      this.#opened = true;
      this.write(hello);
    };
    this.#socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.type === 'hello') this.#greet(frame.heartbeat);
      this.#heardAt = Date.now();
      this.#watch(this.#silence);
      onFrame(frame);
    };
    this.#socket.onclose = ({ code }) => this.#end(code);
    this.#watch(OPEN_TIMEOUT);
  }

  /** Whether the server has said hello: from here on it takes commands. */
  get ready() {
    return this.#greetedAt > 0;
  }

  /** For how long the socket has been ready, in milliseconds. */
  get age() {
    return this.ready ? Date.now() - this.#greetedAt : 0;
  }

  /** @param {object} command */
  write(command) {
    this.#socket.send(JSON.stringify(command));
  }

  /** Let go of it, without a word to `onEnd`. @param {number} [code] */
  drop(code) {
    clearTimeout(this.#watchdog);
    this.#onEnd = () => {};
    this.#socket.onmessage = this.#socket.onopen = null;
    this.#socket.close(code);
  }

  /** After a sleep timers are late: end the socket now if it has been silent for too long. */
  check() {
    if (this.ready && Date.now() - this.#heardAt > this.#silence) this.end();
  }

  /** End it as if it had been lost. */
  end() {
    this.#end(1006);
  }

  get #silence() {
    return this.ready ? SILENT_HEARTBEATS * this.#heartbeat : OPEN_TIMEOUT;
  }

  /** @param {number} seconds */
  #greet(seconds) {
    this.#heartbeat = seconds * 1000;
    this.#greetedAt = Date.now();
  }

  /** @param {number} time */
  #watch(time) {
    clearTimeout(this.#watchdog);
    // A dead connection may take minutes to close; what counts is that nothing was heard.
    this.#watchdog = setTimeout(() => this.end(), time);
  }

  /** @param {number} code */
  #end(code) {
    const report = this.#onEnd;
    this.drop();
    report(code, this.#opened);
  }
}
