// What must hold whatever happens: hostile names, a server that goes away, a session that ends, keys instead of a mouse.
import { after, before, test } from "node:test";
import assert from "node:assert/strict";
import { isSound, launch, open, signIn, visit } from "./browser.js";
import { createServer } from "node:http";
import { once } from "node:events";
import { EVIL_NAME, World, image, until } from "./world.js";

let world;
let browser;

/** A page that shows ours in a frame, as a panel of Home Assistant does. */
async function panel(host) {
  const server = createServer((_, answer) => answer.setHeader("Content-Type", "text/html").end(`<!doctype html><html lang="en"><title>Panel</title><h1>Panel</h1><iframe title="Reflash" src="${world.url}" width="900" height="700"></iframe>`));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, url: `http://${host}:${server.address().port}` };
}
let named;
let stranger;

before(async () => {
  named = await panel("127.0.0.1");
  stranger = await panel("127.0.0.1");
  world = await World.open({ policy: "canary: 1, canary_soak: 1s, soak: 1s", server: `frame_ancestors: ["${named.url}"]` });
  await world.simulate(10, 3, "--version", "1.0", "--rate", "40000", "--boot-s", "400ms");
  await world.simulate(20, 1, "--version", "1.0\u001b[31m\u0007<b>", "--boot-s", "400ms");
  await world.serve();
  world.ids = await world.moveIn({ 10: "Living Room", 11: "Bedroom", 12: "Kitchen", 20: EVIL_NAME });
  world.old = await world.addFirmware("ir_remote_1.0.bin", image("1.0", 50_000), world.ids[10]);
  world.fresh = await world.addFirmware("ir_remote_1.1.bin", image("1.1", 200_000));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await world?.close();
  for (const { server } of [named, stranger]) server.close();
});

const fleet = async (look) => {
  const page = await open(browser, world.url, look);
  await signIn(page, world.token);
  return page;
};

test("a hostile name and version are text in every view", async () => {
  await world.ask("PATCH", `devices/${world.ids[20]}`, { tags: [`"><script>alert(2)</script>`], group: "<svg onload=alert(3)>" }).catch(() => world.ask("PATCH", `devices/${world.ids[20]}`, { tags: ["<b>tag</b>"] }));
  const page = await fleet();
  const device = world.ids[20];
  const rollout = await world.ask("POST", "rollouts", { devices: [device], firmware: world.fresh.sha256, yes: true, allow: ["downgrade"], name: "<img src=x onerror=alert(4)>" }).catch(() => null);
  // Everything else that somebody may name.
  await world.ask("POST", "tokens", { name: EVIL_NAME, role: "viewer" });
  const upload = await world.addFirmware("<svg onload=alert(5)>.bin", image("<b>2</b>", 50_000, { seed: 3 })).catch(() => null);
  const jobs = await world.ask("GET", "history?limit=1");
  const places = ["#/windows", "#/plan", "#/firmware", ...(upload ? [`#/firmware/${upload.sha256}`] : []), ...jobs.map((job) => `#/job/${job.id}`), "#/", `#/device/${device}`, "#/rollouts", "#/history", "#/settings", `#/firmware/${world.fresh.sha256}`, ...(rollout ? [`#/rollout/${rollout.id}`] : [])];
  for (const place of places) {
    await page.evaluate((hash) => (location.hash = hash), place);
    await page.locator("main h1").first().waitFor();
    await page.getByText("Loading…").first().waitFor({ state: "detached" });
    const strange = await page.locator("main img, main script, main b, main iframe, main svg[onload], dialog img").count();
    assert.equal(strange, 0, place);
    const shown = await page.locator("body").innerText();
    assert.ok(!/[\u0000-\u0008\u001b]/.test(shown), `${place} shows a control character`);
  }
  await page.evaluate((hash) => (location.hash = hash), `#/device/${device}`);
  await page.getByRole("heading", { level: 1, name: EVIL_NAME }).waitFor();
  await page.getByRole("button", { name: "Rename" }).click();
  await page.getByRole("dialog").getByText(EVIL_NAME).waitFor();
  assert.equal(await page.locator("dialog img").count(), 0);
  await isSound(page, "a dialog that names it");
  if (rollout) await world.over(rollout.id);
  // Its version is nothing that the next tests want to be offered.
  if (upload) await world.ask("DELETE", `firmware/${upload.sha256}`);
  await page.context().close();
});

