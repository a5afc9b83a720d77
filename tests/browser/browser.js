// A real browser, and what every test of the page wants of it.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
// A browser that only speaks with the server under test.
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];

/** The four ways in which every flow is tried. */
export const LOOKS = [360, 1440].flatMap((width) => ["light", "dark"].map((scheme) => ({ width, scheme, name: `${width} px, ${scheme}` })));

export const launch = () => chromium.launch({ executablePath: CHROMIUM, headless: true, args: FLAGS });

/** A page that fails its test when a script of it fails, or its policy is broken. */
export async function open(browser, url, { width = 1440, scheme = "light", locale = "en-GB", zone = "Europe/Vilnius" } = {}) {
  const context = await browser.newContext({ viewport: { width, height: width < 500 ? 780 : 900 }, colorScheme: scheme, locale, timezoneId: zone, reducedMotion: "reduce" });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.wrong = [];
  page.on("pageerror", (error) => page.wrong.push(error.stack));
  page.on("dialog", (dialog) => (page.wrong.push(`a dialog was opened: ${dialog.message()}`), dialog.dismiss()));
  page.on("console", (line) => {
    // The first question, who is here, is answered with 401 where nobody is; servers are stopped on purpose.
    if (line.type() === "error" && !/status of 401|ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE|status of 4\d\d/.test(line.text())) page.wrong.push(line.text());
  });
  if (process.env.PAGE_FROM_DISK) await fromDisk(page, url);
  await page.goto(url);
  return page;
}

const TYPES = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };

/** With PAGE_FROM_DISK=1 a changed page is tried without building the program again; CI tests what is built in. */
async function fromDisk(page, url) {
  const policy = (await fetch(url)).headers.get("content-security-policy");
  if (!policy) return;
  await page.route((at) => at.pathname === "/" || at.pathname.startsWith("/page/"), (route) => {
    const name = new URL(route.request().url()).pathname.replace(/^\/page\/[^/]+\//, "").replace(/^\/$/, "index.html");
    const text = readFileSync(new URL(`../../crates/server/page/${name}`, import.meta.url), "utf8");
    route.fulfill({ body: text.replaceAll("{{root}}", "/page/disk"), contentType: TYPES[name.split(".").pop()], headers: { "Content-Security-Policy": policy } });
  });
}

export async function signIn(page, token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { level: 1, name: "Fleet" }).waitFor();
}

/** Nothing that axe knows is wrong, nothing is wider than the page, and no script has failed. */
export async function isSound(page, what) {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"], rules: { "target-size": { enabled: true } } });
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map((node) => `${node.html.slice(0, 160)} (${node.failureSummary.replace(/\s+/g, " ").slice(0, 200)})`).join(" | ")}`);
  });
  assert.deepEqual(found, [], `axe on ${what}`);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(over <= 0, `${what} is ${over} px wider than the page`);
  assert.deepEqual(page.wrong, [], what);
}

/** To a place of the page, by its navigation. */
export const visit = (page, name) => page.getByRole("navigation").getByRole("link", { name }).click();

/** The longest task of the page's thread while `act` runs, in milliseconds of its processor time. */
export async function longestTask(page, act) {
  const cdp = await page.context().browser().newBrowserCDPSession();
  const events = [];
  cdp.on("Tracing.dataCollected", ({ value }) => events.push(...value));
  await cdp.send("Tracing.start", { traceConfig: { includedCategories: ["disabled-by-default-devtools.timeline", "toplevel"] }, transferMode: "ReportEvents" });
  const result = await act();
  const complete = new Promise((done) => cdp.once("Tracing.tracingComplete", done));
  await cdp.send("Tracing.end");
  await complete;
  await cdp.detach();
  const tasks = events.filter((event) => event.ph === "X" && event.name.endsWith("RunTask") && event.tdur);
  const names = new Map(events.filter((event) => event.name === "thread_name").map((event) => [`${event.pid} ${event.tid}`, event.args.name]));
  const ours = tasks.filter((event) => names.get(`${event.pid} ${event.tid}`) === "CrRendererMain");
  assert.ok(ours.length > 100, `${ours.length} tasks of ${tasks.length} were seen`);
  return { result, longest_ms: Math.max(...ours.map((event) => event.tdur)) / 1000 };
}
