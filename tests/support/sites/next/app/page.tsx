'use client';
import { Chat } from './Chat';

export default function Page() {
  return <Chat patientId="patient:next" sessionId="s1" />;
}
