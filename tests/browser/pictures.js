// The pictures of the guide: `just pictures` takes them anew, from a simulated home, into docs/images.
import { launch, open, signIn, visit } from "./browser.js";
import { World, image, mbin, until } from "./world.js";

const folder = new URL("../../docs/images/", import.meta.url).pathname;
const ROOMS = ["Living Room", "Bedroom", "Kitchen", "Study", "Guest Room", "Hallway Upstairs", "Workshop", "Hall"];
const world = await World.open({ policy: "canary: 1, canary_soak: 2s, soak: 3s" });
let browser;
try {
  await world.simulate(10, 9, "--version", "1.4.0", "--rate", "30000", "--boot-s", "1s");
  await world.simulate(30, 3, "--version", "1.4.0", "--rate", "30000", "--boot-s", "1s", "--password", "nobody knows");
  const gone = await world.simulate(40, 1, "--version", "1.3.2");
  await world.simulateUnit(60, "--rate", "200000", "--restart-s", "1500ms");
  await world.serve();
  const ids = await world.moveIn({ ...Object.fromEntries(ROOMS.map((room, idx) => [10 + idx, room])), 30: "Attic", 31: "Cellar", 32: "Garage", 40: "Summer House", 60: "Ventilation" });
  const living = Object.keys(ids).filter((host) => host < 18).map((host) => ids[host]);
  await world.addFirmware("ir_remote_1.4.0.bin", image("1.4.0", 200_000), ids[10]);
  const fresh = await world.addFirmware("ir_remote_2.0.0.bin", image("2.0.0", 300_000));
  await world.addFirmware("C6_1_5_46_72_P1_1_1_5_48.mbin", mbin());
  await world.ask("PUT", "windows/night", { start: "23:00", duration: "4h", timezone: "Europe/Vilnius" });
  await world.ask("PUT", "windows/weekend", { start: "10:00", duration: "2h", days: ["sat", "sun"], timezone: "Europe/Vilnius" });
  await world.ask("PUT", "schedules/nightly", { cron: "55 22 * * mon-fri", window: "night" });
  await world.processes.end(gone);
  await until("the summer house is offline", async () => (await world.ask("GET", `devices/${ids[40]}`)).state === "offline");
  browser = await launch();
  const page = await open(browser, world.url, { width: 1280 });
  await page.setViewportSize({ width: 1280, height: 800 });
  await signIn(page, world.token);
  const shot = (name) => page.screenshot({ path: `${folder}${name}.png` });
  const look = (hash) => page.evaluate((hash) => (location.hash = hash), hash);

  const rollout = await world.ask("POST", "rollouts", { devices: living, firmware: fresh.sha256, name: "June release" });
  await look(`#/rollout/${rollout.id}`);
  await page.getByText(/Uploading [3-6]\d %/).nth(4).waitFor({ timeout: 60_000 });
  await shot("rollout");
  await visit(page, "Fleet");
  await page.getByText(/Uploading \d+ %/).nth(2).waitFor();
  await shot("fleet");
  await world.over(rollout.id);
  const { members } = await world.ask("GET", `rollouts/${rollout.id}`);
  await look(`#/job/${members[0].job}`);
  await page.getByText("Soaked", { exact: true }).waitFor();
  await shot("job");
  const second = await world.ask("POST", "rollouts", { devices: [ids[30], ids[31], ids[32]], firmware: fresh.sha256, name: "The rest" });
  await world.over(second.id);
  await look(`#/rollout/${second.id}`);
  await page.getByRole("heading", { name: "Halted by itself" }).waitFor();
  await shot("halted");
  await visit(page, "Times");
  await page.getByText("Opens at 10:00").waitFor();
  await shot("windows");
  await visit(page, "History");
  await page.getByText("How they ended").waitFor();
  await shot("history");

} finally {
  await browser?.close();
  await world.close();
}
