"use strict";

const find = (selector, from = document) => from.querySelector(selector);
const csrf = find("meta[name=csrf]").content;
const cards = new Map();
let before = null;

const STATES = {
  "covering": ["Everything covered", "The box has not proved its networks yet.", "hidden"],
  "anonymizing": ["Anonymized", "Every face is replaced or covered.", ""],
  "covering on request": ["Everything covered", "Because somebody asked for it.", "hidden"],
  "shuttered": ["Shutter closed", "Viewers see a slate, nothing of the camera.", "hidden"],
  "fault": ["Fault: everything covered", "Clear the fault when its cause is gone.", "fault"],
};

async function post(path, body) {
  const headers = { "X-CSRF-Token": csrf, "Content-Type": "application/json" };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body ?? {}) });
  if (answer.status === 401) location.assign("/login");
  return answer;
}

function number(value) {
  return value >= 10000 ? Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value) : String(value);
}

function duration(seconds) {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

function facts(list, rows) {
  list.replaceChildren(...rows.filter((row) => row[1] !== null).map(([name, value, warn]) => {
    const [row, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = name;
    dd.textContent = value;
    row.className = warn ? "warn" : "";
    row.append(dt, dd);
    return row;
  }));
}

function card(name) {
  if (!cards.has(name)) {
    const made = find("#stream").content.firstElementChild.cloneNode(true);
    find("h2", made).textContent = name;
    find("#streams").append(made);
    cards.set(name, made);
    watch(name, find(".picture", made));
  }
  return cards.get(name);
}

// One picture after the other, while the page can be seen; each asks for the next when it is there.
function watch(name, picture) {
  const next = (pause) => setTimeout(() => {
    if (document.hidden) return next(1000);
    picture.src = `/preview/${encodeURIComponent(name)}?${Date.now()}`;
  }, pause);
  picture.onload = () => next(400);
  picture.onerror = () => next(1500);
  next(0);
}

function rate(stream) {
  const old = before?.streams.find((other) => other.name === stream.name);
  if (!old) return null;
  const seconds = (performance.now() - before.at) / 1000;
  return Math.max(0, (stream.frames - old.frames) / seconds);
}

function draw(stream) {
  const made = card(stream.name);
  const badge = find(".badge", made);
  badge.textContent = stream.up ? "Live" : "No picture";
  badge.classList.toggle("lost", !stream.up);
  find(".picture", made).alt = stream.up ? `${stream.name}, anonymized` : `${stream.name}, slate`;
  find(".reason", made).textContent = stream.up ? "" : `${stream.reason}, for ${duration(stream.since_s)}`;
  const fps = rate(stream);
  facts(find(".facts", made), [
    ["Frames per second", fps === null ? "..." : fps.toFixed(fps < 10 ? 1 : 0), stream.up && fps !== null && fps < 1],
    ["Delay", stream.delay_median_ms === null ? null : `${Math.round(stream.delay_median_ms)} ms`],
    ["Delay, worst 1 %", stream.delay_p99_ms === null ? null : `${Math.round(stream.delay_p99_ms)} ms`],
    ["Late frames", number(stream.late), stream.late > 0.01 * stream.frames],
    ["Picture", stream.width ? `${stream.width} × ${stream.height}` : null],
    ["Lost", ["never", "once"][stream.losses] ?? `${number(stream.losses)} times`],
    ["Recording", stream.recorded ? (stream.recording_stopped ? "stopped" : "on") : "off", stream.recording_stopped],
  ]);
  const covered = stream.covered.reduce((sum, row) => sum + row.faces, 0);
  const all = stream.generated + covered;
  const share = (part) => (all ? (100 * part) / all : 0);
  find(".generated", made).style.setProperty("width", `${share(stream.generated)}%`);
  find(".covered", made).style.setProperty("width", `${share(covered)}%`);
  find(".bar", made).setAttribute("aria-label", `${Math.round(share(stream.generated))} % replaced`);
  find(".split", made).textContent = all
    ? `Faces, once per frame: ${number(stream.generated)} replaced, ${number(covered)} covered`
    : "No face yet";
  find(".why", made).replaceChildren(...stream.covered.filter((row) => row.faces > 0).sort((a, b) => b.faces - a.faces).map((row) => {
    const line = document.createElement("li");
    line.textContent = `${row.reason}: ${number(row.faces)}`;
    return line;
  }));
  find("code", made).textContent = stream.address;
}

function show(status) {
  find("#site").textContent = status.site;
  document.title = `${status.site} - Persona`;
  const [state, meaning, kind] = STATES[status.state] ?? [status.state, "", "hidden"];
  find("#state").textContent = state;
  find("#state").className = `state ${kind}`;
  find("#meaning").textContent = meaning;
  const asked = status.state === "covering on request";
  const shut = status.state === "shuttered";
  const cover = find("#cover");
  cover.textContent = asked ? "Uncover" : "Cover everything";
  cover.setAttribute("aria-pressed", asked);
  cover.disabled = !asked && status.state !== "anonymizing";
  const shutter = find("#shutter");
  shutter.textContent = shut ? "Open the shutter" : "Close the shutter";
  shutter.setAttribute("aria-pressed", shut);
  shutter.disabled = status.state === "fault";
  find("#reset").hidden = status.state !== "fault";
  status.streams.forEach(draw);
  facts(find("#facts"), [
    ["Viewers", String(status.viewers)],
    ["Hottest sensor", status.temperature_c === null ? null : `${status.temperature_c.toFixed(0)} °C`, status.throttled],
    ["Running for", duration(status.uptime_s)],
    ["Version", status.version],
  ]);
  find("#events").replaceChildren(...status.events.map((event) => {
    const [line, time, what, name] = ["li", "time", "span", "b"].map((tag) => document.createElement(tag));
    const when = new Date(event.time * 1000);
    time.dateTime = when.toISOString();
    time.title = when.toLocaleString();
    time.textContent = when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
    name.textContent = event.stream;
    what.append(name, ` ${event.what}`);
    line.append(time, what);
    return line;
  }));
  before = { ...status, at: performance.now() };
}

async function round() {
  try {
    const answer = await fetch("/api/status");
    if (answer.status === 401) return location.assign("/login");
    show(await answer.json());
    find("#offline").hidden = true;
  } catch {
    find("#offline").hidden = false;
  }
  setTimeout(round, document.hidden ? 5000 : 1000);
}

for (const button of document.querySelectorAll("[data-press]")) {
  button.addEventListener("click", () => post("/api/press", { press: button.dataset.press }));
}
find("#reset").addEventListener("click", () => post("/api/reset"));
find("#logout").addEventListener("click", async () => {
  await post("/logout");
  location.assign("/login");
});
round();
