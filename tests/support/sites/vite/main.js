/** The least that a front end needs: moorline's client, bundled, and its socket on the page's own port. */
import { MoorlineClient } from 'moorline-client';
import './main.css';

const client = new MoorlineClient({ patientId: 'patient:site', sessionId: crypto.randomUUID(), storage: null });
client.addEventListener('state', () => {
  document.getElementById('state').textContent = client.state.status;
});
client.addEventListener('change', () => {
  const items = client.transcript.rows.map(({ role, content }) => {
    const item = document.createElement('li');
    item.textContent = `${role}: ${content}`;
    return item;
  });
  document.getElementById('messages').replaceChildren(...items);
});
client.connect();
client.send('Hello');
