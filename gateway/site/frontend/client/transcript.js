/**
 * What a person sees of a session: a fold of the log's events. Pure: no DOM, no clock, no network.
 *
 * The log is one gap-free sequence per session, so a transcript and a position determine each other: an event with a
 * known `seq` is dropped, one that skips a `seq` means that something was missed.
 *
 * @typedef {import('./types.js').Row} Row
 * @typedef {import('./types.js').Part} Part
 * @typedef {import('./types.js').Transcript} Transcript
 * @typedef {{type: string, [field: string]: any}} ServerEvent
 */

/** @type {Transcript} */
export const EMPTY = Object.freeze({ epoch: '', seq: 0, rows: [], runId: null, earlier: false });

/** Whether `event` continues the transcript, repeats what it holds, or shows that something between was missed.
 * @param {Transcript} transcript @param {ServerEvent} event @returns {'next' | 'known' | 'gap'} */
export function place(transcript, event) {
  if (event.seq <= transcript.seq) return 'known';
  return (event.from_seq ?? event.seq) > transcript.seq + 1 ? 'gap' : 'next';
}

/** The transcript after `event`, which must be its next one, or a snapshot with its `epoch`. Rows that did not change
 * stay the same objects, so that a view can tell by `===` what to draw.
 * @param {Transcript} transcript @param {ServerEvent} event @returns {Transcript} */
export function fold(transcript, event) {
  switch (event.type) {
    case 'snapshot':
      return fromSnapshot(event);
    case 'deleted':
      return EMPTY;
    case 'user':
      return { ...transcript, seq: event.seq, rows: [...transcript.rows, fromRow({ ...event, role: 'user' })] };
    case 'status':
      return write(transcript, event, (row) => row);
    case 'delta':
      return write(transcript, event, (row) => ({ ...row, content: row.content + event.text, status: '' }));
    case 'part':
      return write(transcript, event, (row) => withPart(row, event.part));
    case 'message': {
      const runId = transcript.runId === event.run_id ? null : transcript.runId;
      return { ...write(transcript, event, () => fromRow(event)), runId };
    }
    default:
      return transcript;
  }
}

/** What a snapshot says of the chat that the transcript shows. It goes `on`, also where it was restored from a backup:
 * that has another epoch, too, and messages that the transcript shows. It was `deleted`, and its session has begun anew or
 * may do so. Or it is `missing` from a database that is another one, or an earlier state of this one, by some fault that
 * may be mended. @param {Transcript} transcript @param {ServerEvent} snapshot @returns {'on' | 'deleted' | 'missing'} */
export function fate({ epoch, database, seq, rows }, snapshot) {
  // Version 1 has no epochs.
  if (!seq || !epoch || !snapshot.epoch) return 'on';
  // An erasure would have changed it.
  if (epoch === snapshot.epoch) return snapshot.through_seq ? 'on' : 'missing';
  if (fromSnapshot(snapshot).rows.some(({ id }) => rows.some((row) => row.id === id))) return 'on';
  return database === snapshot.database ? 'deleted' : 'missing';
}

/** What a person asked before a run. @param {Transcript} transcript @param {string} runId
 * @returns {string | undefined} */
export function questionOf({ rows }, runId) {
  const answer = rows.findIndex((row) => row.id === `run:${runId}`);
  return rows.slice(0, answer + 1).findLast((row) => row.role === 'user')?.content;
}

/** Whether the transcript shows the end of a run. @param {Transcript} transcript @param {string} runId */
export function hasEnded({ rows }, runId) {
  return rows.some((row) => row.id === `run:${runId}` && !row.writing);
}

/** The transcript with older rows put before its own. `more`: whether there are still older ones.
 * @param {Transcript} transcript @param {any[]} rows @param {boolean} more @returns {Transcript} */
export function prepend(transcript, rows, more) {
  const first = transcript.rows[0]?.seq ?? Infinity;
  const older = rows.filter((row) => row.seq < first).map(fromRow);
  return { ...transcript, rows: [...older, ...transcript.rows], earlier: more };
}

/** @param {ServerEvent} snapshot @returns {Transcript} */
function fromSnapshot({ epoch, database, messages, earlier, run, through_seq: seq }) {
  const rows = messages.map(fromRow);
  if (run) {
    const { text: content, parts = [], status = '' } = run;
    rows.push({ ...openRow(run.run_id, seq), content, parts, status });
  }
  return { epoch, database, seq, rows, runId: run?.run_id ?? null, earlier };
}

/** @param {any} row @returns {Row} */
function fromRow(row) {
  const { role, author, content, seq, at, run_id: runId, client_msg_id: clientMsgId, finish, error, parts = [] } = row;
  // An answer is keyed by its run: the row exists (as "thinking") before its message id is known.
  const id = role === 'assistant' && runId ? `run:${runId}` : row.message_id;
  return { id, role, author, content, seq, at, runId, clientMsgId, finish, error, writing: false, parts, status: '' };
}

/** @param {string} runId @param {number} seq @returns {Row} */
function openRow(runId, seq) {
  return { id: `run:${runId}`, role: 'assistant', content: '', seq, runId, writing: true, parts: [], status: '' };
}

/** @param {Row} row @param {Part | {kind: 'status', text: string}} part @returns {Row} */
function withPart(row, part) {
  return part.kind === 'status' ? { ...row, status: part.text } : { ...row, parts: [...row.parts, part] };
}

/** Change the row of the event's run, which is nearly always the last, or open it. The run is then under way.
 * @param {Transcript} transcript @param {ServerEvent} event @param {(row: Row) => Row} change @returns {Transcript} */
function write(transcript, { seq, run_id: runId }, change) {
  const rows = [...transcript.rows];
  const at = rows.findLastIndex((row) => row.id === `run:${runId}`);
  if (at < 0) rows.push(change(openRow(runId, transcript.seq + 1)));
  else rows[at] = change(rows[at]);
  return { ...transcript, rows, seq, runId };
}