/** A hundred ways to be more than text, in ten shapes around ten deeds. */
const PAYLOADS = ["<img src=x onerror=%>", "<svg onload=%>", "<script>%</script>", "\"><script>%</script>", "' onmouseover='%", "<iframe srcdoc='<script>%</script>'>", "<a href=javascript:%>x</a>", "<style>*{background:url(javascript:%)}</style>", "${%}", "</title><b>%</b>"].flatMap((shape) =>
  Array.from({ length: 10 }, (_, n) => shape.replace("%", `globalThis.harmed=${n}`)),
);

/** RELIABILITY.md T25. */
test("a hundred payloads bring no node and run nothing", async () => {
  const page = await fleet();
  await page.setViewportSize({ width: 1440, height: 6000 });
  const [one] = await world.ask("GET", "devices");
  const nodes = async (texts) => {
    const devices = texts.map((text, n) => ({
      ...one,
      id: n.toString(16).padStart(12, "0"),
      name: `${String(n).padStart(3, "0")}${text}`,
      title: text,
      host_name: text,
      address: text,
      group: text,
      tags: [text],
      reported_version: text,
      versions: { firmware: text },
      chip: text,
      model: text,
      trouble: text,
      pinned: text,
      skipped: [text],
      offered: true,
      latest: { sha256: "0".repeat(64), name: text, file_name: text, why_not: text },
      conflict: { kind: text, text, next_step: text },
      warnings: [{ rule: text, text }],
    }));
    await page.unrouteAll();
    await page.route("**/api/v1/devices", (route) => route.fulfill({ json: devices }));
    await page.route("**/api/v1/devices/*", (route) => route.fulfill({ json: devices[7] }));
    const count = () => page.evaluate(() => {
      const tags = {};
      for (const { localName } of document.querySelectorAll("body *")) tags[localName] = (tags[localName] ?? 0) + 1;
      return { ...tags, harmed: globalThis.harmed ?? null };
    });
    await page.goto(`${world.url}/#/`);
    await page.reload();
    await page.getByText("100 devices.").waitFor();
    await page.locator("tbody tr").nth(99).waitFor();
    const table = await count();
    await page.evaluate((id) => (location.hash = `#/device/${id}`), devices[7].id);
    await page.getByText("What you can change").waitFor();
    await page.getByText("It could not be asked").waitFor();
    return { table, device: await count() };
  };
  const plain = await nodes(PAYLOADS.map(() => "plain"));
  assert.deepEqual(await nodes(PAYLOADS), plain);
  assert.equal(plain.table.harmed, null);
  assert.deepEqual(page.wrong, []);
  await page.context().close();
});

test("a rollout is followed over a restart of the server, without signing in again", async () => {
  const page = await fleet();
  await world.online([10, 11]);
  const rollout = await world.ask("POST", "rollouts", { devices: [world.ids[10], world.ids[11]], name: "Over a restart" });
  await page.evaluate((id) => (location.hash = `#/rollout/${id}`), rollout.id);
  await page.getByText(/Uploading \d+ %/).first().waitFor();
  // What is being sent is finished first, and the next wave waits for the next process.
  await world.stop();
  await page.getByText("Reconnecting").waitFor();
  await world.serve();
  await page.getByText("Live", { exact: true }).waitFor({ timeout: 20_000 });
  const ended = await world.over(rollout.id);
  assert.equal(ended.state, "finished", JSON.stringify(ended.members));
  await page.getByText("Finished", { exact: true }).waitFor();
  await page.getByText(/of 2 devices ended/).waitFor();
  await isSound(page, "a rollout after a restart");
  await page.context().close();
});

test("everything is stopped after a question that says what that is", async () => {
  const page = await fleet({ width: 360 });
  const stop = page.getByRole("button", { name: "Stop everything" }).first();
  await stop.click();
  await page.getByRole("dialog").getByText("Nothing is under way").waitFor();
  await page.keyboard.press("Escape");
  await world.online([10, 11, 12]);
  const rollout = await world.ask("POST", "rollouts", { devices: [world.ids[10], world.ids[11], world.ids[12]], firmware: world.fresh.sha256, force: true, name: "To be stopped" });
  await page.getByRole("link", { name: /To be stopped/ }).waitFor();
  await stop.click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("This ends the open rollout: To be stopped.").waitFor();
  await dialog.getByText(/devices? that (has|have) not begun/).waitFor();
  await isSound(page, "the question");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  assert.equal((await world.ask("GET", `rollouts/${rollout.id}`)).state, "running", "nothing happens when it is left");
  await stop.click();
  await dialog.getByRole("button", { name: "Stop everything" }).click();
  await page.getByText("1 rollout was stopped.").waitFor();
  await until("it is aborted", async () => (await world.ask("GET", `rollouts/${rollout.id}`)).state === "aborted");
  await until("what ran has ended", async () => (await world.ask("GET", `rollouts/${rollout.id}`)).ended_ms);
  await page.context().close();
});

