import type { MoorlineClient, MoorlineClientOptions, State, Transcript, UnsentMessage } from './types.js';

export interface Chat {
  client: MoorlineClient;
  transcript: Transcript;
  unsent: readonly UnsentMessage[];
  state: State;
}

/** A client that is connected while the component is mounted, and what it holds. */
export function useChat(options: MoorlineClientOptions): Chat;
