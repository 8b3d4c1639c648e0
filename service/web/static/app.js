// The page: a list of conversions at "#/", one conversion at "#/ID". No build step, nothing from elsewhere.

const STAGES = ["admission", "normalization", "reconstruction", "synthesis", "optimization", "quantization", "fidelity", "report"];
const KINDS = ["queued", "started", "progress", "checkpoint", "interrupted", "succeeded", "failed", "cancelled"];
const FINAL = ["succeeded", "failed", "cancelled"];
const PLACES = ["node", "operator", "attribute", "tensor", "field"];
const LOOK_AGAIN = 3000;

const $ = (id) => document.getElementById(id);
const api = (id = "") => `/v1/conversions${id && `/${encodeURIComponent(id)}`}`;

// --- words -----------------------------------------------------------------------------------------------------------

function size(bytes) {
  const unit = bytes >= 1e9 ? ["GB", 1e9] : bytes >= 1e6 ? ["MB", 1e6] : bytes >= 1e3 ? ["kB", 1e3] : ["bytes", 1];
  return `${unit[1] === 1 ? bytes : (bytes / unit[1]).toPrecision(3)} ${unit[0]}`;
}

function duration(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function when(iso) {
  const at = new Date(iso), today = new Date().toDateString() === at.toDateString();
  return at.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function announce(text) {
  if ($("news").textContent !== text) $("news").textContent = text;
}

// --- talking to the service ------------------------------------------------------------------------------------------

class Refusal extends Error {
  constructor(problem) {
    super(problem.detail ?? "The service cannot be reached.");
    Object.assign(this, { problem, status: problem.status ?? 0 });
  }
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  } catch {
    throw new Refusal({});
  }
  if (answer.status === 401) askForKey();
  if (!answer.ok) throw new Refusal(await answer.json().catch(() => ({ status: answer.status })));
  return answer.status === 204 ? null : answer.json();
}

function explain(place, error) {
  const details = element("dl");
  for (const name of PLACES) {
    if (error[name]) details.append(element("dt", { textContent: name }), element("dd", { textContent: error[name] }));
  }
  place.replaceChildren(element("b", { textContent: error.detail ?? error.message ?? "The service cannot be reached." }));
  if (details.children.length) place.append(details);
  if (error.remedy) place.append(element("p", { className: "remedy", textContent: error.remedy }));
  place.hidden = false;
}

function askForKey() {
  if (!$("keys").open) $("keys").showModal();
}

$("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await call("/session", { method: "POST", body: new URLSearchParams({ key: $("key").value.trim() }) });
    location.reload();
  } catch (refusal) {
    explain($("key-problem"), refusal.problem);
  }
});

$("sign-out")?.addEventListener("click", async () => {
  await call("/session", { method: "DELETE" });
  location.assign("/");
  location.reload();
});

function ask(title, note, yes) {
  $("ask-title").textContent = title;
  $("ask-note").textContent = note;
  $("ask-yes").textContent = yes;
  $("ask").returnValue = "no";
  $("ask").showModal();
  return new Promise((answered) => $("ask").addEventListener("close", () => answered($("ask").returnValue === "yes"), { once: true }));
}

// --- submission ------------------------------------------------------------------------------------------------------

const form = $("submission"), file = $("file"), drop = $("drop");
let sending = null;
let source = null; // what holds the model already: an inspection, or an earlier conversion
let arriving = null; // the model on its way to be looked into; who presses Convert meanwhile waits for it

function forget() {
  source = null;
  $("seen").hidden = $("again-note").hidden = $("seen-problem").hidden = true;
}

async function choose() {
  const chosen = [...file.files];
  $("refusal").hidden = true;
  forget();
  drop.classList.toggle("chosen", chosen.length > 0);
  if (!chosen.length) return;
  $("drop-title").textContent = chosen.length > 1 ? `${chosen.length} models` : chosen[0].name;
  const largest = Number(file.dataset.largest), large = chosen.find((each) => each.size > largest);
  const all = chosen.reduce((sum, each) => sum + each.size, 0);
  $("drop-note").textContent = `${size(all)} · press Convert, or drop another`;
  if (large) return explain($("refusal"), { detail: `${large.name} has ${size(large.size)}; this service takes up to ${size(largest)}.` });
  if (chosen.length === 1) await inspect(chosen[0]);
}

