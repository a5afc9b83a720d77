// What a person steers: a rollout that halted, approval, pins and switches, a ventilation unit, windows, settings.
import { after, before, describe, test } from "node:test";
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { LOOKS, isSound, launch, open, signIn, visit } from "./browser.js";
import { EVIL_NAME, World, image, mbin, until } from "./world.js";

const shots = process.env.SCREENSHOTS;
let world;
let browser;
/** A rollout that stays halted, to be looked at. */
let halted;

before(async () => {
  world = await World.open({ more: `windows:\n  siesta: { start: "13:00", duration: 2h, timezone: Europe/Madrid }\n` });
  const quick = ["--boot-s", "400ms", "--version", "1.0", "--rate", "400000"];
  // The lowest address goes first.
  await world.simulate(10, 1, ...quick, "--password", "nobody knows");
  await world.simulate(11, 7, ...quick);
  await world.simulate(20, 1, ...quick, "--password", "nobody knows");
  await world.simulate(21, 1, ...quick);
  await world.simulateUnit(60, "--rate", "200000", "--restart-s", "1500ms");
  await world.serve();
  world.ids = await world.moveIn({ 10: "Porch", 11: "Living Room", 12: "Kitchen", 13: "Bedroom", 14: "Hall", 15: "Study", 16: "Garden", 17: "Cellar", 20: "Shed", 21: "Attic", 60: "Ventilation" });
  await world.ask("PATCH", `devices/${world.ids[60]}`, { username: "user" }).catch(() => {});
  await world.ask("PUT", `devices/${world.ids[60]}/password`, { password: "user" });
  world.old = await world.addFirmware("ir_remote_1.0.bin", image("1.0", 60_000), world.ids[11]);
  world.fresh = await world.addFirmware("ir_remote_1.1.bin", image("1.1", 80_000));
  world.unit = await world.addFirmware("C6_1_5_46_72_P1_1_1_5_48.mbin", mbin());
  await world.online([20, 21]);
  halted = await world.ask("POST", "rollouts", { devices: [world.ids[20], world.ids[21]], firmware: world.fresh.sha256, name: "Morning" });
  assert.equal((await world.over(halted.id)).state, "halted");
  await world.ask("PUT", "windows/night", { start: "23:00", duration: "4h", timezone: "Europe/Vilnius" });
  await world.ask("PUT", "schedules/nightly", { cron: "55 22 * * mon-fri", window: "night" });
  browser = await launch();
  if (shots) mkdirSync(shots, { recursive: true });
});

after(async () => {
  await browser?.close();
  await world?.close();
});

async function enter(look) {
  const page = await open(browser, world.url, look);
  await signIn(page, world.token);
  return page;
}
const at = (page, hash) => page.evaluate((hash) => (location.hash = hash), hash);
const dialogOf = (page) => page.getByRole("dialog");
const press = (page, name) => page.getByRole("button", { name, exact: true }).click();
async function agree(page, name) {
  await dialogOf(page).getByRole("button", { name, exact: true }).click();
  await dialogOf(page).waitFor({ state: "detached" });
}

