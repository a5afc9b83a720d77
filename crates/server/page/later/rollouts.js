// Rollouts: a list, and one with its waves as lanes.
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, get, home, isOver, isRunning, loadRollout, loadRollouts, may, tookRollout, useTopics } from "../home.js";
import { lasting, say } from "../say.js";
import { Ago, Bar, Empty, Facts, Head, LiveBar, NextStep, Standing, State, Theirs, When, attempt, confirm, toneOf } from "../parts.js";
import { ended, plan, rolloutTitle } from "../fleet.js";
import { go } from "../app.js";

function Rollouts() {
  useTopics("rollouts", "running", "loaded");
  useEffect(() => void loadRollouts().catch(() => {}), []);
  const rollouts = [...home.rollouts.values()].sort((a, b) => b.id - a.id);
  return html`<${Head} title=${say("nav.rollouts")} kicker=${say("rollouts.kicker")}>
      <button class="button primary" disabled=${!may("operator")} onClick=${() => plan("update", [])}>${say("rollouts.new")}</button>
    </${Head}>
    ${rollouts.length === 0 ? html`<${Empty} title=${say("rollouts.empty")}><p>${say("rollouts.empty-1")}</p><p>${say("rollouts.empty-2")}</p></${Empty}>` : html`<ul class="list card">${rollouts.map((rollout) => {
      const { n_ended, n_devices } = ended(home.details.get(rollout.id) ?? rollout);
      return html`<li key=${rollout.id}><a class="row rollout" href="#/rollout/${rollout.id}">
        <span class="what"><strong>${rolloutTitle(rollout)}</strong><span class="quiet">${say(`kind.${rollout.kind}`)} ${rollout.firmware.join(", ")} · ${say("n-devices", { n: rollout.n_devices })}</span></span>
        <${Bar} percent=${Math.round((n_ended * 100) / Math.max(1, n_devices))} label=${say("rollout.progress")} tone=${rollout.state === "halted" ? "bad" : rollout.ok ? "good" : isOver(rollout.state) ? "off" : "busy"} />
        <${Outcome} rollout=${rollout} />
        <span class="when"><${When} ms=${rollout.created_ms} /></span>
      </a></li>`;
    })}</ul>`}`;
}

/** How it stands; after its end also whether every device ended as it was meant to. */
const Outcome = ({ rollout }) => rollout.state === "finished" && rollout.ok === false ? html`<${Standing} tone="warn">${say("rollout.finished-not-all")}</${Standing}>` : html`<${State} name=${rollout.state} />`;

function Member({ member, cancel }) {
  useTopics(`progress:${member.device}`);
  const running = home.progress.get(member.device);
  const now = running && isRunning(running.state) ? running.state : member.state;
  const percent = now === "uploading" ? (running?.percent ?? member.percent) : null;
  const words = member.text && !isRunning(now) && !["updated", "already-current"].includes(now);
  return html`<li class="member ${toneOf(now)}">
    <div class="line"><a href="#/device/${member.device}"><strong>${member.name}</strong></a><${State} name=${now} percent=${percent} reason=${member.reason} /></div>
    ${isRunning(now) ? html`<${LiveBar} device=${member.device} label=${say("progress.of", { name: member.name })} />` : html`<${Bar} percent=${["queued", "waiting"].includes(now) ? 0 : 100} label=${say("progress.of", { name: member.name })} tone=${toneOf(now)} />`}
    ${words && html`<${Theirs} as="p" class="why">${member.text}</${Theirs}>`}
    ${words && member.next_step && html`<p class="why"><strong>${say("next-step")}</strong> <${NextStep} rule=${member.reason} text=${member.next_step} /></p>`}
    <div class="line small"><span class="quiet mono">${member.runs} → ${member.firmware}</span><span>${member.job && html`<a href="#/job/${member.job}">${say("job.proof-link")}<span class="hidden"> ${member.name}</span></a>`}${cancel && ["queued", "waiting"].includes(now) && html` <button class="button plain small" onClick=${() => cancel(member)}>${say("member.leave-out")}<span class="hidden"> ${member.name}</span></button>`}</span></div>
  </li>`;
}

