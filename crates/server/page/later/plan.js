// A plan: which devices, which firmware; what would happen, why not, and how long it takes. Then: start.
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, get, home, loadFirmware, may, tookRollout, useTopics } from "../home.js";
import { count, language, lasting, say } from "../say.js";
import { Empty, Head, Icon, NextStep, Standing, Theirs, attempt, confirm, note } from "../parts.js";
import { go } from "../app.js";

const kept = () => {
  try {
    return JSON.parse(sessionStorage.getItem("plan")) ?? {};
  } catch {
    return {};
  }
};

/** Devices that are left out, together where it is for the same reason. */
function byReason(left_out) {
  const groups = new Map();
  for (const { name, reason } of left_out) {
    const key = `${reason.rule} ${reason.text}`;
    (groups.get(key) ?? groups.set(key, { reason, names: [] }).get(key)).names.push(name);
  }
  return [...groups.values()];
}

function Plan() {
  useTopics("devices", "firmware", "loaded");
  const [wish, setWish] = useState(() => ({ kind: "update", devices: [], firmware: "", canary: "", at_once: "", max_failures: "", soak_s: "", when_back_s: "", window: "", name: "", force: false, ...kept() }));
  const [plan, setPlan] = useState(null);
  const [refused, setRefused] = useState(null);
  const [busy, setBusy] = useState(false);
  const [words, setWords] = useState("");
  // What one came with stands first, and nothing moves while one chooses.
  const [first] = useState(() => new Set(wish.devices));
  const set = (change) => setWish((was) => {
    const next = { ...was, ...change };
    sessionStorage.setItem("plan", JSON.stringify(next));
    return next;
  });
  const [windows, setWindows] = useState([]);
  useEffect(() => {
    if (!home.firmware) loadFirmware().catch(() => {});
    get("windows").then(setWindows, () => {});
  }, []);
  const body = {
    kind: wish.kind,
    devices: wish.devices,
    firmware: wish.firmware || null,
    force: wish.force,
    ...(wish.canary !== "" && { canary: Number(wish.canary) }),
    ...(wish.at_once !== "" && { at_once: wish.at_once }),
    ...(wish.max_failures !== "" && { max_failures: wish.max_failures }),
    ...(wish.soak_s !== "" && { soak_s: Number(wish.soak_s) }),
    ...(wish.when_back_s !== "" && { when_back_s: Number(wish.when_back_s) }),
    ...(wish.window && { window: wish.window }),
    ...(wish.name && { name: wish.name }),
  };
  const asked = JSON.stringify(body);
  useEffect(() => {
    if (!wish.devices.length) return void (setPlan(null), setRefused(null));
    let stale = false;
    // A plan costs nothing: it is made again whenever the wish changes.
    const timer = setTimeout(() => ask("POST", "plans", body).then((made) => stale || (setPlan(made), setRefused(null)), (refusal) => stale || (setPlan(null), setRefused(refusal))), 200);
    return () => {
      stale = true;
      clearTimeout(timer);
    };
  }, [asked]);

  const start = async () => {
    const n = plan.members.length;
    const cut = plan.members.filter((member) => member.interrupts);
    const stuck = plan.members.filter((member) => !member.way_back);
    const sure = await confirm({
      title: say(wish.kind === "update" ? "start.update" : "start.rollback", { n }),
      points: [
        say("start.first", { name: plan.members[0].name, version: [...new Set(plan.members.map((member) => member.firmware))].join(", ") }),
        wish.window ? say("schedules.in-window", { window: wish.window }) : null,
        say("start.takes", { took: lasting(plan.estimate_s) }),
        cut.length ? say("start.cut", { n: cut.length }) : null,
        stuck.length ? say("start.stuck", { n: stuck.length }) : null,
        say("start.stop"),
      ].filter(Boolean),
      act: say("start.act"),
      tone: "primary",
    });
    if (!sure) return;
    setBusy(true);
    const rollout = await attempt(() => ask("POST", "rollouts", body, { key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` }));
    setBusy(false);
    if (!rollout) return;
    sessionStorage.removeItem("plan");
    tookRollout(rollout);
    go(`#/rollout/${rollout.id}`);
  };

  const collator = new Intl.Collator(language, { numeric: true });
  const all = [...home.devices.values()].filter((device) => device.enrolled).sort((a, b) => first.has(b.id) - first.has(a.id) || collator.compare(a.name, b.name));
  const listed = all.filter((device) => device.name.toLowerCase().includes(words.toLowerCase()));
  const chosen = new Set(wish.devices);
  const toggle = (id) => set({ devices: chosen.has(id) ? wish.devices.filter((one) => one !== id) : [...wish.devices, id] });
  const images = (home.firmware?.firmware ?? []).filter((image) => ["approved", "waiting"].includes(image.state));
  const option = (name, label, hint, type = "number") => html`<label class="field"><span>${label}</span><input type=${type} min="0" value=${wish[name]} placeholder=${hint} onInput=${(event) => set({ [name]: event.target.value })} /></label>`;
  const waves = plan ? Array.from({ length: plan.n_waves }, (_, wave) => plan.members.filter((member) => member.wave === wave)) : [];
  return html`
    <${Head} title=${say("plan.title")} back=${["#/rollouts", say("nav.rollouts")]} kicker=${say("plan.kicker")}>
      <button class="button primary" disabled=${!plan || plan.members.length === 0 || busy || !may("operator")} onClick=${start}>${plan?.members.length ? say(wish.kind === "update" ? "plan.start" : "plan.start-back", { n: plan.members.length }) : say("start.act")}</button>
    </${Head}>
    <div class="planning">
      <form class="card wish" onSubmit=${(event) => event.preventDefault()}>
        <fieldset><legend>${say("plan.what")}</legend>
          <div class="switch">${["update", "rollback"].map((kind) => html`<label><input type="radio" name="kind" checked=${wish.kind === kind} onChange=${() => set({ kind, firmware: "" })} /><span>${say(`kind.${kind}`)}</span></label>`)}</div>
          <label class="field"><span>${say("plan.firmware")}</span><select value=${wish.firmware} onChange=${(event) => set({ firmware: event.target.value })}>
            <option value="">${say(wish.kind === "update" ? "plan.newest" : "plan.before")}</option>
            ${images.map((image) => html`<option value=${image.sha256}>${image.name} · ${image.file_name}</option>`)}
          </select></label>
        </fieldset>
        <fieldset><legend>${say("plan.devices")} <span class="quiet number">${say("fleet.chosen", { n: wish.devices.length })}</span></legend>
          <label class="field"><span class="hidden">${say("plan.find")}</span><input type="search" placeholder=${say("plan.find")} value=${words} onInput=${(event) => setWords(event.target.value)} /></label>
          <div class="pickers">
            <button type="button" class="button small" onClick=${() => set({ devices: [...new Set([...wish.devices, ...listed.map((device) => device.id)])] })}>${say("plan.all")}</button>
            <button type="button" class="button small" onClick=${() => set({ devices: all.filter((device) => device.offered).map((device) => device.id) })}>${say("filter.outdated")}</button>
            <button type="button" class="button small" onClick=${() => set({ devices: [] })}>${say("plan.none")}</button>
          </div>
          <ul class="picks" tabindex="0" aria-label=${say("plan.devices")}>${listed.slice(0, 300).map((device) => html`<li key=${device.id}><label><input type="checkbox" checked=${chosen.has(device.id)} onChange=${() => toggle(device.id)} /><span>${device.name}</span> <span class="quiet mono">${device.reported_version ?? ""}</span></label></li>`)}</ul>
          ${listed.length > 300 && html`<p class="quiet">${say("plan.more", { n: listed.length - 300 })}</p>`}
        </fieldset>
        <details><summary>${say("plan.options")}</summary>
          ${option("canary", say("option.canary"), String(plan?.rules.canary ?? "1"))}
          ${option("at_once", say("option.at-once"), plan?.rules.at_once ?? "auto", "text")}
          ${option("max_failures", say("option.max-failures"), plan?.rules.max_failures ?? "2", "text")}
          ${option("soak_s", say("option.soak"), String(plan?.rules.soak_s ?? "120"))}
          <label class="field"><span>${say("option.when-back")}</span><select value=${wish.when_back_s} onChange=${(event) => set({ when_back_s: event.target.value })}><option value="">${say("when-back.no")}</option>${[3600, 43_200, 259_200].map((s) => html`<option value=${s}>${say("when-back.for", { time: lasting(s) })}</option>`)}</select></label>
          ${windows.length > 0 && html`<label class="field"><span>${say("schedules.window")}</span><select value=${wish.window} onChange=${(event) => set({ window: event.target.value })}><option value="">${say("schedules.any-time")}</option>${windows.map((one) => html`<option value=${one.name}>${one.name}</option>`)}</select></label>`}
          ${option("name", say("option.name"), say("option.name-hint"), "text")}
          <label class="check"><input type="checkbox" checked=${wish.force} onChange=${(event) => set({ force: event.target.checked })} /><span>${say("option.force")}</span></label>
        </details>
      </form>
      <div aria-live="polite">
        ${!wish.devices.length && html`<${Empty} title=${say("plan.empty")}><p>${say("plan.empty-1")}</p></${Empty}>`}
        ${refused && html`<section class="card notice bad"><h2>${say("plan.refused")}</h2><${Theirs} as="p">${refused.message}</${Theirs}>${refused.next_step && html`<p><strong>${say("next-step")}</strong> <${Theirs}>${refused.next_step}</${Theirs}></p>`}</section>`}
        ${plan && html`
          <section class="card summary plan">
            <div class="big"><span class="number">${count(plan.members.length)}</span><span class="quiet">${say("plan.devices-get", { n: plan.members.length })}</span></div>
            <div class="big"><span class="number">${lasting(plan.estimate_s)}</span><span class="quiet">${say("plan.about")}</span></div>
            <div class="big"><span class="number">${count(plan.n_waves)}</span><span class="quiet">${say("plan.waves", { n: plan.n_waves })}</span></div>
            <div class="big"><span class="number">${count(plan.left_out.length)}</span><span class="quiet">${say("plan.left-out")}</span></div>
          </section>
          ${waves.map((members, wave) => members.length > 0 && html`<section class="card" key=${wave}>
            <h2>${wave === 0 && plan.n_waves > 1 ? say("wave.first") : say("wave.nth", { n: wave + 1 })}</h2>
            <p class="quiet">${wave === 0 && plan.n_waves > 1 ? say("plan.first-why", { soak: lasting(plan.rules.canary_soak_s) }) : say("plan.others-why", { soak: lasting(plan.rules.soak_s), max: plan.rules.max_failures })}</p>
            <ul class="list">${members.slice(0, 200).map((member) => html`<li key=${member.device} class="planned">
              <span class="what"><strong>${member.name}</strong> <span class="mono">${member.runs} <${Icon} name="right" size="12" /> ${member.firmware}</span></span>
              <span class="number">${lasting(member.estimate_s)}</span>
              <span class="remarks">${member.waits_until_back && html`<${Standing} tone="off">${say("plan.waits-back")}</${Standing}>`}${member.interrupts && html`<${Standing} tone="warn"><${Theirs}>${member.interrupts}</${Theirs}></${Standing}>`}${member.notes.map((one) => html`<${Standing} tone="warn">${one.rule === "no-way-back" ? say("way-back.none") : html`<${Theirs}>${one.text}</${Theirs}>`}</${Standing}>`)}</span>
            </li>`)}</ul>
            ${members.length > 200 && html`<p class="quiet">${say("plan.more", { n: members.length - 200 })}</p>`}
          </section>`)}
          ${plan.left_out.length > 0 && html`<section class="card"><h2>${say("plan.left-out")}</h2><ul class="list">${byReason(plan.left_out).map(({ reason, names }) => html`<li key=${reason.text} class="planned"><span class="what"><strong>${names.slice(0, 30).join(", ")}${names.length > 30 ? ` ${say("plan.more", { n: names.length - 30 })}` : ""}</strong></span><span class="number quiet">${names.length > 1 ? count(names.length) : ""}</span><span class="remarks"><${Theirs}>${reason.text}</${Theirs}> <${NextStep} rule=${reason.rule} text=${reason.next_step} /></span></li>`)}</ul></section>`}
          <details class="card"><summary>${say("plan.aloud")}</summary><ul class="points" lang="en">${plan.sentences.slice(0, 60).map((sentence) => html`<li>${sentence}</li>`)}</ul></details>`}
      </div>
    </div>`;
}

export const views = { plan: Plan };
