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

function choose() {
  const chosen = file.files[0];
  $("refusal").hidden = true;
  drop.classList.toggle("chosen", Boolean(chosen));
  if (!chosen) return;
  $("drop-title").textContent = chosen.name;
  const largest = Number(file.dataset.largest);
  $("drop-note").textContent = `${size(chosen.size)} · press Convert, or drop another`;
  if (chosen.size > largest) explain($("refusal"), { detail: `The file has ${size(chosen.size)}; this service takes up to ${size(largest)}.` });
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

function chosenOptions() {
  const options = {};
  for (const name of ["method", "precision", "target"]) options[name] = form.elements[name].value;
  for (const name of ["time_budget", "samples", "seed", "min_agreement"]) {
    if (form.elements[name].value !== "") options[name] = Number(form.elements[name].value);
  }
  if (form.elements.size_budget.value.trim() !== "") options.size_budget = form.elements.size_budget.value.trim();
  options.skip = [...form.querySelectorAll("[name=skip]:checked")].map((box) => box.value);
  options.inputs = {};
  for (const line of form.elements.inputs.value.split("\n").filter((each) => each.trim())) {
    const [name, ...spec] = line.split("=");
    options.inputs[name.trim()] = spec.join("=").trim();
  }
  return options;
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
  if (sending) return;
  $("refusal").hidden = true;
  if (!file.files.length) return explain($("refusal"), { detail: "Choose a model first." });
  const wrong = [...form.elements].find((field) => field.willValidate && !field.checkValidity());
  if (wrong) {
    wrong.closest("details")?.setAttribute("open", "");
    wrong.focus();
    return explain($("refusal"), { detail: `${wrong.labels[0].textContent.trim()}: ${wrong.validationMessage}` });
  }
  const body = new FormData();
  body.append("options", new Blob([JSON.stringify(chosenOptions())], { type: "application/json" }));
  body.append("model", file.files[0]);
  $("convert").disabled = true;
  $("sending").hidden = false;
  $("sent").value = 0;
  $("sent-note").textContent = "";
  try {
    const made = await send(body, api() + ($("fresh").checked ? "?fresh=true" : ""));
    file.value = "";
    drop.classList.remove("chosen");
    $("drop-title").textContent = "Drop another model here, or choose a file";
    $("drop-note").textContent = ".onnx, or a .zip with its external data";
    location.hash = `#/${made.id}`;
  } catch (refusal) {
    if (refusal.status === 401) askForKey();
    if (!refusal.problem.stopped) explain($("refusal"), refusal.problem);
  } finally {
    sending = null;
    $("convert").disabled = false;
    $("sending").hidden = true;
  }
});

$("stop-sending").addEventListener("click", () => sending?.abort());

// --- the list --------------------------------------------------------------------------------------------------------

let pages = 1, looking = 0;

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
  const item = element(
    "li", {}, element("a", { href: `#/${id}`, textContent: model.name }), pill,
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

$("cancel").addEventListener("click", () => cancel(shown.id, shown.model.name));
$("delete").addEventListener("click", () => remove(shown.id, shown.model.name));
$("stages").replaceChildren(...STAGES.map((textContent) => element("li", { textContent })));

// --- where we are ----------------------------------------------------------------------------------------------------

async function route() {
  leave();
  const id = location.hash.replace(/^#\/?/, ""), before = shown?.id;
  shown = null;
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
