// `reflash demo` as somebody meets it first: it prints an address and a token, and everything of it is followed, understood and steered there.
import { after, before, test } from "node:test";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { isSound, launch, open, signIn, visit } from "./browser.js";
import { program } from "./world.js";

let browser;
let demo;
let said = "";

/** Waits for the demo to say something. */
async function hear(pattern) {
  for (;;) {
    const found = said.match(pattern);
    if (found) return found;
    if (demo.exitCode !== null) throw new Error(`the demo ended: ${said}`);
    await once(demo.stdout, "data");
  }
}

before(async () => {
  // A terminal, as somebody has who tries it: with one the demo stays when its story is told.
  demo = spawn("script", ["--quiet", "--flush", "--return", "--command", `exec ${program} demo`, "/dev/null"], { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, COLUMNS: "200" } });
  demo.stdout.on("data", (text) => (said += text));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  if (demo.exitCode !== null) return;
  const ended = once(demo, "exit");
  // Ctrl-C, as it says itself.
  demo.stdin.write("\u0003");
  demo.stdin.end();
  assert.deepEqual(await ended, [0, null], said.slice(-2000));
});

test("the demo is followed and steered in the browser", { timeout: 200_000 }, async () => {
  const [, url] = await hear(/in a browser: (http:\S+)/);
  const [, token] = await hear(/with the token (\S+)/);
  const page = await open(browser, url);
  await signIn(page, token);
  const dialog = page.getByRole("dialog");

  // It begins by itself, and is paused and resumed here.
  await page.getByRole("link", { name: /Demo/ }).click({ timeout: 60_000 });
  await page.getByRole("heading", { level: 1, name: "Demo" }).waitFor();
  await page.getByText("First wave: goes ahead").waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("Paused", { exact: true }).first().waitFor();
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByText("It goes on.").waitFor();
  const card = (name) => page.getByRole("listitem").filter({ has: page.getByRole("link", { name, exact: true }) });
  await card("Living room").getByText(/Updated|Soaking/).waitFor({ timeout: 60_000 });
  await page.getByText("Finished, not all updated").waitFor({ timeout: 90_000 });
  // Every device ended as its part says.
  await card("Living room").getByText("Updated", { exact: true }).waitFor();
  await card("Kitchen").getByText("Updated", { exact: true }).waitFor();
  await card("Bedroom").getByText("Updated (label unchanged)").waitFor();
  await card("Garage").getByText("Refused").waitFor();
  await card("Ventilation").getByText("Updated", { exact: true }).waitFor();
  await isSound(page, "the demo's rollout");

  // The one that failed is understood, mended and tried again.
  await card("Garage").getByText("(wrong password)").waitFor();
  await card("Garage").getByRole("link", { name: /^Evidence/ }).click();
  await page.getByText("The device turned the password down.").first().waitFor();
  await page.getByRole("link", { name: "Show device" }).click();
  // Its story goes on beside: the living room goes back.
  await hear(/Every device ended as it should/);
  await page.getByRole("button", { name: "Set password" }).click();
  await dialog.getByLabel("Password").fill("somebody changed it");
  await dialog.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved.").first().waitFor();
  await page.getByRole("button", { name: "Update to 2.0.0" }).click();
  await page.getByText("Options", { exact: true }).click();
  await page.getByLabel("How many go first").fill("0");
  await page.getByLabel("Each must stay up for, seconds").fill("2");
  await page.getByText("Each must stay up for 2 s").waitFor();
  await page.getByRole("button", { name: "Start 1 update" }).click();
  await dialog.getByRole("button", { name: "Start" }).click();
  await page.getByRole("button", { name: "Stop everything" }).waitFor();
  await page.getByText(/Uploading|Rebooting|Soaking/).first().waitFor();
  // Stopped everything: what has begun is finished, and told so before.
  await page.getByRole("button", { name: "Stop everything" }).click();
  await dialog.getByText(/in the middle of its update and finishes it: Garage/).waitFor();
  await dialog.getByRole("button", { name: "Stop everything" }).click();
  await page.getByText("Aborted", { exact: true }).first().waitFor();
  await card("Garage").getByText("Updated", { exact: true }).waitFor({ timeout: 60_000 });

  // What was done is in the history, the rollback among it.
  await visit(page, "Rollouts");
  await page.getByRole("link", { name: /Rollback.*1\.0\.0/ }).waitFor();
  await visit(page, "History");
  await page.getByText("What devices ran").waitFor();
  await page.getByRole("link", { name: /Ventilation/ }).first().click();
  await page.getByText("Went away", { exact: true }).first().waitFor();
  await visit(page, "Fleet");
  await page.getByRole("link", { name: "Garage", exact: true }).waitFor();
  assert.deepEqual(page.wrong, []);
  await page.context().close();
});
