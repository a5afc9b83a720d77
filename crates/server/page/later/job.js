// One update of one device: how it ended, and the evidence as a line of time.
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, get, home, isFailure, isRunning, may, useTopics } from "../home.js";
import { bytes, has, lasting, say, state, time } from "../say.js";
import { Facts, Head, LiveBar, NextStep, Plot, Standing, State, Theirs, When, attempt, confirm, toneOf } from "../parts.js";
import { plan } from "../fleet.js";

/** What a step of the journal means, with what was measured of it. */
function sentence(event, job, next) {
  const { evidence } = job;
  const took = next ? (next.at_ms - event.at_ms) / 1000 : null;
  switch (event.step) {
    case "begun":
      return say("step.begun", { version: evidence?.version_before ?? "?" });
    case "intent":
      return say("step.intent", { size: bytes(evidence?.len_bytes), method: job.method ?? "" });
    case "pushed":
      return evidence?.verdict ? say("step.pushed-said", { verdict: evidence.verdict }) : say("step.pushed");
    case "rebooting":
      return say("step.rebooting");
    case "soaking":
      return say("step.soaking", { away: evidence?.away_s ? lasting(evidence.away_s) : "?" });
    case "finished":
      return job.text ?? say("step.finished");
    default:
      return has(`step.${event.step}`) ? say(`step.${event.step}`, { took: took === null ? "" : lasting(took) }) : event.step;
  }
}

/** Whether the whole image has arrived: the device said so, or restarted for it. */
const arrived = (evidence) => evidence.verdict === "OK" || (evidence.push_s !== null && evidence.away_s !== null);

/** The five things that prove an update, and which of them were seen. */
function proof({ evidence, state }) {
  if (!evidence) return [];
  const ended = !isRunning(state);
  const went = evidence.away_s !== null || (evidence.uptime_after_s !== null && evidence.uptime_before_s !== null && evidence.uptime_after_s < evidence.uptime_before_s);
  const seen = evidence.version_after !== null;
  // The first that was not seen is where it failed; what would have come after it never could.
  let broke = false;
  const mark = (yes) => {
    if (yes) return "good";
    const tone = ended && !broke ? "bad" : "off";
    broke = true;
    return tone;
  };
  return [
    [mark(arrived(evidence)), "uploaded", evidence.push_s === null || !arrived(evidence) ? null : say("proof.uploaded", { size: bytes(evidence.len_bytes), took: lasting(evidence.push_s) })],
    [mark(went), "away", went ? (evidence.away_s === null ? say("proof.away-up") : say("proof.away", { took: lasting(evidence.away_s) })) : null],
    [mark(seen && evidence.identity_after === evidence.identity_before && went), "back", seen && went ? say("proof.back") : null],
    [mark(seen && (state.startsWith("updated") || ["already-current", "soaking", "restoring"].includes(state))), "verified", seen ? say("proof.verified", { before: evidence.version_before ?? "?", after: evidence.version_after }) : null],
    [mark(evidence.watched_s !== null && state.startsWith("updated")), "soaked", evidence.watched_s === null ? null : say("proof.soaked", { took: lasting(evidence.watched_s) })],
  ];
}