/** As many of a wave as one can look at: what went wrong first, then what runs. */
const SHOWN = 60;
const URGENCY = ["bad", "warn", "busy", "off", "good"];

function Members({ members, cancel }) {
  const [all, setAll] = useState(false);
  const shown = all || members.length <= SHOWN ? members : [...members].sort((a, b) => URGENCY.indexOf(toneOf(a.state)) - URGENCY.indexOf(toneOf(b.state))).slice(0, SHOWN);
  return html`<ul>${shown.map((member) => html`<${Member} key=${member.device} member=${member} cancel=${cancel} />`)}</ul>
    ${shown.length < members.length && html`<button class="button small wide" onClick=${() => setAll(true)}>${say("wave.all", { n: members.length })}</button>`}`;
}

function Rollout({ id }) {
  useTopics(`rollout:${id}`, "running");
  const [missing, setMissing] = useState(false);
  useEffect(() => void loadRollout(Number(id)).catch((refusal) => setMissing(refusal.status === 404)), [id]);
  const rollout = home.details.get(Number(id));
  if (!rollout) return html`<${Head} title=${missing ? say("rollout.missing") : say("loading")} back=${["#/rollouts", say("nav.rollouts")]} />`;
  const title = rolloutTitle(rollout);
  const over = isOver(rollout.state);
  const { n_ended, n_devices, counts } = ended(rollout);
  const steer = (act, body, done) => attempt(() => ask("POST", `rollouts/${id}/${act}`, body).then((view) => (tookRollout(view), view)), done);
  const running = rollout.members.filter((member) => isRunning(member.state));
  const waiting = rollout.members.filter((member) => ["queued", "waiting"].includes(member.state));
  const abort = async () => {
    const sure = await confirm({ title: say("abort.title", { title }), points: [waiting.length ? say("stop.waiting", { n: waiting.length }) : null, running.length ? say("stop.running", { n: running.length, names: running.slice(0, 5).map((member) => member.name).join(", ") }) : null, say("abort.point")].filter(Boolean), act: say("abort.act") });
    if (sure) await steer("abort", { force: false }, say("abort.done"));
  };
  const resume = async () => {
    if (rollout.state === "halted" && !(await confirm({ title: say("resume.title", { title }), points: [say("resume.point-1"), say("resume.point-2", { n: waiting.length })], act: say("resume.act") }))) return;
    await steer("resume", undefined, say("resume.done"));
  };
  const cancel = may("operator") && !over && (async (member) => {
    if (await confirm({ title: say("leave-out.title", { name: member.name }), points: [say("leave-out.point")], act: say("member.leave-out") })) await steer(`devices/${member.device}/cancel`, undefined, say("leave-out.done", { name: member.name }));
  });
  const failed = rollout.members.filter((member) => toneOf(member.state) === "bad");
  const proven = rollout.members.filter((member) => member.state.startsWith("updated") || member.state === "rolled-back" );
  const waves = Array.from({ length: rollout.n_waves }, (_, wave) => rollout.members.filter((member) => member.wave === wave));
  return html`
    <${Head} title=${title} back=${["#/rollouts", say("nav.rollouts")]} beside=${html`<p class="under"><${Outcome} rollout=${rollout} /> <span class="quiet">${say(`kind.${rollout.kind}`)} <span class="mono">${rollout.firmware.join(", ")}</span> · ${rollout.created_by} · <${Ago} ms=${rollout.created_ms} /></span></p>`}>
      ${rollout.state === "running" && html`<button class="button" disabled=${!may("operator")} onClick=${() => steer("pause", undefined, say("pause.done"))}>${say("pause.act")}</button>`}
      ${["paused", "halted"].includes(rollout.state) && html`<button class="button primary" disabled=${!may("operator")} onClick=${resume}>${say("resume.act")}</button>`}
      ${!over && html`<button class="button danger" disabled=${!may("operator")} onClick=${abort}>${say("abort.act")}</button>`}
      ${over && proven.length > 0 && rollout.kind === "update" && html`<button class="button" disabled=${!may("operator")} onClick=${() => plan("rollback", proven.map((member) => member.device))}>${say("rollout.back")}</button>`}
      ${over && failed.length > 0 && html`<button class="button" disabled=${!may("operator")} onClick=${() => plan(rollout.kind, failed.map((member) => member.device))}>${say("rollout.retry", { n: failed.length })}</button>`}
    </${Head}>
    ${rollout.cause && html`<section class="card notice ${rollout.state === "halted" ? "bad" : "off"}" role="alert"><h2>${say(`rollout.why-${rollout.state}`)}</h2><${Theirs} as="p" class="lead">${rollout.cause.text}</${Theirs}>${rollout.cause.next_step && html`<p><strong>${say("next-step")}</strong> <${NextStep} rule=${rollout.cause.rule} text=${rollout.cause.next_step} /></p>`}</section>`}
    ${rollout.held && !rollout.cause && !rollout.opens_ms && html`<section class="card notice off"><p><${Theirs}>${rollout.held.text}</${Theirs}> <${NextStep} rule=${rollout.held.rule} text=${rollout.held.next_step} /></p></section>`}
    ${rollout.opens_ms && html`<section class="card notice off"><p>${say("rollout.opens")} <${When} ms=${rollout.opens_ms} /></p></section>`}
    <section class="card summary" aria-label=${say("rollout.progress")}>
      <div class="big"><span class="number">${n_ended}</span><span class="quiet">${say("rollout.of-devices", { n: n_devices })}</span></div>
      <${Stack} counts=${counts} n=${n_devices} />
      <ul class="legend">${Object.entries(counts).sort().map(([name, n]) => html`<li><${State} name=${name} /> <span class="number">${n}</span></li>`)}</ul>
      <p class="quiet">${say("rollout.rules", { at_once: rollout.n_at_once, max: rollout.rules.max_failures, soak: lasting(rollout.rules.soak_s) })}</p>
    </section>
    <div class="lanes">${waves.map((members, wave) => {
      const done = members.filter((member) => !isRunning(member.state) && !["queued", "waiting"].includes(member.state)).length;
      const is = over || done === members.length ? "done" : wave <= rollout.wave ? "open" : "later";
      const went = members.some((member) => toneOf(member.state) === "bad") ? "bad" : "";
      return html`<section class="lane ${is} ${went}" key=${wave} aria-labelledby="wave-${wave}">
        <header><h2 id="wave-${wave}">${wave === 0 && rollout.n_waves > 1 ? say("wave.first") : say("wave.nth", { n: wave + 1 })}</h2><span class="quiet">${is === "later" ? say("wave.later") : say("rollout.ended-of", { n: done, of: members.length })}</span></header>
        <${Members} members=${members} cancel=${cancel} />
      </section>`;
    })}
    ${rollout.left_out.length > 0 && html`<section class="lane later" aria-labelledby="left-out"><header><h2 id="left-out">${say("plan.left-out")}</h2><span class="quiet">${say("n-devices", { n: rollout.left_out.length })}</span></header>
      <ul>${rollout.left_out.map((left) => html`<li class="member off" key=${left.device}><div class="line"><a href="#/device/${left.device}"><strong>${left.name}</strong></a></div><${Theirs} as="p" class="why">${left.reason.text}</${Theirs}></li>`)}</ul></section>`}
    </div>`;
}

const Stack = ({ counts, n }) => html`<div class="stack" aria-hidden="true">${["good", "busy", "warn", "bad", "off"].map((tone) => {
  const share = Object.entries(counts).reduce((sum, [name, n_is]) => sum + (toneOf(name) === tone ? n_is : 0), 0);
  return share > 0 && html`<span class=${tone} style=${{ width: `${(share * 100) / n}%` }}></span>`;
})}</div>`;

export const views = { rollouts: Rollouts, rollout: Rollout };
