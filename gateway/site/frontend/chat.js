/** The built-in page: one patient's chat, drawn from a MoorlineClient. */
import { ChatsDialog } from './chats.js';
import { MoorlineClient, usableStorage, uuid } from './client/moorline-client.js';
import { Following } from './following.js';
import { Keeping, tabStorage } from './keeping.js';
import { ListedChats } from './listed.js';
import { Unfinished, unsentOf } from './unfinished.js';
import { BubbleList, plainWords, rowBubble, unsentBubble } from './view.js';

const DEMO = 'patient:demo';
const ID = /^(?!\.{1,2}$)[A-Za-z0-9:._-]{1,128}$/;
/** The key code of a key that an input method has taken. */
const INPUT_METHOD = 229;
const NOTICE_TIME = 8_000;
/** "in 0 s" is of no use. */
const COUNTED = 1_000;

/** Of a server of version 1. */
const NO_RESUME = 'This server cannot resume: an answer that is under way when the connection drops is lost.';

/** Of a message that went out before the connection was lost. */
const UNCONFIRMED = 'The server may have it. It is sent again, and arrives once.';

const STATUS = {
  connecting: 'Connecting',
  connected: 'Connected',
  reconnecting: 'Reconnecting',
  disconnected: 'Disconnected',
};

/** @template {HTMLElement} [T=HTMLElement] @param {string} id @returns {T} */
const find = (id) => /** @type {T} */ (document.getElementById(id));
const box = /** @type {HTMLTextAreaElement} */ (find('message'));
const list = new BubbleList(find('log'));
const following = new Following(find('scroller'), find('column'), (atEnd) => (find('newest').hidden = atEnd));
const keeping = new Keeping(usableStorage(), tabStorage());
const unfinished = new Unfinished(showUnfinished);
const patientId = patientOfPage();
const listed = new ListedChats(patientId);
let noticeTimer = 0;
let sessionId = '';
/** Of the listeners of the client that is shown. */
let shown = new AbortController();
/** The client keeps what is unsent elsewhere than the person has chosen since; changed once nothing is unsent. */
let outdated = false;
/** What the person has read of how a connection ended. @type {import('./client/types.js').Ended | null} */
let dismissed = null;
/** @type {MoorlineClient} */ let client;

/** The patient that the address names; empty where it names none. */
function patientOfPage() {
  const [, patient] = location.pathname.match(/^\/chat\/([^/]+)/) ?? [];
  if (!patient) history.replaceState(null, '', `/chat/${DEMO}`);
  try {
    return patient ? decodeURIComponent(patient) : DEMO;
  } catch {
    // "%zz" is no character.
    return '';
  }
}

// Sessions ------------------------------------------------------------------------------------------------------------

/** @param {string} session */
function clientOf(session) {
  return new MoorlineClient({ patientId, sessionId: session, storage: keeping.storage });
}

/** @param {string} session */
function connected(session) {
  const opened = clientOf(session);
  opened.connect();
  return opened;
}

/** Show a session instead of the one that is shown. @param {string} session @param {string} draft */
function show(session, draft) {
  if (client) unfinished.leave(sessionId, client);
  sessionId = session;
  keeping.setSession(patientId, session);
  listen(unfinished.take(session) ?? connected(session));
  notify('', Infinity);
  box.value = draft;
  fit();
  following.follow();
  showState();
}

/** @param {MoorlineClient} opened */
function listen(opened) {
  shown.abort();
  shown = new AbortController();
  const { signal } = shown;
  client = opened;
  client.addEventListener('state', showState, { signal });
  client.addEventListener('change', draw, { signal });
  const refused = (/** @type {any} */ event) => notify(plainWords(event.detail.code));
  client.addEventListener('refused', refused, { signal });
}

/** A draft goes along: it is in view, and would not be in a chat that is left. */
function newChat() {
  const draft = box.value;
  keeping.setDraft(sessionId, '');
  const session = uuid();
  keeping.setDraft(session, draft);
  show(session, draft);
  box.focus();
}

/** @param {string} session */
async function erase(session) {
  await (session === sessionId ? client : clientOf(session)).erase();
  // First it is left: while it is shown, each change of it puts it into the list again.
  if (session === sessionId) {
    client.discard();
    newChat();
  }
  unfinished.take(session)?.close();
  keeping.forget(session);
  listed.forget(session);
}

/** The person has chosen, here or in another tab, what the browser keeps. */
function keepAsChosen() {
  outdated = unsentOf(client).length > 0;
  if (outdated) return;
  client.close();
  keeping.setSession(patientId, sessionId);
  keeping.setDraft(sessionId, box.value);
  record();
  listen(connected(sessionId));
}

