// What the page knows of the home: asked of the API once, then kept up by its events.
import { useEffect, useState } from "./vendor/preact.js";

/** What the server refused, in its own words. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.status = status;
    this.next_step = problem.next_step;
    this.kind = String(problem.type ?? "").split(":").pop();
  }
}

export const home = {
  /** Who is signed in; null when nobody is, undefined until that is known. */
  me: undefined,
  devices: new Map(),
  /** The last update of each device that the page knows of. */
  jobs: new Map(),
  /** How far each running update is, by device. */
  progress: new Map(),
  rollouts: new Map(),
  /** Rollouts with their devices, as far as somebody looks at them. */
  details: new Map(),
  firmware: null,
  /** Looks at a device's health, by device. */
  health: new Map(),
  /** How often windows or schedules have changed since the page was loaded. */
  n_timetables: 0,
  loaded: false,
  live: false,
  trouble: null,
};

// Telling: what changes is told once a frame, whatever the number of changes.

const listeners = new Map();
let changed = new Set();
let timer = null;

function flush() {
  timer = null;
  const topics = changed;
  changed = new Set();
  const called = new Set();
  for (const topic of topics) for (const listener of listeners.get(topic) ?? []) called.add(listener);
  for (const listener of called) listener();
}

export function tell(...topics) {
  for (const topic of topics) changed.add(topic);
  if (timer !== null) return;
  timer = document.hidden ? setTimeout(flush, 250) : requestAnimationFrame(flush);
}

export function listen(topic, listener) {
  const all = listeners.get(topic) ?? listeners.set(topic, new Set()).get(topic);
  all.add(listener);
  return () => {
    all.delete(listener);
    if (all.size === 0) listeners.delete(topic);
  };
}

/** Draws a component again when one of these has changed. */
export function useTopics(...topics) {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = () => again((n) => n + 1);
    const ends = topics.map((topic) => listen(topic, listener));
    return () => ends.forEach((end) => end());
  }, topics);
}

/** A clock for texts such as "2 min ago". */
export function useNow(every_ms = 10_000) {
  const [now, tick] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => tick(Date.now()), every_ms);
    return () => clearInterval(timer);
  }, [every_ms]);
  return now;
}

// Asking.

/** Asks the API. Nothing is kept by the browser: the session is a cookie that no script can read. */
export async function ask(method, path, body, { type = "application/json", key } = {}) {
  const headers = {};
  if (method !== "GET" && home.me?.csrf_token) headers["X-CSRF-Token"] = home.me.csrf_token;
  if (key) headers["Idempotency-Key"] = key;
  let sent = body;
  if (body !== undefined && type === "application/json") sent = JSON.stringify(body);
  else if (body === undefined && method !== "GET" && method !== "DELETE") sent = "{}";
  if (sent !== undefined) headers["Content-Type"] = type;
  const answer = await fetch(`/api/v1/${path}`, { method, headers, body: sent, credentials: "same-origin" });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401 && home.me) signedOut();
  throw new Refusal(answer.status, problem);
}

export const get = (path) => ask("GET", path);
export const may = (role) => ["viewer", "operator", "admin"].indexOf(home.me?.role) >= ["viewer", "operator", "admin"].indexOf(role);

function signedOut() {
  home.me = null;
  close();
  tell("me");
}

/** Begins: as whoever the cookie says, if anybody. */
export async function begin() {
  try {
    const me = await get("whoami");
    // Who comes by a token or the local socket has no session; the page wants one.
    home.me = me.csrf_token ? me : null;
    home.trouble = null;
  } catch (refusal) {
    home.me = null;
    if (!(refusal instanceof Refusal)) {
      home.trouble = "unreachable";
      setTimeout(() => home.me === null && home.trouble && begin(), 3000);
    } else home.trouble = null;
  }
  tell("me");
  if (home.me) await enter();
}

export async function signIn(token) {
  const session = await ask("POST", "session", { token });
  home.me = { ...session };
  tell("me");
  await enter();
}

export async function signOut() {
  await ask("DELETE", "session").catch(() => {});
  signedOut();
}

async function enter() {
  follow();
  await refresh();
}

// Fetching what has changed: soon, but not more often than a server with many devices likes.

const soon = new Map();

