/** What a program in strict TypeScript may do with the client, and that the declarations are those of the modules. */
import { MoorlineClient, type Entry, type MoorlineClientOptions, type Row, type State, uuid } from 'moorline-client';
import { useChat } from 'moorline-client/react';
import { MoorlineClient as Implemented } from './modules/moorline-client.js';

const options: MoorlineClientOptions = {
  patientId: 'patient:demo',
  sessionId: uuid(),
  origin: 'https://chat.example.com',
  storage: null,
  token: async () => 'token',
  headers: () => ({ 'X-Tenant': 'ward-7' }),
};
const client = new MoorlineClient(options);
client.addEventListener('refused', ({ detail }) => console.log(detail.code satisfies string));
client.subscribe(() => console.log(client.transcript.rows satisfies readonly Row[]));
const failed: Entry[] = client.unsent.filter((entry) => entry.failed);
const reason: string = (client.state satisfies State).reason;
// @ts-expect-error: a text
client.send(7);
// @ts-expect-error: it is the client that changes it
client.state.status = 'connected';
export const kept = [failed, reason, useChat];

/** Neither has a member that the other lacks, and each of the implementation's is of the declared type. Its listeners
 * are EventTarget's, of any type of event. */
export const declared: Omit<MoorlineClient, 'addEventListener'> = new Implemented(options);
export const implemented: Record<keyof Implemented, true> = {} as Record<keyof MoorlineClient, true>;
