// What a page costs that is open for long: its memory over minutes of rollouts, one after the other, over the real server.
// Not part of CI: `just page-memory 10`. Prints a line every half minute, and fails if the memory is not flat.
import assert from "node:assert/strict";
import { launch, longestTask, open, signIn } from "./browser.js";
import { World, image } from "./world.js";

const MINUTES = Number(process.argv[2] ?? 10);
const N_DEVICES = 60;
/** So many bytes more may be in use at the end than after the first fifth of the time. */
const MAX_GROWTH = 1_000_000;

const world = await World.open({ policy: "canary: 0, soak: 1s", poll: "30s" });
let browser;
try {
  await world.simulate(10, N_DEVICES, "--version", "1.0", "--boot-s", "400ms", "--rate", "40000");
  await world.serve();
  const ids = Object.values(await world.moveIn(Object.fromEntries(Array.from({ length: N_DEVICES }, (_, n) => [10 + n, `Device ${n}`]))));
  const images = [await world.addFirmware("ir_remote_1.1.bin", image("1.1", 300_000)), await world.addFirmware("ir_remote_1.2.bin", image("1.2", 300_000, { seed: 2 }))];
  browser = await launch();
  const page = await open(browser, world.url);
  await page.addInitScript(() => {
    globalThis.n_events = 0;
    const add = EventSource.prototype.addEventListener;
    EventSource.prototype.addEventListener = function (kind, listener) {
      return add.call(this, kind, kind === "message" ? (event) => ((globalThis.n_events += 1), listener(event)) : listener);
    };
    globalThis.frames = { n: 0, over: 0, most: 0 };
    let last = performance.now();
    const tick = (now) => {
      const { frames } = globalThis;
      frames.n += 1;
      if (now - last > 50) frames.over += 1;
      frames.most = Math.max(frames.most, now - last);
      last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  await page.reload();
  await signIn(page, world.token);
  const cdp = await page.context().newCDPSession(page);
  await cdp.send("Performance.enable");
  await cdp.send("HeapProfiler.enable");
  const began = performance.now();
  const minutes = () => (performance.now() - began) / 60_000;
  const looks = [];
  async function look() {
    const counts = await page.evaluate(() => {
      const { n_events, frames } = globalThis;
      globalThis.n_events = 0;
      globalThis.frames = { n: 0, over: 0, most: 0 };
      return { n_events, ...frames };
    });
    await cdp.send("HeapProfiler.collectGarbage");
    const { usedSize } = await cdp.send("Runtime.getHeapUsage");
    const { metrics } = await cdp.send("Performance.getMetrics");
    const metric = (name) => metrics.find((one) => one.name === name).value;
    const since_s = (performance.now() - (looks.at(-1)?.at ?? began)) / 1000;
    looks.push({ at: performance.now(), minutes: minutes(), heap: usedSize });
    console.log(`${minutes().toFixed(1)} min: ${(usedSize / 1e6).toFixed(2)} MB, ${metric("Nodes")} nodes, ${metric("JSEventListeners")} listeners; ${(counts.n_events / since_s).toFixed(0)} events/s; ${counts.over} of ${counts.n} frames over 50 ms, the longest ${Math.round(counts.most)} ms`);
  }
  let n_rollouts = 0;
  let next_look = 0.5;
  while (minutes() < MINUTES) {
    const rollout = await world.ask("POST", "rollouts", { devices: ids, firmware: images[n_rollouts % 2].sha256, force: true, at_once: String(N_DEVICES), max_failures: "50", allow: ["downgrade"], name: `Rollout ${n_rollouts}` });
    n_rollouts += 1;
    // As somebody looks: at the rollout, and then at the fleet.
    await page.evaluate((hash) => (location.hash = hash), n_rollouts % 2 ? `#/rollout/${rollout.id}` : "#/");
    if (n_rollouts <= 2) {
      // By the processor's time a busy machine does not count.
      const { longest_ms } = await longestTask(page, () => new Promise((done) => setTimeout(done, 8000)));
      console.log(`${n_rollouts === 1 ? "a rollout" : "the fleet"} while ${N_DEVICES} devices are updated: no task of the page took more than ${longest_ms.toFixed(1)} ms of processor`);
    }
    for (;;) {
      const { state } = await world.ask("GET", `rollouts/${rollout.id}`);
      if (["finished", "aborted", "halted"].includes(state)) break;
      await new Promise((done) => setTimeout(done, 1000));
      if (minutes() >= next_look) {
        next_look += 0.5;
        await look();
      }
      if (minutes() > MINUTES + 2) throw new Error("the last rollout does not end");
    }
  }
  await page.evaluate(() => (location.hash = "#/"));
  await look();
  assert.deepEqual(page.wrong, []);
  const settled = looks.filter((one) => one.minutes > MINUTES / 5);
  const third = Math.max(1, Math.floor(settled.length / 3));
  const mean = (some) => some.reduce((sum, one) => sum + one.heap, 0) / some.length;
  const grown = mean(settled.slice(-third)) - mean(settled.slice(0, third));
  console.log(`${n_rollouts} rollouts of ${N_DEVICES} devices in ${minutes().toFixed(1)} min: the mean of the last third is ${(grown / 1e6).toFixed(2)} MB above that of the first`);
  // In the first minutes it still learns what there is.
  if (MINUTES >= 5) assert.ok(grown < MAX_GROWTH, `${grown} bytes more`);
} finally {
  await browser?.close();
  await world.close();
}
