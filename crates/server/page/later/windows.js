// Windows and schedules: the week as a picture, and what makes, changes and removes them.
import { html, useEffect, useState } from "../vendor/preact.js";
import { Refusal, ask, get, home, may, useNow, useTopics } from "../home.js";
import { date, lasting, list, locale, say, time, zone } from "../say.js";
import { Empty, Head, NextStep, Standing, Theirs, When, attempt, confirm, fill, inform } from "../parts.js";
import { go } from "../app.js";

/** As the API names them. */
const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const weekday = (idx, style) => new Date(2024, 0, 1 + idx).toLocaleDateString(locale, { weekday: style });
const midnight = (shift_days) => {
  const today = new Date();
  return new Date(today.getFullYear(), today.getMonth(), today.getDate() + shift_days).getTime();
};
const monday = (shift_weeks) => midnight(-((new Date().getDay() + 6) % 7) + 7 * shift_weeks);

const onDays = (days) => (days.length === 7 ? say("days.all") : days.length === 0 ? say("days.none") : say("days.some", { days: list(DAYS.flatMap((day, idx) => (days.includes(day) ? [weekday(idx, "long")] : []))) }));
const inZone = (timezone) => (timezone && timezone !== zone ? ` (${timezone})` : "");

/** The days of the week of a cron line, where they are plain; null where they are not. */
function cronDays(text) {
  if (text === "*") return [...DAYS];
  const number = (word) => (/^[0-7]$/.test(word) ? (Number(word) + 6) % 7 : DAYS.indexOf(word.toLowerCase()));
  const days = new Set();
  for (const part of text.split(",")) {
    const [from, to = from] = part.split("-").map(number);
    if (!(from >= 0 && to >= from)) return null;
    for (let idx = from; idx <= to; idx += 1) days.add(DAYS[idx]);
  }
  return DAYS.filter((day) => days.has(day));
}

/** A cron line as days and a time, where it is no more than that. */
export function plainCron(cron) {
  const [, minute, hour, weekdays] = cron.match(/^(\d{1,2}) (\d{1,2}) \* \* (\S+)$/) ?? [];
  const days = weekdays && cronDays(weekdays);
  return days && Number(hour) < 24 && Number(minute) < 60 ? { at: `${hour.padStart(2, "0")}:${minute.padStart(2, "0")}`, days } : null;
}

const isKeptHere = (thing) => thing.origin.kept_in === "api";
const windowWords = ({ start, days, timezone, duration_s }) => say("windows.says", { time: start, days: onDays(days), zone: inZone(timezone), long: lasting(duration_s) });
function scheduleWords({ cron, timezone }) {
  const plain = plainCron(cron);
  return plain ? say("schedules.says", { time: plain.at, days: onDays(plain.days), zone: inZone(timezone) }) : say("schedules.says-cron", { cron, zone: inZone(timezone) });
}

// The picture.

/** How far through its day a moment is by the clock on the wall, 0 to 1. */
const share = (ms) => {
  const at = new Date(ms);
  return (at.getHours() + at.getMinutes() / 60) / 24;
};

function Day({ idx, from, until, times, now }) {
  const today = now >= from && now < until;
  const names = times.windows.map((one) => one.name);
  const bars = times.windows.flatMap((one, lane) =>
    one.open.filter((span) => span.opens_ms < until && span.closes_ms > from).map((span) => {
      const left = span.opens_ms <= from ? 0 : share(span.opens_ms);
      const right = span.closes_ms >= until ? 1 : share(span.closes_ms);
      return { lane, name: one.name, left, width: Math.max(right - left, 0.004), span };
    }),
  );
  const dues = times.schedules.flatMap((one) => one.due_ms.filter((ms) => ms >= from && ms < until).map((ms) => ({ name: one.name, ms })));
  return html`<span class="day ${today ? "today" : ""}">${weekday(idx, "short")} <span class="number">${new Date(from + 43_200_000).getDate()}</span></span>
    <div class="hours" style=${{ height: `${Math.max(1, names.length) * 22 + 10}px` }}>
      ${bars.map((bar) => html`<span class="open" title=${`${bar.name}: ${date(bar.span.opens_ms)} – ${date(bar.span.closes_ms)}`} style=${{ top: `${bar.lane * 22 + 6}px`, left: `${bar.left * 100}%`, width: `${bar.width * 100}%` }}></span><span class="called ${bar.left + bar.width > 0.7 ? "before" : ""}" style=${{ top: `${bar.lane * 22 + 6}px`, ...(bar.left + bar.width > 0.7 ? { right: `${(1 - bar.left) * 100}%` } : { left: `${(bar.left + bar.width) * 100}%` }) }}>${bar.name}</span>`)}
      ${dues.map((due) => html`<span class="due ${dues.length > 24 ? "many" : ""}" title=${`${due.name}: ${date(due.ms)}`} style=${{ left: `${share(due.ms) * 100}%` }}></span>`)}
      ${today && html`<span class="now" title=${time(now)} style=${{ left: `${share(now) * 100}%` }}></span>`}
    </div>`;
}

