/** The client as a React hook. */
import { useEffect, useMemo, useRef, useSyncExternalStore } from 'react';
import { INITIAL } from './connection.js';
import { MoorlineClient } from './moorline-client.js';
import { EMPTY } from './transcript.js';

/** What a server renders, and the browser before it has taken over: neither has asked for anything yet. */
const SERVER = Object.freeze({
  transcript: EMPTY,
  unsent: Object.freeze([]),
  state: Object.freeze({ ...INITIAL, version: null, scripted: false }),
});

/** A client that is connected while the component is mounted, and what it holds. Another patient, session, origin,
 * storage, way to send cookies or to sign in is another client; `token` and `headers` are those of the latest rendering.
 * @param {import('./types.js').MoorlineClientOptions} options */
export function useChat(options) {
  const { patientId, sessionId, origin, storage, credentials, ticket, explain } = options;
  const latest = useRef(options);
  const signsIn = Boolean(options.token);
  const client = useMemo(() => {
    const headers = () => valueOf(latest.current.headers) ?? {};
    const token = signsIn ? () => valueOf(latest.current.token) ?? '' : null;
    const how = { credentials, token, headers, ticket, explain };
    return new MoorlineClient({ patientId, sessionId, origin, storage, ...how });
  }, [patientId, sessionId, origin, storage, credentials, signsIn, ticket, explain]);
  useEffect(() => {
    latest.current = options;
  });
  useEffect(() => {
    let mounted = true;
    // Not at once: React's StrictMode mounts each component twice under development, and a socket that is closed while it
    // is dialled is an error in the browser's console.
    queueMicrotask(() => mounted && client.connect());
    return () => {
      mounted = false;
      client.close();
    };
  }, [client]);
  const { subscribe } = client;
  return {
    client,
    transcript: useSyncExternalStore(subscribe, () => client.transcript, () => SERVER.transcript),
    unsent: useSyncExternalStore(subscribe, () => client.unsent, () => SERVER.unsent),
    state: useSyncExternalStore(subscribe, () => client.state, () => SERVER.state),
  };
}

/** @template T @param {T | (() => T | Promise<T>) | null | undefined} given */
function valueOf(given) {
  return typeof given === 'function' ? /** @type {() => T | Promise<T>} */ (given)() : given;
}
