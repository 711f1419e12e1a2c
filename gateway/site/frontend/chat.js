/** The built-in page: one patient's chat, drawn from a MoorlineClient. */
import { MoorlineClient, usableStorage, uuid } from './client/moorline-client.js';
import { BubbleList, plainWords, rowBubble, unsentBubble } from './view.js';

const DEMO = 'patient:demo';
const ID = /^(?!\.{1,2}$)[A-Za-z0-9:._-]{1,128}$/;
/** Closer than this to the end counts as being at the end, in pixels: the page follows the answer. */
const NEAR_END = 80;
const NOTICE_TIME = 8_000;
/** "in 0 s" is of no use. */
const COUNTED = 1_000;

/** Of a server of version 1. */
const NO_RESUME = 'This server cannot resume: an answer that is under way when the connection drops is lost.';

const STATUS = {
  connecting: 'Connecting',
  connected: 'Connected',
  reconnecting: 'Reconnecting',
  disconnected: 'Disconnected',
};

/** @template {HTMLElement} [T=HTMLElement] @param {string} id @returns {T} */
const find = (id) => /** @type {T} */ (document.getElementById(id));
const box = /** @type {HTMLTextAreaElement} */ (find('message'));
const scroller = find('scroller');
const list = new BubbleList(find('log'));
const storage = usableStorage();
const patientId = patientOfPage();
let noticeTimer = 0;
let client = open(storedSession());

function patientOfPage() {
  const [, patient] = location.pathname.match(/^\/chat\/([^/]+)/) ?? [];
  if (!patient) history.replaceState(null, '', `/chat/${DEMO}`);
  return patient ? decodeURIComponent(patient) : DEMO;
}

// Sessions ------------------------------------------------------------------------------------------------------------

function storedSession() {
  const stored = storage?.getItem(`moorline:session:${patientId}`) ?? '';
  return ID.test(stored) ? stored : newSession();
}

function newSession() {
  const sessionId = uuid();
  try {
    storage?.setItem(`moorline:session:${patientId}`, sessionId);
  } catch {
    // Storage is full: this chat works, and a reload starts another.
  }
  return sessionId;
}

/** @param {string} sessionId */
function open(sessionId) {
  const opened = new MoorlineClient({ patientId, sessionId, storage });
  opened.addEventListener('state', showState);
  opened.addEventListener('change', draw);
  opened.addEventListener('refused', (event) => notify(plainWords(/** @type {CustomEvent} */ (event).detail.code)));
  return opened;
}

// Drawing -------------------------------------------------------------------------------------------------------------

function showState() {
  const { status, retryAt, final, reason, transport, version, offline, scripted } = client.state;
  find('scripted').hidden = !scripted;
  find('status').dataset.status = status;
  const text = find('status-text');
  // A live region speaks at each change: the word changes seldom, the countdown beside it is for the eye.
  const word = offline && status !== 'connected' ? 'Offline' : STATUS[status];
  if (text.textContent !== word) text.textContent = word;
  const outage = status === 'disconnected' && !final ? reason : '';
  const remark = outage || (version === 1 && status === 'connected' ? NO_RESUME : '');
  find('remark').textContent = remark;
  find('remark').hidden = !remark;
  find('status').title = transport === 'polling' ? 'Connected without a WebSocket' : '';
  if (final) notify(reason, Infinity);
  countDown(retryAt);
  draw();
}

/** @param {number | null} retryAt */
function countDown(retryAt) {
  const { status, offline } = client.state;
  const left = (retryAt ?? 0) - Date.now();
  const counting = left >= COUNTED && status !== 'connected';
  const goesOn = status === 'reconnecting' && !offline;
  const when = counting ? ` in ${Math.round(left / 1000)} s` : goesOn ? '…' : '';
  find('status-detail').textContent = counting && !goesOn ? `, next try${when}` : when;
}

