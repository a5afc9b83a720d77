// What was done, and how well it goes.
import { html, useEffect, useState } from "../vendor/preact.js";
import { get, home, useTopics } from "../home.js";
import { count, say, state } from "../say.js";
import { Bar, Empty, Head, Plot, State, toneOf } from "../parts.js";
import { Jobs } from "./device.js";

const DAY = 86_400_000;

function Shares({ title, of, tone }) {
  const all = Object.entries(of).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...all.map(([, n]) => n));
  return html`<section class="card"><h2>${title}</h2>${all.length === 0 ? html`<p class="quiet">${say("stats.none")}</p>` : html`<ul class="shares">${all.slice(0, 12).map(([name, n]) => html`<li><span>${tone ? html`<${State} name=${name} />` : html`<span class="mono">${name}</span>`}</span><${Bar} percent=${(n * 100) / most} label=${`${state(name)}: ${n}`} tone=${tone ? toneOf(name) : "off"} /><span class="number">${count(n)}</span></li>`)}</ul>`}</section>`;
}

function History() {
  useTopics("jobs");
  const [jobs, setJobs] = useState(null);
  const [more, setMore] = useState(true);
  const [stats, setStats] = useState(null);
  const [days, setDays] = useState(30);
  const newest = Math.max(0, ...[...home.jobs.values()].map((job) => job.id ?? 0));
  useEffect(() => {
    get("history?limit=100").then((found) => (setJobs(found), setMore(found.length === 100)), () => setJobs([]));
  }, [newest]);
  useEffect(() => {
    get(`stats?since_ms=${Date.now() - days * DAY}`).then(setStats, () => {});
  }, [days, newest]);
  const older = async () => {
    const found = await get(`history?limit=100&before=${jobs[jobs.length - 1].id}`);
    setJobs([...jobs, ...found]);
    setMore(found.length === 100);
  };
  // Success by day, of what is listed.
  const byDay = new Map();
  for (const job of jobs ?? []) {
    const day = new Date(job.started_ms).setHours(12, 0, 0, 0);
    const [good, all] = byDay.get(day) ?? [0, 0];
    const tone = toneOf(job.state);
    if (tone === "good" || tone === "bad") byDay.set(day, [good + (tone === "good" ? 1 : 0), all + 1]);
  }
  const course = [...byDay].sort((a, b) => a[0] - b[0]).map(([day, [good, all]]) => [day, (good * 100) / all]);
  return html`<${Head} title=${say("nav.history")} kicker=${say("history.kicker")}>
      <label class="sort"><span>${say("stats.since")}</span> <select value=${days} onChange=${(event) => setDays(Number(event.target.value))}>${[7, 30, 90, 365].map((n) => html`<option value=${n}>${say("stats.days", { n })}</option>`)}</select></label>
    </${Head}>
    ${stats && html`<section class="card summary plan">
      <div class="big"><span class="number">${stats.success_percent === null ? "–" : `${count(stats.success_percent)} %`}</span><span class="quiet">${say("stats.proven")}</span></div>
      <div class="big"><span class="number">${stats.n_enrolled ? `${count((stats.n_current * 100) / stats.n_enrolled)} %` : "–"}</span><span class="quiet">${say("stats.current", { n: stats.n_current, of: stats.n_enrolled })}</span></div>
      <div class="big"><span class="number">${count(Object.values(stats.outcomes).reduce((sum, n) => sum + n, 0))}</span><span class="quiet">${say("stats.updates")}</span></div>
    </section>
    <div class="columns"><${Shares} title=${say("stats.outcomes")} of=${stats.outcomes} tone /><${Shares} title=${say("stats.reasons")} of=${stats.reasons} /><${Shares} title=${say("stats.running")} of=${stats.running} /></div>
    ${course.length > 1 && html`<section class="card"><${Plot} title=${say("stats.course")} points=${course} unit=${(n) => `${Math.round(n)} %`} from_zero /></section>`}`}
    <section class="card"><h2>${say("history.updates")}</h2>${jobs === null ? html`<p class="quiet">${say("loading")}</p>` : jobs.length === 0 ? html`<p class="quiet">${say("history.empty")}</p>` : html`<${Jobs} jobs=${jobs} named />${more && html`<button class="button" onClick=${older}>${say("history.older")}</button>`}`}</section>`;
}

export const views = { history: History };
