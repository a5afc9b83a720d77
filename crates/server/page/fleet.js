// The fleet: every device in a table, what it needs, and what can be done to many at once.
import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { FILTERS, ask, home, isOver, may, standing, useTopics, loadDevices } from "./home.js";
import { bytes, count, has, language, reason as reasonWord, say, state } from "./say.js";
import { Ago, Bar, Empty, Head, Icon, LiveBar, Spark, Standing, State, Theirs, attempt, confirm, useNarrow, useWindow } from "./parts.js";
import { go, place } from "./app.js";

const collator = new Intl.Collator(language, { numeric: true, sensitivity: "base" });
const SORTS = {
  name: (a, b) => collator.compare(a.name, b.name),
  state: (a, b) => standing(a).rank - standing(b).rank || collator.compare(a.name, b.name),
  version: (a, b) => collator.compare(a.reported_version ?? "", b.reported_version ?? ""),
  signal: (a, b) => (b.signal_dbm ?? -999) - (a.signal_dbm ?? -999),
  heap: (a, b) => (b.free_heap_bytes ?? -1) - (a.free_heap_bytes ?? -1),
  seen: (a, b) => (b.last_seen_ms ?? 0) - (a.last_seen_ms ?? 0),
};

/** What is chosen stays chosen when one looks at a device and comes back. */
const chosen = new Set();

const haystack = (device) =>
  [device.name, device.address, device.mac, device.host_name, device.title, device.reported_version, device.group, device.chip, ...device.tags].join(" ").toLowerCase();

export function standingWord(device) {
  const { word, percent, reason, tone } = standing(device);
  return html`<${Standing} tone=${tone}>${has(`standing.${word}`) ? say(`standing.${word}`) : state(word)}${word === "uploading" && percent !== null && percent !== undefined ? ` ${percent} %` : ""}${reason ? html` <span class="quiet">(${reasonWord(reason)})</span>` : ""}</${Standing}>`;
}

function LiveState({ id }) {
  useTopics(`progress:${id}`, `device:${id}`, "jobs");
  const device = home.devices.get(id);
  return device ? html`${standingWord(device)}<${LiveBar} device=${id} label=${say("progress.of", { name: device.name })} />` : null;
}

export const Versions = ({ device }) => html`<span class="versions"><span class="mono">${device.reported_version ?? "–"}</span>${device.offered && device.latest && html` <${Icon} name="right" size="13" /><span class="hidden">${say("to")}</span> <span class="mono next">${device.latest.name}</span>`}${device.pinned && html` <span class="tag">${say("standing.pinned")}</span>`}</span>`;

function Row({ id, n, isChosen, choose }) {
  useTopics(`device:${id}`);
  const device = home.devices.get(id);
  if (!device) return null;
  const under = [device.address, device.group, ...device.tags].filter(Boolean).join(" · ") || device.title;
  return html`<tr role="row" aria-rowindex=${n + 2} class=${isChosen ? "chosen" : ""}>
    <td role="cell" class="pick"><input type="checkbox" checked=${isChosen} aria-label=${say("fleet.choose", { name: device.name })} onClick=${(event) => choose(id, event)} /></td>
    <td role="cell" class="who"><span class="family" title=${device.title}><${Icon} name=${device.family} /></span><span class="two"><a href="#/device/${id}">${device.name}</a><span class="quiet">${under}</span></span></td>
    <td role="cell" class="how"><${LiveState} id=${id} /></td>
    <td role="cell" class="runs"><${Versions} device=${device} /></td>
    <td role="cell" class="trend"><${Spark} id=${id} of="signal_dbm" unit=${(n) => `${n} dBm`} label=${say("fleet.signal")} /></td>
    <td role="cell" class="trend"><${Spark} id=${id} of="free_heap_bytes" unit=${bytes} label=${say("fleet.heap")} /></td>
    <td role="cell" class="seen"><${Ago} ms=${device.last_seen_ms} /></td>
  </tr>`;
}

function UnderWay() {
  useTopics("rollouts", "running");
  const open = [...home.rollouts.values()].filter((rollout) => !isOver(rollout.state));
  if (!open.length) return null;
  return html`<section class="underway" aria-label=${say("fleet.underway")}>${open.map((rollout) => html`<${UnderWayOne} key=${rollout.id} rollout=${rollout} />`)}</section>`;
}

function UnderWayOne({ rollout }) {
  useTopics(`rollout:${rollout.id}`);
  const { n_ended, n_devices } = ended(home.details.get(rollout.id) ?? rollout);
  return html`<a class="card row" href="#/rollout/${rollout.id}">
    <${State} name=${rollout.state} />
    <strong>${rolloutTitle(rollout)}</strong>
    <${Bar} percent=${Math.round((n_ended * 100) / Math.max(1, n_devices))} label=${say("rollout.progress")} tone=${rollout.state === "halted" ? "bad" : "busy"} />
    <span class="number quiet">${say("rollout.ended-of", { n: n_ended, of: n_devices })}</span>
  </a>`;
}

