// The parts that all views are made of.
import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { Refusal, home, listen, tell, useNow, useTopics, wantHealth } from "./home.js";
import { count, date, language, moment, reason as reasonWord, remedy, say, since, state, time } from "./say.js";

const SHAPES = {
  // families
  "ir-remote": "M8 2h8a1 1 0 0 1 1 1v18a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1V3a1 1 0 0 1 1-1zM12 6v.01M10 11h.01M14 11h.01M10 14h.01M14 14h.01M10 17h.01M14 17h.01",
  komfovent: "M12 12a2 2 0 1 0 0-.01M12 10c-2-2-2-6 1-7 3 0 3 4-1 7M14 12c2-2 6-2 7 1 0 3-4 3-7-1M12 14c2 2 2 6-1 7-3 0-3-4 1-7M10 12c-2 2-6 2-7-1 0-3 4-3 7 1",
  arduino: "M7 7h10v10H7zM10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4",
  // places
  fleet: "M4 5h16M4 12h16M4 19h16M4 5v.01M4 12v.01",
  rollouts: "M4 6h6v4H4zM14 6h6v4h-6zM14 14h6v4h-6zM7 10v6h7",
  firmware: "M12 3v11m0 0 4-4m-4 4-4-4M4 17v3h16v-3",
  windows: "M5 5h14v15H5zM5 10h14M9 3v4M15 3v4M9 14h3v3H9z",
  history: "M12 7v5l3 2M12 21a9 9 0 1 0-9-9M3 12l-1.5-2M3 12l2-2",
  settings: "M4 7h10M18 7h2M4 17h2M10 17h10M16 5v4M8 15v4",
  // actions
  stop: "M8 3h8l5 5v8l-5 5H8l-5-5V8z",
  close: "M6 6l12 12M18 6 6 18",
  back: "M15 5l-7 7 7 7",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM20 20l-5-5",
  right: "M5 12h13m-5-5 5 5-5 5",
};

/** A drawing beside a word; it never says anything alone. */
export const Icon = ({ name, size = 18 }) => html`<svg class="icon" width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true"><path d=${SHAPES[name] ?? SHAPES.arduino} /></svg>`;

const TONES = {
  good: html`<circle cx="6" cy="6" r="4" />`,
  news: html`<path d="M6 1.5 10.5 6 6 10.5 1.5 6z" />`,
  busy: html`<circle class="ring" cx="6" cy="6" r="4" />`,
  warn: html`<path d="M6 1 11.5 10.5H.5z" />`,
  bad: html`<path d="M2 2h8v8H2z" />`,
  off: html`<circle class="ring" cx="6" cy="6" r="4" />`,
};

/** A state: a shape, so that nobody has to see colours, and its word. */
export const Standing = ({ tone, children }) => html`<span class="standing ${tone}"><svg width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">${TONES[tone]}</svg><span>${children}</span></span>`;

const TONE_OF = {
  updated: "good", "updated-label-unchanged": "good", "already-current": "good", finished: "good", approved: "good", online: "good",
  failed: "bad", "kept-old": "bad", "rolled-back": "bad", unverified: "bad", refused: "bad", halted: "bad", blocked: "bad", quarantine: "bad", quarantined: "bad",
  running: "busy", looking: "busy", preparing: "busy", uploading: "busy", rebooting: "busy", soaking: "busy", verifying: "busy", restoring: "busy", downloading: "busy",
  waiting: "off", queued: "off", scheduled: "off", skipped: "off", cancelled: "off", "missed-window": "off", aborted: "off",
  paused: "warn", interrupted: "warn",
};
export const toneOf = (name) => TONE_OF[name] ?? "off";

/** A state of the API by its name. */
export const State = ({ name, percent, reason }) => html`<${Standing} tone=${toneOf(name)}>${state(name)}${percent !== null && percent !== undefined ? ` ${percent} %` : ""}${reason && reason !== "retry" ? html` <span class="quiet">(${reasonWord(reason)})</span>` : ""}</${Standing}>`;

/** A text that the server wrote: English, whatever the page speaks. */
export const Theirs = ({ children, as = "span", ...rest }) => html`<${as} lang=${language === "en" ? undefined : "en"} ...${rest}>${children}</${as}>`;

/** A moment: how long ago, and exactly when it is looked at. */
export function Ago({ ms }) {
  const now = useNow();
  return ms ? html`<time dateTime=${new Date(ms).toISOString()} title=${moment(ms)}>${since(ms, now)}</time>` : html`<span class="quiet">${say("never")}</span>`;
}
export const When = ({ ms }) => (ms ? html`<time dateTime=${new Date(ms).toISOString()} title=${moment(ms)}>${date(ms)}</time>` : html`<span class="quiet">–</span>`);