/** Does `act` a moment from now and at most every `every_ms`, however often it is wanted. */
function throttled(name, act, every_ms) {
  const entry = soon.get(name) ?? soon.set(name, { last: 0, timer: null }).get(name);
  if (entry.timer !== null) return;
  const wait = Math.max(120, entry.last + every_ms - performance.now());
  entry.timer = setTimeout(async () => {
    entry.timer = null;
    entry.last = performance.now();
    try {
      await act();
    } catch (refusal) {
      if (refusal.status === 429) throttled(name, act, every_ms * 2);
    }
    entry.last = performance.now();
  }, wait);
}

const dirty = new Set();

function deviceChanged(id) {
  dirty.add(id);
  throttled("devices", fetchDevices, home.devices.size > 200 ? 2500 : 700);
}

async function fetchDevices() {
  const ids = [...dirty];
  dirty.clear();
  if (ids.length > 4) return loadDevices();
  for (const id of ids) {
    try {
      took(await get(`devices/${id}`));
    } catch (refusal) {
      if (refusal.status === 404) home.devices.delete(id);
    }
    tell("devices", `device:${id}`);
  }
}

function took(device) {
  const before = home.devices.get(device.id);
  // The same object stays the same, so that a row that has not changed is not drawn again.
  if (before && JSON.stringify(before) === JSON.stringify(device)) return before;
  home.devices.set(device.id, device);
  const looks = home.health.get(device.id);
  const last = looks?.[0];
  if (looks && device.last_seen_ms && device.last_seen_ms > (last?.at_ms ?? 0) + 5000) {
    const { signal_dbm, free_heap_bytes, uptime_s } = device;
    looks.unshift({ at_ms: device.last_seen_ms, online: true, signal_dbm, free_heap_bytes, uptime_s, restarted: false });
    if (looks.length > 240) looks.pop();
  }
  return device;
}

export async function loadDevices() {
  const devices = await get("devices");
  const ids = new Set(devices.map((device) => device.id));
  for (const id of home.devices.keys()) if (!ids.has(id)) home.devices.delete(id);
  for (const device of devices) {
    const before = home.devices.get(device.id);
    if (took(device) !== before) tell(`device:${device.id}`);
  }
  tell("devices");
}

export async function loadRollouts() {
  const rollouts = await get("rollouts?limit=50");
  for (const rollout of rollouts) home.rollouts.set(rollout.id, rollout);
  tell("rollouts");
}

export async function loadRollout(id) {
  const rollout = await get(`rollouts/${id}`);
  tookRollout(rollout);
  return rollout;
}

/** Rollouts with their devices that are kept: a page that is open for months sees many. */
const N_DETAILS = 12;

