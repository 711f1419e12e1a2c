// Arms faults of the catalogue by POST /-/faults, shows what is armed and how many connections have met it, and ends it.

const element = (id) => document.getElementById(id);
let catalogue = null;
let token = "";
let refused = null; // The token that was not the right one.

element("fault").addEventListener("change", showFault);
element("fault-form").addEventListener("submit", (event) => {
  event.preventDefault();
  arm();
});

/** What the inspector's stream says: the armed faults, or null where there may be none. On the gateway's own machine the
 * stream needs no token, and the faults do where there is one. */
export function showFaults(armed, given, askForToken) {
  token = given;
  element("faults-off").hidden = armed !== null;
  if (armed === null) return;
  if (catalogue === null && token === refused) askForToken();
  else if (catalogue === null) loadCatalogue();
  const list = element("armed");
  for (const line of [...list.children]) if (!armed.some(({ id }) => id === line.dataset.id)) remove(line);
  for (const fault of armed) showArmed(list, fault);
}

async function loadCatalogue() {
  catalogue = [];
  const tried = token;
  const response = await request("GET", "/-/faults").catch(() => null);
  if (!response?.ok) {
    // The next event of the stream tries again, with another token where one is needed.
    catalogue = null;
    if (response?.status === 401) refused = tried;
    return;
  }
  ({ catalogue } = await response.json());
  element("fault").replaceChildren(...catalogue.map(({ fault }) => new Option(fault)));
  element("fault-form").hidden = false;
  showFault();
}

/** The form for the fault that is selected. */
function showFault() {
  const { does, side, sides, parameters } = selected();
  element("fault-does").replaceChildren(...withCode(does));
  element("fault-side").replaceChildren(...sides.map((each) => new Option(each, each, each === side, each === side)));
  element("fault-parameters").replaceChildren(...Object.entries(parameters).map(([name, value]) => field(name, value)));
}

/** What stands between backticks is the name of a parameter. */
function withCode(text) {
  return text.split("`").map((part, index) => {
    if (index % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  });
}

function field(name, value) {
  const input = document.createElement("input");
  input.id = `parameter-${name}`;
  input.dataset.name = name;
  input.value = value ?? "";
  if (typeof value !== "string") {
    input.type = "number";
    input.step = "any";
  }
  const label = document.createElement("label");
  label.htmlFor = input.id;
  label.textContent = name.replaceAll("_", " ");
  const both = document.createElement("span");
  both.className = "field";
  both.append(label, input);
  return both;
}

function selected() {
  return catalogue.find(({ fault }) => fault === element("fault").value);
}

async function arm() {
  const parameters = {};
  for (const { dataset, type, value } of element("fault-parameters").querySelectorAll("input")) {
    if (type !== "number") parameters[dataset.name] = value;
    else if (value !== "") parameters[dataset.name] = Number(value);
  }
  const times = Number(element("fault-times").value) || null;
  const body = { fault: selected().fault, side: element("fault-side").value, path: element("fault-path").value, times, parameters };
  await done(request("POST", "/-/faults", body));
}

function showArmed(list, { id, fault, side, path, met }) {
  let line = [...list.children].find(({ dataset }) => dataset.id === id);
  if (line === undefined) {
    line = document.createElement("li");
    line.dataset.id = id;
    const disarm = document.createElement("button");
    disarm.textContent = "Disarm";
    disarm.setAttribute("aria-label", `Disarm ${fault}`);
    disarm.addEventListener("click", () => done(request("DELETE", `/-/faults/${id}`)));
    line.append(disarm, document.createElement("span"));
    list.append(line);
  }
  const text = ` ${fault} on the side of the ${side}, ${path}: met by ${met} ${met === 1 ? "connection" : "connections"}`;
  if (line.lastChild.textContent !== text) line.lastChild.textContent = text;
}

/** A line that has the focus gives it to the form. */
function remove(line) {
  const focused = line.contains(document.activeElement);
  line.remove();
  if (focused) element("arm").focus();
}

async function done(asked) {
  const response = await asked.catch((error) => error);
  const said = response.ok ? "" : (await response.json?.().catch(() => null))?.detail ?? response.message ?? "it failed";
  element("fault-error").textContent = said;
}

function request(method, path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body === undefined) return fetch(path, { method, headers });
  return fetch(path, { method, headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) });
}
