// The frame: who is here, where one is, and what is always at hand.
import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { Refusal, ask, begin, home, isOver, isRunning, loadRollouts, loadRollout, may, signIn, signOut, useTopics } from "./home.js";
import { language, say, speak } from "./say.js";
import { Icon, Notes, attempt, confirm, inform } from "./parts.js";
import { Fleet, rolloutTitle } from "./fleet.js";

/** The views beside the fleet come when they are asked for. */
const LATER = {
  device: () => import("./later/device.js"),
  job: () => import("./later/job.js"),
  rollouts: () => import("./later/rollouts.js"),
  rollout: () => import("./later/rollouts.js"),
  plan: () => import("./later/plan.js"),
  windows: () => import("./later/windows.js"),
  firmware: () => import("./later/firmware.js"),
  history: () => import("./later/history.js"),
  settings: () => import("./later/settings.js"),
};

export const go = (hash) => {
  location.hash = hash;
};
/** Says in the address where one is, without going anywhere. */
export const place = (hash) => {
  history.replaceState(null, "", hash);
  dispatchEvent(new Event("hashchange"));
};

function where() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  return { view: view === "" ? "fleet" : view, id: rest.map(decodeURIComponent).join("/"), query: new URLSearchParams(query) };
}

function useWhere() {
  const [at, set] = useState(where);
  useEffect(() => {
    const look = () => set(where());
    addEventListener("hashchange", look);
    return () => removeEventListener("hashchange", look);
  }, []);
  return at;
}

function SignIn() {
  const [wrong, setWrong] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const field = event.target.elements.token;
    setBusy(true);
    setWrong(null);
    try {
      await signIn(field.value.trim());
    } catch (refusal) {
      setWrong(refusal instanceof Refusal ? (refusal.status === 401 ? say("sign-in.wrong") : refusal.message) : say("trouble.unreachable"));
      setBusy(false);
      field.focus();
    }
  };
  return html`<main class="sign-in" id="main">
    <form onSubmit=${submit}>
      <p class="brand"><${Brand} /></p>
      <h1>${say("sign-in.title")}</h1>
      <label class="field"><span>${say("sign-in.token")}</span><input name="token" type="password" autocomplete="current-password" required autofocus spellcheck="false" aria-describedby="sign-in-help" aria-invalid=${wrong ? "true" : undefined} /></label>
      ${wrong && html`<p class="wrong" role="alert">${wrong}</p>`}
      <button class="button primary wide" disabled=${busy}>${say("sign-in.act")}</button>
      <div id="sign-in-help" class="quiet"><p>${say("sign-in.help-1")}</p><pre class="mono">cat ~/.local/state/reflash/token</pre><p>${say("sign-in.help-2")}</p></div>
    </form>
  </main>`;
}

const Brand = () => html`<svg width="20" height="20" viewBox="0 0 32 32" aria-hidden="true"><path d="M18 3 7 18h7l-2 11L25 13h-8z" fill="currentColor" /></svg>Reflash`;

/** Everything that is under way ends; says before what that is. */
async function stopEverything() {
  await attempt(loadRollouts);
  const open = [...home.rollouts.values()].filter((rollout) => !isOver(rollout.state));
  for (const rollout of open) if (!home.details.has(rollout.id)) await attempt(() => loadRollout(rollout.id));
  if (open.length === 0) {
    await inform({ title: say("stop.nothing"), points: [say("stop.nothing-point")] });
    return;
  }
  const members = open.flatMap((rollout) => home.details.get(rollout.id)?.members ?? []);
  const running = members.filter((member) => isRunning(member.state));
  const waiting = members.filter((member) => member.state === "queued" || member.state === "waiting");
  const sure = await confirm({
    title: say("stop.title"),
    points: [
      say("stop.rollouts", { n: open.length, names: open.map(rolloutTitle).join(", ") }),
      waiting.length ? say("stop.waiting", { n: waiting.length }) : null,
      running.length ? say("stop.running", { n: running.length, names: running.slice(0, 5).map((member) => member.name).join(", ") }) : null,
      say("stop.never-cut"),
    ].filter(Boolean),
    act: say("stop.act"),
  });
  if (!sure) return;
  await attempt(() => ask("POST", "rollouts/stop"), (stopped) => say("stop.done", { n: stopped.length }));
  await attempt(loadRollouts);
}

function Stop() {
  useTopics("rollouts", "running");
  const runs = [...home.rollouts.values()].some((rollout) => !isOver(rollout.state));
  return html`<button class="button stop ${runs ? "runs" : ""}" disabled=${!may("operator")} onClick=${stopEverything}><${Icon} name="stop" size="16" /><span>${say("stop.act")}</span></button>`;
}