async function inspect(chosen) {
  const current = () => file.files[0] === chosen;
  const body = new FormData();
  body.append("model", chosen);
  try {
    arriving = sent(() => send(body, "/v1/inspections"));
    let found = await arriving.finally(() => { arriving = null; });
    if (!current()) return;
    source = found.id;
    $("seen-facts").textContent = "Looking into it …";
    $("seen-inputs").tBodies[0].replaceChildren();
    for (const id of ["seen-nodes", "seen-notes"]) $(id).replaceChildren();
    $("seen").hidden = false;
    while (current() && source === found.id && !FINAL.includes(found.status)) {
      await new Promise((passed) => setTimeout(passed, 700));
      found = await call(`/v1/inspections/${found.id}`);
    }
    if (current() && source === found.id) seen(found);
  } catch (refusal) {
    $("seen").hidden = true;
    if (refusal.status === 401) askForKey();
    else if (current() && refusal.problem && !refusal.problem.stopped) explain($("seen-problem"), refusal.problem);
  }
}

const OVERRULES = { picture: "range=0:255", image: "range=0:255", tokens: "tokens=0:30522" };

function seen({ status, error, facts }) {
  if (status !== "succeeded") {
    $("seen-facts").textContent = "It could not be looked into.";
    return explain($("seen-problem"), error ?? { detail: `The inspection was ${status}.` });
  }
  const { model, inputs = [], notes = [], integer, refusals = [] } = facts;
  $("seen-facts").textContent = [
    `opset ${model.opset}`, `${model.nodes} nodes`, `${Number(model.parameters).toLocaleString()} parameters`, model.producer && `made by ${model.producer}`,
  ].filter(Boolean).join(" · ");
  $("seen-inputs").tBodies[0].replaceChildren(...inputs.map((input) => {
    const spec = input.overrule ?? `${input.name}=${OVERRULES[input.kind] ?? "range=-1:1"}`;
    const use = element("button", { type: "button", className: "link", textContent: spec });
    use.setAttribute("aria-label", `Say ${spec} of this input`);
    use.addEventListener("click", () => {
      const lines = form.elements.inputs.value.split("\n").filter((line) => line.trim() && !line.startsWith(`${input.name}=`));
      form.elements.inputs.value = [...lines, spec].join("\n");
      form.elements.inputs.closest("details").open = true;
      form.elements.inputs.focus();
    });
    const guesses = (input.hypotheses ?? []).length;
    const sure = input.scaled?.length > 1 ? ` (undecided between ${input.scaled.join(", ")})` : guesses > 1 ? ` (best of ${guesses})` : "";
    return element("tr", {},
      element("th", { scope: "row", textContent: `${input.name} ${(input.shape ?? []).join("×")}` }),
      element("td", { textContent: `${input.kind}${input.scaled?.[0] ? `, ${input.scaled[0]}` : ""}${sure}` }),
      element("td", { className: "note", textContent: input.why ?? "" }), element("td", {}, use));
  }));
  const reasons = Object.entries(facts.float?.reasons ?? {}).map(([why, count]) => `${count}: ${why}`);
  $("seen-nodes").textContent = `${integer?.nodes ?? 0} nodes become integer, ${facts.float?.nodes ?? 0} stay in float.`;
  $("seen-notes").replaceChildren(...[...notes, ...reasons.slice(0, 6)].map((textContent) => element("li", { textContent: String(textContent) })));
  announce("Looked into the model.");
  if (refusals.length) explain($("seen-problem"), refusals[0]);
}