const LIVE_STATES = new Set(["queued", "waiting", "looking", "preparing", "uploading", "rebooting", "soaking", "restoring", "verifying", "downloading"]);

/** How many of a rollout's devices have ended. */
export function ended(rollout) {
  const counts = rollout.members
    ? rollout.members.reduce((all, member) => ({ ...all, [member.state]: (all[member.state] ?? 0) + 1 }), {})
    : rollout.counts;
  const n_left = Object.entries(counts).reduce((sum, [name, n]) => sum + (LIVE_STATES.has(name) ? n : 0), 0);
  return { n_ended: rollout.n_devices - n_left, n_devices: rollout.n_devices, counts };
}

export const rolloutTitle = (rollout) => rollout.name || `${say(`kind.${rollout.kind}`)} ${rollout.kind === "update" ? say("to") : ""} ${rollout.firmware.join(", ")}`;

/** To the plan, with these devices. */
export function plan(kind, devices, firmware = "") {
  sessionStorage.setItem("plan", JSON.stringify({ kind, devices: [...devices], firmware }));
  go("#/plan");
}

function Bulk({ ids, clear }) {
  const devices = ids.map((id) => home.devices.get(id)).filter(Boolean);
  if (!devices.length) return null;
  const names = devices.length <= 3 ? devices.map((device) => device.name).join(", ") : say("n-devices", { n: devices.length });
  const strangers = devices.filter((device) => !device.enrolled);
  const each = async (path, method, body, done) => {
    let n_done = 0;
    for (const device of devices) if (await attempt(() => ask(method, `devices/${device.id}/${path}`, body))) n_done += 1;
    if (n_done) await attempt(loadDevices, say(done, { n: n_done }));
  };
  const enroll = async () => {
    const sure = await confirm({ title: say("enroll.title", { names }), points: [say("enroll.point-1"), say("enroll.point-2")], act: say("enroll.act"), tone: "primary" });
    if (sure) await attempt(() => ask("POST", "devices/enroll", { devices: strangers.map((device) => device.id) }), say("enroll.done", { n: strangers.length }));
    await loadDevices();
  };
  const pin = async () => {
    const version = await confirm({ title: say("pin.title", { names }), points: [say("pin.point")], act: say("pin.act"), tone: "primary", field: { label: say("pin.field"), value: devices[0].reported_version ?? "" } });
    if (version) await each("pin", "PUT", { version }, "pin.done");
  };
  return html`<div class="bulk" role="region" aria-label=${say("fleet.bulk")}>
    <strong aria-live="polite">${say("fleet.chosen", { n: devices.length })}</strong>
    <button class="button primary" disabled=${!may("operator")} onClick=${() => plan("update", ids)}>${say("plan.update")}</button>
    <button class="button" disabled=${!may("operator")} onClick=${() => plan("rollback", ids)}>${say("plan.rollback")}</button>
    ${strangers.length > 0 && html`<button class="button" disabled=${!may("admin")} onClick=${enroll}>${say("enroll.act")}</button>`}
    <button class="button" disabled=${!may("operator")} onClick=${pin}>${say("pin.act")}</button>
    <button class="button plain" onClick=${clear}>${say("fleet.clear")}</button>
  </div>`;
}

