// Firmware: what is here, what it is, why it is refused, and whom it fits.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { Refusal, ask, get, home, loadFirmware, may, useTopics } from "../home.js";
import { bytes, count, has, list, say } from "../say.js";
import { Ago, Empty, Facts, Head, Standing, State, Theirs, When, attempt, confirm, note } from "../parts.js";
import { plan } from "../fleet.js";
import { go } from "../app.js";

const short = (sha256) => sha256.slice(0, 12);
const TONES = { approved: "good", waiting: "warn", quarantine: "bad", quarantined: "bad", blocked: "bad", refused: "bad" };
const ImageState = ({ name }) => html`<${Standing} tone=${TONES[name] ?? "off"}>${has(`image.${name}`) ? say(`image.${name}`) : name}</${Standing}>`;

/** Brings files; each is inspected by the server, and its page shows what came of it. */
async function bring(files) {
  let last = null;
  for (const file of files) {
    if (file.size > 16 * 1024 * 1024) {
      note(say("drop.too-large", { name: file.name }), { tone: "bad" });
      continue;
    }
    const image = await attempt(() => ask("POST", `firmware?${new URLSearchParams({ file_name: file.name })}`, file, { type: "application/octet-stream" }));
    if (image) last = image;
  }
  await loadFirmware();
  if (last) go(`#/firmware/${last.sha256}`);
}

function Drop() {
  const [over, setOver] = useState(false);
  const [busy, setBusy] = useState(false);
  const input = useRef();
  const take = async (files) => {
    setBusy(true);
    await bring(files);
    setBusy(false);
  };
  return html`<div class="drop ${over ? "over" : ""}" onDragOver=${(event) => (event.preventDefault(), setOver(true))} onDragLeave=${() => setOver(false)} onDrop=${(event) => {
    event.preventDefault();
    setOver(false);
    take([...event.dataTransfer.files]);
  }}>
    <p><strong>${busy ? say("drop.busy") : say("drop.title")}</strong><br /><span class="quiet">${say("drop.hint")}</span></p>
    <input ref=${input} class="hidden" type="file" multiple tabindex="-1" aria-label=${say("drop.choose")} onChange=${(event) => take([...event.target.files]).then(() => (input.current.value = ""))} />
    <button class="button" disabled=${busy || !may("admin")} onClick=${() => input.current.click()}>${say("drop.choose")}</button>
  </div>`;
}

function List() {
  useTopics("firmware");
  useEffect(() => void loadFirmware().catch(() => {}), []);
  const all = home.firmware;
  return html`<${Head} title=${say("nav.firmware")} kicker=${all ? say("firmware.kicker", { n: all.firmware.length, used: bytes(all.used_bytes) }) : ""}>
      ${all?.feeds.length > 0 && html`<button class="button" disabled=${!may("operator")} onClick=${() => attempt(() => ask("POST", "firmware/check", {}), say("feeds.done")).then(loadFirmware)}>${say("feeds.check")}</button>`}
    </${Head}>
    <${Drop} />
    ${all && all.firmware.length === 0 && html`<${Empty} title=${say("firmware.empty")}><p>${say("firmware.empty-1")}</p></${Empty}>`}
    ${all && all.firmware.length > 0 && html`<ul class="list card">${all.firmware.map((image) => html`<li key=${image.sha256}><a class="row image" href="#/firmware/${image.sha256}">
      <span class="what"><strong>${image.name}</strong><span class="quiet">${image.file_name}</span></span>
      <span class="quiet">${[image.chip, bytes(image.len_bytes)].filter(Boolean).join(" · ")}</span>
      <${ImageState} name=${image.state} />
      <span class="quiet">${image.running_on.length ? say("firmware.runs-on", { n: image.running_on.length }) : image.latest_for.length ? say("firmware.newest", { models: image.latest_for.join(", ") }) : ""}</span>
      <span class="when"><${Ago} ms=${image.added_ms} /></span>
    </a></li>`)}</ul>`}
    ${all?.folder && html`<section class="card"><h2>${say("folder.title")}</h2><p><span class="mono">${all.folder.path}</span> · ${say("folder.files", { n: all.folder.n_files })}</p>${all.folder.trouble && html`<p><${Standing} tone="bad"><${Theirs}>${all.folder.trouble}</${Theirs}></${Standing}></p>`}${all.folder.ignored.map((one) => html`<p class="quiet"><${Theirs}>${one.text}</${Theirs}></p>`)}</section>`}
    ${all?.feeds.length > 0 && html`<section class="card"><h2>${say("feeds.title")}</h2><ul class="list">${all.feeds.map((feed) => html`<li class="row"><span class="what"><strong>${feed.name}</strong><span class="quiet">${feed.filename ?? feed.url}</span></span>${feed.error ? html`<${Standing} tone="bad"><${Theirs}>${feed.error}</${Theirs}></${Standing}>` : html`<${Standing} tone=${feed.last_ok_at ? "good" : "off"}>${say(feed.last_ok_at ? "feeds.ok" : "feeds.never")}</${Standing}>`}<span class="when"><${Ago} ms=${feed.last_checked_at} /></span></li>`)}</ul></section>`}`;
}