function again(conversion) {
  file.value = "";
  forget();
  source = conversion.id;
  drop.classList.remove("chosen");
  $("drop-title").textContent = "Drop ONNX models here, or choose files";
  $("again-note").textContent = `Converts ${conversion.model.name} again: nothing needs to be sent. Change what should be other than before.`;
  $("again-note").hidden = false;
  const { options } = conversion;
  for (const name of [...CHOSEN, ...NUMBERS, "size_budget"]) {
    if (name in options) form.elements[name].value = options[name] ?? "";
    form.elements[name].dispatchEvent(new Event("change"));
  }
  for (const name of ["inputs", "outputs"]) form.elements[name].value = Object.entries(options[name] ?? {}).map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`).join("\n");
  form.elements.exclude.value = (options.exclude ?? []).join("\n");
  for (const box of form.querySelectorAll("[name=skip]")) box.checked = (options.skip ?? []).includes(box.value);
  $("fresh").checked = true;
  location.hash = "#/";
  $("convert").focus();
}

file.addEventListener("change", choose);
for (const name of ["dragenter", "dragover"]) addEventListener(name, (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget === null && drop.classList.remove("over"));
addEventListener("drop", (event) => {
  drop.classList.remove("over");
  if (!event.dataTransfer?.files.length) return;
  event.preventDefault();
  location.hash = "#/";
  file.files = event.dataTransfer.files;
  choose();
  $("convert").focus();
});

for (const select of form.querySelectorAll("select")) select.addEventListener("change", () => {
  $(`${select.name}-note`).textContent = select.selectedOptions[0].dataset.note;
});

const CHOSEN = ["method", "precision", "target", "prefer", "effort"];
const NUMBERS = ["time_budget", "samples", "seed", "min_agreement", "max_drop", "expected_accuracy"];
const lines = (name) => form.elements[name].value.split("\n").map((line) => line.trim()).filter(Boolean);

function pairs(name) {
  return Object.fromEntries(lines(name).map((line) => {
    const [key, ...rest] = line.split("=");
    return [key.trim(), rest.join("=").trim()];
  }));
}

function chosenOptions() {
  const options = {};
  for (const name of CHOSEN) options[name] = form.elements[name].value;
  for (const name of NUMBERS) {
    if (form.elements[name].value !== "") options[name] = Number(form.elements[name].value);
  }
  if (form.elements.size_budget.value.trim() !== "") options.size_budget = form.elements.size_budget.value.trim();
  options.skip = [...form.querySelectorAll("[name=skip]:checked")].map((box) => box.value);
  options.inputs = pairs("inputs");
  options.outputs = pairs("outputs");
  options.exclude = lines("exclude");
  return options;
}

async function sent(work) {
  $("sending").hidden = false;
  $("sent").value = 0;
  $("sent-note").textContent = "";
  try {
    return await work();
  } finally {
    sending = null;
    $("sending").hidden = true;
  }
}

function send(body, path) {
  return new Promise((done, failed) => {
    sending = new XMLHttpRequest(); // fetch tells nothing of an upload's progress
    sending.responseType = "json";
    sending.upload.addEventListener("progress", ({ loaded, total }) => {
      $("sent").value = loaded / total;
      $("sent-note").textContent = loaded < total ? `${size(loaded)} of ${size(total)}` : "stored, being queued";
    });
    sending.addEventListener("load", () => (sending.status < 300 ? done(sending.response) : failed(new Refusal(sending.response ?? { status: sending.status }))));
    sending.addEventListener("error", () => failed(new Refusal({ detail: "The upload broke off: the connection was lost, or the service refused it." })));
    sending.addEventListener("abort", () => failed(new Refusal({ stopped: true })));
    sending.open("POST", path);
    sending.send(body);
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sending && !arriving) return;
  $("refusal").hidden = true;
  if (!file.files.length && !source) return explain($("refusal"), { detail: "Choose a model first." });
  const wrong = [...form.elements].find((field) => field.willValidate && !field.checkValidity());
  if (wrong) {
    wrong.closest("details")?.setAttribute("open", "");
    wrong.focus();
    return explain($("refusal"), { detail: `${wrong.labels[0].textContent.trim()}: ${wrong.validationMessage}` });
  }
  $("convert").disabled = true;
  await arriving?.catch(() => null); // what went wrong there goes wrong again below, and is told
  const path = api() + ($("fresh").checked ? "?fresh=true" : ""), options = chosenOptions(), made = [];
  try {
    await sent(async () => {
      if (source) {
        const body = JSON.stringify({ model_of: source, options });
        made.push(await call(path, { method: "POST", body, headers: { "Content-Type": "application/json" } }));
        return;
      }
      for (const each of file.files) {
        const body = new FormData();
        body.append("options", new Blob([JSON.stringify(options)], { type: "application/json" }));
        body.append("model", each);
        made.push(await send(body, path));
      }
    });
    file.value = "";
    forget();
    drop.classList.remove("chosen");
    $("drop-title").textContent = "Drop other models here, or choose files";
    $("drop-note").textContent = ".onnx, or a .zip with its external data";
    if (made.length === 1) location.hash = `#/${made[0].id}`;
    else list();
  } catch (refusal) {
    if (refusal.status === 401) askForKey();
    if (!refusal.problem?.stopped) explain($("refusal"), refusal.problem ?? {});
    if (made.length) list();
  } finally {
    $("convert").disabled = false;
  }
});

$("stop-sending").addEventListener("click", () => sending?.abort());

// --- the list --------------------------------------------------------------------------------------------------------

