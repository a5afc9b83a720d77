// What was done, and how well it goes.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { get, home, useTopics } from "../home.js";
import { count, list, locale, reason, say, state } from "../say.js";
import { Bar, Empty, Head, Plot, State, toneOf } from "../parts.js";
import { Jobs } from "./device.js";

function Shares({ title, of, tone, word }) {
  const all = Object.entries(of).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...all.map(([, n]) => n));
  return html`<section class="card"><h2>${title}</h2>${all.length === 0 ? html`<p class="quiet">${say("stats.none")}</p>` : html`<ul class="shares">${all.slice(0, 12).map(([name, n]) => html`<li><span>${tone ? html`<${State} name=${name} />` : word ? word(name) : html`<span class="mono">${name}</span>`}</span><${Bar} percent=${(n * 100) / most} label=${`${state(name)}: ${n}`} tone=${tone ? toneOf(name) : "off"} /><span class="number">${count(n)}</span></li>`)}</ul>`}</section>`;
}

/** So many versions have a shade of their own; the others share one. */
const N_SHADES = 5;
const short = (ms) => new Date(ms).toLocaleDateString(locale, { day: "numeric", month: "short" });

/** The day on which a span begins. A night in which clocks are moved makes midnight an hour early or late. */
const begins = (span) => short(span.from_ms + 7_200_000);

/** What devices ran at the end of each span, one bar for each. */
function Bands({ title, course }) {
  const box = useRef();
  const [width, setWidth] = useState(600);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(220, Math.round(entry.contentRect.width))));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const sums = new Map();
  for (const span of course) for (const [name, n] of Object.entries(span.running)) sums.set(name, (sums.get(name) ?? 0) + n);
  // What runs at the end stands first, so that the newest has the strongest shade.
  const now = course[course.length - 1]?.running ?? {};
  const names = [...sums.keys()].sort((a, b) => (now[b] ?? 0) - (now[a] ?? 0) || sums.get(b) - sums.get(a));
  const shown = names.slice(0, N_SHADES);
  const rest = names.slice(N_SHADES);
  const rows = rest.length ? [...shown, null] : shown;
  const counted = (span, name) => (name === null ? rest.reduce((sum, one) => sum + (span.running[one] ?? 0), 0) : (span.running[name] ?? 0));
  const most = Math.max(1, ...course.map((span) => Object.values(span.running).reduce((sum, n) => sum + n, 0)));
  const [height, left, bottom, top] = [170, 44, 22, 8];
  const step = (width - left) / Math.max(1, course.length);
  const tall = height - bottom - top;
  const word = (name) => (name === null ? say("stats.others", { n: rest.length }) : name);
  return html`<figure class="plot"><figcaption>${title}</figcaption><div ref=${box}>
    <svg width=${width} height=${height} viewBox="0 0 ${width} ${height}" role="img" aria-label=${say("stats.bands-say", { title, now: list(rows.filter((name) => counted({ running: now }, name)).map((name) => `${word(name)}: ${counted({ running: now }, name)}`)) })}>
      ${[0, most].map((n) => html`<line class="grid" x1=${left} x2=${width} y1=${top + tall * (1 - n / most)} y2=${top + tall * (1 - n / most)} /><text x=${left - 8} y=${top + tall * (1 - n / most) + 4} text-anchor="end">${count(n)}</text>`)}
      ${course.map((span, idx) => {
        let below = 0;
        return rows.map((name, shade) => {
          const n = counted(span, name);
          below += n;
          return n > 0 && html`<rect class="shade-${name === null ? "rest" : shade}" x=${left + idx * step + 0.5} width=${Math.max(1, step - 1)} y=${top + tall * (1 - below / most)} height=${(tall * n) / most}><title>${`${short(span.until_ms - 1)}: ${word(name)}, ${n}`}</title></rect>`;
        });
      })}
      <text x=${left} y=${height - 5}>${course.length ? begins(course[0]) : ""}</text><text x=${width} y=${height - 5} text-anchor="end">${course.length ? short(course[course.length - 1].until_ms) : ""}</text>
    </svg></div>
    <ul class="legend">${rows.map((name, shade) => html`<li><span class="key shade-${name === null ? "rest" : shade}"></span> <span class=${name === null ? "" : "mono"}>${word(name)}</span></li>`)}</ul></figure>`;
}

