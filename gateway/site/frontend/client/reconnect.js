/** Whether to come back after a socket's end, and when. Pure. */

export const BACKOFF_FIRST = 500;
export const BACKOFF_MOST = 20_000;

/** A restart announces itself (1001, 1012): clients come back spread over this time, not all in the same instant, or over
 * a longer one that the server has told. */
const RESTART_SPREAD = 1_000;

/** The close code of a session that was erased. */
export const DELETED = 4504;

/** Codes after which coming back would end the same way. All others, 44xx included, are worth another try. */
const FINAL = new Map([
  [1000, 'The chat has ended.'],
  [1003, 'The server did not accept what this page sent.'],
  [1008, 'The server refused the connection.'],
  [1009, 'A message was too large.'],
  [4500, 'The server did not understand this page. Reload it.'],
  [4503, 'This chat is not open to you.'],
  [DELETED, 'This chat was deleted.'],
]);

/** Answers of the polling address that say why a socket cannot open: a browser hides a refused upgrade behind 1006. */
const REFUSALS = new Map([
  [400, 'The address of this chat is not valid.'],
  [401, 'Please sign in again.'],
  [403, 'This chat is not open to you.'],
  [421, 'The server does not serve this address.'],
]);

/** A server of version 1 cannot be polled. */
export const NO_SOCKET_REASON = 'No WebSocket reaches the server, and it has no other way to chat.';

/** The server knows nothing of the chat, and has not erased it: another database, or one that has lost it. */
export const MISSING_REASON = 'The server cannot find this chat.';

/** Why a close code is final, or null where the client should come back.
 * @param {number} code @returns {string | null} */
export function finalReason(code) {
  return FINAL.get(code) ?? (code >= 4500 && code < 4600 ? 'The server ended this chat.' : null);
}

/** Why an HTTP status is final, or undefined. @param {number} status */
export function refusalReason(status) {
  return REFUSALS.get(status);
}

/** Why there is no connection for now. @param {number} status of HTTP; 0: there was no answer @returns {string} */
export function outageReason(status) {
  if (status >= 500) return `The chat service is not available (${status}).`;
  return status ? `The server answers with an error (${status}).` : 'The server cannot be reached.';
}

/** Whether the server announced a restart. @param {number} code the close code */
const announced = (code) => code === 1001 || code === 1012;

/** When a gateway that restarts wants its clients back, in the words of `goaway`. It knows no messages of the chat, so
 * that its Close frame's reason says it. @param {string} reason
 * @returns {{reconnect_after: number, reconnect_within: number} | null} */
export function toldByReason(reason) {
  const [, after, within] = /reconnect_after=([\d.]+) reconnect_within=([\d.]+)/.exec(reason) ?? [];
  return within ? { reconnect_after: Number(after), reconnect_within: Number(within) } : null;
}

/** Whether a socket ended otherwise than one side meant it to. @param {number} code the close code */
export function isAbnormal(code) {
  return !announced(code) && !finalReason(code);
}

/** Milliseconds until the next try: full jitter, so that clients of a server that was lost do not return in step.
 * @param {number} failures tries that failed in a row, this one included
 * @param {number} code the close code
 * @param {number} random in [0, 1)
 * @param {number} [within] over which the server wants its clients to come back */
export function delay(failures, code, random, within = 0) {
  if (failures <= 1 && announced(code)) return random * Math.max(RESTART_SPREAD, within);
  return random * Math.min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (failures - 1));
}