function draw() {
  const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
  const { rows, runId, earlier } = client.transcript;
  const last = rows.at(-1);
  const bubbles = rows.map((row) => rowBubble(row, row === last && !runId ? retry(row.runId) : null));
  const unsent = client.unsent.map((entry) => unsentBubble(entry, unsentNote(entry), unsentActions(entry)));
  if (client.unsent.some((entry) => entry.clientMsgId === client.sending || entry.acked)) unsent.push(thinking());
  find('empty').hidden = bubbles.length + unsent.length > 0 || client.state.status !== 'connected';
  find('earlier').hidden = !earlier;
  // Version 1 has no command for it.
  find('stop').hidden = !runId || client.state.version === 1;
  find('stop').textContent = runId && client.stopping === runId ? 'Stopping' : 'Stop';
  // While an answer grows the log is busy: a screen reader reads it once, whole, instead of word by word.
  find('log').setAttribute('aria-busy', String(Boolean(runId)));
  list.draw([...bubbles, ...unsent]);
  if (atEnd) scroller.scrollTop = scroller.scrollHeight;
}

/** @param {string | undefined} runId @returns {import('./view.js').Action | string | null} what to offer, or to say */
function retry(runId) {
  if (!runId) return null;
  if (!client.retrying(runId)) return { label: 'Try again', act: () => client.retry(runId) };
  return client.state.status === 'connected' ? 'Trying again' : 'It is tried again when the connection is back.';
}

/** Before the server has said so: it got the message within milliseconds, or the status says otherwise. */
function thinking() {
  return { id: 'thinking', role: 'assistant', text: '', note: 'Thinking', thinking: true, actions: [] };
}

/** @param {import('./client/outbox.js').Entry} entry */
function unsentNote(entry) {
  if (entry.failed === 'unconfirmed') return plainWords(entry.failed);
  if (entry.failed) return `Not sent. ${plainWords(entry.failed)}`;
  if (entry.acked || entry.clientMsgId === client.sending) return '';
  if (entry.deferred) return `Not sent yet. ${plainWords(entry.deferred)}`;
  if (client.state.status === 'connected') return 'Waiting for the answer above';
  return client.state.final ? 'Not sent' : 'Not sent yet. It goes out when the connection is back.';
}

/** @param {import('./client/outbox.js').Entry} entry */
function unsentActions(entry) {
  if (entry.acked || entry.clientMsgId === client.sending) return [];
  const discard = () => client.discard(entry.clientMsgId);
  const edit = () => {
    discard();
    box.value = [entry.text, box.value].filter(Boolean).join('\n');
    box.focus();
    fit();
  };
  const again = { label: 'Send again', act: () => client.resend(entry.clientMsgId) };
  return [
    ...(entry.failed === 'unconfirmed' ? [again] : []),
    { label: 'Edit', act: edit },
    { label: 'Discard', act: discard },
  ];
}

/** @param {string} text */
function notify(text, time = NOTICE_TIME) {
  const notice = find('notice');
  notice.textContent = text;
  notice.hidden = !text;
  clearTimeout(noticeTimer);
  if (time !== Infinity) noticeTimer = setTimeout(() => notify('', Infinity), time);
}

/** The box grows with its text, up to the style's max-height. */
function fit() {
  box.style.height = 'auto';
  box.style.height = `${box.scrollHeight + box.offsetHeight - box.clientHeight}px`;
}

// What a person does --------------------------------------------------------------------------------------------------

/** @param {Event} event */
function submit(event) {
  event.preventDefault();
  const text = box.value;
  if (!text.trim()) return;
  box.value = '';
  fit();
  client.send(text);
  scroller.scrollTop = scroller.scrollHeight;
}

find('composer').addEventListener('submit', submit);
box.addEventListener('input', fit);
box.addEventListener('keydown', (event) => {
  // isComposing: Enter picks a candidate of an input method, it does not send.
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) submit(event);
});
find('stop').addEventListener('click', () => client.cancel());
find('earlier').addEventListener('click', () =>
  client.loadEarlier().catch(() => notify('Earlier messages could not be loaded. Please try again.')),
);
find('new-chat').addEventListener('click', () => {
  client.close();
  notify('', Infinity);
  client = open(newSession());
  client.connect();
  draw();
  box.focus();
});

setInterval(() => countDown(client.state.retryAt), 250);
find('patient').textContent = patientId;
document.title = `${patientId} · Moorline`;
client.connect();
draw();
box.focus();