/** The same in numbers, for whoever cannot see it or wants to know. */
const Numbers = ({ course }) => html`<details class="numbers"><summary>${say("stats.numbers")}</summary><div class="scroll" tabindex="0" role="region" aria-label=${say("stats.numbers")}><table><thead><tr><th scope="col">${say("stats.span")}</th><th scope="col">${say("stats.proven-of")}</th><th scope="col">${say("stats.running")}</th></tr></thead><tbody>${[...course].reverse().filter((span) => span.n_meant || Object.keys(span.running).length).map((span) => html`<tr><th scope="row">${begins(span)}</th><td class="number">${span.n_meant ? `${span.n_proven} / ${span.n_meant}` : "–"}</td><td>${Object.entries(span.running).map(([name, n]) => `${name}: ${n}`).join(", ")}</td></tr>`)}</tbody></table></div></details>`;

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
    // Days begin at midnight where the viewer is; a year is told in weeks.
    const since = new Date();
    since.setHours(0, 0, 0, 0);
    since.setDate(since.getDate() - days + 1);
    get(`stats?since_ms=${since.getTime()}&step_s=${days > 100 ? 604_800 : 86_400}`).then(setStats, () => {});
  }, [days, newest]);
  const older = async () => {
    const found = await get(`history?limit=100&before=${jobs[jobs.length - 1].id}`);
    setJobs([...jobs, ...found]);
    setMore(found.length === 100);
  };
  // What lies before the first device was known is empty, and a picture needs some days to be one.
  const all = stats?.course ?? [];
  const first = all.findIndex((span) => span.n_meant > 0 || Object.keys(span.running).length > 0);
  const course = all.slice(first < 0 ? 0 : Math.min(first, Math.max(0, all.length - 7)));
  const success = course.map((span) => [(span.from_ms + span.until_ms) / 2, span.n_meant ? (span.n_proven * 100) / span.n_meant : null]);
  return html`<${Head} title=${say("nav.history")} kicker=${say("history.kicker")}>
      <label class="sort"><span>${say("stats.since")}</span> <select value=${days} onChange=${(event) => setDays(Number(event.target.value))}>${[7, 30, 90, 365].map((n) => html`<option value=${n}>${say("stats.days", { n })}</option>`)}</select></label>
    </${Head}>
    ${stats && html`<section class="card summary plan">
      <div class="big"><span class="number">${stats.success_percent === null ? "–" : `${count(stats.success_percent)} %`}</span><span class="quiet">${say("stats.proven")}</span></div>
      <div class="big"><span class="number">${stats.n_enrolled ? `${count((stats.n_current * 100) / stats.n_enrolled)} %` : "–"}</span><span class="quiet">${say("stats.current", { n: stats.n_current, of: stats.n_enrolled })}</span></div>
      <div class="big"><span class="number">${count(Object.values(stats.outcomes).reduce((sum, n) => sum + n, 0))}</span><span class="quiet">${say("stats.updates")}</span></div>
    </section>
    <div class="columns"><${Shares} title=${say("stats.outcomes")} of=${stats.outcomes} tone /><${Shares} title=${say("stats.reasons")} of=${stats.reasons} word=${reason} /><${Shares} title=${say("stats.running")} of=${stats.running} /></div>
    ${stats.n_enrolled > 0 && course.length > 1 && html`<section class="card"><div class="plots two">
      <${Plot} title=${say(days > 100 ? "stats.course-weeks" : "stats.course")} points=${success} unit=${(n) => `${Math.round(n)} %`} from_zero least=${1} when=${short} empty=${say("stats.none")} />
      <${Bands} title=${say("stats.versions")} course=${course} />
    </div><${Numbers} course=${course} /></section>`}`}
    <section class="card"><h2>${say("history.updates")}</h2>${jobs === null ? html`<p class="quiet">${say("loading")}</p>` : jobs.length === 0 ? html`<p class="quiet">${say("history.empty")}</p>` : html`<${Jobs} jobs=${jobs} named />${more && html`<button class="button" onClick=${older}>${say("history.older")}</button>`}`}</section>`;
}

export const views = { history: History };