function Week({ times, now }) {
  const start = new Date(times.from_ms);
  const day = (idx) => new Date(start.getFullYear(), start.getMonth(), start.getDate() + idx).getTime();
  return html`<div class="week" role="img" aria-label=${say("windows.week-says", { zone, n_windows: times.windows.length, n_schedules: times.schedules.length })}>
    ${DAYS.map((_, idx) => html`<${Day} idx=${idx} from=${day(idx)} until=${day(idx + 1)} times=${times} now=${now} />`)}
    <span></span><div class="scale">${[0, 6, 12, 18, 24].map((hour) => html`<span>${hour}</span>`)}</div>
  </div>
  <ul class="legend"><li><span class="key open"></span> ${say("windows.key-open")}</li><li><span class="key due"></span> ${say("windows.key-due")}</li><li><span class="key now"></span> ${say("windows.key-now")}</li></ul>`;
}

// What asks for them.

const Zones = () => html`<datalist id="zones">${(Intl.supportedValuesOf?.("timeZone") ?? [zone]).map((name) => html`<option value=${name} />`)}</datalist>`;

function DayBoxes({ days, set }) {
  return html`<fieldset class="days"><legend>${say("days.on")}</legend>${DAYS.map((day, idx) => html`<label><input type="checkbox" name="day" value=${day} checked=${days.includes(day)} onChange=${(event) => set(DAYS.filter((one) => (one === day ? event.target.checked : days.includes(one))))} /><span aria-hidden="true">${weekday(idx, "short")}</span><span class="hidden">${weekday(idx, "long")}</span></label>`)}</fieldset>`;
}

const NameField = ({ value, set }) => html`<label class="field"><span>${say("windows.name")}</span><input name="name" value=${value} required maxlength="64" pattern="[A-Za-z0-9_\\-]+" title=${say("windows.name-hint")} autocomplete="off" onInput=${(event) => set(event.target.value)} /></label>`;

function WindowFields({ window, is_new }) {
  const [wish, setWish] = useState(() => ({ name: window?.name ?? "", start: window?.start ?? "02:00", hours: Math.floor((window?.duration_s ?? 10_800) / 3600), minutes: Math.round(((window?.duration_s ?? 0) % 3600) / 60), days: window?.days ?? [...DAYS], timezone: window ? (window.timezone ?? "") : zone }));
  const set = (change) => setWish((was) => ({ ...was, ...change }));
  return html`
    ${is_new && html`<${NameField} value=${wish.name} set=${(name) => set({ name })} />`}
    <div class="inline">
      <label class="field"><span>${say("windows.start")}</span><input name="start" type="time" required step=${wish.start.length > 5 ? "1" : undefined} value=${wish.start} onInput=${(event) => set({ start: event.target.value })} /></label>
      <label class="field"><span>${say("windows.hours")}</span><input name="hours" type="number" required min="0" max="24" value=${wish.hours} onInput=${(event) => set({ hours: event.target.value })} /></label>
      <label class="field"><span>${say("windows.minutes")}</span><input name="minutes" type="number" required min="0" max="59" value=${wish.minutes} onInput=${(event) => set({ minutes: event.target.value })} /></label>
    </div>
    <${DayBoxes} days=${wish.days} set=${(days) => set({ days })} />
    <label class="field"><span>${say("windows.timezone")}</span><input name="timezone" list="zones" value=${wish.timezone} placeholder=${say("windows.timezone-own")} autocomplete="off" onInput=${(event) => set({ timezone: event.target.value })} /></label><${Zones} />
    <p class="preview" role="status">${windowWords({ ...wish, duration_s: wish.hours * 3600 + wish.minutes * 60 })}</p>`;
}