test("a rollout is paused and resumed", async () => {
  const page = await fleet();
  await world.online([10, 11]);
  const rollout = await world.ask("POST", "rollouts", { devices: [world.ids[10], world.ids[11]], firmware: world.fresh.sha256, force: true });
  await page.evaluate((id) => (location.hash = `#/rollout/${id}`), rollout.id);
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("Paused", { exact: true }).first().waitFor();
  await isSound(page, "a paused rollout");
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByText("Finished", { exact: true }).waitFor({ timeout: 60_000 });
  await page.context().close();
});

test("a change of the session needs its word, and its cookie is seen by no script", async () => {
  const page = await fleet();
  const seen = await page.evaluate(async () => {
    const change = (headers) => fetch("/api/v1/rollouts/stop", { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: "{}" }).then((answer) => answer.status);
    return { cookie: document.cookie, kept: JSON.stringify({ ...localStorage, ...sessionStorage }), bare: await change({}), wrong: await change({ "X-CSRF-Token": "0" }) };
  });
  assert.deepEqual({ ...seen, kept: seen.kept.includes("rfl_") }, { cookie: "", kept: false, bare: 403, wrong: 403 });
  const [cookie] = await page.context().cookies();
  assert.deepEqual([cookie.httpOnly, cookie.sameSite], [true, "Strict"]);
  await page.context().close();
});

test("it is shown in a frame of the page that the configuration names, and of no other", async () => {
  const page = await open(browser, named.url);
  const frame = page.frameLocator("iframe");
  await frame.getByLabel("Token").fill(world.token);
  await frame.getByRole("button", { name: "Sign in" }).click();
  await frame.getByRole("link", { name: "Kitchen" }).waitFor();
  await frame.getByText("Live", { exact: true }).waitFor();
  await page.context().close();
  const other = await open(browser, stranger.url);
  await other.getByRole("heading", { name: "Panel" }).waitFor();
  await until("the browser refuses it", () => other.wrong.some((line) => /frame-ancestors/.test(line)));
  assert.equal(await other.frames()[1].locator("#app").count(), 0);
  await other.context().close();
});

test("the course of a month is drawn, and told in numbers", async () => {
  const page = await open(browser, world.url, { width: 360, scheme: "dark" });
  await signIn(page, world.token);
  const DAY = 86_400_000;
  const from = new Date(2026, 5, 1).getTime();
  // Seven versions, of which one is a name that would do harm; nothing was updated on every third day.
  const course = Array.from({ length: 30 }, (_, n) => ({
    from_ms: from + n * DAY,
    until_ms: from + (n + 1) * DAY,
    n_meant: n % 3 === 0 ? 0 : 4,
    n_proven: n % 3 === 0 ? 0 : (n % 5),
    running: n < 10 ? {} : { "1.0": 30 - n, [EVIL_NAME]: n - 9, "0.9": 1, "0.8": 1, "0.7": 1, "0.6": 1, "0.5": 1 },
  }));
  await page.route("**/api/v1/stats?*", async (route) => {
    const stats = await (await route.fetch()).json();
    assert.match(route.request().url(), /step_s=86400/);
    await route.fulfill({ json: { ...stats, n_enrolled: 30, course } });
  });
  await visit(page, "History");
  await page.getByRole("img", { name: /^Updates proven to have succeeded, by day over time/ }).waitFor();
  const bands = page.getByRole("img", { name: /^What devices ran\. Now: / });
  await bands.waitFor();
  // Days before the first device have no bar; five versions have a shade, the other two share one.
  assert.equal(await bands.locator("rect").count(), 20 * 6);
  await page.locator(".plot .legend").getByText("2 others").waitFor();
  await page.getByText("The same in numbers").click();
  await page.getByRole("row", { name: /4 \/ 4/ }).first().waitFor();
  assert.ok((await page.getByRole("row", { name: EVIL_NAME }).count()) > 5);
  assert.equal(await page.locator("main img:not([role]), main b").count(), 0);
  await isSound(page, "the course of a month");
  await page.context().close();
});

