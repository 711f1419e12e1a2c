/**
 * Version 1 of the protocol, for servers that know no other. Its frames become events of version 2, numbered here.
 *
 *     > {"message": "Hello"}
 *     < {"type":"status","status":"thinking"}
 *     < {"type":"message","role":"assistant","content":"..."}
 *
 * Such a server acknowledges nothing and recognises no message that it has had before. So a message is written to one
 * socket, once; `status` or `message` shows that it has arrived. An answer comes whole, on the socket that asked: when
 * that is lost, so is the answer. Nothing else is sent, neither `hello` nor `ping` nor `pong`: a server that takes each
 * frame for a message would answer them.
 *
 * @typedef {import('./transcript.js').ServerEvent} ServerEvent
 * @typedef {import('./transcript.js').Transcript} Transcript
 * @typedef {{client_msg_id: string, message: string}} Sent
 */

/** An answer that comes whole may take a model minutes. Longer silence means that the connection is dead. */
const ANSWER_TIMEOUT = 180_000;
/** Of a history; a server of version 2 also sends so many. */
const MOST_ROWS = 500;

/** The events that a frame stands for. Pure. `sent` is the message that the server has not reacted to yet, if any.
 * @param {Transcript} transcript @param {ServerEvent} frame @param {Sent | null} sent @returns {ServerEvent[]} */
export function translate({ seq, runId }, frame, sent) {
  const content = String(frame.content ?? '');
  if (frame.type === 'error') return [errorOf(seq, runId, frame, sent)];
  const echo = frame.type === 'message' && frame.role === 'user';
  const thinking = frame.type === 'status' && frame.status === 'thinking';
  if (frame.type !== 'message' && !thinking) return [];
  const events = sent ? arrival(seq, sent) : [];
  const next = seq + (sent ? 2 : 1);
  if (!echo) {
    if (!thinking) events.push(answer(next, runId, { content, finish: 'stop' }));
    else if (!runId) events.push({ type: 'status', seq: next, run_id: `v1:${next}` });
  } else if (content !== sent?.message) {
    events.push({ type: 'user', seq: next, message_id: `v1:${next}`, content });
  }
  return events;
}

/** The end of an answer that will not come any more. Pure. @param {Transcript} transcript @returns {ServerEvent[]} */
export function lost({ seq, runId }) {
  return runId ? [answer(seq + 1, runId, { content: '', finish: 'error', error: { code: 'lost', retryable: true } })] : [];
}

/** The server's history as a snapshot, if it holds no less than what is shown, as many servers keep none, and no answer
 * is under way. Pure.
 * @param {Transcript} transcript @param {any[]} history @returns {ServerEvent[]} */
export function snapshotOf({ rows: shown, runId }, history) {
  const rows = history.filter((row) => row && typeof row === 'object').slice(-MOST_ROWS);
  if (runId || !rows.length || rows.length < shown.length) return [];
  const messages = rows.map((row, index) => {
    const role = row.role === 'user' ? 'user' : 'assistant';
    return { message_id: `v1:${role}:${index}`, role, content: String(row.content ?? ''), seq: index + 1, at: row.at };
  });
  return [{ type: 'snapshot', epoch: '', messages, earlier: false, through_seq: rows.length }];
}

/** @param {number} seq @param {Sent} sent @returns {ServerEvent[]} */
function arrival(seq, { client_msg_id: id, message }) {
  const user = { type: 'user', seq: seq + 1, message_id: id, client_msg_id: id, content: message };
  return [{ type: 'ack', client_msg_id: id }, user];
}

/** @param {number} seq @param {string | null} runId @param {object} members @returns {ServerEvent} */
function answer(seq, runId, members) {
  return { type: 'message', seq, from_seq: seq, run_id: runId ?? `v1:${seq}`, role: 'assistant', ...members };
}

/** @param {number} seq @param {string | null} runId @param {ServerEvent} frame @param {Sent | null} sent */
function errorOf(seq, runId, frame, sent) {
  const code = String(frame.code ?? 'internal');
  const error = { type: 'error', code, message: String(frame.message ?? ''), retryable: false };
  if (sent) return { ...error, client_msg_id: sent.client_msg_id };
  return runId ? answer(seq + 1, runId, { content: '', finish: 'error', error: { code, retryable: true } }) : error;
}

/** One socket of version 1: takes the commands of a channel (sender.js), gives events to the session. */
export class Version1 {
  /** A message that was handed over may have arrived: it is not sent again without being asked to. */
  once = true;
  /** @type {Sent | null} */ #sent = null;
  #socket;
  #session;
  #token;

  /** @param {import('./socket.js').ChatSocket} socket @param {import('./connection.js').Session} session
   * @param {string} [token] of the person, for each message */
  constructor(socket, session, token) {
    this.#socket = socket;
    this.#session = session;
    this.#token = token;
  }

  /** Whether nothing would be lost with the socket. */
  get idle() {
    return !this.#sent && !this.#session.position().runId;
  }

  /** @param {any} command only `send` exists in version 1 */
  ask({ type, client_msg_id: id, message }) {
    if (type !== 'send') return;
    this.#sent = { client_msg_id: id, message };
    this.#socket.ask({ message, token: this.#token }, ANSWER_TIMEOUT);
  }

  /** There is nothing that the server would answer without taking it for a message. */
  probe() {}

  /** An answer of another socket will not come on this one, nor one of this socket once it has ended. */
  endRun() {
    this.#tell(lost(this.#session.position()));
  }

  /** Show what the server has kept. @param {any[]} history */
  recall(history) {
    this.#tell(snapshotOf(this.#session.position(), history));
  }

  /** @param {ServerEvent} frame */
  receive(frame) {
    const events = translate(this.#session.position(), frame, this.#sent);
    // Cleared first: the end of an answer sends the next message.
    if (events.some((event) => event.type === 'ack' || event.client_msg_id)) this.#sent = null;
    this.#tell(events);
    if (!this.idle) this.#socket.expect(ANSWER_TIMEOUT);
  }

  /** @param {ServerEvent[]} events */
  #tell(events) {
    for (const event of events) this.#session.receive(event);
  }
}