/** Put the session into the list of chats once there is something in it. */
function record() {
  const last = client.transcript.rows.at(-1);
  if (last && !keeping.knows(sessionId)) keeping.wrote(patientId, sessionId, Date.parse(last.at ?? '') || Date.now());
}

// Drawing -------------------------------------------------------------------------------------------------------------

function showState() {
  const { status, retryAt, final, reason, transport, version, offline, scripted } = client.state;
  find('scripted').hidden = !scripted;
  // On this machine a socket may go on without a network: then it is not lost, and nothing is certain.
  find('status').dataset.status = offline && status === 'connected' ? 'offline' : status;
  const text = find('status-text');
  // A live region speaks at each change: the word changes seldom, the countdown beside it is for the eye.
  const word = offline && status !== 'connected' ? 'Offline' : STATUS[status];
  if (text.textContent !== word) text.textContent = word;
  const outage = status === 'disconnected' && !final ? reason : '';
  const remark = outage || (version === 1 && status === 'connected' ? NO_RESUME : '');
  find('remark').textContent = remark;
  find('remark').hidden = !remark;
  find('status').title = transport === 'polling' ? 'Connected without a WebSocket' : '';
  showEnded();
  if (final) notify(reason, Infinity);
  countDown(retryAt);
  draw();
}

/** For a developer: the client asks for it where the gateway is on this machine. */
function showEnded() {
  const { ended } = client.state;
  keepFocus(() => (find('ended').hidden = !ended || ended === dismissed));
  if (!ended) return;
  const { cause, what, when, usual_cause: usual, next_step: next } = ended;
  const text = `The last connection ended: ${what}, ${when} (${cause}). Usual cause: ${usual}. Next step: ${next}.`;
  if (find('ended-text').textContent !== text) find('ended-text').textContent = text;
}

/** @param {number | null} retryAt */
function countDown(retryAt) {
  const { status, offline } = client.state;
  const left = (retryAt ?? 0) - Date.now();
  const counting = left >= COUNTED && status !== 'connected';
  const goesOn = status === 'reconnecting' && !offline;
  keepFocus(() => (find('try-now').hidden = !counting || offline));
  const when = counting ? ` in ${Math.round(left / 1000)} s` : goesOn ? '…' : '';
  const detail = counting && !goesOn ? `, next try${when}` : when;
  find('status-detail').textContent = offline && status === 'connected' ? ', no network' : detail;
}

function draw() {
  keepFocus(redraw);
  record();
  if (outdated) keepAsChosen();
}

function redraw() {
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
}

/** Make a change, and give the focus to the box if it hides what has it, as Stop at the end of an answer: a keyboard
 * would begin at the top of the page again. Not on a touch screen, where that opens the keyboard.
 * @param {() => void} change */
function keepFocus(change) {
  const focused = document.activeElement;
  const follows = focused?.matches(':focus-visible') || matchMedia('(pointer: fine)').matches;
  change();
  if (follows && focused instanceof HTMLElement && focused !== document.body && !focused.checkVisibility()) box.focus();
}

function showUnfinished() {
  const { count, failed, sessionId: session } = unfinished.summary;
  const messages = count === 1 ? '1 message' : `${count} messages`;
  const said = failed ? 'not sent' : 'not sent yet, sent when the connection allows it';
  find('unfinished').hidden = !count;
  find('unfinished-text').textContent = count ? `${messages} of an earlier chat: ${said}.` : '';
  find('unfinished-open').onclick = () => session && show(session, keeping.draft(session));
}

/** @param {string | undefined} runId @returns {import('./view.js').Action | string | null} what to offer, or to say */
function retry(runId) {
  if (!runId) return null;
  if (!client.retrying(runId)) return { label: 'Try again', act: () => client.retry(runId) };
  return client.state.status === 'connected' ? 'Trying again' : 'It is tried again once connected.';
}

/** Before the server has said so: it got the message within milliseconds, or the status says otherwise. */
function thinking() {
  return { id: 'thinking', role: 'assistant', text: '', note: 'Thinking', thinking: true, actions: [] };
}

/** @param {import('./client/types.js').UnsentMessage} entry */
function unsentNote(entry) {
  if (entry.failed === 'unconfirmed') return plainWords(entry.failed);
  if (entry.failed) return `Not sent. ${plainWords(entry.failed)}`;
  if (entry.acked || entry.clientMsgId === client.sending) return '';
  if (entry.deferred) return `Not sent yet. ${plainWords(entry.deferred)}`;
  if (client.state.status === 'connected') return 'Waiting for the answer above';
  if (entry.unconfirmed && !client.state.final) return UNCONFIRMED;
  return client.state.final ? 'Not sent' : 'Not sent yet. It goes out when the connection is back.';
}