export const Bar = ({ percent, label, tone = "busy" }) => html`<span class="bar ${tone}" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${percent ?? undefined}><span style=${{ width: `${percent ?? 0}%` }}></span></span>`;

/** The bar of a device's running update; it alone is drawn again while bytes arrive. */
export function LiveBar({ device, label }) {
  useTopics(`progress:${device}`);
  const running = home.progress.get(device);
  if (!running) return null;
  return html`<${Bar} percent=${running.state === "uploading" ? running.percent : running.state === "looking" || running.state === "preparing" ? 0 : 100} label=${label} tone=${running.state === "uploading" ? "busy" : "busy calm"} />`;
}

export const Empty = ({ title, children }) => html`<div class="empty"><h2>${title}</h2>${children}</div>`;

export const Facts = ({ rows }) => html`<dl class="facts">${rows.filter(Boolean).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value || html`<span class="quiet">–</span>`}</dd></div>`)}</dl>`;

/** The head of a view; its heading takes the focus when one comes here. */
export function Head({ title, kicker, back, children, beside }) {
  const heading = useRef();
  useEffect(() => {
    document.title = `${typeof title === "string" ? title : say("app")} · Reflash`;
  }, [title]);
  useEffect(() => {
    if (!document.body.dataset.fresh) heading.current.focus({ preventScroll: true });
    delete document.body.dataset.fresh;
  }, []);
  return html`<header class="head">
    <div>
      ${back && html`<a class="back" href=${back[0]}><${Icon} name="back" size="14" />${back[1]}</a>`}
      <h1 tabindex="-1" ref=${heading}>${title}</h1>
      ${kicker && html`<p class="kicker">${kicker}</p>`}
      ${beside}
    </div>
    <div class="actions">${children}</div>
  </header>`;
}

// Plots: few points, drawn as SVG, so that they follow the colours of the page and scale with its text.

/** A line as wide as a word. */
export function Spark({ id, of, unit, label }) {
  useTopics(`health:${id}`, `device:${id}`);
  useEffect(() => wantHealth(id), [id]);
  const device = home.devices.get(id);
  const value = device?.[of];
  const looks = (home.health.get(id) ?? []).slice(0, 48).map((look) => (look.online ? look[of] : null)).reverse();
  const known = looks.filter((n) => n !== null && n !== undefined);
  if (value === null || value === undefined) return html`<span class="quiet">–</span>`;
  let path = "";
  if (known.length > 1) {
    const low = Math.min(...known);
    const range = Math.max(...known) - low;
    let open = false;
    looks.forEach((n, idx) => {
      if (n === null || n === undefined) return void (open = false);
      const x = (idx / (looks.length - 1)) * 44 + 1;
      path += `${open ? "L" : "M"}${x.toFixed(1)} ${(range === 0 ? 8 : 14 - ((n - low) / range) * 12).toFixed(1)}`;
      open = true;
    });
  }
  return html`<span class="spark ${path ? "" : "bare"} ${device.state === "online" ? "" : "quiet"}"><span class="number">${unit(value)}</span><svg width="46" height="16" viewBox="0 0 46 16" aria-hidden="true"><path d=${path} /></svg><span class="hidden"> ${label}</span></span>`;
}

/** A round step so that about four lines fit. */
function step(range) {
  const rough = range / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
}

/** A course over time. `points` are [ms, value]; null values are gaps. `marks` are [ms, word]. `least`: so many points are worth a picture. `when` writes a moment. */
export function Plot({ title, points, unit, marks = [], from_zero = false, least = 2, empty, when }) {
  const box = useRef();
  const [width, setWidth] = useState(600);
  const [at, setAt] = useState(null);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(220, Math.round(entry.contentRect.width))));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const known = points.filter(([, value]) => value !== null && value !== undefined);
  const height = 150;
  const [left, right, top, bottom] = [74, 8, 14, 22];
  let body = null;
  if (known.length >= least) {
    const values = known.map(([, value]) => value);
    const range = Math.max(...values) - (from_zero ? 0 : Math.min(...values));
    // A flat line has no range of its own: a tenth of its height serves.
    const gap = step(range || Math.abs(values[0]) / 10 || 1);
    const low = from_zero ? 0 : Math.floor(Math.min(...values) / gap) * gap;
    const high = Math.max(Math.ceil(Math.max(...values) / gap) * gap, low + gap);
    const [first, end] = [points[0][0], points[points.length - 1][0]];
    const x = (ms) => left + ((ms - first) / Math.max(1, end - first)) * (width - left - right);
    const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
    const lines = [];
    for (let value = low; value <= high + gap / 100; value += gap) lines.push(value);
    let path = "";
    let open = false;
    for (const [ms, value] of points) {
      if (value === null || value === undefined) {
        open = false;
        continue;
      }
      path += `${open ? "L" : "M"}${x(ms).toFixed(1)} ${y(value).toFixed(1)}`;
      open = true;
    }
    const tell = when ?? (end - first < 36 * 3600 * 1000 ? time : date);
    const near = at === null ? null : known.reduce((best, point) => (Math.abs(x(point[0]) - at) < Math.abs(x(best[0]) - at) ? point : best));
    body = html`<svg width=${width} height=${height} viewBox="0 0 ${width} ${height}" role="img" aria-label=${say("plot.says", { title, from: unit(values[0]), to: unit(values[values.length - 1]), low: unit(Math.min(...values)), high: unit(Math.max(...values)) })} onPointerMove=${(event) => setAt(event.offsetX)} onPointerLeave=${() => setAt(null)}>
      ${lines.map((value) => html`<line class="grid" x1=${left} x2=${width - right} y1=${y(value)} y2=${y(value)} /><text x=${left - 8} y=${y(value) + 4} text-anchor="end">${unit(value)}</text>`)}
      ${marks.filter(([ms]) => ms >= first && ms <= end).map(([ms, word]) => html`<line class="mark" x1=${x(ms)} x2=${x(ms)} y1=${top - 4} y2=${height - bottom}><title>${word}</title></line>`)}
      <path class="line" d=${path} />
      ${known.length < 40 && known.map(([ms, value]) => html`<circle class="dot" cx=${x(ms)} cy=${y(value)} r=${least < 2 ? 3.5 : 2} />`)}
      <text x=${left} y=${height - 5}>${tell(first)}</text>
      <text x=${width - right} y=${height - 5} text-anchor="end">${tell(end)}</text>
      ${near && html`<circle class="near" cx=${x(near[0])} cy=${y(near[1])} r="4" /><text class="near" x=${Math.min(Math.max(x(near[0]), left + 50), width - 60)} y=${top - 1} text-anchor="middle">${unit(near[1])} · ${tell(near[0])}</text>`}
    </svg>`;
  }
  return html`<figure class="plot"><figcaption>${title}</figcaption><div ref=${box}>${body ?? html`<p class="quiet">${empty ?? say("plot.empty")}</p>`}</div></figure>`;
}

// Asking back and telling.

/** Opens a dialog and resolves with what was chosen; null when it was left. */
function opened(build) {
  return new Promise((resolve) => {
    const place = document.createElement("div");
    document.body.append(place);
    const back = document.activeElement;
    const done = (value) => {
      render(null, place);
      place.remove();
      back?.focus?.();
      resolve(value);
    };
    render(html`<${Modal} build=${build} done=${done} />`, place);
  });
}

function Modal({ build, done }) {
  const dialog = useRef();
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onCancel=${(event) => (event.preventDefault(), done(null))} onClick=${(event) => event.target === dialog.current && done(null)}>${build(done)}</dialog>`;
}