function forgetOldDetails() {
  const looked_at = Number(location.hash.match(/^#\/rollout\/(\d+)/)?.[1]);
  for (const id of [...home.details.keys()].sort((a, b) => a - b)) {
    if (home.details.size <= N_DETAILS) return;
    const rollout = home.details.get(id);
    if (!isOver(rollout.state) || id === looked_at) continue;
    home.details.delete(id);
    soon.delete(`rollout ${id}`);
  }
}

export function tookRollout(rollout) {
  home.details.set(rollout.id, rollout);
  forgetOldDetails();
  const { members, left_out, rules, ...summary } = rollout;
  home.rollouts.set(rollout.id, summary);
  // For a moment a job has ended and its outcome is not decided yet.
  for (const member of members) if (member.state === "finished") member.state = "verifying";
  for (const { device, job, state, percent } of members) {
    // After a reload the first word on a running update is from here.
    if (RUNNING.has(state) && !isOver(rollout.state)) {
      if (!home.progress.has(device)) home.progress.set(device, { rollout: rollout.id, job, device, state, percent, samples: [] });
    } else if (home.progress.get(device)?.rollout === rollout.id) home.progress.delete(device);
    tell(`progress:${device}`);
  }
  tell("rollouts", `rollout:${rollout.id}`);
}

export async function loadFirmware() {
  home.firmware = await get("firmware");
  tell("firmware");
}

async function loadJobs() {
  // The newest first: the first one of each device is its last.
  let before = "";
  for (let page = 0; page < 5; page += 1) {
    const jobs = await get(`history?limit=200${before}`);
    for (const job of jobs) {
      const known = home.jobs.get(job.device);
      if (!known || known.id <= job.id) home.jobs.set(job.device, job);
    }
    if (jobs.length < 200 || home.jobs.size >= home.devices.size) break;
    before = `&before=${jobs[jobs.length - 1].id}`;
  }
  tell("jobs", "devices");
}

const RUNNING = new Set(["looking", "preparing", "uploading", "rebooting", "soaking", "restoring", "verifying"]);
export const isRunning = (state) => RUNNING.has(state);
export const isOver = (state) => state === "finished" || state === "aborted";

/** Asks for everything that is shown everywhere. */
export async function refresh() {
  try {
    await loadDevices();
    home.loaded = true;
    home.trouble = null;
    tell("devices", "loaded");
    await Promise.all([loadRollouts(), loadJobs(), loadFirmware()]);
    const open = [...home.rollouts.values()].filter((rollout) => !isOver(rollout.state));
    const shown = new Set([...open.map((rollout) => rollout.id), ...home.details.keys()]);
    for (const id of [...shown].slice(0, 10)) await loadRollout(id);
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) home.trouble = "unreachable";
    if (!home.loaded && home.me) throttled("all", refresh, 3000);
    tell("loaded", "link");
  }
}

const newestFirst = (looks) => looks.sort((a, b) => b.at_ms - a.at_ms);

/** A device's health, asked for when somebody looks, a few at a time. */
const wantedHealth = [];
let askingHealth = 0;

export function wantHealth(id) {
  if (home.health.has(id) || wantedHealth.includes(id)) return;
  wantedHealth.push(id);
  if (wantedHealth.length > 60) wantedHealth.shift();
  nextHealth();
}

async function nextHealth() {
  if (askingHealth >= 2) return;
  const id = wantedHealth.pop();
  if (id === undefined) return;
  askingHealth += 1;
  try {
    home.health.set(id, newestFirst(await get(`devices/${id}/health?limit=48`)));
    tell(`health:${id}`);
  } catch {
    // Without its history a row shows what is now; the next look asks again.
  }
  // The server takes ten requests a second of one address; the rest of the page wants some of them.
  setTimeout(() => {
    askingHealth -= 1;
    nextHealth();
  }, 350);
}

export async function loadHealth(id) {
  const looks = await get(`devices/${id}/health?limit=500`);
  home.health.set(id, newestFirst(looks));
  tell(`health:${id}`);
}

// Following.

let source = null;
let last = null;
let again = null;

function follow() {
  close();
  source = new EventSource(`/api/v1/events${last === null ? "" : `?after=${last}`}`);
  source.addEventListener("hello", (event) => {
    const first = last === null;
    const { last: now } = JSON.parse(event.data);
    if (first) last = now;
    home.live = true;
    home.trouble = null;
    tell("link");
    // How far updates were meanwhile is in no event.
    if (!first || !home.loaded) throttled("all", refresh, 2000);
  });
  source.addEventListener("gap", () => throttled("all", refresh, 2000));
  source.addEventListener("message", (event) => happened(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    home.live = false;
    tell("link");
    // A browser comes back by itself after a cut, and not after an error of the server.
    if (source?.readyState === EventSource.CLOSED && again === null) {
      again = setTimeout(async () => {
        again = null;
        try {
          await get("whoami");
        } catch (refusal) {
          if (refusal.status === 401) return;
        }
        if (home.me) follow();
      }, 2000);
    }
  });
}

function close() {
  source?.close();
  source = null;
  home.live = false;
}

setInterval(() => {
  // What no event tells: signal, memory, last seen.
  if (home.me && home.live && !document.hidden) throttled("list", loadDevices, 10_000);
}, 30_000);
// A browser has six connections to a server; a tab that nobody looks at must not keep one.
const HIDDEN_MS = 20_000;
let hidden = null;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = setTimeout(close, HIDDEN_MS);
  else if (home.me) {
    if (source === null) follow();
    throttled("all", refresh, 5000);
  }
});

/** Samples of a running transfer: enough for a plot, and bounded. */
const SAMPLES = 400;

