/** The session over plain HTTP: for networks that let no WebSocket through, and for the reason that a socket hides. */
import { delay } from './reconnect.js';

/** How long the server may hold a poll; the page gives up on it a little later. */
const WAIT = 20_000;
const GRACE = 10_000;
/** Where a developer looks at the page: the gateway is on this machine. */
const LOCAL = /^(localhost|127\.[\d.]+|\[::1\])$/;
/** From one poll that found nothing to the next. */
const PACE = 1_000;

/** An answer that is not the one asked for. */
export class HttpError extends Error {
  /** @param {number} status @param {string} code of the problem document, "" where there is none @param {number} [retryAfter] seconds */
  constructor(status, code, retryAfter) {
    super(`${status} ${code}`);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** As an `error` frame of the socket would say it. */
  get refusal() {
    const signedOut = this.status === 401;
    const retryable = signedOut || this.status >= 500 || this.status === 408 || this.status === 429 || this.code === 'busy';
    return { code: signedOut ? 'signed_out' : this.code || 'internal', retryable, retry_after: this.retryAfter };
  }
}

export class Polling {
  #origin;
  #path;
  #patientId;
  #how;

  /** @param {() => string} origin @param {string} patientId @param {string} sessionId
   * @param {{credentials: RequestCredentials, token: import('./types.js').TokenSource | null,
   *   headers: import('./types.js').HeadersSource, explain?: boolean}} how
   */
  constructor(origin, patientId, sessionId, how) {
    this.#origin = origin;
    this.#path = `/api/chat/${encodeURIComponent(sessionId)}`;
    this.#patientId = patientId;
    this.#how = how;
  }