/** Asks before something is done, and names what will happen. `points` are sentences. */
export const confirm = ({ title, points, act, tone = "danger", field, no_way_out = false }) =>
  opened((done) => html`<form method="dialog" onSubmit=${(event) => {
    event.preventDefault();
    done(field ? new FormData(event.target).get("value") : true);
  }}>
    <h2 id="dialog-title">${title}</h2>
    <ul class="points">${points.map((point) => html`<li>${point}</li>`)}</ul>
    ${field && html`<label class="field"><span>${field.label}</span>${field.lines ? html`<textarea name="value" rows="10">${field.value ?? ""}</textarea>` : html`<input name="value" type=${field.secret ? "password" : "text"} value=${field.value ?? ""} required=${field.required ?? true} maxlength=${field.max ?? 200} autocomplete="off" />`}</label>`}
    <div class="actions end">
      ${!no_way_out && html`<button type="button" class="button" onClick=${() => done(null)}>${say("cancel")}</button>`}
      <button class="button ${tone}">${act}</button>
    </div>
  </form>`);

/** Says something that only wants to be read. */
export const inform = ({ title, points }) => confirm({ title, points, act: say("understood"), tone: "primary", no_way_out: true });

/** Asks for several things at once. `send` gets the form; what it refuses is told in the dialog, which stays. Resolves with what it gave, or null. */
export const fill = (wish) => opened((done) => html`<${Filling} ...${wish} leave=${done} />`);

