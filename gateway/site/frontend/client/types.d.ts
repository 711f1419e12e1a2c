/** What the package exports, and the types of what it holds; the modules' own comments refer to these. */

/** Something beside the text of an answer. A `url` is http, https or a path, or empty. */
export type Part =
  | { kind: 'source'; title: string; url: string }
  | { kind: 'data'; name: string; value?: any };

/** Why an answer failed. */
export interface RunError {
  code: string;
  retryable: boolean;
  retry_after?: number;
}

/** A message or an answer. */
export interface Row {
  /** Unique in its transcript, and the same for as long as the row is shown. */
  id: string;
  /** 'user' or 'assistant'. */
  role: string;
  /** Of a message: the principal that sent it, where the server knows it. */
  author?: string;
  content: string;
  seq: number;
  /** RFC 3339, UTC. */
  at?: string;
  runId?: string;
  clientMsgId?: string;
  /** How an answer ended: 'stop', 'length', 'cancelled', 'interrupted' or 'error'. */
  finish?: string;
  error?: RunError;
  /** The answer is still being written. */
  writing: boolean;
  parts: readonly Part[];
  /** What the responder is doing meanwhile, or empty. */
  status: string;
}

export interface Transcript {
  epoch: string;
  /** Names the server's database. */
  database?: string;
  /** Of the last event that it holds. */
  seq: number;
  rows: readonly Row[];
  /** The answer that is being written, if any. */
  runId: string | null;
  /** There are older rows: `loadEarlier()`. */
  earlier: boolean;
}

/** A command that the transcript does not show yet. */
export interface Entry {
  clientMsgId: string;
  order: number;
  /** A message to send. */
  text?: string;
  /** A run to try again; with `text`, by a message of its own. */
  runId?: string;
  /** Names the chat that it was written to, once that has begun: another one under the same id does not get it. */
  epoch?: string;
  /** The server has it. */
  acked?: boolean;
  /** It was sent before, and the server may have it: it is sent again by itself, and taken once. */
  unconfirmed?: boolean;
  /** Why it was refused the last time; it is sent again by itself. */
  deferred?: string;
  /** Why it is not sent; it waits for `resend()` or `discard()`. */
  failed?: string;
}

/** A message that the transcript does not show yet. */
export type UnsentMessage = Entry & { text: string };

/** Why a socket ended, as the gateway saw it. */
export interface Ended {
  /** As in the gateway's log, and for `moorline explain`: 'UR-idle'. */
  cause: string;
  who: 'client' | 'upstream' | 'gateway' | 'network';
  what: string;
  when: string;
  usual_cause: string;
  next_step: string;
}

export type Status = 'connecting' | 'connected' | 'reconnecting' | 'disconnected';

export interface State {
  status: Status;
  transport: 'socket' | 'polling' | null;
  /** Of the protocol, the last that the server spoke. Version 1 can neither resume nor stop an answer. */
  version: 1 | 2 | null;
  /** When the next try starts, as `Date.now()` counts. */
  retryAt: number | null;
  /** The browser says that there is no network. */
  offline: boolean;
  /** Why there is no connection, where that is known. */
  reason: string;
  /** Only `connect()` tries again. */
  final: boolean;
  /** The server has no model: a script answers. */
  scripted: boolean;
  /** Why the last socket ended that was to go on; see `explain`. */
  ended: Ended | null;
}

export type TokenSource = () => string | Promise<string>;
export type HeadersSource = HeadersInit | (() => HeadersInit | Promise<HeadersInit>);

export interface MoorlineClientOptions {
  patientId: string;
  sessionId: string;
  /** Where the gateway is, as 'https://chat.example.com'; the page's own origin by default. */
  origin?: string;
  /** Keeps unsent messages over a reload, for a day at most. The browser's localStorage by default; null: in memory. */
  storage?: Storage | null;
  /** Of HTTP requests; with another `origin` and a sign-in by cookie, 'include'. */
  credentials?: RequestCredentials;
  /** Asked before each socket and request for a bearer token. It never stands in a URL: requests have it in
   * `Authorization`, sockets, where a browser sets no header, as the subprotocol `moorline.jwt.TOKEN`, or before a
   * backend of version 1 as `token` in each message. So it may hold the characters of an HTTP token alone. */
  token?: TokenSource | null;
  /** Of HTTP requests, or what returns them. A browser sets none on a WebSocket. */
  headers?: HeadersSource;
  /** Ask for a ticket before each socket, by a request with `credentials`, `token` and `headers`, and open the socket with
   * that alone. Of moorline's own backend. */
  ticket?: boolean;
  /** Ask the gateway why a socket ended, for `state.ended`. By default in development: where the gateway is on this
   * machine. From elsewhere it answers with the option `tell_causes` alone. */
  explain?: boolean;
}

/** A command was refused that is no unsent message. */
export type RefusedEvent = CustomEvent<{ code: string; message: string }>;

/** A chat session that holds. Its constructor needs no browser, so that a server can render a page with it. */
export class MoorlineClient extends EventTarget {
  constructor(options: MoorlineClientOptions);

  // These are new objects at each change, and the same ones otherwise.
  readonly transcript: Readonly<Transcript>;
  readonly state: Readonly<State>;
  /** Messages that the transcript does not show yet. */
  readonly unsent: readonly UnsentMessage[];

  /** The message being sent right now, if any: its `clientMsgId`. */
  readonly sending: string | null;
  /** The run that was asked to stop and has not ended yet, if any. */
  readonly stopping: string | null;
  /** Whether a new answer in place of this run's has been asked for and has not begun. */
  retrying(runId: string): boolean;

  /** Connect and stay connected, until `close()` or until the server says not to come back. */
  connect(): void;
  close(): void;
  /** Try now instead of at `state.retryAt`. */
  reconnect(): void;

  /** Send a message; it is kept until the server has committed it. Returns its `clientMsgId`. */
  send(text: string): string;
  /** Ask for a new answer where one did not end well. Returns the command's id, or null where version 1 has none. */
  retry(runId: string): string | null;
  /** Stop the answer being written. */
  cancel(runId?: string | null): Promise<void>;
  /** Send a message again that has failed. */
  resend(clientMsgId: string): void;
  /** Take back a message that was not sent, or all of them; they leave the browser's storage, too. */
  discard(clientMsgId?: string): void;
  /** Erase the chat: on the server, and what this browser keeps of it. Rejects where the server did not do so. */
  erase(): Promise<void>;
  /** Load rows from before the transcript's first. */
  loadEarlier(): Promise<void>;

  /** Call `listener` after each change of `transcript`, `unsent` or `state`; returns what ends it. */
  subscribe: (listener: () => void) => () => void;
  addEventListener(type: 'change' | 'state', listener: (event: Event) => void, options?: AddEventListenerOptions): void;
  addEventListener(type: 'refused', listener: (event: RefusedEvent) => void, options?: AddEventListenerOptions): void;
}

/** The browser's localStorage, or null where there is none or none may be used. */
export function usableStorage(): Storage | null;

/** A UUID, version 4, where `crypto.randomUUID` is missing as well: on pages without https. */
export function uuid(): string;