  /** Which version of the protocol the server speaks: one of version 1 ignores the position and sends a list of rows, or
   * has no such address. Throws HttpError when it refuses, TypeError when it cannot be reached.
   * @param {{epoch: string, seq: number}} position @param {AbortSignal} signal @returns {Promise<1 | 2>} */
  async version(position, signal) {
    try {
      return Array.isArray(await this.#after(position, { signal, hold: false })) ? 1 : 2;
    } catch (error) {
      if (error instanceof HttpError && error.status === 404 && !error.code) return 1;
      throw error;
    }
  }

  /** The rows that a server of version 1 has, if it keeps any; a server of version 2 does not answer with a list.
   * @param {{epoch: string, seq: number}} position @param {AbortSignal} signal @returns {Promise<unknown>} */
  async history(position, signal) {
    try {
      return await this.#after(position, { signal, hold: false });
    } catch {
      return [];
    }
  }

  /** The events after a position; with `hold` the server waits until there are some.
   * @param {{epoch: string, seq: number}} position @param {{signal: AbortSignal, hold: boolean}} how
   * @returns {Promise<{epoch: string, recovered: boolean, events: any[]}>} */
  async events(position, how) {
    const said = await this.#after(position, how);
    if (!Array.isArray(said?.events)) throw new TypeError('not an answer of version 2');
    return said;
  }

  /** Older rows, oldest first. @param {number} before @param {number} limit @returns {Promise<any[]>} */
  async earlier(before, limit) {
    return this.#request(`${this.#path}/messages`, { before, limit }, {});
  }

  /** `messages`, `retry` or `cancel`. @param {string} command @param {object} fields @param {AbortSignal} signal
   * @returns {Promise<any>} */
  async post(command, fields, signal) {
    return this.#post(`${this.#path}/${command}`, fields, signal);
  }

  /** What opens one socket in place of credentials. @returns {Promise<string>} */
  async ticket() {
    return (await this.#post('/api/ticket', {})).ticket;
  }

  /** Why a socket ended, as the gateway saw it; null where that is not asked or not known.
   * @param {string} requestId of its hello @returns {Promise<import('./types.js').Ended | null>} */
  async ended(requestId) {
    const origin = this.#origin();
    if (!requestId || !(this.#how.explain ?? LOCAL.test(new URL(origin).hostname))) return null;
    // Without credentials or headers: the id is the right to ask.
    const response = await fetch(`${origin}/-/ended/${requestId}`, { signal: AbortSignal.timeout(GRACE) });
    return response.ok ? response.json() : null;
  }

  /** Erase the session. */
  async erase() {
    await this.#request(this.#path, {}, { method: 'DELETE' });
  }

  /** @param {{epoch: string, seq: number}} position @param {{signal: AbortSignal, hold: boolean}} how */
  #after({ epoch, seq }, { signal, hold }) {
    // A session that does not exist yet has the epoch "", as has a transcript that holds nothing yet.
    const query = { after: seq, epoch, wait: hold ? WAIT / 1000 : 0 };
    return this.#request(`${this.#path}/messages`, query, { signal }, hold ? WAIT + GRACE : GRACE);
  }

  /** @param {string} path @param {object} fields @param {AbortSignal} [signal] */
  #post(path, fields, signal) {
    const body = JSON.stringify({ patient_id: this.#patientId, ...fields });
    return this.#request(path, null, { method: 'POST', body, signal });
  }

  /** @param {string} path @param {object | null} query null: the patient is named in the body
   * @param {RequestInit} init @returns {Promise<any>} */
  async #request(path, query, init, timeout = GRACE) {
    const { credentials, token, headers: given } = this.#how;
    const search = query ? `?${new URLSearchParams({ patient_id: this.#patientId, ...query })}` : '';
    const limit = AbortSignal.timeout(timeout);
    const signal = init.signal ? AbortSignal.any([init.signal, limit]) : limit;
    const headers = new Headers(typeof given === 'function' ? await within(given(), signal) : given);
    if (token) headers.set('Authorization', `Bearer ${await within(token(), signal)}`);
    if (init.body) headers.set('Content-Type', 'application/json');
    const how = { ...init, headers, signal, credentials, cache: /** @type {const} */ ('no-store') };
    const response = await fetch(this.#origin() + path + search, how);
    const text = await response.text();
    if (response.ok) return text ? JSON.parse(text) : null;
    const retryAfter = Number(response.headers.get('Retry-After')) || undefined;
    throw new HttpError(response.status, codeOf(text), retryAfter);
  }
}

/** A promise without a time limit of its own, given up with `signal`.
 * @template T @param {T | Promise<T>} value @param {AbortSignal} signal @returns {Promise<T>} */
export function within(value, signal) {
  return new Promise((resolve, reject) => {
    const give = () => reject(signal.reason);
    if (signal.aborted) return give();
    signal.addEventListener('abort', give);
    Promise.resolve(value).then(resolve, reject).finally(() => signal.removeEventListener('abort', give));
  });
}

/** @param {string} text */
function codeOf(text) {
  try {
    return String(JSON.parse(text).code ?? '');
  } catch {
    return '';
  }
}

/** Long polls, one after the other, until `stop()`: a session's way where no WebSocket opens. */
export class Poller {
  #polling;
  #session;
  #onRefused;
  #life = new AbortController();
  #nap = new AbortController();

  /** @param {Polling} polling @param {import('./connection.js').Session} session
   * @param {(error: unknown) => void} onRefused may stop it */
  constructor(polling, session, onRefused) {
    this.#polling = polling;
    this.#session = session;
    this.#onRefused = onRefused;
  }

  stop() {
    this.#life.abort();
  }

  /** Ask anew, now: the poll under way may have died with the network it was sent on. */
  wake() {
    this.#nap.abort();
  }

  async run() {
    const { signal: life } = this.#life;
    let hold = false;
    let failures = 0;
    while (!life.aborted) {
      this.#nap = new AbortController();
      const signal = AbortSignal.any([life, this.#nap.signal]);
      try {
        const began = Date.now();
        const said = await this.#polling.events(this.#session.position(), { signal, hold });
        if (life.aborted) return;
        this.#take(said);
        // Of another chat: the session has stopped it.
        if (life.aborted) return;
        if (!hold) this.#arrive();
        failures = 0;
        // A server that does not hold a poll, though asked to, is not polled in a tight loop.
        if (hold && !said.events.length) await pause(PACE - (Date.now() - began), signal);
        hold = true;
      } catch (error) {
        hold = false;
        if (!signal.aborted) await this.#miss(error, delay(++failures, 0, Math.random()), signal);
      }
    }
  }

  #arrive() {
    /** @param {string} path @param {object} fields */
    const post = (path, fields) => this.#polling.post(path, fields, this.#life.signal);
    this.#session.state({ status: 'connected', transport: 'polling', retryAt: null, reason: '' });
    if (!this.#life.signal.aborted) this.#session.use({ post });
  }

  /** @param {{epoch: string, events: any[]}} said */
  #take({ epoch, events }) {
    for (const event of events) {
      const whole = this.#session.receive(event.type === 'snapshot' ? { ...event, epoch } : event);
      if (!whole) return;
    }
  }

  /** @param {unknown} error @param {number} wait @param {AbortSignal} signal */
  async #miss(error, wait, signal) {
    this.#session.use(null);
    this.#session.state({ status: 'disconnected', transport: null, retryAt: Date.now() + wait, reason: '' });
    this.#onRefused(error);
    await pause(wait, signal);
  }
}

/** @param {number} time in milliseconds @param {AbortSignal} signal ends it early */
function pause(time, signal) {
  return within(new Promise((resolve) => setTimeout(resolve, time)), signal).catch(() => {});
}