let pages = 1, looking = 0;
const picked = new Set(); // conversions to be compared

function offer() {
  $("compare").disabled = picked.size < 2;
  $("compare").textContent = picked.size ? `Compare ${picked.size}` : "Compare";
}

$("compare").addEventListener("click", () => { location.hash = `#/compare/${[...picked].join(",")}`; });
$("filter").addEventListener("input", narrow);

function narrow() {
  const wanted = $("filter").value.trim().toLowerCase();
  for (const item of $("past").children) item.hidden = !item.textContent.toLowerCase().includes(wanted);
}

function words(conversion) {
  const { status, progress } = conversion;
  return status === "running" ? `running ${Math.round(100 * progress)} %` : status;
}

function summary(conversion) {
  const { model, options, status, error, created_at, sizes } = conversion;
  const told = [when(created_at), size(model.bytes)];
  if (status === "succeeded" && sizes.model) told[1] += ` → ${size(sizes.model)}`;
  told.push(`${options.method}, ${options.precision}`);
  return status === "failed" && error ? error.message : told.join(" · ");
}

function entry(conversion) {
  const { id, status, model } = conversion, active = !FINAL.includes(status);
  const pill = element("span", { className: "pill", textContent: words(conversion) });
  pill.dataset.status = status;
  const button = element("button", { type: "button", className: "quiet", textContent: active ? "Cancel" : "Delete" });
  button.setAttribute("aria-label", `${button.textContent} ${model.name}`);
  button.addEventListener("click", () => (active ? cancel(id, model.name) : remove(id, model.name)));
  const pick = element("input", { type: "checkbox", className: "pick", checked: picked.has(id), disabled: status !== "succeeded" });
  pick.setAttribute("aria-label", `Compare ${model.name}, ${when(conversion.created_at)}`);
  pick.addEventListener("change", () => {
    if (pick.checked) picked.add(id);
    else picked.delete(id);
    offer();
  });
  const item = element(
    "li", {}, pick, element("a", { href: `#/${id}`, textContent: model.name }), pill,
    element("span", { className: "note", textContent: summary(conversion) }), button,
  );
  if (status === "running") {
    const bar = element("progress", { max: 1, value: conversion.progress });
    bar.setAttribute("aria-hidden", "true");
    item.append(bar);
  }
  item.dataset.id = id;
  item.dataset.shown = JSON.stringify([words(conversion), summary(conversion)]);
  return item;
}

