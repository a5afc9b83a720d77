// A person who has never seen the page: every step follows what is written on it.
import { after, before, describe, test } from "node:test";
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { LOOKS, isSound, launch, open, signIn, visit } from "./browser.js";
import { EVIL_NAME, World, image, until } from "./world.js";

const shots = process.env.SCREENSHOTS;
let world;
let browser;

/** One flat for each look: three devices that are well, and one whose password is another. */
const FLATS = ["North", "East", "South", "West"];

before(async () => {
  world = await World.open();
  const quick = ["--boot-s", "400ms", "--version", "1.0"];
  await world.simulate(10, 12, ...quick, "--rate", "150000");
  await world.simulate(30, 4, ...quick, "--password", "nobody knows");
  await world.simulate(40, 1, "--version", "1.0\u0007<b>bold</b>");
  const gone = await world.simulate(41, 1);
  await world.serve();
  const names = { 40: EVIL_NAME, 41: "Attic" };
  FLATS.forEach((flat, n) => {
    for (const [idx, room] of ["Living Room", "Bedroom", "Kitchen"].entries()) names[10 + 3 * n + idx] = `${room} ${flat}`;
    names[30 + n] = `Hallway ${flat}`;
  });
  world.ids = await world.moveIn(names);
  const old = image("1.0", 60_000);
  for (let host = 10; host < 22; host += 1) await world.addFirmware("ir_remote_1.0.bin", old, world.ids[host]);
  const fresh = await world.addFirmware("ir_remote_1.1.bin", image("1.1", 120_000));
  await world.ask("PUT", `firmware/${fresh.sha256}/notes`, { notes: "# 1.1\n\n- Repeats are shorter.\n- The status page shows the signal." });
  await world.processes.end(gone);
  await until("the attic is offline", async () => (await world.ask("GET", `devices/${world.ids[41]}`)).state === "offline");
  browser = await launch();
  if (shots) mkdirSync(shots, { recursive: true });
});

after(async () => {
  await browser?.close();
  await world?.close();
});