/** Asks for a window and makes it; without one, a new one. */
async function setWindow(window, known, again) {
  const is_new = !window;
  const made = await fill({
    title: is_new ? say("windows.new-title") : say("windows.change-title", { name: window.name }),
    points: [
      say("windows.what"),
      window?.schedules.length ? say("windows.used-by-schedules", { names: list(window.schedules) }) : null,
      window?.rollouts.length ? say("windows.kept-by-rollouts", { names: list(window.rollouts.map((id) => say("rollout.of", { n: id }))) }) : null,
    ].filter(Boolean),
    act: say("save"),
    fields: html`<${WindowFields} window=${window} is_new=${is_new} />`,
    send: (form) => {
      const name = window?.name ?? form.get("name");
      if (is_new && known.some((one) => one.name === name)) throw new Refusal(409, { detail: say("windows.there-is", { name }) });
      const days = form.getAll("day");
      return ask("PUT", `windows/${encodeURIComponent(name)}`, {
        start: form.get("start"),
        duration: `${Number(form.get("hours")) * 60 + Number(form.get("minutes"))}m`,
        ...(days.length < 7 && { days }),
        ...(form.get("timezone") && { timezone: form.get("timezone") }),
      });
    },
    done: (view) => say("windows.set", { name: view.name, at: date(view.open_until_ms ? Date.now() : view.next_ms) }),
  });
  if (made) again();
}

async function removeWindow({ name }, again) {
  // Asked anew: what goes by it may have changed a moment ago.
  const window = await attempt(() => get(`windows/${encodeURIComponent(name)}`));
  if (!window) return again();
  if (window.schedules.length || window.rollouts.length) {
    const users = [...window.schedules.map((one) => say("schedules.one", { name: one })), ...window.rollouts.map((id) => say("rollout.of", { n: id }))];
    return void inform({ title: say("windows.in-use", { name }), points: [say("windows.in-use-point", { users: list(users) }), say("windows.in-use-next")] });
  }
  if (await confirm({ title: say("windows.remove-title", { name }), points: [windowWords(window), say("windows.remove-point")], act: say("windows.remove") })) await attempt(() => ask("DELETE", `windows/${encodeURIComponent(name)}`), say("windows.removed", { name }));
  again();
}

function ScheduleFields({ schedule, windows, is_new }) {
  const plain = schedule ? plainCron(schedule.cron) : { at: "01:55", days: [...DAYS] };
  const [wish, setWish] = useState({ name: schedule?.name ?? "", by: plain ? "days" : "cron", at: plain?.at ?? "01:55", days: plain?.days ?? [...DAYS], cron: schedule?.cron ?? "55 1 * * *", window: schedule?.window ?? windows[0]?.name ?? "", tags: schedule?.tags.join(", ") ?? "", timezone: schedule?.own_timezone ?? "" });
  const set = (change) => setWish((was) => ({ ...was, ...change }));
  const clock = wish.timezone || windows.find((one) => one.name === wish.window)?.timezone;
  return html`
    ${is_new && html`<${NameField} value=${wish.name} set=${(name) => set({ name })} />`}
    <fieldset class="how-often"><legend class="hidden">${say("schedules.when")}</legend><div class="switch">${["days", "cron"].map((by) => html`<label><input type="radio" name="by" value=${by} checked=${wish.by === by} onChange=${() => set({ by })} /><span>${say(`schedules.by-${by}`)}</span></label>`)}</div></fieldset>
    ${wish.by === "days"
      ? html`<label class="field"><span>${say("schedules.at")}</span><input name="at" type="time" required value=${wish.at} onInput=${(event) => set({ at: event.target.value })} /></label><${DayBoxes} days=${wish.days} set=${(days) => set({ days })} />`
      : html`<label class="field"><span>${say("schedules.cron")}</span><input class="mono" name="cron" required value=${wish.cron} autocomplete="off" spellcheck="false" onInput=${(event) => set({ cron: event.target.value })} /></label>`}
    <label class="field"><span>${say("schedules.window")}</span><select name="window" value=${wish.window} onChange=${(event) => set({ window: event.target.value })}><option value="">${say("schedules.any-time")}</option>${windows.map((one) => html`<option value=${one.name}>${one.name}: ${windowWords(one)}</option>`)}</select></label>
    <label class="field"><span>${say("schedules.tags")}</span><input name="tags" value=${wish.tags} autocomplete="off" placeholder=${say("schedules.tags-all")} onInput=${(event) => set({ tags: event.target.value })} /></label>
    <label class="field"><span>${say("windows.timezone")}</span><input name="timezone" list="zones" value=${wish.timezone} placeholder=${say("schedules.timezone-own")} autocomplete="off" onInput=${(event) => set({ timezone: event.target.value })} /></label><${Zones} />
    <p class="preview" role="status">${scheduleWords({ cron: wish.by === "cron" ? wish.cron : cronOf(wish.at, wish.days), timezone: clock })} ${say(wish.tags.trim() ? "schedules.does-tags" : "schedules.does-all", { tags: wish.tags })} ${wish.window ? say("schedules.in-window", { window: wish.window }) : say("schedules.at-once")}</p>`;
}