async function list() {
  clearTimeout(looking);
  if (!$("home").hidden && !document.hidden) {
    try {
      const found = [];
      let cursor = null;
      for (let page = 0; page < pages; page += 1) {
        const { conversions, next_cursor } = await call(`${api()}?limit=20${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
        found.push(...conversions);
        cursor = next_cursor;
        if (!cursor) break;
      }
      const known = new Map([...$("past").children].map((item) => [item.dataset.id, item]));
      const items = found.map((conversion) => {
        const made = entry(conversion), old = known.get(conversion.id);
        return old?.dataset.shown === made.dataset.shown ? old : made; // an unchanged entry keeps the focus
      });
      if (items.length !== $("past").children.length || items.some((item, place) => $("past").children[place] !== item)) {
        $("past").replaceChildren(...items);
      }
      narrow();
      $("more").hidden = !cursor;
      $("nothing").hidden = found.length > 0;
    } catch (refusal) {
      if (refusal.status === 401) return;
    }
  }
  looking = setTimeout(list, LOOK_AGAIN);
}

$("more").addEventListener("click", () => {
  pages += 1;
  list();
});
document.addEventListener("visibilitychange", () => document.hidden || list());

async function cancel(id, name) {
  if (!(await ask(`Cancel ${name}?`, "The conversion ends at once. Nothing of its result is kept.", "Cancel it"))) return;
  await call(`${api(id)}/cancel`, { method: "POST" }).catch(() => null);
  announce(`${name} was cancelled.`);
  route();
}

async function remove(id, name) {
  if (!(await ask(`Delete ${name}?`, "Model, result and report are removed from the service.", "Delete it"))) return;
  await call(api(id), { method: "DELETE" }).catch(() => null);
  announce(`${name} was deleted.`);
  location.hash = "#/";
  list();
}

// --- one conversion --------------------------------------------------------------------------------------------------

let shown = null, events = null, glancing = 0, ends = null;

function show(conversion) {
  shown = conversion;
  const { id, status, stage, model, sizes, options } = conversion;
  const active = !FINAL.includes(status), done = status === "succeeded";
  $("name").textContent = model.name;
  document.title = `${words(conversion)} · ${model.name} · zsq`;
  $("status").textContent = status;
  $("status").dataset.status = status;
  const told = [`Sent ${when(conversion.created_at)}`, size(model.bytes), `${options.method}, ${options.precision}, seed ${options.seed}`];
  if (done && sizes.model) {
    told[1] = `${size(model.bytes)} → ${size(sizes.model)}`;
    const took = (new Date(conversion.finished_at) - new Date(conversion.started_at)) / 1000;
    told.push(conversion.reused_from ? "known from an earlier conversion" : `took ${duration(took)}`);
  }
  if (conversion.attempt > 1) told.push(`attempt ${conversion.attempt}`);
  $("facts").textContent = told.join(" · ");

  $("running").hidden = !active;
  if (status === "queued") $("progress").removeAttribute("value");
  else $("progress").value = conversion.progress;
  $("message").textContent = status === "queued" ? "Waits for its turn." : (conversion.message ?? "Begins.");
  ends = active && conversion.seconds_left != null ? Date.now() + 1000 * conversion.seconds_left : null;
  tick();
  const at = status === "running" ? STAGES.indexOf(stage) : -1;
  [...$("stages").children].forEach((item, place) => {
    item.className = place < at ? "done" : "";
    if (place === at) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });

  if (status === "failed") explain($("failure"), conversion.error ?? {});
  else $("failure").hidden = true;
  $("again").hidden = active;
  $("again").textContent = status === "failed" || status === "cancelled" ? "Try again with…" : "Convert again with…";
  $("cancel").hidden = !active;
  $("delete").hidden = active;
  for (const [name, path, label, bytes] of [
    ["get-model", "model", "INT8 model", sizes.model],
    ["get-page", "report.html?download=true", "Report page", sizes.html],
    ["get-report", "report", "Report JSON", sizes.report],
  ]) {
    $(name).hidden = !done;
    $(name).href = `${api(id)}/${path}`;
    $(name).download = path === "report" ? `${model.name.replace(/\.(onnx|zip)$/i, "")}.int8.report.json` : "";
    $(name).replaceChildren(label, element("small", { textContent: bytes ? size(bytes) : "" }));
  }
  const address = new URL(`${api(id)}/report.html`, location.href).href;
  if (done && $("report").src !== address) $("report").src = address;
  $("report").hidden = !done;
}

function tick() {
  const left = ends === null ? 0 : (ends - Date.now()) / 1000;
  const spent = shown?.started_at ? (Date.now() - new Date(shown.started_at)) / 1000 : 0;
  $("left").textContent = left > 1 ? `about ${duration(left)} left` : spent > 1 ? `${duration(spent)} so far` : "";
}
setInterval(tick, 1000);

$("report").addEventListener("load", () => {
  const page = $("report").contentDocument?.documentElement;
  if (!page || $("report").hidden) return;
  const fit = () => { $("report").style.height = `${page.scrollHeight}px`; };
  new ResizeObserver(fit).observe(page.querySelector("body"));
  fit();
});

function watch(id) {
  events = new EventSource(`${api(id)}/events`); // comes back by itself after a lost connection, where it left off
  for (const kind of KINDS) events.addEventListener(kind, async ({ data }) => {
    if (shown?.id !== id) return;
    const news = JSON.parse(data);
    if (FINAL.includes(news.status)) {
      leave();
      await look(id);
      return announce(`${shown?.model.name}: ${news.status}.`);
    }
    if (news.stage && news.stage !== shown.stage) announce(`${shown.model.name}: ${news.stage}.`);
    const { stage, progress, message, seconds_left, status, attempt, at } = { ...shown, seconds_left: null, ...news };
    show({ ...shown, stage, progress, message, seconds_left, status, attempt, started_at: shown.started_at ?? (status === "running" ? at : null) });
  });
  events.addEventListener("error", () => events?.readyState === EventSource.CLOSED && setTimeout(route, LOOK_AGAIN));
}

function leave() {
  clearTimeout(glancing);
  events?.close();
  events = null;
}

async function look(id) {
  try {
    const conversion = await call(api(id));
    if (shown?.id === id) show(conversion);
  } catch (refusal) {
    if (refusal.status === 404) route();
    else glancing = setTimeout(look, LOOK_AGAIN, id);
  }
}

document.addEventListener("visibilitychange", async () => {
  if (!shown || FINAL.includes(shown.status)) return;
  if (!document.hidden) return route();
  leave(); // a browser allows six connections to one service: a tab that nobody sees only glances now and then
  const glance = async (id) => {
    await look(id);
    if (document.hidden && shown?.id === id && !FINAL.includes(shown.status)) glancing = setTimeout(glance, 3 * LOOK_AGAIN, id);
  };
  glancing = setTimeout(glance, 3 * LOOK_AGAIN, shown.id);
});

$("again").addEventListener("click", () => again(shown));
$("cancel").addEventListener("click", () => cancel(shown.id, shown.model.name));
$("delete").addEventListener("click", () => remove(shown.id, shown.model.name));
$("stages").replaceChildren(...STAGES.map((textContent) => element("li", { textContent })));

// --- side by side ----------------------------------------------------------------------------------------------------

const share = (value) => (value == null ? "unknown" : `${(100 * value).toFixed(1)} %`);
const range = (expected) => (expected?.interval ? `${share(expected.interval.low)} to ${share(expected.interval.high)}` : "unknown");
const ROWS = [ // title, what is shown, and what is better when smaller (-1) or larger (1)
  ["Options", ({ conversion: { options } }) => `${options.method}, ${options.precision}, ${options.samples} samples, seed ${options.seed}`],
  ["Size", ({ conversion }) => size(conversion.sizes.model ?? 0), ({ conversion }) => -(conversion.sizes.model ?? 0)],
  ["Speed over FP32's", ({ report: { latency } }) => (latency ? `${latency.speedup.toFixed(2)} times` : "not measured"), ({ report }) => report.latency?.speedup],
  ["Predicted decisions as FP32's", ({ report }) => range(report.predicted?.agreement), ({ report }) => report.predicted?.agreement?.interval?.low],
  ["Predicted change of accuracy", ({ report }) => range(report.predicted?.accuracy_change), ({ report }) => report.predicted?.accuracy_change?.interval?.low],
  ["Nodes on integers", ({ report }) => String(report.quantization?.nodes_quantized ?? "unknown")],
  ["Nodes with integer weights alone", ({ report }) => String(report.quantization?.nodes_stored ?? 0)],
  ["Nodes in float", ({ report }) => String(report.quantization?.nodes_float ?? "unknown")],
  ["Warnings", ({ report }) => String((report.warnings ?? []).length)],
];

async function compare(ids) {
  $("home").hidden = $("conversion").hidden = true;
  $("comparison").hidden = false;
  document.title = "side by side · zsq";
  const columns = await Promise.all(ids.map(async (id) => ({ conversion: await call(api(id)), report: await call(`${api(id)}/report`) })));
  const head = element("tr", {}, element("td"), ...columns.map(({ conversion: { id, model } }) => element("th", { scope: "col" }, element("a", { href: `#/${id}`, textContent: model.name }))));
  const rows = ROWS.map(([title, shownAs, worth]) => {
    const worths = columns.map((column) => worth?.(column) ?? NaN).map((each) => (Number.isFinite(each) ? each : -Infinity));
    const best = Math.max(...worths), differ = new Set(worths).size > 1;
    const cells = columns.map((column, place) => element("td", { textContent: shownAs(column), className: worth && differ && worths[place] === best ? "best" : "" }));
    return element("tr", {}, element("th", { scope: "row", textContent: title }), ...cells);
  });
  $("compared").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  $("comparison-title").focus();
}

// --- where we are ----------------------------------------------------------------------------------------------------

async function route() {
  leave();
  const id = location.hash.replace(/^#\/?/, ""), before = shown?.id;
  shown = null;
  $("comparison").hidden = true;
  if (id.startsWith("compare/")) return compare(id.slice(8).split(",")).catch(() => { location.hash = "#/"; });
  if (!id) {
    $("conversion").hidden = true;
    $("home").hidden = false;
    document.title = "zsq · float models become INT8";
    return list();
  }
  try {
    const conversion = await call(api(id));
    if (location.hash.replace(/^#\/?/, "") !== id) return;
    show(conversion);
    $("home").hidden = true;
    $("conversion").hidden = false;
    if (before !== id) $("name").focus();
    if (!FINAL.includes(conversion.status)) watch(id);
  } catch (refusal) {
    if (refusal.status === 404) {
      location.hash = "#/";
      explain($("refusal"), { detail: "There is no such conversion; it may have been deleted." });
    } else if (refusal.status !== 401) setTimeout(route, LOOK_AGAIN);
  }
}

addEventListener("hashchange", route);
route();
