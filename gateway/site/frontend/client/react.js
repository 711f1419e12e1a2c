/** The client as a React hook. */
import { useEffect, useMemo, useRef, useSyncExternalStore } from 'react';
import { INITIAL } from './connection.js';
import { MoorlineClient } from './moorline-client.js';
import { EMPTY } from './transcript.js';

/** What a server renders, and the browser before it has taken over: neither has asked for anything yet. */
const SERVER = Object.freeze({ transcript: EMPTY, unsent: Object.freeze([]), state: INITIAL });

/** A client that is connected while the component is mounted, and what it holds. Another patient, session, origin,
 * storage or way to send cookies is another client; `token` and `headers` are those of the latest rendering.
 * @param {import('./types.js').MoorlineClientOptions} options */
export function useChat(options) {
  const { patientId, sessionId, origin, storage, credentials } = options;
  const latest = useRef(options);
  const signsIn = Boolean(options.token);
  const client = useMemo(() => {
    const headers = () => valueOf(latest.current.headers) ?? {};
    const token = signsIn ? () => valueOf(latest.current.token) ?? '' : null;
    return new MoorlineClient({ patientId, sessionId, origin, storage, credentials, token, headers });
  }, [patientId, sessionId, origin, storage, credentials, signsIn]);
  useEffect(() => {
    latest.current = options;
  });
  useEffect(() => {
    client.connect();
    return () => client.close();
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