function Link() {
  useTopics("link");
  return html`<span class="link ${home.live ? "live" : "cut"}" role="status"><span class="dot" aria-hidden="true"></span><span>${home.live ? say("link.live") : say("link.cut")}</span></span>`;
}

// The style sheet knows one word, so that each colour stands in it once for light and once for dark.
const dark = matchMedia("(prefers-color-scheme: dark)");
function look(theme) {
  document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
}
const chosenLook = () => localStorage.getItem("theme") ?? "auto";
dark.addEventListener("change", () => look(chosenLook()));
look(chosenLook());

function Menu() {
  const box = useRef();
  const [theme, setTheme] = useState(chosenLook);
  useEffect(() => {
    const away = (event) => {
      if (event.type === "keydown" ? event.key === "Escape" : !box.current.contains(event.target)) box.current.open = false;
    };
    addEventListener("click", away);
    addEventListener("keydown", away);
    return () => {
      removeEventListener("click", away);
      removeEventListener("keydown", away);
    };
  }, []);
  return html`<details class="menu" ref=${box}>
    <summary class="button plain" aria-label=${say("menu")}><${Icon} name="more" /></summary>
    <div class="sheet">
      <p class="quiet">${say("menu.who", { name: home.me.actor })}<br />${say(`role.${home.me.role}`)}</p>
      <label class="field"><span>${say("menu.look")}</span><select value=${theme} onChange=${(event) => {
        localStorage.setItem("theme", event.target.value);
        look(event.target.value);
        setTheme(event.target.value);
      }}>${["auto", "light", "dark"].map((name) => html`<option value=${name}>${say(`look.${name}`)}</option>`)}</select></label>
      <label class="field"><span>${say("menu.language")}</span><select value=${language} onChange=${(event) => speak(event.target.value)}><option value="en" lang="en">English</option><option value="de" lang="de">Deutsch</option></select></label>
      <button class="button wide" onClick=${signOut}>${say("menu.sign-out")}</button>
    </div>
  </details>`;
}

const PLACES = [
  ["fleet", "#/", ["fleet", "device", "job"]],
  ["rollouts", "#/rollouts", ["rollouts", "rollout", "plan"]],
  ["windows", "#/windows", ["windows"]],
  ["firmware", "#/firmware", ["firmware"]],
  ["history", "#/history", ["history"]],
  ["settings", "#/settings", ["settings"]],
];

function View({ at }) {
  const [views, setViews] = useState({});
  const { view } = at;
  useEffect(() => {
    if (!LATER[view] || views[view]) return;
    // An old page asks a new program for files that are no more: then the page is to be new, too.
    LATER[view]().then((module) => setViews((all) => ({ ...all, [view]: module })), () => location.reload());
  }, [view]);
  if (view === "fleet") return html`<${Fleet} query=${at.query} />`;
  const module = views[view];
  if (!LATER[view]) return html`<div class="empty"><h1>${say("nowhere")}</h1><p><a href="#/">${say("nav.fleet")}</a></p></div>`;
  return module ? html`<${module.views[view]} key=${view + at.id} id=${at.id} query=${at.query} />` : html`<p class="quiet" role="status">${say("loading")}</p>`;
}

function App() {
  useTopics("me", "loaded");
  const at = useWhere();
  const key = `${at.view}/${at.id}`;
  useEffect(() => scrollTo(0, 0), [key]);
  if (home.me === undefined) return null;
  if (home.me === null) return html`${home.trouble === "unreachable" && html`<p class="banner" role="alert">${say("trouble.unreachable")}</p>`}<${SignIn} />`;
  return html`<a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    }}>${say("skip")}</a>
    <header class="frame">
      <a class="brand" href="#/"><${Brand} /></a>
      <nav aria-label=${say("nav")}>${PLACES.map(([name, href, of]) => html`<a href=${href} aria-current=${of.includes(at.view) ? "page" : undefined}><${Icon} name=${name} /><span>${say(`nav.${name}`)}</span></a>`)}</nav>
      <div class="at-hand"><${Link} /><${Stop} /><${Menu} /></div>
    </header>
    ${home.trouble === "unreachable" && html`<p class="banner" role="alert">${say("trouble.unreachable")}</p>`}
    <main id="main" tabindex="-1" class="at-${at.view}"><${View} at=${at} /></main>
    <${Notes} />`;
}

document.body.dataset.fresh = "1";
render(html`<${App} />`, document.getElementById("app"));
begin();