export function Fleet({ query }) {
  useTopics("devices", "jobs", "loaded", "running");
  const narrow = useNarrow();
  const [, again] = useState(0);
  const show = FILTERS[query.get("show")] ? query.get("show") : "all";
  const sort = SORTS[query.get("sort")] ? query.get("sort") : "name";
  const down = query.get("down") === "1";
  const [words, setWords] = useState(query.get("q") ?? "");
  const set = (change) => {
    const next = { show, sort, down: down ? "1" : "", q: words, ...change };
    const text = new URLSearchParams(Object.entries(next).filter(([name, value]) => value && !(name === "show" && value === "all") && !(name === "sort" && value === "name")));
    place(`#/${text.size ? `?${text}` : ""}`);
  };
  const all = [...home.devices.values()];
  const needles = words.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = needles.length ? all.filter((device) => needles.every((needle) => haystack(device).includes(needle))) : all;
  const devices = matching.filter(FILTERS[show]).sort(SORTS[sort]);
  if (down) devices.reverse();
  const height = narrow ? 116 : 48;
  const { anchor, first, end } = useWindow(devices.length, height);
  const lastClick = useRef(null);
  const choose = (id, event) => {
    const on = event.target.checked;
    const ids = devices.map((device) => device.id);
    const from = event.shiftKey && lastClick.current ? ids.indexOf(lastClick.current) : ids.indexOf(id);
    const to = ids.indexOf(id);
    for (const one of ids.slice(Math.min(from, to), Math.max(from, to) + 1)) on ? chosen.add(one) : chosen.delete(one);
    lastClick.current = id;
    again((n) => n + 1);
  };
  for (const id of chosen) if (!home.devices.has(id)) chosen.delete(id);
  const ids = [...chosen];
  const shownChosen = devices.filter((device) => chosen.has(device.id)).length;
  const chooseAll = (event) => {
    for (const device of devices) event.target.checked ? chosen.add(device.id) : chosen.delete(device.id);
    again((n) => n + 1);
  };
  const column = (name, label, extra = "") => html`<th role="columnheader" scope="col" class=${extra} aria-sort=${sort === name ? (down ? "descending" : "ascending") : undefined}><button onClick=${() => set(sort === name ? { down: down ? "" : "1" } : { sort: name, down: "" })}>${label}<span class="order" aria-hidden="true">${sort === name ? (down ? "↓" : "↑") : ""}</span></button></th>`;
  const n_enrolled = all.filter((device) => device.enrolled).length;
  const n_current = all.filter((device) => device.enrolled && !device.offered).length;
  // What a rollout is about to update needs no second plan.
  const taken = new Set([...home.details.values()].filter((rollout) => !isOver(rollout.state)).flatMap((rollout) => rollout.members.filter((member) => LIVE_STATES.has(member.state)).map((member) => member.device)));
  const outdated = all.filter((device) => device.enrolled && FILTERS.outdated(device) && !taken.has(device.id));
  return html`<${Head} title=${say("fleet.title")} kicker=${home.loaded && all.length > 0 ? say("fleet.kicker", { n: all.length, current: n_current, enrolled: n_enrolled }) : ""}>
      ${may("operator") && html`<button class="button" onClick=${() => attempt(() => ask("POST", "discovery/scan"), (coverage) => say("scan.done", { n: coverage.n_answered, of: coverage.n_addresses })).then(loadDevices)}>${say("scan.act")}</button>`}
      ${outdated.length > 0 && may("operator") && html`<button class="button primary" onClick=${() => plan("update", outdated.map((device) => device.id))}>${say("fleet.update-all", { n: outdated.length })}</button>`}
    </${Head}>
    <${UnderWay} />
    ${!home.loaded && !home.trouble && html`<p class="quiet" role="status">${say("loading")}</p>`}
    ${home.loaded && all.length === 0 && html`<${Empty} title=${say("fleet.empty")}><p>${say("fleet.empty-1")}</p><p>${say("fleet.empty-2")}</p></${Empty}>`}
    ${all.length > 0 && html`
    <div class="tools">
      <label class="search"><${Icon} name="search" size="16" /><span class="hidden">${say("fleet.search")}</span><input type="search" placeholder=${say("fleet.search")} value=${words} onInput=${(event) => {
        setWords(event.target.value);
        set({ q: event.target.value });
      }} /></label>
      <div class="chips" role="group" aria-label=${say("fleet.filter")}>${Object.keys(FILTERS).map((name) => {
        const n = matching.filter(FILTERS[name]).length;
        return html`<button class="chip ${name}" aria-pressed=${show === name} onClick=${() => set({ show: name })}>${say(`filter.${name}`)} <span class="number">${count(n)}</span></button>`;
      })}</div>
      ${narrow && html`<label class="sort"><span>${say("fleet.sort")}</span> <select value=${sort} onChange=${(event) => set({ sort: event.target.value, down: "" })}>${Object.keys(SORTS).map((name) => html`<option value=${name}>${say(`sort.${name}`)}</option>`)}</select></label>`}
    </div>
    ${devices.length === 0
      ? html`<${Empty} title=${say("fleet.none")}><p>${say(`none.${show}`)}</p><button class="button" onClick=${() => (setWords(""), set({ show: "all", q: "" }))}>${say("fleet.show-all")}</button></${Empty}>`
      : html`<table class="fleet" role="table" aria-rowcount=${devices.length + 1} aria-label=${say("fleet.title")}>
      <thead role="rowgroup"><tr role="row">
        <th role="columnheader" scope="col" class="pick"><input type="checkbox" aria-label=${say("fleet.choose-all")} checked=${shownChosen > 0 && shownChosen === devices.length} indeterminate=${shownChosen > 0 && shownChosen < devices.length} onClick=${chooseAll} /></th>
        ${column("name", say("sort.name"))}${column("state", say("sort.state"))}${column("version", say("sort.version"))}${column("signal", say("sort.signal"))}${column("heap", say("sort.heap"))}${column("seen", say("sort.seen"))}
      </tr></thead>
      <tbody role="rowgroup" ref=${anchor}>
        ${first > 0 && html`<tr class="gap" aria-hidden="true" style=${{ height: `${first * height}px` }}><td></td></tr>`}
        ${devices.slice(first, end).map((device, idx) => html`<${Row} key=${device.id} id=${device.id} n=${first + idx} isChosen=${chosen.has(device.id)} choose=${choose} />`)}
        ${end < devices.length && html`<tr class="gap" aria-hidden="true" style=${{ height: `${(devices.length - end) * height}px` }}><td></td></tr>`}
      </tbody>
    </table>`}
    <${Bulk} ids=${ids} clear=${() => (chosen.clear(), again((n) => n + 1))} />`}`;
}