/** Release notes as they are written mostly: headings, lists, paragraphs. All of it text, nothing of it markup. */
export function Notes({ text }) {
  const blocks = [];
  for (const line of text.split("\n")) {
    const item = line.match(/^\s*[-*]\s+(.*)/);
    const head = line.match(/^#+\s+(.*)/);
    const last = blocks[blocks.length - 1];
    if (item) last?.items ? last.items.push(item[1]) : blocks.push({ items: [item[1]] });
    else if (head) blocks.push({ head: head[1] });
    else if (line.trim() === "") blocks.push({});
    else if (last?.words) last.words += ` ${line}`;
    else blocks.push({ words: line });
  }
  return html`<div class="release-notes">${blocks.map((block) => (block.items ? html`<ul>${block.items.map((item) => html`<li>${item}</li>`)}</ul>` : block.head ? html`<h3>${block.head}</h3>` : block.words ? html`<p>${block.words}</p>` : null))}</div>`;
}

/** What two images say of themselves, field by field. */
const FIELDS = [
  ["inspect.version", (image) => image.version],
  ["inspect.kind", (image) => (has(`kind-of.${image.kind}`) ? say(`kind-of.${image.kind}`) : image.kind)],
  ["fact.chip", (image) => image.chip],
  ["inspect.project", (image) => image.project],
  ["inspect.size", (image) => `${bytes(image.len_bytes)} (${count(image.len_bytes)})`],
  ["inspect.signature", (image) => image.signature ?? say("inspect.unsigned")],
  ["compare.state", (image) => (has(`image.${image.state}`) ? say(`image.${image.state}`) : image.state)],
  ["compare.sha", (image) => image.sha256],
];

const fetchBytes = async (sha256) => {
  const answer = await fetch(`/api/v1/firmware/${sha256}/image`, { credentials: "same-origin" });
  if (!answer.ok) throw new Refusal(answer.status, await answer.json().catch(() => ({})));
  return new Uint8Array(await answer.arrayBuffer());
};

/** At how many places two images differ, and where first. A longer one differs in all that it has more. */
function difference(one, other) {
  const shared = Math.min(one.length, other.length);
  let n = Math.max(one.length, other.length) - shared;
  let first = n > 0 ? shared : null;
  for (let idx = shared - 1; idx >= 0; idx -= 1) {
    if (one[idx] !== other[idx]) {
      n += 1;
      first = idx;
    }
  }
  return { n, first, of: Math.max(one.length, other.length) };
}

/** This image beside another one: what a device runs, mostly. */
function Compare({ image, fits, query }) {
  const others = (home.firmware?.firmware ?? []).filter((one) => one.sha256 !== image.sha256 && (one.family === image.family || one.sha256 === query.get("with")));
  const on = (sha256) => fits.filter((device) => device.installed?.sha256 === sha256);
  others.sort((a, b) => on(b.sha256).length - on(a.sha256).length || b.added_ms - a.added_ms);
  const [chosen, choose] = useState(query.get("with") ?? "");
  const [differs, setDiffers] = useState(null);
  const [busy, setBusy] = useState(false);
  const other = others.find((one) => one.sha256 === chosen) ?? others[0];
  useEffect(() => setDiffers(null), [image.sha256, other?.sha256]);
  // What runs on devices and is not kept here can be compared by its version only.
  const unknown = [...new Set(fits.filter((device) => device.installed?.sha256 !== image.sha256 && !others.some((one) => one.sha256 === device.installed?.sha256)).map((device) => device.reported_version).filter(Boolean))];
  const count_bytes = async () => {
    setBusy(true);
    const both = await attempt(() => Promise.all([image, other].map((one) => fetchBytes(one.sha256))));
    setBusy(false);
    if (both) setDiffers(difference(...both));
  };
  const called = (one) => {
    const devices = on(one.sha256);
    return `${one.name} · ${one.file_name}${devices.length ? ` · ${say("firmware.runs-on", { n: devices.length })}` : ""}`;
  };
  return html`<section class="card" aria-labelledby="compare"><h2 id="compare">${say("compare.title")}</h2>
    ${!other ? html`<p class="quiet">${say("compare.none")}</p>` : html`
    <label class="field"><span>${say("compare.with")}</span><select value=${other.sha256} onChange=${(event) => choose(event.target.value)}>${others.map((one) => html`<option value=${one.sha256}>${called(one)}</option>`)}</select></label>
    <table class="compare"><thead><tr><td></td><th scope="col">${say("compare.other")}</th><th scope="col">${say("compare.this")}</th><td></td></tr></thead><tbody>${FIELDS.map(([name, of]) => {
      const [theirs, ours] = [of(other) ?? "–", of(image) ?? "–"];
      const same = theirs === ours;
      return html`<tr class=${same ? "" : "differs"}><th scope="row">${say(name)}</th><td class="mono">${theirs}</td><td class="mono">${ours}</td><td>${same ? html`<span class="quiet">${say("compare.same")}</span>` : html`<strong>${say("compare.differs")}</strong>`}</td></tr>`;
    })}</tbody></table>
    <p role="status">${differs && (differs.n === 0 ? say("compare.bytes-none") : say("compare.bytes", { n: differs.n, of: differs.of, percent: `${count((differs.n * 100) / differs.of)} %`, first: count(differs.first) }))}</p>
    ${!differs && html`<button class="button" disabled=${busy || !may("operator")} onClick=${count_bytes}>${say(busy ? "compare.counting" : "compare.count")}</button>`}`}
    ${unknown.length > 0 && html`<p class="quiet">${say("compare.unknown", { versions: list(unknown.slice(0, 6)) })}</p>`}</section>`;
}

function Image({ id, query }) {
  useTopics("firmware", "devices");
  const [image, setImage] = useState(null);
  const [missing, setMissing] = useState(false);
  const [notes, setNotes] = useState(null);
  const load = () => get(`firmware/${id}`).then((found) => {
    setImage(found);
    if (found.has_notes) get(`firmware/${id}/notes`).then((kept) => setNotes(kept.notes), () => {});
    else setNotes(null);
  }, (refusal) => setMissing(refusal.status === 404));
  useEffect(() => void load(), [id, home.firmware]);
  if (!image) return html`<${Head} title=${missing ? say("firmware.missing") : say("loading")} back=${["#/firmware", say("nav.firmware")]} />`;
  const devices = [...home.devices.values()];
  const runs = devices.filter((device) => image.running_on.includes(device.id));
  const offered = devices.filter((device) => device.latest?.sha256 === image.sha256 && device.offered);
  const fits = image.state !== "refused" ? devices.filter((device) => device.family === image.family && (!image.chip || device.chip === image.chip)) : [];
  const others = image.state !== "refused" ? devices.filter((device) => device.family === image.family && image.chip && device.chip && device.chip !== image.chip) : [];
  const approve = async () => {
    const sure = await confirm({ title: say("approve.title", { name: image.name }), points: [...image.refusals.map((refusal) => refusal.text), say("approve.point", { n: fits.length }), say("approve.point-2")], act: say("approve.act"), tone: "primary" });
    if (sure) await attempt(() => ask("POST", `firmware/${image.sha256}/approve`), say("approve.done", { name: image.name })).then(load);
  };
  const edit = async () => {
    const text = await confirm({ title: say("notes.title", { name: image.name }), points: [say("notes.point")], act: say("save"), tone: "primary", field: { label: say("notes.field"), value: notes ?? "", required: false, lines: true } });
    if (text !== null) await attempt(() => ask("PUT", `firmware/${image.sha256}/notes`, { notes: text.trim() || null }), say("saved")).then(load);
  };
  const remove = async () => {
    if (!(await confirm({ title: say("remove-image.title", { name: image.name }), points: [say("remove-image.point")], act: say("remove-image.act") }))) return;
    if (await attempt(() => ask("DELETE", `firmware/${image.sha256}`).then(() => true), say("remove-image.done", { name: image.name }))) {
      await loadFirmware();
      go("#/firmware");
    }
  };
  const links = (list) => list.slice(0, 12).map((device, idx) => html`${idx > 0 && ", "}<a href="#/device/${device.id}">${device.name}</a>`);
  const explain = (name, value, why, tone = "good") => html`<li><${Standing} tone=${tone}><strong>${name}</strong></${Standing}><span class="mono value">${value ?? "–"}</span><span class="quiet">${why}</span></li>`;
  const refused = image.state === "refused";
  return html`
    <${Head} title=${image.name} back=${["#/firmware", say("nav.firmware")]} beside=${html`<p class="under"><${ImageState} name=${image.state} /> <span class="quiet">${image.file_name} · ${bytes(image.len_bytes)}</span></p>`}>
      ${["waiting", "quarantine", "quarantined"].includes(image.state) && html`<button class="button primary" disabled=${!may("admin")} onClick=${approve}>${say("approve.act")}</button>`}
      ${!refused && fits.length > 0 && html`<button class="button ${image.state === "approved" ? "primary" : ""}" disabled=${!may("operator")} onClick=${() => plan("update", (offered.length ? offered : fits).map((device) => device.id), image.sha256)}>${say("firmware.plan")}</button>`}
    </${Head}>
    ${image.refusals.length > 0 && html`<section class="card notice bad"><h2>${say("firmware.refused", { n: image.refusals.length })}</h2>${image.refusals.map((refusal) => html`<div class="refusal"><${Theirs} as="p" class="lead">${refusal.text}</${Theirs}><p><strong>${say("next-step")}</strong> <${Theirs}>${refusal.next_step}</${Theirs}></p></div>`)}</section>`}
    <div class="columns two">
      <section class="card"><h2>${say("inspect.title")}</h2><ul class="inspection">
        ${explain(say("inspect.kind"), has(`kind-of.${image.kind}`) ? say(`kind-of.${image.kind}`) : image.kind, say(image.family ? "inspect.kind-why" : "inspect.kind-none", { family: image.family ?? "" }), image.family ? "good" : "bad")}
        ${!refused && explain(say("fact.chip"), image.chip, image.chip ? say("inspect.chip-why", { chip: image.chip }) : say("inspect.chip-none"), image.chip ? "good" : "off")}
        ${!refused && explain(say("inspect.version"), image.version, say(`inspect.version-${image.version_source}`), image.version_source === "none" ? "warn" : "good")}
        ${!refused && explain(say("inspect.project"), image.project, say(image.project ? "inspect.project-why" : "inspect.project-none"), image.project ? "good" : "off")}
        ${explain(say("inspect.size"), bytes(image.len_bytes), say("inspect.size-why", { n: image.len_bytes }))}
        ${!refused && explain(say("inspect.signature"), image.signature ?? say("inspect.unsigned"), say("inspect.signature-why"), image.signature ? "good" : "off")}
        ${explain("SHA-256", short(image.sha256), say("inspect.sha-why"))}
      </ul>${image.warnings.map((warning) => html`<p class="remark"><${Standing} tone="warn"><${Theirs}>${warning.text}</${Theirs}></${Standing}></p>`)}</section>
      <div>
        <section class="card"><h2>${say("fits.title")}</h2>${refused ? html`<p class="quiet">${say("fits.refused")}</p>` : html`<${Facts} rows=${[
          [say("fits.fits"), fits.length ? html`${count(fits.length)} · ${links(fits)}` : say("fits.none")],
          [say("fits.offered"), offered.length ? html`${count(offered.length)} · ${links(offered)}` : say("fits.nobody")],
          [say("fits.runs"), runs.length ? html`${count(runs.length)} · ${links(runs)}` : say("fits.nobody")],
          others.length && [say("fits.not"), html`${count(others.length)} · ${say("fits.other-chip")}`],
        ]} />`}</section>
        <section class="card"><h2>${say("notes.head")}</h2>${notes ? html`<${Notes} text=${notes} />` : html`<p class="quiet">${say("notes.none")}</p>`}<button class="button" disabled=${!may("admin")} onClick=${edit}>${say("notes.act")}</button></section>
        <section class="card"><h2>${say("origin.title")}</h2><${Facts} rows=${[
          [say("origin.came"), say(`came.${image.source}`)],
          image.origin && [say("origin.from"), image.origin],
          [say("origin.when"), html`<${When} ms=${image.added_ms} />`],
          image.approved_ms && [say("origin.approved"), html`${image.approved_by} · <${When} ms=${image.approved_ms} />`],
          image.also_named.length && [say("origin.also"), image.also_named.join(", ")],
          ["SHA-256", html`<span class="mono wrap">${image.sha256}</span>`],
        ]} /><button class="button danger-quiet" disabled=${!may("admin")} onClick=${remove}>${say("remove-image.act")}</button></section>
      </div>
    </div>
    ${!refused && html`<${Compare} image=${image} fits=${fits} query=${query} />`}`;
}

const Firmware = ({ id, query }) => (id ? html`<${Image} id=${id} query=${query} />` : html`<${List} />`);
export const views = { firmware: Firmware };
