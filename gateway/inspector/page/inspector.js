// Shows what /-/moorline/events tells: each event has the rows that changed since the one before.
//
// fetch instead of EventSource: it can send the token in a header, and a token in the address would end up in logs.

import { showFaults } from "./faults.js";

const MOST_ENDED = 200;
const RETRY_MS = 1000;

const element = (id) => document.getElementById(id);
const open = new Map(); // request id -> { row, line, cells }
let clock = { gateway: 0, page: 0 }; // The gateway's time of the last event, and the page's at its arrival.
let token = sessionStorage.getItem("moorline-inspector-token") ?? "";
let isRunning = false;

element("filter").addEventListener("input", () => open.forEach(filter));
element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = element("token").value;
  sessionStorage.setItem("moorline-inspector-token", token);
  element("token-form").hidden = true;
  // Where the stream needs no token, its next event takes this one along for the faults.
  if (!isRunning) run();
});
setInterval(showAges, 1000);
run();

async function run() {
  isRunning = true;
  for (;;) {
    try {
      const response = await fetch("/-/moorline/events", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
      if (response.status === 401) {
        askForToken("This machine is not the gateway's.");
        element("token").focus();
        state("the token is needed");
        isRunning = false;
        return;
      }
      if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail ?? `HTTP ${response.status}`);
      forget();
      state("");
      for await (const event of events(response.body)) show(event);
      state("the gateway ended the stream; trying again …", true);
    } catch (error) {
      state(`no connection to the gateway (${error.message}); trying again …`, true);
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function* events(body) {
  // Safari's streams are no asynchronous iterables.
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) yield JSON.parse(part.slice("data: ".length));
    }
  } finally {
    // After an event that cannot be shown the gateway would go on sending, and count this as an open page.
    reader.cancel().catch(() => {});
  }
}

function askForToken(why) {
  element("token-why").textContent = why;
  element("token-form").hidden = false;
}

function forget() {
  open.clear();
  element("open").replaceChildren();
  element("ended").replaceChildren();
}

function show(event) {
  clock = { gateway: event.now, page: performance.now() };
  for (const row of event.open) showOpen(row);
  for (const id of event.gone) {
    open.get(id)?.line.remove();
    open.delete(id);
  }
  for (const row of event.ended) showEnded(row);
  if (event.ended.length > 0) announce(event.ended);
  showUpstreams(event.upstreams);
  showFaults(event.faults, token, () => askForToken("Connections are broken with the token alone."));
  state(event.silent > 0 ? "a worker does not answer: its sockets are missing here" : "", event.silent > 0);
  element("open-count").textContent = `(${open.size})`;
  element("ended-count").textContent = `(the last ${element("ended").children.length})`;
  element("none-ended").hidden = element("ended").children.length > 0;
  showAges();
}

function showOpen(row) {
  let shown = open.get(row.id);
  if (shown === undefined) {
    const line = document.createElement("tr");
    shown = { line, cells: Array.from({ length: 11 }, () => line.insertCell()) };
    open.set(row.id, shown);
    element("open").prepend(line);
  }
  shown.row = row;
  const values = [
    row.route, row.client, row.upstream, null, row.phase, null, milliseconds(row.client_rtt_ms),
    milliseconds(row.upstream_rtt_ms), carried(row.from_client, row.frames_from_client),
    carried(row.from_upstream, row.frames_from_upstream), row.id,
  ];
  values.forEach((value, index) => {
    if (value !== null && shown.cells[index].textContent !== value) shown.cells[index].textContent = value;
  });
  shown.cells[4].className = row.phase;
  filter(shown);
}

function filter({ row, line }) {
  const wanted = element("filter").value.trim().toLowerCase();
  const text = [row.route, row.client, row.upstream, row.phase, row.id].join(" ").toLowerCase();
  line.hidden = wanted !== "" && !text.includes(wanted);
}

function showAges() {
  const now = clock.gateway + (performance.now() - clock.page) / 1000;
  for (const { row, cells } of open.values()) {
    cells[3].textContent = seconds(now - row.opened);
    cells[5].textContent = `${seconds(now - row.last)} ago`;
  }
}

function showEnded(row) {
  const item = document.createElement("li");
  const what = paragraph();
  what.append(code(row.cause), ` ${row.what}, ${row.when}.`);
  const facts = [
    `at ${timeOfDay(row.at)}`, `after ${seconds(row.seconds)}`, row.route, `client ${row.client}`, `upstream ${row.upstream}`,
    `close code ${row.close_code}`, `${carried(row.from_client)} from the client`,
    `${carried(row.from_upstream)} from the upstream`, `order: ${row.order.join(", ")}`,
    kernel("client", row.client_tcp), kernel("upstream", row.upstream_tcp), `request id ${row.id}`,
  ];
  const line = paragraph(facts.filter(Boolean).join(" · "));
  line.className = "facts";
  item.append(what, paragraph(`Usual cause: ${row.usual_cause}.`), paragraph(`Next step: ${row.next_step}.`), line);
  const list = element("ended");
  list.prepend(item);
  if (list.children.length > MOST_ENDED) list.lastElementChild.remove();
}

function announce(rows) {
  const last = rows[rows.length - 1];
  const others = rows.length > 1 ? `${rows.length} sockets ended. The last: ` : "A socket ended: ";
  element("announcement").textContent = `${others}${last.what}.`;
}

function showUpstreams(upstreams) {
  element("upstreams").replaceChildren(
    ...upstreams.map(({ url, connections, down }) => {
      const item = document.createElement("li");
      item.append(code(url), ` ${down ? "marked down" : "up"}, ${connections} open`);
      item.classList.toggle("down", down);
      return item;
    }),
  );
}

function state(text, isLost = false) {
  element("state").textContent = text;
  element("state").classList.toggle("lost", isLost);
}

function paragraph(text = "") {
  const made = document.createElement("p");
  made.textContent = text;
  return made;
}

function code(text) {
  const made = document.createElement("code");
  made.textContent = text;
  return made;
}

function kernel(side, tcp) {
  if (tcp === null || (tcp.unacked === 0 && tcp.retransmits === 0)) return "";
  return `${side}'s kernel: ${tcp.unacked} unacknowledged, ${tcp.retransmits} sent again, last acknowledgement ` +
    `${seconds(tcp.since_ack_ms / 1000)} before`;
}

function carried(bytes, frames) {
  const size = bytes < 10_000 ? `${bytes} B` : bytes < 10_000_000 ? `${Math.round(bytes / 1000)} kB` : `${Math.round(bytes / 1e6)} MB`;
  return frames === undefined ? size : `${size} / ${frames}`;
}

/** By this machine's clock, of a time on the gateway's. */
function timeOfDay(at) {
  return new Date(Date.now() - (clock.gateway - at) * 1000).toLocaleTimeString();
}

function milliseconds(value) {
  return value === null ? "-" : `${value} ms`;
}

function seconds(value) {
  if (value < 60) return `${value < 10 ? Math.max(0, value).toFixed(1) : Math.floor(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
}
