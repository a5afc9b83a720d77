// A thousand devices. Work is measured in the time of the page's own thread, which a busy machine does not stretch.
import { after, before, test } from "node:test";
import assert from "node:assert/strict";
import { launch, open, signIn } from "./browser.js";
import { World, image, until } from "./world.js";

const N_DEVICES = 1000;
let world;
let browser;

/** Devices as the API shows them, made of one that it did show. */
function many(one) {
  return Array.from({ length: N_DEVICES }, (_, n) => ({
    ...one,
    id: n.toString(16).padStart(12, "0"),
    name: `Device ${n}`,
    address: `10.0.${n >> 8}.${n & 255}`,
    state: n % 40 === 0 ? "offline" : "online",
    offered: n % 3 === 0,
    signal_dbm: -40 - (n % 50),
  }));
}

before(async () => {
  world = await World.open();
  await world.simulate(10, 1, "--version", "1.0");
  await world.serve();
  const ids = await world.moveIn({ 10: "Kitchen" });
  await world.addFirmware("ir_remote_1.1.bin", image("1.1", 50_000));
  browser = await launch();
  world.one = await until("it is offered", async () => {
    const device = await world.ask("GET", `devices/${ids[10]}`);
    return device.offered && device;
  });
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

test("a thousand devices are shown soon, and a hundred events a second cost little", async () => {
  const page = await open(browser, world.url);
  await signIn(page, world.token);
  const devices = many(world.one);
  await page.route("**/api/v1/devices", (route) => route.fulfill({ json: devices }));
  await page.route("**/api/v1/devices/*/health*", (route) => route.fulfill({ json: [] }));
  // Events that the test makes: what the server could not, with one device.
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
    globalThis.gaps = [];
    let last = performance.now();
    const tick = (now) => {
      globalThis.gaps.push(now - last);
      last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  const cdp = await page.context().newCDPSession(page);
  await cdp.send("Performance.enable", { timeDomain: "threadTicks" });
  const before_load = await worked(cdp);
  await page.reload();
  await page.getByText("1,000 devices.").waitFor();
  await page.getByRole("link", { name: "Device 0", exact: true }).waitFor();
  const load_s = (await worked(cdp)) - before_load;
  assert.ok((await page.locator("tbody tr").count()) < 60, "only what can be seen is drawn");

  const before_events = await worked(cdp);
  const frames = await page.evaluate(async () => {
    globalThis.gaps.length = 0;
    for (let n = 0; n < 500; n += 1) {
      const device = ((n * 7) % 100).toString(16).padStart(12, "0");
      const detail = { rollout: 1, job: 1 + (n % 100), device, state: "uploading", percent: Math.floor(n / 5), acked_bytes: n * 100, len_bytes: 50_000 };
      globalThis.events.dispatchEvent(new MessageEvent("message", { data: JSON.stringify({ seq: 0, at_ms: Date.now(), kind: "job.progress", device, detail }) }));
      await new Promise((done) => setTimeout(done, 10));
    }
    return { n: globalThis.gaps.length, over: globalThis.gaps.filter((gap) => gap > 50).length, most: Math.max(...globalThis.gaps) };
  });
  const events_s = (await worked(cdp)) - before_events;
  console.log(`first data after ${load_s.toFixed(2)} s of work; 500 events cost ${events_s.toFixed(2)} s, ${((events_s * 1000) / frames.n).toFixed(1)} ms a frame; ${frames.over} of ${frames.n} frames over 50 ms, the longest ${Math.round(frames.most)} ms (as the machine let it)`);
  assert.ok(load_s < 1, `${load_s} s of work before the first data`);
  assert.ok(events_s / frames.n < 0.05, `${(events_s * 1000) / frames.n} ms of work a frame`);

  // What it remembers of a rollout is bounded.
  const heap = async () => {
    await cdp.send("HeapProfiler.collectGarbage");
    return (await cdp.send("Runtime.getHeapUsage")).usedSize;
  };
  const burst = (from) => page.evaluate((from) => {
    for (let n = from; n < from + 20_000; n += 1) {
      const device = (n % 10).toString(16).padStart(12, "0");
      const detail = { rollout: 1, job: 1 + (n % 10), device, state: "uploading", percent: 50, acked_bytes: 1 + n, len_bytes: 50_000 };
      globalThis.events.dispatchEvent(new MessageEvent("message", { data: JSON.stringify({ seq: 0, at_ms: n, kind: "job.progress", device, detail }) }));
    }
  }, from);
  await burst(0);
  const warm = await heap();
  for (let n = 1; n < 4; n += 1) await burst(n * 20_000);
  const grown = (await heap()) - warm;
  assert.ok(grown < 1_000_000, `${grown} bytes more after 60,000 events`);
  await page.context().close();
});
