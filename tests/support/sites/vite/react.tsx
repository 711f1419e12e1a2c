/** Chat.tsx is that of gateway/docs/front-end.md. StrictMode: connected, closed and connected again, as under a development server. */
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { Chat } from './Chat';

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <Chat patientId="patient:react" sessionId="s1" />
  </StrictMode>,
);