/** @param {import('./client/types.js').UnsentMessage} entry */
function unsentActions(entry) {
  if (entry.acked || entry.clientMsgId === client.sending) return [];
  const discard = () => client.discard(entry.clientMsgId);
  const edit = () => {
    discard();
    box.value = [entry.text, box.value].filter(Boolean).join('\n');
    box.focus();
    wrote();
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

/** The text in the box has changed. */
function wrote() {
  fit();
  keeping.setDraft(sessionId, box.value);
}

/** @param {Event} event */
function submit(event) {
  event.preventDefault();
  const text = box.value;
  if (!text.trim()) return;
  client.send(text);
  box.value = '';
  wrote();
  keeping.wrote(patientId, sessionId, Date.now());
  following.follow();
}

/** Whether closing the page would lose what a person has written: where nothing is kept, or the storage is full.
 * @returns {boolean} */
function losesText() {
  const draft = box.value.trim() !== '' && !keeping.holdsDraft(sessionId, box.value);
  return draft || !holdsAll(sessionId, client) || !unfinished.every(holdsAll);
}

/** @param {string} session @param {MoorlineClient} of */
function holdsAll(session, of) {
  return unsentOf(of).every((entry) => keeping.holds(session, entry.clientMsgId));
}

function start() {
  const chats = new ChatsDialog(/** @type {HTMLDialogElement} */ (find('chats')), {
    chats: () => listed.with(keeping.chats(patientId)),
    // A server of version 1 has no such list, and may log the question as an error.
    load: async () => (client.state.version === 2 ? listed.load() : undefined),
    more: () => listed.more,
    loadMore: () => listed.loadMore(),
    current: () => sessionId,
    keeps: () => keeping.on,
    // What is unsent would have to move from one place to the other, in all tabs at once.
    mayChange: () => keeping.possible && !keeping.holdsUnsent && !unsentOf(client).length && !unfinished.summary.count,
    open: (session) => show(session, keeping.draft(session)),
    erase,
    keep: (on) => {
      keeping.set(on);
      keepAsChosen();
    },
  });
  find('composer').addEventListener('submit', submit);
  box.addEventListener('input', wrote);
  box.addEventListener('keydown', (event) => {
    // While composing, Enter picks a candidate of an input method, it does not send. Safari has ended the composition by
    // then; its key code, that of an input method, tells.
    const composing = event.isComposing || event.keyCode === INPUT_METHOD;
    if (event.key === 'Enter' && !event.shiftKey && !composing) submit(event);
  });
  find('stop').addEventListener('click', () => client.cancel());
  find('try-now').addEventListener('click', () => client.reconnect());
  find('ended-dismiss').addEventListener('click', () => {
    dismissed = client.state.ended;
    showEnded();
  });
  find('newest').addEventListener('click', () => keepFocus(() => following.follow()));
  find('earlier').addEventListener('click', () =>
    client.loadEarlier().catch(() => notify('Earlier messages could not be loaded. Please try again.')),
  );
  find('new-chat').addEventListener('click', newChat);
  find('show-chats').addEventListener('click', () => chats.show());
  find('log').addEventListener('copied', (event) => {
    find('said').textContent = /** @type {CustomEvent} */ (event).detail ? 'Copied' : 'The code is selected';
  });
  addEventListener('storage', (event) => keeping.chosen(event) && keepAsChosen());
  addEventListener('beforeunload', (event) => losesText() && event.preventDefault());
  setInterval(() => countDown(client.state.retryAt), 250);

  const stored = keeping.session(patientId);
  const session = ID.test(stored) ? stored : uuid();
  show(session, keeping.draft(session));
  for (const other of keeping.unsent(patientId)) if (other !== session) unfinished.leave(other, connected(other));
  box.focus();
}

/** The address names no patient: nothing can be sent, and why is said. */
function refuse() {
  find('status').dataset.status = 'disconnected';
  find('status-text').textContent = STATUS.disconnected;
  notify(`The address of this chat is not valid: ${location.pathname}`, Infinity);
  for (const control of document.querySelectorAll('button, textarea')) control.setAttribute('disabled', '');
}

find('patient').textContent = patientId;
document.title = `${patientId || 'No chat'} · Moorline`;
if (patientId) start();
else refuse();