test("a viewer sees everything and can change nothing", async () => {
  const { token } = await world.ask("POST", "tokens", { name: "viewer", role: "viewer" });
  const page = await open(browser, world.url);
  await signIn(page, token);
  await page.getByRole("link", { name: "Kitchen" }).click();
  await page.getByRole("heading", { name: "Kitchen" }).waitFor();
  assert.ok(await page.getByRole("button", { name: "Stop everything" }).isDisabled());
  assert.ok(await page.getByRole("button", { name: "Rename" }).isDisabled());
  await page.getByRole("button", { name: "Stop everything" }).waitFor();
  await page.locator("summary[aria-label=Menu]").click();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  await page.reload();
  await page.getByLabel("Token").waitFor();
  await page.context().close();
});

/** What has the focus, as one who cannot see it is told. */
const focus = (page) =>
  page.evaluate(() => {
    const { activeElement: it } = document;
    const name = it.getAttribute("aria-label") ?? it.labels?.[0]?.textContent ?? it.textContent;
    return { name: name.replace(/\s+/g, " ").trim(), outline: getComputedStyle(it).outlineStyle };
  });

/** Goes on with the tabulator until this has the focus; whatever has it on the way shows it. */
async function tabTo(page, name, most = 80) {
  const passed = [];
  for (let n = 0; n < most; n += 1) {
    await page.keyboard.press("Tab");
    const at = await focus(page);
    assert.notEqual(at.outline, "none", `${at.name} shows no focus`);
    passed.push(at.name);
    if (typeof name === "string" ? at.name === name : name.test(at.name)) return;
  }
  assert.fail(`${name} was not reached: ${passed.join(", ")}`);
}

test("a device is updated, and its evidence read, with keys alone", async () => {
  await world.addFirmware("ir_remote_1.2.bin", image("1.2", 60_000, { seed: 5 }));
  await world.online([12]);
  const page = await fleet();
  await page.getByRole("link", { name: "Kitchen" }).waitFor();
  await page.locator("body").press("Tab");
  assert.equal((await focus(page)).name, "Skip to the content");
  await page.keyboard.press("Enter");
  await tabTo(page, "Select Kitchen");
  await page.keyboard.press("Space");
  await page.getByText("1 selected").waitFor();
  await tabTo(page, "Plan update");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Plan" }).waitFor();
  assert.equal((await focus(page)).name, "Plan", "the heading has the focus");
  await page.getByRole("button", { name: "Start 1 update" }).waitFor();
  await tabTo(page, "Start 1 update");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").getByText("Update 1 device?").waitFor();
  // Left by Escape, the focus is where it was.
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal((await focus(page)).name, "Start 1 update");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  // What is below cannot be reached from a dialog.
  await tabTo(page, "Start", 5);
  await page.keyboard.press("Enter");
  await page.getByText("Finished", { exact: true }).waitFor({ timeout: 30_000 });
  await tabTo(page, "Evidence Kitchen");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Kitchen" }).waitFor();
  assert.equal((await focus(page)).name, "Kitchen", "the heading has the focus");
  assert.match(await page.title(), /^Kitchen/);
  await tabTo(page, "Show device");
  await page.keyboard.press("Enter");
  await page.getByText("What you can change").waitFor();
  await page.context().close();
});

test("it speaks German to whoever does, and tells times in the viewer's zone", async () => {
  const page = await open(browser, world.url, { locale: "de-DE", zone: "Asia/Tokyo" });
  await page.getByLabel("Token").fill(world.token);
  await page.getByRole("button", { name: "Anmelden" }).click();
  await page.getByRole("heading", { level: 1, name: "Geräte" }).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.lang), "de");
  await page.getByRole("button", { name: "Alles anhalten" }).waitFor();
  await isSound(page, "the fleet in German");
  await visit(page, "Verlauf");
  const [job] = await world.ask("GET", "history?limit=1");
  const local = new Intl.DateTimeFormat("de-DE", { dateStyle: "medium", timeStyle: "short", timeZone: "Asia/Tokyo" }).format(job.started_ms);
  await page.getByText(local).first().waitFor();
  await page.context().close();
});