describe("what is steered", { concurrency: 2 }, () => {
  for (const look of LOOKS) {
    test(`the views are sound: ${look.name}`, async () => {
      const page = await enter(look);
      const shot = (name) => shots && page.screenshot({ path: `${shots}/${name}-${look.width}-${look.scheme}.png` });
      await at(page, `#/rollout/${halted.id}`);
      await page.getByRole("heading", { name: "Halted by itself" }).waitFor();
      await isSound(page, "a halted rollout");
      await shot("halted");
      await visit(page, "Times");
      await page.getByText("Opens at 23:00 every day for 4 h.").waitFor();
      await isSound(page, "windows");
      await shot("windows");
      await press(page, "New window");
      await dialogOf(page).getByLabel("Name").waitFor();
      await isSound(page, "the form of a window");
      await page.keyboard.press("Escape");
      await press(page, "New schedule");
      await dialogOf(page).getByText("Cron line").click();
      await dialogOf(page).getByLabel("Minute, hour, day of the month").waitFor();
      await isSound(page, "the form of a schedule");
      await page.keyboard.press("Escape");
      await at(page, `#/firmware/${world.fresh.sha256}`);
      await page.getByRole("heading", { name: "Compare" }).waitFor();
      await isSound(page, "a comparison");
      await at(page, `#/device/${world.ids[60]}`);
      await page.getByRole("heading", { level: 1, name: "Ventilation" }).waitFor();
      await page.getByText("What you can change").waitFor();
      await isSound(page, "a ventilation unit");
      await shot("unit");
      await page.context().close();
    });
  }

  test("a rollout that halted says why, is resumed, and another is aborted", async () => {
    const page = await enter();
    const start = async (devices, name) => {
      await world.online(devices);
      return world.ask("POST", "rollouts", { devices: devices.map((host) => world.ids[host]), firmware: world.fresh.sha256, force: true, name });
    };
    const first = await start([10, 11, 12], "To be resumed");
    await at(page, `#/rollout/${first.id}`);
    await page.getByRole("heading", { name: "Halted by itself" }).waitFor({ timeout: 30_000 });
    const cause = page.getByRole("alert");
    await cause.getByText(/Porch ended as refused/).waitFor();
    // In terms of this page, not of the command line.
    await cause.getByText(/Open its evidence below/).waitFor();
    assert.ok(!(await cause.innerText()).includes("reflash "));
    await press(page, "Resume");
    await dialogOf(page).getByText("Resume To be resumed?").waitFor();
    await dialogOf(page).getByText("2 devices that wait are updated.").waitFor();
    await agree(page, "Resume");
    await page.getByText("Finished, not all updated").waitFor({ timeout: 30_000 });
    for (const host of [11, 12]) assert.equal((await world.ask("GET", `devices/${world.ids[host]}`)).reported_version, "1.1");

    const second = await start([10, 13], "To be aborted");
    await at(page, `#/rollout/${second.id}`);
    await page.getByRole("heading", { name: "Halted by itself" }).waitFor({ timeout: 30_000 });
    await press(page, "Abort");
    await dialogOf(page).getByText("Abort To be aborted?").waitFor();
    await dialogOf(page).getByText("It cannot be resumed; what was updated stays updated.").waitFor();
    await agree(page, "Abort");
    await page.getByText("Aborted", { exact: true }).first().waitFor();
    assert.equal((await world.ask("GET", `devices/${world.ids[13]}`)).reported_version, "1.0");
    await page.context().close();
  });

  test("firmware is approved after a question, and held against what devices run", async () => {
    const page = await enter();
    const waits = await world.addFirmware("hall.bin", image("1.0", 61_000, { seed: 9 }), world.ids[14]);
    assert.equal(waits.state, "waiting");
    await visit(page, "Firmware");
    await page.getByRole("link", { name: /hall\.bin/ }).click();
    await page.getByText("Waits for approval").first().waitFor();
    await press(page, "Approve");
    await dialogOf(page).getByText(/^Approve 1\.0.*\?$/).waitFor();
    await dialogOf(page).getByText("Nothing is sent until a rollout is started.").waitFor();
    await agree(page, "Approve");
    await page.getByText(/^1\.0.* is approved\.$/).waitFor();
    assert.equal((await world.ask("GET", `firmware/${waits.sha256}`)).state, "approved");

    // From a device: what it runs beside what is newest for it.
    await visit(page, "Fleet");
    await page.getByRole("link", { name: "Hall" }).click();
    await page.getByRole("link", { name: "compare with what it runs" }).click();
    const compare = page.getByRole("region", { name: "Compare" });
    const row = (name) => compare.getByRole("row", { name: new RegExp(`^${name}`) });
    await row("Version").getByText("1.0").waitFor();
    await row("Version").getByText("differs").waitFor();
    await row("Chip").getByText("same").waitFor();
    await press(page, "Count the bytes that differ");
    const [one, other] = [image("1.0", 61_000, { seed: 9 }), image("1.1", 80_000)];
    const n = other.length - [...one].filter((byte, idx) => byte === other[idx]).length;
    await compare.getByText(`${n.toLocaleString("en-GB")} of ${other.length.toLocaleString("en-GB")} bytes differ`).waitFor();
    await page.context().close();
  });

  test("a device is pinned, a version skipped, updates switched, and its name, tags and password set", async () => {
    const page = await enter({ width: 360 });
    const id = world.ids[15];
    await at(page, `#/device/${id}`);
    await page.getByRole("heading", { level: 1, name: "Study" }).waitFor();
    await press(page, "Pin");
    await dialogOf(page).getByLabel("Version or SHA-256").fill("1.0");
    await agree(page, "Pin");
    await press(page, "Unpin");
    await page.getByRole("button", { name: "Pin", exact: true }).waitFor();
    await press(page, "Skip 1.1");
    await dialogOf(page).getByText("Skip 1.1 on Study?").waitFor();
    await agree(page, "Skip");
    await press(page, "Offer skipped versions again");
    await page.getByRole("button", { name: "Skip 1.1" }).waitFor();

    const takes = page.locator("dl.facts div").filter({ hasText: "Takes updates" });
    await press(page, "Switch updates off");
    await dialogOf(page).getByText("The device refuses updates from now on.").waitFor();
    await agree(page, "Switch updates off");
    await takes.getByText("off", { exact: true }).waitFor();
    await press(page, "Switch updates on");
    await agree(page, "Switch updates on");
    await takes.getByText("on", { exact: true }).waitFor();

    await press(page, "Rename");
    await dialogOf(page).getByLabel("Name").fill(EVIL_NAME);
    await agree(page, "Save");
    await page.getByRole("heading", { level: 1, name: EVIL_NAME }).waitFor();
    await press(page, "Tags");
    await dialogOf(page).getByLabel("Tags").fill("upstairs, quiet");
    await agree(page, "Save");
    await page.getByText("upstairs", { exact: true }).waitFor();
    await press(page, "Set password");
    await dialogOf(page).getByLabel("Password").fill("ir_remote_update");
    await agree(page, "Save");
    await until("it has a password", async () => (await world.ask("GET", `devices/${id}`)).has_password);
    await isSound(page, "a device on a phone");
    await page.context().close();
  });

  test("a ventilation unit is updated, told first that it stands still, and shows its two parts", async () => {
    const page = await enter();
    await page.getByRole("link", { name: "Ventilation" }).click();
    await page.getByRole("button", { name: /^Update to/ }).click();
    await press(page, "Start 1 update");
    await dialogOf(page).getByText("1 machine stands still meanwhile.").waitFor();
    await agree(page, "Start");
    await page.getByText("Finished", { exact: true }).waitFor({ timeout: 60_000 });
    await page.getByRole("link", { name: /^Evidence/ }).click();
    await page.getByText("Went away", { exact: true }).first().waitFor();
    await page.getByText("What proves it").waitFor();
    await isSound(page, "the evidence of a unit");
    await page.getByRole("link", { name: "Show device" }).click();
    await page.locator("dl.facts div").filter({ hasText: "controller" }).getByText("1.5.46.72").waitFor();
    await page.locator("dl.facts div").filter({ hasText: "panel" }).getByText("1.1.5.48").waitFor();
    await page.context().close();
  });

  test("windows and schedules are made, changed, run and removed, each after a word on what happens", async () => {
    const page = await enter();
    await visit(page, "Times");
    await page.getByText("in the configuration").first().waitFor();
    assert.ok(await page.getByRole("button", { name: "Change siesta" }).isDisabled());

    // A window.
    await press(page, "New window");
    const dialog = dialogOf(page);
    await dialog.getByLabel("Name").fill("weekend");
    await dialog.getByLabel("Opens at").fill("10:30");
    await dialog.getByLabel("For hours").fill("1");
    await dialog.getByLabel("and minutes").fill("30");
    for (const day of ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]) await dialog.getByLabel(day).uncheck();
    await dialog.getByText("Opens at 10:30 on Saturday and Sunday for 1 h 30 min.").waitFor();
    await dialog.getByLabel("Time zone").fill("Mars/Olympus");
    await dialog.getByRole("button", { name: "Save" }).click();
    // What the server refuses is told where it can be mended.
    await dialog.getByRole("alert").getByText(/Mars\/Olympus/).waitFor();
    await isSound(page, "a window that was refused");
    await dialog.getByLabel("Time zone").fill("Europe/Vilnius");
    await agree(page, "Save");
    await page.getByText(/The window weekend holds/).waitFor();
    const kept = await world.ask("GET", "windows/weekend");
    assert.deepEqual([kept.start, kept.duration_s, kept.days, kept.timezone], ["10:30", 5400, ["sat", "sun"], "Europe/Vilnius"]);
    // The picture has it on two days, from 10:30 for an hour and a half by the viewer's clock.
    const bars = page.locator('.week .open[title^="weekend:"]');
    await bars.nth(1).waitFor();
    assert.equal(await bars.count(), 2);
    const shown = await bars.first().evaluate((bar) => [parseFloat(bar.style.left), parseFloat(bar.style.width)].map((percent) => Math.round((percent * 24 * 60) / 100)));
    assert.deepEqual(shown, [630, 90]);
    await press(page, "New window");
    await dialog.getByLabel("Name").fill("weekend");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("There is a window weekend already.").waitFor();
    await page.keyboard.press("Escape");

    // It is changed.
    await press(page, "Change weekend");
    await dialog.getByLabel("Saturday").uncheck();
    await agree(page, "Save");
    await page.getByText("Opens at 10:30 on Sunday for 1 h 30 min.").waitFor();

    // A schedule that goes by it.
    await press(page, "New schedule");
    await dialog.getByLabel("Name").fill("sundays");
    await dialog.getByLabel("At", { exact: true }).fill("10:25");
    for (const day of ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]) await dialog.getByLabel(day).uncheck();
    await dialog.getByLabel("Updates begin").selectOption("weekend");
    await dialog.getByLabel("Only devices with one of these tags").fill("garden");
    await dialog.getByText(/Due at 10:25 on Sunday.*one of the tags garden.*in the window weekend/).waitFor();
    await agree(page, "Save");
    await page.getByText(/The schedule sundays holds/).waitFor();
    assert.equal((await world.ask("GET", "schedules/sundays")).cron, "25 10 * * sun");
    await page.locator('.week .due[title^="sundays:"]').waitFor();

    // The window is needed now, and the page says by whom instead of trying.
    await press(page, "Remove weekend");
    await dialog.getByText("the schedule sundays would lose it.").waitFor();
    await agree(page, "All right");

    // Run now: who it would be, before it is.
    await press(page, "Run now sundays");
    await dialog.getByText(/nothing is to be done/).waitFor();
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await world.ask("PATCH", `devices/${world.ids[16]}`, { tags: ["garden"] });
    await press(page, "Run now sundays");
    await dialog.getByText("A rollout begins for 1 device: Garden.").waitFor();
    await dialog.getByText("Updates begin in the window weekend.").waitFor();
    await agree(page, "Run now");
    await page.getByRole("heading", { level: 1, name: "sundays" }).waitFor();
    await page.getByText("Scheduled", { exact: true }).first().waitFor();
    await page.getByText("Waits for its window, which opens:").waitFor();
    await isSound(page, "a rollout that waits for its window");
    await press(page, "Abort");
    await agree(page, "Abort");
    await page.getByText("Aborted", { exact: true }).first().waitFor();

    // Both go, the schedule first.
    await visit(page, "Times");
    await press(page, "Remove sundays");
    await dialog.getByText("It begins nothing any more; the rollouts that it made stay.").waitFor();
    await agree(page, "Remove");
    await page.getByText("The schedule sundays is removed.").waitFor();
    await press(page, "Remove weekend");
    await dialog.getByText("Remove the window weekend?").waitFor();
    await agree(page, "Remove");
    await page.getByText("The window weekend is removed.").waitFor();
    assert.deepEqual((await world.ask("GET", "windows")).map((window) => window.name), ["night", "siesta"]);

    // Somebody else's change is seen as it happens.
    await world.ask("PUT", "windows/elsewhere", { start: "04:00", duration: "30m" });
    await page.getByText("elsewhere", { exact: true }).first().waitFor();
    await world.ask("DELETE", "windows/elsewhere");
    await page.getByText("elsewhere", { exact: true }).first().waitFor({ state: "detached" });
    await page.context().close();
  });

  test("settings, tokens and the audit", async () => {
    const page = await enter();
    await visit(page, "Server");
    await page.getByLabel("Seconds between two scans").fill("600");
    await page.getByLabel("Seconds between two scans").press("Tab");
    await page.getByText("Saved.").first().waitFor();
    await page.getByLabel("Enrol what is found").selectOption("true");
    await dialogOf(page).getByText("Enrol every device that is found?").waitFor();
    await dialogOf(page).getByRole("button", { name: "Cancel" }).click();
    assert.deepEqual(await world.ask("GET", "settings"), { auto_enroll: null, auto_discovery: null, scan_interval_s: 600 });
    await press(page, "Read the configuration again");
    await page.getByText("Read again; nothing has changed.").waitFor();

    await page.getByLabel("For what").fill("dashboard");
    await page.getByLabel("Role").selectOption("viewer");
    await press(page, "Make a token");
    await page.getByText("The token for dashboard. It is shown only now.").waitFor();
    const token = await page.locator(".made pre").innerText();
    const me = await fetch(`${world.url}/api/v1/whoami`, { headers: { Authorization: `Bearer ${token}` } });
    assert.equal((await me.json()).role, "viewer");
    await press(page, "I have kept it");
    assert.ok(!(await page.locator("body").innerText()).includes(token));
    await press(page, "Revoke dashboard");
    await dialogOf(page).getByText("Whoever uses it is shut out at once").waitFor();
    await agree(page, "Revoke");
    await page.getByText("The token dashboard is revoked.").waitFor();
    assert.equal((await fetch(`${world.url}/api/v1/whoami`, { headers: { Authorization: `Bearer ${token}` } })).status, 401);
    await page.reload();
    await page.getByText(/entries hold together/).waitFor();
    for (const action of ["token.create", "token.revoke", "settings.change"]) await page.getByText(action, { exact: true }).first().waitFor();
    await isSound(page, "the server's place");
    await page.context().close();
  });

  test("whoever speaks German reads no English of the page, and reasons and next steps in German", async () => {
    const words = async (language) => Object.values((await import(new URL(`../../crates/server/page/words/${language}.js`, import.meta.url))).default);
    const german = new Set(await words("de"));
    const escape = (text) => text.replace(/[.*+?^$()|[\]\\{}]/g, "\\$&");
    const english = (await words("en")).filter((text) => !german.has(text)).map((text) => new RegExp(`^\\(?${escape(text).replace(/\\\{\w+\\\}/g, ".+")}\\)?$`));
    assert.ok(english.length > 300 && english.some((pattern) => pattern.test("Opens at 23:00 every day for 4 h.")));
    const page = await open(browser, world.url, { locale: "de-DE" });
    await page.getByLabel("Token").fill(world.token);
    await page.getByRole("button", { name: "Anmelden" }).click();
    await page.getByRole("heading", { level: 1, name: "Geräte" }).waitFor();
    const read = () =>
      page.evaluate(() => {
        const texts = [];
        const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) if (!walk.currentNode.parentElement.closest("[lang=en], script")) texts.push(walk.currentNode.data.trim());
        for (const it of document.querySelectorAll("[aria-label], [title], [placeholder]")) for (const name of ["aria-label", "title", "placeholder"]) texts.push(it.getAttribute(name) ?? "");
        return texts.filter(Boolean);
      });
    const rollout = await world.ask("GET", `rollouts/${halted.id}`);
    const failed = rollout.members.find((member) => member.state === "refused");
    for (const place of ["#/", `#/device/${failed.device}`, `#/job/${failed.job}`, `#/rollout/${halted.id}`, "#/rollouts", "#/plan", "#/windows", "#/firmware", `#/firmware/${world.fresh.sha256}`, "#/history", "#/settings"]) {
      await at(page, place);
      await page.locator("main h1").first().waitFor();
      await page.getByText("Lädt…").first().waitFor({ state: "detached" });
      await until(`${place} is there`, async () => (await read()).length > 20);
      assert.deepEqual((await read()).filter((text) => english.some((pattern) => pattern.test(text))), [], place);
    }
    await at(page, `#/job/${failed.job}`);
    await page.getByText("(falsches Passwort)").waitFor();
    await page.getByText("Setze das Passwort auf der Seite des Geräts").waitFor();
    await at(page, `#/rollout/${halted.id}`);
    await page.getByRole("alert").getByText(/Öffne unten seinen Nachweis/).waitFor();
    await isSound(page, "a halted rollout in German");
    await at(page, "#/windows");
    await page.getByText("Öffnet um 23:00 täglich für 4 h.").waitFor();
    await page.context().close();
  });
});
