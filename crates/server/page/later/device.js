// One device: what it is, how it fares, what became of its updates, and what can be done.
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, failure, get, home, loadHealth, may, standing, useTopics } from "../home.js";
import { bytes, lasting, say } from "../say.js";
import { Ago, Empty, Facts, Head, Icon, LiveBar, NextStep, Plot, Standing, State, Theirs, When, attempt, confirm } from "../parts.js";
import { Versions, plan, standingWord } from "../fleet.js";
import { go } from "../app.js";

const take = (device) => {
  if (device?.id) home.devices.set(device.id, device);
};

function Device({ id }) {
  useTopics(`device:${id}`, `progress:${id}`, `health:${id}`, "jobs", "loaded", "devices", "firmware");
  const [jobs, setJobs] = useState(null);
  const [missing, setMissing] = useState(false);
  const last = home.jobs.get(id)?.state;
  useEffect(() => {
    get(`devices/${id}`).then(take, (refusal) => refusal.status === 404 && setMissing(true));
    loadHealth(id).catch(() => {});
  }, [id]);
  useEffect(() => {
    get(`history?device=${encodeURIComponent(id)}&limit=50`).then(setJobs, () => setJobs([]));
  }, [id, last]);
  const device = home.devices.get(id);
  if (!device) return html`<${Head} title=${missing ? say("device.missing") : say("loading")} back=${["#/", say("nav.fleet")]} />`;

  const does = (method, path, body, done) => attempt(() => ask(method, `devices/${id}${path}`, body), done).then((answer) => answer && (take(answer), get(`devices/${id}`).then(take)));
  const name = device.name;
  const rename = async () => {
    const given = await confirm({ title: say("name.title", { name }), points: [say("name.point")], act: say("save"), tone: "primary", field: { label: say("name.field"), value: name, max: 64 } });
    if (given) await does("PATCH", "", { name: given }, say("saved"));
  };
  const tag = async () => {
    const given = await confirm({ title: say("tags.title", { name }), points: [say("tags.point")], act: say("save"), tone: "primary", field: { label: say("tags.field"), value: device.tags.join(", "), required: false } });
    if (given !== null) await does("PATCH", "", { tags: given.split(",").map((word) => word.trim()).filter(Boolean) }, say("saved"));
  };
  const password = async () => {
    const given = await confirm({ title: say("password.title", { name }), points: [say("password.point")], act: say("save"), tone: "primary", field: { label: say("password.field"), secret: true } });
    if (given) await does("PUT", "/password", { password: given }, say("saved"));
  };
  const pin = async () => {
    const version = await confirm({ title: say("pin.title", { names: name }), points: [say("pin.point")], act: say("pin.act"), tone: "primary", field: { label: say("pin.field"), value: device.reported_version ?? "" } });
    if (version) await does("PUT", "/pin", { version }, say("pin.done", { n: 1 }));
  };
  const skip = async () => {
    const version = device.latest?.name ?? "";
    if (await confirm({ title: say("skip.title", { name, version }), points: [say("skip.point", { version })], act: say("skip.act"), tone: "primary" })) await does("PUT", "/skip", { version }, say("skip.done", { version }));
  };
  const ota = async () => {
    const on = device.ota !== "enabled";
    if (await confirm({ title: say(on ? "ota.on-title" : "ota.off-title", { name }), points: [say(on ? "ota.on-point" : "ota.off-point")], act: say(on ? "ota.on" : "ota.off"), tone: on ? "primary" : "danger" })) await does("PUT", "/ota", { enabled: on }, say("saved"));
  };
  const enroll = async () => {
    if (device.enrolled) {
      if (await confirm({ title: say("unenroll.title", { name }), points: [say("unenroll.point")], act: say("unenroll.act") })) await does("DELETE", "/enroll", undefined, say("saved"));
    } else if (await confirm({ title: say("enroll.title", { names: name }), points: [say("enroll.point-1"), say("enroll.point-2")], act: say("enroll.act"), tone: "primary" })) await does("POST", "/enroll", undefined, say("enroll.done", { n: 1 }));
  };
  const remove = async () => {
    if (!(await confirm({ title: say("remove.title", { name }), points: [say("remove.point-1"), say("remove.point-2")], act: say("remove.act") }))) return;
    const gone = await attempt(() => ask("DELETE", `devices/${id}`).then(() => true), say("remove.done", { name }));
    if (gone) {
      home.devices.delete(id);
      go("#/");
    }
  };

  const failing = failure(device);
  // What came by an event has no next step; the history has.
  const failed = failing && ((jobs ?? []).find((job) => job.id === failing.id) ?? failing);
  const running = home.progress.get(id);
  const looks = [...(home.health.get(id) ?? [])].reverse();
  const course = (of) => looks.map((look) => [look.at_ms, look.online ? look[of] : null]);
  const marks = looks.filter((look) => look.restarted).map((look) => [look.at_ms, say("device.restarted")]);
  // What could be pushed again: every image that is kept, fits, and is another than the one that it runs.
  const back = (home.firmware?.firmware ?? []).filter((image) => ["approved", "waiting"].includes(image.state) && image.family === device.family && (!image.chip || image.chip === device.chip) && image.sha256 !== device.installed?.sha256 && image.sha256 !== (device.offered ? device.latest?.sha256 : ""));
  return html`
    <${Head} title=${name} back=${["#/", say("nav.fleet")]} beside=${html`<p class="under"><${Icon} name=${device.family} size="16" /> ${standingWord(device)} <${Versions} device=${device} /></p>`}>
      ${device.offered && html`<button class="button primary" disabled=${!may("operator") || Boolean(running)} onClick=${() => plan("update", [id])}>${say("device.update-to", { version: device.latest.name })}</button>`}
      <button class="button" disabled=${!may("operator") || Boolean(running)} onClick=${() => plan("rollback", [id])}>${say("plan.rollback")}</button>
      ${!device.enrolled && html`<button class="button primary" disabled=${!may("admin")} onClick=${enroll}>${say("enroll.act")}</button>`}
    </${Head}>
    ${running && html`<section class="card notice busy"><h2>${say("device.running")}</h2><p><${State} name=${running.state} percent=${running.state === "uploading" ? running.percent : null} /></p><${LiveBar} device=${id} label=${say("progress.of", { name })} />${running.job && html`<p><a href="#/job/${running.job}">${say("job.look")}</a></p>`}</section>`}
    ${failed && html`<section class="card notice bad" aria-labelledby="failed"><h2 id="failed">${say("device.failed")}</h2><p><${State} name=${failed.state} reason=${failed.reason} /></p><${Theirs} as="p">${failed.text}</${Theirs}>${failed.next_step && html`<p><strong>${say("next-step")}</strong> <${NextStep} rule=${failed.reason} text=${failed.next_step} /></p>`}<p><a href="#/job/${failed.id}">${say("job.look")}</a></p></section>`}
    ${device.conflict && html`<section class="card notice bad"><h2>${say("standing.conflict")}</h2><${Theirs} as="p">${device.conflict.text}</${Theirs}><p><strong>${say("next-step")}</strong> <${NextStep} rule="conflict" text=${device.conflict.next_step} /></p></section>`}
    ${device.trouble && html`<section class="card notice off"><h2>${say("device.trouble")}</h2><${Theirs} as="p">${device.trouble}</${Theirs}><p class="quiet">${say("device.seen")} <${Ago} ms=${device.last_seen_ms} /></p></section>`}
    <div class="columns">
      <section class="card"><h2>${say("device.identity")}</h2><${Facts} rows=${[
        [say("fact.kind"), device.title],
        [say("fact.address"), device.address && html`<span class="mono">${device.address}</span>`],
        [say("fact.mac"), device.mac && html`<span class="mono">${device.mac.replace(/(..)(?=.)/g, "$1:")}</span>`],
        [say("fact.host"), device.host_name],
        [say("fact.chip"), device.chip && `${device.chip}${device.chip_revision === null ? "" : ` · ${say("fact.revision")} ${Math.floor(device.chip_revision / 100)}.${device.chip_revision % 100}`}`],
        [say("fact.flash"), bytes(device.flash_bytes)],
        [say("fact.found"), device.sources.map((source) => say(`source.${source}`)).join(", ")],
        [say("fact.first-seen"), html`<${When} ms=${device.first_seen_ms} />`],
        [say("fact.group"), (device.group || device.tags.length > 0) && [device.group, ...device.tags].filter(Boolean).map((word) => html`<span class="tag">${word}</span> `)],
      ]} /></section>
      <section class="card"><h2>${say("device.now")}</h2><${Facts} rows=${[
        [say("fact.seen"), html`<${Ago} ms=${device.last_seen_ms} />`],
        [say("fact.up"), lasting(device.uptime_s)],
        [say("fact.restarts"), String(device.restarts)],
        [say("fact.signal"), device.signal_dbm === null ? null : `${device.signal_dbm} dBm`],
        [say("fact.heap"), bytes(device.free_heap_bytes)],
        [say("fact.ota"), say(`ota.is-${device.ota}`)],
        [say("fact.password"), say(device.has_password ? "yes" : "no")],
        [say("fact.enrolled"), device.enrolled ? html`<${When} ms=${device.enrolled_ms} />` : say("no")],
      ]} />
      ${device.warnings.map((warning) => html`<p class="remark"><${Standing} tone="warn"><${Theirs}>${warning.text}</${Theirs}></${Standing}></p>`)}</section>
      <section class="card"><h2>${say("device.firmware")}</h2><${Facts} rows=${[
        [say("fact.runs"), html`<span class="mono">${device.reported_version ?? "–"}</span>`],
        ...Object.entries(device.versions).length > 1 ? Object.entries(device.versions).map(([part, version]) => [part, html`<span class="mono">${version}</span>`]) : [],
        [say("fact.latest"), device.latest && html`<a class="mono" href="#/firmware/${device.latest.sha256}">${device.latest.name}</a>${device.installed?.kept && device.installed.sha256 !== device.latest.sha256 && html` · <a href="#/firmware/${device.latest.sha256}?with=${device.installed.sha256}">${say("compare.link")}</a>`}`],
        device.latest?.why_not && [say("fact.why-not"), html`<${Theirs}>${device.latest.why_not}</${Theirs}>`],
        [say("fact.way-back"), device.installed?.kept || back.length ? say("way-back.kept", { versions: [...new Set([...(device.installed?.kept ? [device.installed.name] : []), ...back.slice(0, 4).map((image) => image.name)])].join(", ") }) : html`<${Standing} tone="warn">${say("way-back.none")}</${Standing}>`],
        device.pinned && [say("standing.pinned"), html`<span class="mono">${device.pinned}</span>`],
        device.skipped.length && [say("fact.skipped"), device.skipped.join(", ")],
      ]} /></section>
    </div>
    <section class="card"><h2>${say("device.health")}</h2><div class="plots">
      <${Plot} title=${say("fact.signal")} points=${course("signal_dbm")} unit=${(n) => `${Math.round(n)} dBm`} marks=${marks} />
      <${Plot} title=${say("fact.heap")} points=${course("free_heap_bytes")} unit=${bytes} marks=${marks} />
      <${Plot} title=${say("fact.up")} points=${course("uptime_s")} unit=${lasting} marks=${marks} from_zero />
    </div></section>
    <section class="card"><h2>${say("device.history")}</h2>${jobs === null ? html`<p class="quiet">${say("loading")}</p>` : jobs.length === 0 ? html`<p class="quiet">${say("history.empty-device")}</p>` : html`<${Jobs} jobs=${jobs} />`}</section>
    <section class="card"><h2>${say("device.settings")}</h2><div class="doings">
      ${device.pinned ? html`<button class="button" disabled=${!may("operator")} onClick=${() => does("DELETE", "/pin", undefined, say("saved"))}>${say("unpin.act")}</button>` : html`<button class="button" disabled=${!may("operator")} onClick=${pin}>${say("pin.act")}</button>`}
      ${device.offered && html`<button class="button" disabled=${!may("operator")} onClick=${skip}>${say("skip.act-version", { version: device.latest.name })}</button>`}
      ${device.skipped.length > 0 && html`<button class="button" disabled=${!may("operator")} onClick=${() => does("DELETE", "/skip", undefined, say("saved"))}>${say("unskip.act")}</button>`}
      <button class="button" disabled=${!may("operator")} onClick=${ota}>${say(device.ota === "enabled" ? "ota.off" : "ota.on")}</button>
      <button class="button" disabled=${!may("admin")} onClick=${rename}>${say("name.act")}</button>
      <button class="button" disabled=${!may("admin")} onClick=${tag}>${say("tags.act")}</button>
      <button class="button" disabled=${!may("admin")} onClick=${password}>${say("password.act")}</button>
      ${device.enrolled && html`<button class="button" disabled=${!may("admin")} onClick=${enroll}>${say("unenroll.act")}</button>`}
      ${!device.configured && html`<button class="button danger-quiet" disabled=${!may("admin")} onClick=${remove}>${say("remove.act")}</button>`}
    </div></section>`;
}

/** Updates, the newest first. */
export function Jobs({ jobs, named = false }) {
  return html`<ul class="list">${jobs.map((job) => html`<li key=${job.id}><a class="row" href="#/job/${job.id}">
    <span class="when"><${When} ms=${job.started_ms} /></span>
    <span class="what">${named && html`<strong>${job.name ?? job.device}</strong> `}<span class="mono">${job.firmware ?? job.sha256.slice(0, 12)}</span></span>
    <${State} name=${job.state} reason=${job.reason} />
  </a></li>`)}</ul>`;
}

export const views = { device: Device };