const cronOf = (at, days) => {
  const [hour, minute] = at.split(":").map(Number);
  return `${minute || 0} ${hour || 0} * * ${days.length === 7 || days.length === 0 ? "*" : days.join(",")}`;
};
const words = (text) => text.split(",").map((word) => word.trim()).filter(Boolean);

async function setSchedule(schedule, known, windows, again) {
  const is_new = !schedule;
  const made = await fill({
    title: is_new ? say("schedules.new-title") : say("schedules.change-title", { name: schedule.name }),
    points: [say("schedules.what")],
    act: say("save"),
    fields: html`<${ScheduleFields} schedule=${schedule} windows=${windows} is_new=${is_new} />`,
    send: (form) => {
      const name = schedule?.name ?? form.get("name");
      if (is_new && known.some((one) => one.name === name)) throw new Refusal(409, { detail: say("schedules.there-is", { name }) });
      const tags = words(form.get("tags"));
      return ask("PUT", `schedules/${encodeURIComponent(name)}`, {
        cron: form.get("by") === "cron" ? form.get("cron") : cronOf(form.get("at"), form.getAll("day")),
        ...(form.get("window") && { window: form.get("window") }),
        ...(tags.length > 0 && { tags }),
        ...(form.get("timezone") && { timezone: form.get("timezone") }),
      });
    },
    done: (view) => (view.next_ms ? say("schedules.set", { name: view.name, at: date(view.next_ms) }) : say("schedules.set-never", { name: view.name })),
  });
  if (made) again();
}

async function removeSchedule(schedule, again) {
  const { name } = schedule;
  if (await confirm({ title: say("schedules.remove-title", { name }), points: [scheduleWords(schedule), say("schedules.remove-point")], act: say("schedules.remove") })) await attempt(() => ask("DELETE", `schedules/${encodeURIComponent(name)}`), say("schedules.removed", { name }));
  again();
}

/** Says first how many devices it would be, by a plan that costs nothing. */
async function runNow(schedule, again) {
  const { name, window, tags } = schedule;
  const plan = await attempt(() => ask("POST", "plans", { all: true, tags, ...(window && { window }) }));
  if (!plan) return;
  const sure = await confirm({
    title: say("schedules.run-title", { name }),
    points: [
      plan.members.length ? say("schedules.run-n", { n: plan.members.length, names: list(plan.members.slice(0, 5).map((member) => member.name)) }) : say("schedules.run-none"),
      window ? say("schedules.in-window", { window }) : say("schedules.at-once"),
    ],
    act: say("schedules.run"),
    tone: "primary",
  });
  if (!sure) return;
  const rollout = await attempt(() => ask("POST", `schedules/${encodeURIComponent(name)}/run`));
  if (rollout) return go(`#/rollout/${rollout.id}`);
  again();
}

// What is shown of them.

const Kept = ({ thing }) => (isKeptHere(thing) ? null : html`<span class="tag" title=${`${thing.origin.file ?? ""} ${thing.origin.key}`}>${say("windows.in-file")}</span>`);

function Trouble({ of }) {
  return of.trouble ? html`<p class="why"><${Standing} tone="bad"><${Theirs}>${of.trouble.text}</${Theirs}></${Standing}> <${NextStep} rule=${of.trouble.rule} text=${of.trouble.next_step} /></p>` : null;
}

function Buttons({ name, thing, change, remove, children }) {
  const may_change = may("admin") && isKeptHere(thing);
  return html`<span class="doings">${children}<button class="button small" disabled=${!may_change} onClick=${change}>${say("windows.change")}<span class="hidden"> ${name}</span></button><button class="button small danger-quiet" disabled=${!may_change} onClick=${remove}>${say("windows.remove")}<span class="hidden"> ${name}</span></button></span>`;
}

function WindowRow({ window, windows, again }) {
  return html`<li class="slot"><div><strong>${window.name}</strong> <${Kept} thing=${window} /><p class="quiet">${windowWords(window)}</p><${Trouble} of=${window} /></div>
    <p>${window.open_until_ms ? html`<${Standing} tone="busy">${say("windows.open")}</${Standing}>` : html`<${Standing} tone="off">${say("windows.closed")}</${Standing}>`} <${When} ms=${window.open_until_ms ?? window.next_ms} /></p>
    <${Buttons} name=${window.name} thing=${window} change=${() => setWindow(window, windows, again)} remove=${() => removeWindow(window, again)} /></li>`;
}