function Filling({ title, points = [], fields, act, send, done, leave }) {
  const [wrong, setWrong] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    setBusy(true);
    setWrong(null);
    try {
      const result = await send(form);
      note(done(result));
      leave(result);
    } catch (refusal) {
      setWrong(refusal);
      setBusy(false);
    }
  };
  return html`<form method="dialog" onSubmit=${submit}>
    <h2 id="dialog-title">${title}</h2>
    <ul class="points">${points.map((point) => html`<li>${point}</li>`)}</ul>
    ${fields}
    <div role="alert">${wrong && html`<p class="wrong">${wrong instanceof Refusal ? html`<${Theirs}>${wrong.message}</${Theirs}> <${Theirs} class="quiet">${wrong.next_step ?? ""}</${Theirs}>` : say("trouble.unreachable")}</p>`}</div>
    <div class="actions end">
      <button type="button" class="button" onClick=${() => leave(null)}>${say("cancel")}</button>
      <button class="button primary" disabled=${busy}>${act}</button>
    </div>
  </form>`;
}

let notes = [];
let n_notes = 0;

export function note(text, { tone = "good", next_step } = {}) {
  n_notes += 1;
  const id = n_notes;
  notes = [...notes.slice(-2), { id, text, tone, next_step }];
  tell("notes");
  // Who reads slowly must not lose an error: it stays until it is closed.
  if (tone === "good") setTimeout(() => drop(id), 6000);
}

function drop(id) {
  notes = notes.filter((one) => one.id !== id);
  tell("notes");
}

export function Notes() {
  useTopics("notes");
  return html`<div class="notes" aria-live="polite" role="status">${notes.map((one) => html`<div key=${one.id} class="note ${one.tone}">
    <${Standing} tone=${one.tone}><${one.tone === "bad" ? Theirs : "span"}>${one.text}</></${Standing}>
    ${one.next_step && html`<${Theirs} as="p" class="quiet">${one.next_step}</${Theirs}>`}
    <button class="button plain" aria-label=${say("close")} onClick=${() => drop(one.id)}><${Icon} name="close" size="14" /></button>
  </div>`)}</div>`;
}

/** Does something that may be refused, and says how it went. */
export async function attempt(act, done) {
  try {
    const result = await act();
    if (done) note(typeof done === "function" ? done(result) : done);
    return result;
  } catch (refusal) {
    const ours = refusal instanceof Refusal;
    note(ours ? refusal.message : say("trouble.unreachable"), { tone: "bad", next_step: ours ? refusal.next_step : undefined });
    return null;
  }
}

/** Words that mean the command line, which this page is not. */
const OF_THE_COMMAND_LINE = /\breflash |--[a-z]/;

/**
 * What to do about a refusal. The server's sentence knows its case best, but it is English, and some of them speak of the
 * command line: then the page says it in its own words, by the name of the rule.
 */
export const NextStep = ({ rule, text }) => {
  const ours = remedy(rule);
  const theirs_is_better = text && language === "en" && !OF_THE_COMMAND_LINE.test(text);
  if (ours && !theirs_is_better) return html`<span>${ours}</span>`;
  return text ? html`<${Theirs}>${text}</${Theirs}>` : null;
};

/** The rows of a long list that can be seen, with room for the others. */
export function useWindow(n_rows, row_height) {
  const anchor = useRef();
  const [range, setRange] = useState([0, 40]);
  useEffect(() => {
    let waiting = false;
    const look = () => {
      waiting = false;
      if (!anchor.current) return;
      const top = -anchor.current.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(top / row_height) - 8);
      const end = Math.ceil((top + innerHeight) / row_height) + 8;
      setRange((was) => (was[0] === first && was[1] === end ? was : [first, end]));
    };
    const later = () => {
      if (!waiting) requestAnimationFrame(look);
      waiting = true;
    };
    look();
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", later);
    return () => {
      removeEventListener("scroll", later);
      removeEventListener("resize", later);
    };
  }, [n_rows, row_height]);
  const first = Math.min(range[0], Math.max(0, n_rows - 1));
  return { anchor, first, end: Math.min(n_rows, range[1]) };
}

/** Whether the page is as narrow as a phone. */
export function useNarrow() {
  const query = useRef(matchMedia("(max-width: 760px)")).current;
  const [narrow, setNarrow] = useState(query.matches);
  useEffect(() => {
    const look = () => setNarrow(query.matches);
    query.addEventListener("change", look);
    return () => query.removeEventListener("change", look);
  }, []);
  return narrow;
}

export { count, listen };
