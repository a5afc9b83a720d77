// The server: its health, where it looks, settings, tokens and the audit.
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, get, may } from "../home.js";
import { lasting, say } from "../say.js";
import { Ago, Empty, Head, Standing, Theirs, When, attempt, confirm } from "../parts.js";

const use = (load, keys = []) => {
  const [value, set] = useState(null);
  const again = () => load().then(set, () => set(undefined));
  useEffect(() => void again(), keys);
  return [value, again];
};

function Tokens() {
  const [tokens, again] = use(() => get("tokens"));
  const [made, setMade] = useState(null);
  const make = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const token = await attempt(() => ask("POST", "tokens", { name: form.get("name"), role: form.get("role") }));
    if (!token) return;
    setMade(token);
    event.target.reset();
    await again();
  };
  const revoke = async (token) => {
    if (await confirm({ title: say("revoke.title", { name: token.name }), points: [say("revoke.point")], act: say("revoke.act") })) await attempt(() => ask("DELETE", `tokens/${token.id}`), say("revoke.done", { name: token.name })).then(again);
  };
  return html`<section class="card"><h2>${say("tokens.title")}</h2><p class="quiet">${say("tokens.why")}</p>
    ${made && html`<div class="made"><p><${Standing} tone="good">${say("tokens.made", { name: made.name })}</${Standing}></p><pre class="mono wrap">${made.token}</pre><button class="button small" onClick=${() => setMade(null)}>${say("tokens.hide")}</button></div>`}
    ${tokens && html`<ul class="list">${tokens.map((token) => html`<li class="row" key=${token.id}><span class="what"><strong>${token.name}</strong><span class="quiet">${say(`role.${token.role}`)}</span></span><span class="quiet">${say("tokens.used")} <${Ago} ms=${token.used_ms} /></span><button class="button small danger-quiet" onClick=${() => revoke(token)}>${say("revoke.act")}<span class="hidden"> ${token.name}</span></button></li>`)}</ul>`}
    <form class="inline" onSubmit=${make}><label class="field"><span>${say("tokens.name")}</span><input name="name" required maxlength="64" autocomplete="off" /></label><label class="field"><span>${say("tokens.role")}</span><select name="role">${["viewer", "operator", "admin"].map((role) => html`<option value=${role}>${say(`role.${role}`)}</option>`)}</select></label><button class="button">${say("tokens.make")}</button></form></section>`;
}

function Audit() {
  const [check] = use(() => get("audit/check"));
  const n_rows = check?.n_rows ?? 0;
  const [rows] = use(() => (check ? get(`audit?limit=50&after=${Math.max(0, n_rows - 50)}`) : Promise.resolve(null)), [check]);
  return html`<section class="card"><h2>${say("audit.title")}</h2>
    ${check && html`<p>${check.broken_at === null || check.broken_at === undefined ? html`<${Standing} tone="good">${say("audit.whole", { n: check.n_rows })}</${Standing}>` : html`<${Standing} tone="bad">${say("audit.broken", { n: check.broken_at })}</${Standing}>`}</p>`}
    ${rows && html`<ul class="list">${[...rows].reverse().map((row) => html`<li class="row audit" key=${row.seq}><span class="when"><${When} ms=${row.at_ms} /></span><span class="what"><strong class="mono">${row.action}</strong> <span class="mono wrap">${/^[0-9a-f]{64}$/.test(row.target) ? row.target.slice(0, 12) : row.target}</span></span><${Theirs} class="quiet">${row.actor} · ${row.source}</${Theirs}></li>`)}</ul>`}</section>`;
}

function Server() {
  const [health] = use(() => fetch("/health", { credentials: "same-origin" }).then((answer) => answer.json()));
  const [sources] = use(() => get("discovery"));
  const [settings, again] = use(() => get("settings"));
  const change = async (change) => {
    await attempt(() => ask("PATCH", "settings", change), say("saved"));
    await again();
  };
  const flag = (name) => html`<label class="field"><span>${say(`setting.${name}`)}</span><select disabled=${!may("admin")} value=${settings[name] === null ? "" : String(settings[name])} onChange=${async (event) => {
    const value = event.target.value === "" ? null : event.target.value === "true";
    if (name === "auto_enroll" && value && !(await confirm({ title: say("auto-enroll.title"), points: [say("auto-enroll.point")], act: say("auto-enroll.act") }))) return void again();
    await change({ [name]: value });
  }}><option value="">${say("setting.file")}</option><option value="true">${say("setting.on")}</option><option value="false">${say("setting.off")}</option></select></label>`;
  return html`<section class="card"><h2>${say("server.title")}</h2>
      ${health && html`<p><${Standing} tone=${health.status === "ok" ? "good" : "bad"}>${say(health.status === "ok" ? "server.ok" : "server.degraded")}</${Standing}> <span class="quiet">Reflash ${health.version ?? ""}</span></p>${(health.reasons ?? []).map((reason) => html`<${Theirs} as="p">${reason.text}</${Theirs}>`)}`}
      ${sources && html`<ul class="list">${sources.map((source) => html`<li class="row"><span class="what"><strong>${say(`source.${source.name}`)}</strong><span class="quiet">${source.coverage ? say("source.covered", { n: source.coverage.n_asked, answered: source.coverage.n_answered, took: lasting(source.coverage.took_ms / 1000) }) : say("source.sightings", { n: source.n_sightings })}</span></span><${Standing} tone=${source.working ? "good" : "bad"}>${source.working ? say("source.works") : html`<${Theirs}>${source.trouble}</${Theirs}>`}</${Standing}></li>`)}</ul>`}
    </section>
    ${settings && html`<section class="card"><h2>${say("settings.title")}</h2><p class="quiet">${say("settings.why")}</p><div class="inline">${flag("auto_discovery")}${flag("auto_enroll")}
      <label class="field"><span>${say("setting.scan_interval_s")}</span><input type="number" min="30" max="86400" disabled=${!may("admin")} value=${settings.scan_interval_s ?? ""} placeholder=${say("setting.file")} onChange=${(event) => change({ scan_interval_s: event.target.value === "" ? null : Number(event.target.value) })} /></label></div>
      <button class="button" disabled=${!may("admin")} onClick=${() => attempt(() => ask("POST", "configuration/reload"), (done) => done.changes.join(", ") || say("reload.nothing"))}>${say("reload.act")}</button></section>`}`;
}

const Settings = () => html`<${Head} title=${say("nav.settings")} />
  <div class="columns two"><div><${Server} /></div><div>${may("admin") ? html`<${Tokens} /><${Audit} />` : html`<${Empty} title=${say("settings.admin")}><p>${say("settings.admin-1")}</p></${Empty}>`}</div></div>`;

export const views = { settings: Settings };