function ScheduleRow({ schedule, schedules, windows, again }) {
  const { last } = schedule;
  return html`<li class="slot"><div><strong>${schedule.name}</strong> <${Kept} thing=${schedule} />${schedule.tags.map((tag) => html` <span class="tag">${tag}</span>`)}<p class="quiet">${scheduleWords(schedule)} ${schedule.window ? say("schedules.in-window", { window: schedule.window }) : say("schedules.at-once")}</p><${Trouble} of=${schedule} />
      ${last && html`<p class="quiet">${say("schedules.last")} <${When} ms=${last.at_ms} />: ${last.rollout ? html`<a href="#/rollout/${last.rollout}">${say("rollout.of", { n: last.rollout })}</a>` : last.did === "nothing" ? say("schedules.did-nothing") : html`<${Theirs}>${last.text}</${Theirs}>`}</p>`}</div>
    <p>${say("windows.schedule")} <${When} ms=${schedule.next_ms} /></p>
    <${Buttons} name=${schedule.name} thing=${schedule} change=${() => setSchedule(schedule, schedules, windows, again)} remove=${() => removeSchedule(schedule, again)}><button class="button small" disabled=${!may("operator")} onClick=${() => runNow(schedule, again)}>${say("schedules.run")}<span class="hidden"> ${schedule.name}</span></button></${Buttons}></li>`;
}

function Windows() {
  useTopics("windows");
  const now = useNow(60_000);
  const [shift, setShift] = useState(0);
  const [shown, setShown] = useState(null);
  const [n, count] = useState(0);
  const again = () => count((n) => n + 1);
  useEffect(() => {
    let stale = false;
    const [from_ms, until_ms] = [monday(shift), monday(shift + 1)];
    Promise.all([get("windows"), get("schedules"), get(`timetable?from_ms=${from_ms}&until_ms=${until_ms}`)]).then(
      ([windows, schedules, times]) => stale || setShown({ windows, schedules, times }),
      () => {},
    );
    return () => {
      stale = true;
    };
    // Each minute as well: a window opens and closes without an event.
  }, [shift, n, home.n_timetables, now]);
  const { windows, schedules, times } = shown ?? { windows: [], schedules: [] };
  const is_empty = windows.length + schedules.length === 0;
  return html`<${Head} title=${say("windows.title")} kicker=${say("windows.kicker")}>
      <button class="button ${is_empty ? "primary" : ""}" disabled=${!may("admin") || !shown} onClick=${() => setWindow(null, windows, again)}>${say("windows.new")}</button>
      <button class="button" disabled=${!may("admin") || !shown} onClick=${() => setSchedule(null, schedules, windows, again)}>${say("schedules.new")}</button>
    </${Head}>
    ${!shown && html`<p class="quiet" role="status">${say("loading")}</p>`}
    ${shown && is_empty && html`<${Empty} title=${say("windows.empty")}><p>${say("windows.empty-1")}</p><p>${say("windows.empty-2")}</p></${Empty}>`}
    ${shown && !is_empty && html`
      <section class="card"><div class="card-head"><h2>${say("windows.week-of", { from: new Date(times.from_ms).toLocaleDateString(locale, { dateStyle: "medium" }) })}</h2><span class="quiet">${say("windows.zone", { zone })}</span>
        <span class="doings"><button class="button small" onClick=${() => setShift(shift - 1)}>${say("windows.before")}</button><button class="button small" disabled=${shift === 0} onClick=${() => setShift(0)}>${say("windows.this-week")}</button><button class="button small" onClick=${() => setShift(shift + 1)}>${say("windows.after")}</button></span></div>
        <${Week} times=${times} now=${now} /></section>
      <section class="card"><h2>${say("windows.list")}</h2>${windows.length ? html`<ul class="list">${windows.map((window) => html`<${WindowRow} key=${window.name} window=${window} windows=${windows} again=${again} />`)}</ul>` : html`<p class="quiet">${say("windows.none")}</p>`}</section>
      <section class="card"><h2>${say("schedules.list")}</h2>${schedules.length ? html`<ul class="list">${schedules.map((schedule) => html`<${ScheduleRow} key=${schedule.name} schedule=${schedule} schedules=${schedules} windows=${windows} again=${again} />`)}</ul>` : html`<p class="quiet">${say("schedules.none")}</p>`}</section>
      ${[...windows, ...schedules].some((thing) => !isKeptHere(thing)) && html`<p class="quiet">${say("windows.in-file-why")}</p>`}`}`;
}

export const views = { windows: Windows };
