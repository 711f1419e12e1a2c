/** The session over plain HTTP: for networks that let no WebSocket through, and for the reason that a socket hides. */

/** How long the server may hold a poll; the page gives up on it a little later. */
const WAIT = 20_000;
const GRACE = 10_000;

/** An answer that is not the one asked for. */
export class HttpError extends Error {
  /** @param {number} status @param {string} code of the problem document @param {number} [retryAfter] seconds */
  constructor(status, code, retryAfter) {
    super(`${status} ${code}`);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** As an `error` frame of the socket would say it. */
  get refusal() {
    const retryable = this.status >= 500 || this.status === 429 || this.code === 'busy';
    return { code: this.code, retryable, retry_after: this.retryAfter };
  }
}

export class Polling {
  #base;
  #patientId;

  /** @param {string} origin @param {string} patientId @param {string} sessionId */
  constructor(origin, patientId, sessionId) {
    this.#base = `${origin}/api/chat/${encodeURIComponent(sessionId)}/`;
    this.#patientId = patientId;
  }

  /** What the server says to this session. Throws HttpError when it refuses, TypeError when nobody answers.
   * @param {AbortSignal} signal */
  async ask(signal) {
    await this.#request('messages', { limit: '1' }, { signal });
  }

  /** The events after a position; with `hold` the server waits until there are some.
   * @param {{epoch: string, seq: number}} position @param {{signal: AbortSignal, hold: boolean}} how
   * @returns {Promise<{epoch: string, events: any[]}>} */
  async events({ epoch, seq }, { signal, hold }) {
    // Without an epoch the server knows no such position and answers with a snapshot, as it should.
    const query = { after: String(seq), epoch: epoch || 'none', wait: String(hold ? WAIT / 1000 : 0) };
    return this.#request('messages', query, { signal }, WAIT + GRACE);
  }

  /** Older rows, oldest first. @param {number} before @param {number} limit @returns {Promise<any[]>} */
  async earlier(before, limit) {
    return this.#request('messages', { before: String(before), limit: String(limit) }, {});
  }

  /** `messages`, `retry` or `cancel`. @param {string} command @param {object} fields @param {AbortSignal} signal */
  async post(command, fields, signal) {
    const body = JSON.stringify({ patient_id: this.#patientId, ...fields });
    await this.#request(command, {}, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body, signal });
  }

  /** @param {string} path @param {Record<string, string>} query @param {RequestInit} init @returns {Promise<any>} */
  async #request(path, query, init, timeout = GRACE) {
    const get = init.method !== 'POST';
    const search = get ? `?${new URLSearchParams({ patient_id: this.#patientId, ...query })}` : '';
    const limit = AbortSignal.timeout(timeout);
    const signal = init.signal ? AbortSignal.any([init.signal, limit]) : limit;
    const response = await fetch(this.#base + path + search, { ...init, signal, cache: 'no-store' });
    const text = await response.text();
    if (response.ok) return text ? JSON.parse(text) : null;
    const retryAfter = Number(response.headers.get('Retry-After')) || undefined;
    throw new HttpError(response.status, codeOf(text), retryAfter);
  }
}

/** @param {string} text */
function codeOf(text) {
  try {
    return String(JSON.parse(text).code ?? 'internal');
  } catch {
    return 'internal';
  }
}