function happened(event) {
  if (event.seq > 0) last = event.seq;
  const { kind, device, detail } = event;
  if (kind === "job.progress") return progressed(event);
  if (kind.startsWith("device.")) {
    if (device) deviceChanged(device);
    return;
  }
  if (kind.startsWith("firmware.")) {
    throttled("firmware", loadFirmware, 1000);
    return;
  }
  if (kind === "job.started") {
    progressed({ ...event, detail: { ...detail, state: "looking" } });
    rolloutChanged(detail.rollout);
    return;
  }
  if (kind === "job.finished") {
    home.progress.delete(detail.device);
    if (detail.job) {
      const known = home.jobs.get(detail.device) ?? {};
      home.jobs.set(detail.device, { ...(known.id === detail.job ? known : {}), id: detail.job, ...detail, ended_ms: event.at_ms });
    }
    const member = home.details.get(detail.rollout)?.members.find((member) => member.device === detail.device);
    if (member) Object.assign(member, { state: detail.state, reason: detail.reason, text: detail.text, percent: null });
    deviceChanged(detail.device);
    tell("jobs", `progress:${detail.device}`, `device:${detail.device}`, `job:${detail.job}`, `rollout:${detail.rollout}`);
    rolloutChanged(detail.rollout);
    return;
  }
  if (kind.startsWith("window.") || kind.startsWith("schedule.")) {
    home.n_timetables += 1;
    tell("windows");
    return;
  }
  if (kind.startsWith("rollout.")) rolloutChanged(detail.rollout);
}

function rolloutChanged(id) {
  if (!id) return;
  const n_members = home.details.get(id)?.members.length ?? 0;
  throttled(`rollout ${id}`, () => loadRollout(id), n_members > 100 ? 2500 : 500);
}

function progressed({ at_ms, detail }) {
  const before = home.progress.get(detail.device);
  const samples = before?.job === detail.job ? before.samples : [];
  if (detail.state === "uploading" && detail.acked_bytes > 0) {
    samples.push([at_ms, detail.acked_bytes]);
    // Every second one goes, so that a long transfer keeps its shape.
    if (samples.length > SAMPLES) for (let idx = samples.length - 2; idx > 0; idx -= 2) samples.splice(idx, 1);
  }
  home.progress.set(detail.device, { ...detail, samples });
  if (samples.length) home.lastSamples = { job: detail.job, samples };
  const member = home.details.get(detail.rollout)?.members.find((member) => member.device === detail.device);
  if (member) Object.assign(member, { state: detail.state, percent: detail.percent, job: detail.job });
  if (before?.state !== detail.state) tell(`rollout:${detail.rollout}`, "running");
  tell(`progress:${detail.device}`, `job:${detail.job}`);
}

// Judging: what a device's standing is, in one word.

const FAILED = new Set(["failed", "kept-old", "unverified", "refused", "rolled-back"]);
export const isFailure = (state) => FAILED.has(state);

/** The device's last update, where it did not go well. */
export function failure(device) {
  const job = home.jobs.get(device.id);
  return job && isFailure(job.state) && !home.progress.has(device.id) ? job : null;
}

/** A word, how much it matters (0: most), and how it looks. */
export function standing(device) {
  const running = home.progress.get(device.id);
  if (running) return { word: running.state, percent: running.percent, tone: "busy", rank: 0 };
  if (device.conflict) return { word: "conflict", tone: "bad", rank: 1 };
  const failed = failure(device);
  if (failed) return { word: failed.state, reason: failed.reason, tone: "bad", rank: 2 };
  if (device.state === "unreadable") return { word: "unreadable", tone: "bad", rank: 3 };
  if (device.state === "offline") return { word: "offline", tone: "off", rank: 4 };
  if (device.state === "unknown") return { word: "unknown", tone: "off", rank: 5 };
  if (!device.enrolled) return { word: "not-enrolled", tone: "warn", rank: 6 };
  if (device.offered) return { word: "outdated", tone: "news", rank: 7 };
  if (device.pinned) return { word: "pinned", tone: "good", rank: 8 };
  return { word: device.latest ? "current" : "online", tone: "good", rank: 9 };
}

export const FILTERS = {
  all: () => true,
  outdated: (device) => device.offered,
  failed: (device) => failure(device) !== null,
  offline: (device) => device.state === "offline" || device.state === "unknown",
  attention: (device) =>
    Boolean(device.conflict) || device.state === "unreadable" || !device.enrolled || failure(device) !== null,
};
