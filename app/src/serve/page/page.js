"use strict";

const find = (selector, from = document) => from.querySelector(selector);
const csrf = find("meta[name=csrf]").content;
const cards = new Map();
let before = null;

// Of the box: its title, what that means, its colour, and what a picture is called in it.
const STATES = {
  "covering": ["Everything covered", "The box has not proved its networks yet.", "hidden", "Covered"],
  "anonymizing": ["Anonymized", "Every face is replaced or covered.", "", "Live"],
  "covering on request": ["Everything covered", "Because somebody asked for it.", "hidden", "Covered"],
  "shuttered": ["Shutter closed", "Viewers see a slate, nothing of the camera.", "hidden", "Shutter closed"],
  "fault": ["Fault: everything covered", "Clear the fault when its cause is gone.", "fault", "Covered"],
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
    if (!picture.isConnected) return;
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

// A box that listens everywhere is found where this page was.
function reachable(address) {
  return address.replace(/\/\/(0\.0\.0\.0|\[::\])(?=:)/, `//${location.hostname}`);
}

function draw(stream, live) {
  const made = card(stream.name);
  const badge = find(".badge", made);
  badge.textContent = stream.up ? live : "No picture";
  badge.classList.toggle("lost", !stream.up);
  badge.classList.toggle("concealed", live !== "Live");
  find(".picture", made).alt = `${stream.name}: ${badge.textContent}`;
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
  find("code", made).textContent = reachable(stream.address);
}

function show(status) {
  find("#site").textContent = status.site;
  document.title = `${status.site} - Persona`;
  const [state, meaning, kind, live] = STATES[status.state] ?? [status.state, "", "hidden", "Covered"];
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
  for (const [name, made] of cards) {
    if (status.streams.some((stream) => stream.name === name)) continue;
    made.remove();
    cards.delete(name);
  }
  status.streams.forEach((stream) => draw(stream, live));
  facts(find("#facts"), [
    ["Viewers", String(status.viewers)],
    ["Hottest sensor", status.temperature_c === null ? null : `${status.temperature_c.toFixed(0)} °C`, status.throttled],
    ["Running for", duration(status.uptime_s)],
    ["Privacy report", status.report_stopped ? "cannot be written" : "kept", status.report_stopped],
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

const FAULTS = { pipeline: "stage failed", camera_lost: "camera lost", encoder: "encoder", recording: "recording" };
const REASONS = {
  small: "too small", turned: "turned away", landmarks: "landmarks not plausible", tentative: "perhaps a face",
  coasting: "lost for a moment", look_ahead: "not yet detected", late: "out of time", load: "too hot or too late",
  mask: "mask with holes", similar: "resembles the person", unverified: "not verified", network: "network failed",
  policy: "asked for", zone: "in a covered zone", frame: "whole frame covered",
};

// Rows with something in them, the largest first.
function counts(list, rows, names) {
  const seen = Object.entries(rows).filter((row) => row[1] > 0).sort((a, b) => b[1] - a[1]);
  list.replaceChildren(...seen.map(([name, count]) => {
    const line = document.createElement("li");
    line.textContent = `${names[name] ?? name}: ${number(count)}`;
    return line;
  }));
}

function reported([name, stream]) {
  const made = find("#reported").content.firstElementChild.cloneNode(true);
  find("h3", made).textContent = name;
  const share = (part) => (stream.face_frames ? `${((100 * part) / stream.face_frames).toFixed(1)} %` : "-");
  const check = stream.verification;
  const faults = Object.entries(stream.faults).filter((row) => row[1] > 0);
  facts(find(".facts", made), [
    ["Faces seen", number(stream.face_frames)],
    ["Replaced", share(stream.generated)],
    ["Covered", share(stream.face_frames - stream.generated)],
    ["Outputs verified", number(check.outputs)],
    ["Resembled the person", number(check.similar), check.similar > 0],
    ["Not verifiable", number(check.failed), check.failed > 0],
    ["Faults", faults.length ? faults.map(([fault, count]) => `${FAULTS[fault] ?? fault} ${number(count)}`).join(", ") : "none", faults.length > 0],
  ]);
  counts(find(".why", made), stream.covered, REASONS);
  const most = Math.max(...check.distances);
  find(".distances", made).hidden = !most;
  const bins = find(".bins", made);
  bins.setAttribute("aria-label", `How far ${check.outputs} outputs were from the person; ${check.similar} too near`);
  bins.replaceChildren(...check.distances.map((count, index) => {
    const bin = document.createElement("i");
    const begin = check.step * index;
    bin.className = begin < check.limit ? "near" : "";
    bin.title = `${begin.toFixed(2)} and more: ${count}`;
    bin.style.setProperty("height", count ? `${Math.max(4, (100 * count) / most)}%` : "0");
    return bin;
  }));
  return made;
}

async function report() {
  try {
    const answer = await fetch("/api/reports");
    if (!answer.ok) return;
    const days = await answer.json();
    const day = find("#day");
    const chosen = days.includes(day.value) ? day.value : days[0];
    find("#report").hidden = !chosen;
    if (!chosen) return;
    day.replaceChildren(...days.map((name) => new Option(name, name, false, name === chosen)));
    find("#file").href = `/reports/${chosen}.json`;
    find("#file").download = `persona-${chosen}.json`;
    const report = await (await fetch(`/reports/${chosen}.json`)).json();
    find("#days").replaceChildren(...Object.entries(report.streams).map(reported));
  } catch {
    // The box does not answer: the status says so.
  }
}
find("#day").addEventListener("change", report);
setInterval(() => document.hidden || report(), 30000);

function reached(answers) {
  find("#offline").hidden = answers;
  document.body.classList.toggle("old", !answers);
}

async function round() {
  try {
    const answer = await fetch("/api/status");
    if (answer.status === 401) return location.assign("/login");
    show(await answer.json());
    reached(true);
  } catch {
    reached(false);
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
report();