// Two at a time: much of it is waiting for devices.
describe("the page", { concurrency: 2 }, () => {
  for (const [n, look] of LOOKS.entries()) {
    test(`three devices are updated, one failure understood, and rolled back: ${look.name}`, async () => {
      const flat = FLATS[n];
      const page = await open(browser, world.url, look);
      const shot = (name) => shots && page.screenshot({ path: `${shots}/${name}-${look.width}-${look.scheme}.png` });
      // Until its scripts are there the page is empty.
      await page.getByLabel("Token").waitFor();
      await isSound(page, "sign-in");
      await page.getByLabel("Token").fill("rfl_wrong");
      await page.getByRole("button", { name: "Sign in" }).click();
      await page.getByRole("alert").getByText("not known").waitFor();
      await signIn(page, world.token);

      // The fleet.
      await page.getByRole("button", { name: /^Outdated/ }).waitFor();
      await page.getByText(EVIL_NAME, { exact: true }).first().waitFor();
      await isSound(page, "fleet");
      await shot("fleet");
      await page.getByRole("button", { name: /^Offline/ }).click();
      await page.getByRole("link", { name: "Attic" }).waitFor();
      assert.equal(await page.getByRole("link", { name: `Kitchen ${flat}` }).count(), 0);
      await page.getByRole("button", { name: /^All/ }).click();
      await page.getByLabel("Search name, address, version, tag").fill(flat);
      for (const room of ["Living Room", "Bedroom", "Kitchen", "Hallway"]) await page.getByLabel(`Select ${room} ${flat}`).check();
      await page.getByText("4 selected").waitFor();
      await isSound(page, "fleet with a selection");

      // The plan.
      await page.getByRole("button", { name: "Plan update", exact: true }).click();
      const start = page.getByRole("button", { name: "Start 4 updates" });
      await start.waitFor();
      await page.getByText("devices get new firmware").waitFor();
      await isSound(page, "plan");
      await shot("plan");
      await start.click();
      await page.getByRole("dialog").getByText(/goes first and gets 1\.1/).waitFor();
      await isSound(page, "dialog");
      await page.getByRole("dialog").getByRole("button", { name: "Start" }).click();

      // The rollout, over a reload.
      await page.getByText("First wave: goes ahead").waitFor();
      await page.getByText(/Uploading \d+ %|Looking|Rebooting|Soaking/).first().waitFor();
      await isSound(page, "rollout");
      await page.reload();
      await page.getByText("First wave: goes ahead").waitFor();
      await page.getByText("Wave 2").waitFor();
      await page.getByText(/Uploading \d+ %/).first().waitFor({ timeout: 20_000 }).catch(() => {});
      await shot("rollout");
      await page.getByText("Finished, not all updated").waitFor({ timeout: 60_000 });
      await isSound(page, "rollout after its end");
      await shot("rollout-over");
      const failed = page.getByRole("listitem").filter({ hasText: `Hallway ${flat}` });
      await failed.getByText(/password/i).first().waitFor();

      // The failure.
      await failed.getByRole("link", { name: /^Evidence/ }).click();
      await page.getByRole("heading", { level: 1, name: `Hallway ${flat}` }).waitFor();
      await page.getByText("What to do:").waitFor();
      await page.getByText("What happened").waitFor();
      await isSound(page, "job that failed");
      await shot("job-failed");
      await page.getByRole("link", { name: "Show device" }).click();
      await page.getByText("Its last update did not succeed").waitFor();
      await isSound(page, "device");
      await shot("device");

      // The evidence of one that went well.
      await page.goBack();
      await page.getByRole("link", { name: /^Rollout \d+/ }).click();
      await page.getByRole("listitem").filter({ hasText: `Kitchen ${flat}` }).getByRole("link", { name: /^Evidence/ }).click();
      await page.getByText("Came back", { exact: true }).waitFor();
      await page.getByText("1.0 before, 1.1 after").waitFor();
      await isSound(page, "job");
      await shot("job");

      // The way back.
      await page.getByRole("link", { name: /^Rollout \d+/ }).click();
      await page.getByRole("button", { name: "Roll back what was updated" }).click();
      await page.getByRole("button", { name: "Roll 3 devices back" }).click();
      await page.getByRole("dialog").getByRole("button", { name: "Start" }).click();
      await page.getByText("Finished", { exact: true }).waitFor({ timeout: 60_000 });
      const kitchen = await until("the kitchen runs 1.0", async () => {
        const device = await world.ask("GET", `devices/${world.ids[12 + 3 * n]}`);
        return device.reported_version === "1.0" && device;
      });
      assert.equal(kitchen.installed.name, "1.0");

      // The other places.
      await visit(page, "Rollouts");
      await page.getByRole("button", { name: "New rollout" }).waitFor();
      await isSound(page, "rollouts");
      await visit(page, "History");
      await page.getByText("How they ended").waitFor();
      await isSound(page, "history");
      await shot("history");
      await visit(page, "Server");
      await page.getByText(/entr(y|ies) hold/).waitFor();
      await isSound(page, "server");
      await page.context().close();
    });

    test(`a file is dropped, explained, and another refused in words: ${look.name}`, async () => {
      const page = await open(browser, world.url, look);
      const shot = (name) => shots && page.screenshot({ path: `${shots}/${name}-${look.width}-${look.scheme}.png` });
      await signIn(page, world.token);
      await visit(page, "Firmware");
      await page.getByText("Drop firmware here").waitFor();
      await isSound(page, "firmware");
      const choose = (name, buffer) => page.getByLabel("Choose a file").first().setInputFiles({ name, mimeType: "application/octet-stream", buffer });
      await choose("notes.bin", Buffer.from(`a letter, not firmware ${n}`));
      await page.getByText("Why it is held back").waitFor();
      await page.getByText(/text file/).first().waitFor();
      await page.getByText("What to do:").waitFor();
      await isSound(page, "a refused file");
      await shot("firmware-refused");
      await visit(page, "Firmware");
      await choose(`kitchen_${n}.bin`, image("0.9", 50_000, { seed: 20 + n }));
      await page.getByText("The image states it itself").waitFor();
      await page.getByText("Whom it fits").waitFor();
      await page.getByRole("button", { name: "Edit notes" }).click();
      await page.getByRole("dialog").getByLabel("Notes").fill(`# ${EVIL_NAME}\n\n- quieter`);
      await page.getByRole("dialog").getByRole("button", { name: "Save" }).click();
      await page.getByRole("heading", { name: EVIL_NAME }).waitFor();
      await isSound(page, "an image");
      await shot("firmware");
      await page.context().close();
    });
  }
});