function Job({ id }) {
  const [job, setJob] = useState(null);
  const [missing, setMissing] = useState(false);
  useTopics(`job:${id}`, "jobs", job ? `progress:${job.device}` : "jobs");
  const running = job && home.progress.get(job.device);
  const phase = running?.job === Number(id) ? running.state : home.jobs.get(job?.device)?.state;
  useEffect(() => {
    get(`jobs/${id}`).then(setJob, (refusal) => setMissing(refusal.status === 404));
  }, [id, phase]);
  if (!job) return html`<${Head} title=${missing ? say("job.missing") : say("loading")} back=${["#/history", say("nav.history")]} />`;
  const live = running?.job === job.id ? running : null;
  const name = job.name ?? job.device;
  const now = live?.state ?? job.state;
  const samples = live?.samples ?? (home.lastSamples?.job === job.id ? home.lastSamples.samples : []);
  // Over the second before each sample: devices take whole blocks, and a quarter of a second shows little but those.
  const rate = samples.flatMap(([ms, acked], idx) => {
    const from = samples.slice(0, idx).findLast(([earlier]) => ms - earlier >= 900) ?? samples[0];
    return ms - from[0] < 200 ? [] : [[ms, ((acked - from[1]) * 1000) / (ms - from[0])]];
  });
  const cancel = async () => {
    if (await confirm({ title: say("cancel-job.title", { name }), points: [say("cancel-job.point-1"), say("cancel-job.point-2")], act: say("cancel-job.act") })) await attempt(() => ask("POST", `jobs/${id}/cancel`).then(setJob), say("cancel-job.done"));
  };
  const { evidence } = job;
  const mean = evidence?.push_s && arrived(evidence) ? evidence.len_bytes / evidence.push_s : null;
  return html`
    <${Head} title=${name} back=${job.rollout ? [`#/rollout/${job.rollout}`, say("rollout.of", { n: job.rollout })] : ["#/history", say("nav.history")]} beside=${html`<p class="under"><span class="mono">${evidence?.version_before ?? "?"}</span> ${say("to")} <span class="mono">${job.firmware ?? job.sha256.slice(0, 12)}</span></p>`}>
      ${isRunning(now) && html`<button class="button danger" disabled=${!may("operator")} onClick=${cancel}>${say("cancel-job.act")}</button>`}
      ${isFailure(job.state) && html`<button class="button" disabled=${!may("operator")} onClick=${() => plan("rollback", [job.device])}>${say("plan.rollback")}</button><button class="button primary" disabled=${!may("operator")} onClick=${() => plan("update", [job.device], job.sha256)}>${say("job.again")}</button>`}
      <a class="button" href="#/device/${job.device}">${say("job.device")}</a>
    </${Head}>
    <section class="card notice ${toneOf(now)}" aria-live="polite">
      <h2><${State} name=${now} percent=${now === "uploading" ? live?.percent : null} reason=${job.reason} /></h2>
      ${live && html`<${LiveBar} device=${job.device} label=${say("progress.of", { name })} />`}
      ${job.text && !live && html`<${Theirs} as="p" class="lead">${job.text}</${Theirs}>`}
      ${job.next_step && !live && html`<p><strong>${say("next-step")}</strong> <${NextStep} rule=${job.reason} text=${job.next_step} /></p>`}
    </section>
    <section class="card"><h2>${say("job.proof")}</h2>
      <ol class="proof">${proof({ ...job, state: now }).map(([tone, step, text]) => html`<li class=${tone}><${Standing} tone=${tone}><strong>${say(`proof.${step}-word`)}</strong><span class="hidden"> ${say(tone === "off" && !isRunning(now) ? "proof.never" : `proof.${tone}`)}</span></${Standing}><span class="quiet">${text ?? say(tone === "bad" ? "proof.not" : isRunning(now) ? "proof.not-yet" : "proof.never")}</span></li>`)}</ol>
    </section>
    <div class="columns two">
      <section class="card"><h2>${say("job.timeline")}</h2>
        <ol class="timeline">${job.events.map((event, idx) => html`<li key=${event.seq} class=${event.step === "finished" ? toneOf(job.state) : "done"}>
          <time class="number" dateTime=${new Date(event.at_ms).toISOString()}>${time(event.at_ms)}</time>
          <div><strong>${has(`step-word.${event.step}`) ? say(`step-word.${event.step}`) : event.step}</strong>${event.attempt > 1 && html` <span class="tag">${say("job.attempt", { n: event.attempt })}</span>`}
          <p class="quiet" lang=${event.step === "finished" ? "en" : undefined}>${sentence(event, job, job.events[idx + 1])}</p></div>
          <span class="number quiet">${idx > 0 && event.at_ms - job.events[idx - 1].at_ms >= 50 ? `+${lasting((event.at_ms - job.events[idx - 1].at_ms) / 1000)}` : ""}</span>
        </li>`)}${live && html`<li class="now"><time></time><div><strong>${state(live.state)}</strong></div></li>`}</ol>
      </section>
      <div>
        <section class="card"><h2>${say("job.transfer")}</h2>
          <${Plot} title=${say("job.rate")} points=${rate} unit=${(n) => `${bytes(Math.round(n))}/s`} from_zero empty=${mean ? say("job.mean", { rate: `${bytes(Math.round(mean))}/s`, size: bytes(evidence.len_bytes), took: lasting(evidence.push_s) }) : say(evidence?.push_s && job.state !== "refused" ? "job.cut" : "job.no-rate")} />
          ${rate.length > 1 && mean && html`<p class="quiet">${say("job.mean-short", { rate: `${bytes(Math.round(mean))}/s` })}</p>`}
        </section>
        <section class="card"><h2>${say("job.facts")}</h2><${Facts} rows=${[
          [say("fact.method"), job.method],
          [say("fact.pushes"), String(job.n_pushes)],
          [say("fact.began"), html`<${When} ms=${job.started_ms} />`],
          [say("fact.took"), job.ended_ms ? lasting((job.ended_ms - job.started_ms) / 1000) : null],
          [say("fact.up-before"), evidence?.uptime_before_s === null ? null : lasting(evidence?.uptime_before_s)],
          [say("fact.up-after"), evidence?.uptime_after_s === null ? null : lasting(evidence?.uptime_after_s)],
          [say("fact.verdict"), evidence?.verdict && html`<span class="mono">${evidence.verdict}</span>`],
          [say("fact.image"), html`<a class="mono" href="#/firmware/${job.sha256}">${job.sha256.slice(0, 16)}</a>`],
        ]} /></section>
      </div>
    </div>`;
}

export const views = { job: Job };
