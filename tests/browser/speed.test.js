// A thousand devices, simulated and found by the real server. What is judged is the browser's own timing; where a busy machine
// could stretch it, the processor time of the page's thread is.
import { after, before, test } from "node:test";
import assert from "node:assert/strict";
import { availableParallelism, loadavg } from "node:os";
import { launch, longestTask, open, signIn } from "./browser.js";
import { World, image, until } from "./world.js";

const N_DEVICES = 1000;
let world;
let browser;

before(async () => {
  // Nobody is asked again meanwhile: it is the page that is measured.
  world = await World.open({ poll: "600s" });
  world.network = world.network.replace(/\d+$/, (part) => part & 252);
  world.range = `${world.network}.0/22`;
  await world.simulate(1, N_DEVICES, "--version", "1.0");
  await world.serve();
  const devices = await until("all are found", async () => {
    const devices = await world.ask("GET", "devices");
    if (devices.length >= N_DEVICES) return devices;
    // On a busy machine some answer too late for one scan.
    await world.ask("POST", "discovery/scan").catch(() => {});
  }, 120_000);
  // Each is kept for good by itself; a thousand would take longer than a request may.
  await world.ask("POST", "devices/enroll", { devices: devices.slice(0, 40).map((device) => device.id) });
  await world.addFirmware("ir_remote_1.1.bin", image("1.1", 50_000));
  world.ids = devices.map((device) => device.id);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await world?.close();
});

/** How long the page's thread has worked, in seconds of its own. */
async function worked(cdp) {
  const { metrics } = await cdp.send("Performance.getMetrics");
  return metrics.find(({ name }) => name === "TaskDuration").value;
}

/** Tells when the first line of the table was painted, and how long frames take. */
const WATCH = () => {
  globalThis.gaps = [];
  globalThis.painted = new Promise((done) => {
    const seen = new MutationObserver(() => {
      if (!document.querySelector("tbody tr a")) return;
      seen.disconnect();
      // The frame in which it is drawn has begun; what comes after it is painted.
      requestAnimationFrame(() => setTimeout(() => done(performance.now())));
    });
    seen.observe(document, { childList: true, subtree: true });
  });
  let last = performance.now();
  const tick = (now) => {
    globalThis.gaps.push(now - last);
    last = now;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
};

test("a thousand devices are painted within a second", async () => {
  const page = await open(browser, world.url);
  await signIn(page, world.token);
  await page.getByText("1,000 devices.").waitFor();
  await page.addInitScript(WATCH);
  const times = [];
  let work_s;
  // The best of some: on a machine with other work the others tell of that.
  while (times.length < 8 && !times.some((ms) => ms < 1000)) {
    // Nothing is kept of what was loaded before.
    const cdp = await page.context().newCDPSession(page);
    await cdp.send("Network.clearBrowserCache");
    await page.goto("about:blank");
    await cdp.send("Performance.enable", { timeDomain: "threadTicks" });
    await page.goto(world.url);
    times.push(await page.evaluate(() => globalThis.painted));
    work_s = await worked(cdp);
    await cdp.detach();
  }
  const least = Math.min(...times);
  console.log(`first paint with 1,000 devices: ${times.map(Math.round).join(", ")} ms after the navigation began, of which ${work_s.toFixed(2)} s are work of the page`);
  // By the clock where the machine is ours; where others crowd it, they would be measured.
  if (loadavg()[0] < 2 * availableParallelism()) assert.ok(least < 1000, `${least} ms until the first data was painted`);
  assert.ok(work_s < 1, `${work_s} s of work before it`);
  assert.ok((await page.locator("tbody tr").count()) < 60, "only what can be seen is drawn");
  await page.context().close();
});

test("a hundred events a second cost no frame more than 50 ms, and memory stays bounded", async () => {
  const page = await open(browser, world.url);
  await signIn(page, world.token);
  // Events that the test makes: what the server could not, with devices that do nothing.
  await page.addInitScript(() => {
    globalThis.EventSource = class extends EventTarget {
      static CLOSED = 2;
      constructor() {
        super();
        globalThis.events = this;
        setTimeout(() => this.dispatchEvent(new MessageEvent("hello", { data: '{"last":0}' })));
      }
      close() {}
    };
  });
  await page.addInitScript(WATCH);
  const cdp = await page.context().newCDPSession(page);
  await cdp.send("Performance.enable");
  await cdp.send("HeapProfiler.enable");
  await page.reload();
  await page.getByText("1,000 devices.").waitFor();
  await page.locator("tbody tr").nth(5).waitFor();
  const shown = await page.locator("tbody tr a").evaluateAll((links) => links.map((link) => link.hash.replace("#/device/", "")));
  // Half of them where one looks, half of them further down.
  const ids = [...shown, ...world.ids.filter((id) => !shown.includes(id))].slice(0, 100);
  // What comes after the first paint, sparklines for one, is over.
  await until("nothing is asked any more", () => page.evaluate(async () => {
    const n = () => performance.getEntriesByType("resource").length;
    const before = n();
    await new Promise((done) => setTimeout(done, 700));
    return n() === before;
  }));
  const before_events = await worked(cdp);
  const { result: frames, longest_ms } = await longestTask(page, () => page.evaluate(async (ids) => {
    globalThis.gaps.length = 0;
    for (let n = 0; n < 500; n += 1) {
      const device = ids[(n * 7) % 100];
      const detail = { rollout: 1, job: 1 + (n % 100), device, state: "uploading", percent: Math.floor(n / 5), acked_bytes: n * 100, len_bytes: 50_000 };
      globalThis.events.dispatchEvent(new MessageEvent("message", { data: JSON.stringify({ seq: 0, at_ms: Date.now(), kind: "job.progress", device, detail }) }));
      await new Promise((done) => setTimeout(done, 10));
    }
    return { n: globalThis.gaps.length, over: globalThis.gaps.filter((gap) => gap > 50).length, most: Math.max(...globalThis.gaps) };
  }, ids));
  const events_s = (await worked(cdp)) - before_events;
  console.log(`500 events cost ${events_s.toFixed(2)} s, ${((events_s * 1000) / frames.n).toFixed(1)} ms a frame, at most ${longest_ms.toFixed(1)} ms of processor; ${frames.over} of ${frames.n} frames over 50 ms by the clock, the longest ${Math.round(frames.most)} ms (as the machine let it)`);
  assert.ok(longest_ms < 50, `${longest_ms} ms in one task`);
  assert.ok(events_s / frames.n < 0.05, `${(events_s * 1000) / frames.n} ms of work a frame`);

  // What it remembers of a rollout is bounded.
  const heap = async () => {
    await cdp.send("HeapProfiler.collectGarbage");
    return (await cdp.send("Runtime.getHeapUsage")).usedSize;
  };
  const burst = (from) => page.evaluate(([from, ids]) => {
    for (let n = from; n < from + 20_000; n += 1) {
      const device = ids[n % 10];
      const detail = { rollout: 1, job: 1 + (n % 10), device, state: "uploading", percent: 50, acked_bytes: 1 + n, len_bytes: 50_000 };
      globalThis.events.dispatchEvent(new MessageEvent("message", { data: JSON.stringify({ seq: 0, at_ms: n, kind: "job.progress", device, detail }) }));
    }
  }, [from, ids]);
  await burst(0);
  const warm = await heap();
  for (let n = 1; n < 4; n += 1) await burst(n * 20_000);
  const grown = (await heap()) - warm;
  assert.ok(grown < 1_000_000, `${grown} bytes more after 60,000 events`);
  await page.context().close();
});
