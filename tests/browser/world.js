// A home for tests: simulated devices, the real server, and firmware made here.
import { spawn } from "node:child_process";
import { createHash, randomInt } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const root = new URL("../..", import.meta.url).pathname;
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
/** The program under test. */
export const program = process.env.REFLASH ?? join(target, "debug", "reflash");

/** A name that would do harm in a page that did not escape it. */
export const EVIL_NAME = "<img src=x onerror=alert(1)>";

/** Waits until `look` gives something true. */
export async function until(what, look, patience_ms = 30_000) {
  const end = performance.now() + patience_ms;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (performance.now() > end) throw new Error(`waited ${patience_ms} ms in vain: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** An application image for an ESP32-C6 (../shared/PROTOCOLS.md D1 and D2); `seed` makes another of the same version. */
export function image(version, len_bytes = 200_000, { chip = 13, seed = 1 } = {}) {
  const descriptor = Buffer.alloc(256);
  descriptor.writeUInt32LE(0xabcd5432, 0);
  descriptor.write(version, 16, 32, "latin1");
  descriptor.write("ir_remote", 48, 32, "latin1");
  descriptor.write("12:00:00", 80, 16, "latin1");
  descriptor.write("Jan  1 2026", 96, 16, "latin1");
  descriptor.write("v5.5", 112, 32, "latin1");
  const len = Math.ceil((len_bytes - 80) / 16) * 16;
  const segment = Buffer.concat([descriptor, Buffer.alloc(len - descriptor.length, seed)]);
  const head = Buffer.alloc(32);
  Buffer.from([0xe9, 1, 2, 0x20, 0, 0, 0x80, 0x40, 0xee, 0, 0, 0, chip, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 1]).copy(head);
  head.writeUInt32LE(0x42000020, 24);
  head.writeUInt32LE(segment.length, 28);
  let checksum = 0xef;
  for (const byte of segment) checksum ^= byte;
  const whole = Buffer.concat([head, segment]);
  const padding = Buffer.alloc((31 - (whole.length % 16)) % 16);
  const bare = Buffer.concat([whole, padding, Buffer.from([checksum])]);
  return Buffer.concat([bare, createHash("sha256").update(bare).digest()]);
}

/** A file for ventilation units (../shared/PROTOCOLS.md A6); what it brings them to, its name tells. */
export function mbin(len_bytes = 120_000, seed = 1) {
  const trailer = Buffer.from("5123456781234567800AA00AA00BB00BB\r\n", "latin1");
  const filling = Buffer.alloc(len_bytes - trailer.length);
  for (let idx = 0; idx < filling.length; idx += 1) filling[idx] = (idx * 7 + (idx >> 8) * 13 + seed) & 255;
  return Buffer.concat([filling, trailer]);
}

/** A port that nothing listens on at this address. */
function freePort(address) {
  return new Promise((done, failed) => {
    const server = createServer();
    server.once("error", failed);
    server.listen(0, address, () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

/** Processes that end with the test. */
class Processes {
  all = [];

  /** Starts one, and waits for the line that says it is ready. */
  start(args, isReady) {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.all.push(child);
    let errors = "";
    child.stderr.on("data", (text) => (errors = (errors + text).slice(-4000)));
    return new Promise((done, failed) => {
      const lines = createInterface({ input: child.stdout });
      lines.on("line", (line) => isReady(line) && done({ child, line }));
      child.once("error", failed);
      child.once("exit", (code) => failed(new Error(`${args.join(" ")} ended with ${code}: ${errors}`)));
    });
  }

  async end(child, signal = "SIGTERM") {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((done) => child.once("exit", done));
    child.kill(signal);
    await ended;
  }

  async endAll() {
    await Promise.all(this.all.map((child) => this.end(child, "SIGKILL")));
  }
}

/** A server with simulated devices. */
export class World {
  processes = new Processes();
  folder = mkdtempSync(join(tmpdir(), "reflash-browser-"));
  simulators = [];

  static async open({ policy = "canary: 1, canary_soak: 1s, soak: 1s", limits = "requests_per_minute: 60000", server = "", more = "", poll = "5s" } = {}) {
    const world = new World();
    // An address of its own for each world, so that several may live beside each other.
    world.network = `127.${randomInt(64, 128)}.${randomInt(0, 256)}`;
    world.http_port = await freePort(`${world.network}.1`);
    world.ota_port = await freePort(`${world.network}.1`);
    world.modbus_port = await freePort(`${world.network}.1`);
    world.api_port = await freePort("127.0.0.1");
    world.config = { policy, limits, server: server && `, ${server}`, more, poll };
    return world;
  }

  get url() {
    return `http://127.0.0.1:${this.api_port}`;
  }

  /** Starts simulated IR Remote Minis from this host number on. */
  async simulate(host, count, ...flags) {
    const args = ["simulate", "ir-remote", "--bind", `${this.network}.${host}`, "--count", String(count)];
    args.push("--ota-port", String(this.ota_port), "--http-port", String(this.http_port), ...flags);
    let n_ready = 0;
    const { child } = await this.processes.start(args, (line) => JSON.parse(line).event === "ready" && ++n_ready === count);
    this.simulators.push(child);
    return child;
  }

  /** Starts a simulated ventilation unit at this host number. */
  async simulateUnit(host, ...flags) {
    const args = ["simulate", "komfovent", "--bind", `${this.network}.${host}`, "--http-port", String(this.http_port), "--modbus-port", String(this.modbus_port), ...flags];
    const { child } = await this.processes.start(args, (line) => JSON.parse(line).event === "ready");
    return child;
  }

  /** Starts the server, or starts it again over the same folder. */
  async serve() {
    const config = join(this.folder, "reflash.yaml");
    writeFileSync(
      config,
      `server: { listen: "127.0.0.1:${this.api_port}", allowed_networks: [loopback], limits: { ${this.config.limits} }${this.config.server} }
policy: { ${this.config.policy} }
ir_remote_ota:
  network_range: "${this.range ?? `${this.network}.0/24`}"
  http_port: ${this.http_port}
  ota_port: ${this.ota_port}
  poll_interval: ${this.config.poll}
komfovent:
  network_range: "${this.network}.60/31"
  http_port: ${this.http_port}
  modbus_port: ${this.modbus_port}
  poll_interval: 5s
  update_check_interval: 0
${this.config.more}`,
    );
    const args = ["serve", "--config", config, "--data", this.folder];
    this.server = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.processes.all.push(this.server);
    let said = "";
    for (const stream of [this.server.stdout, this.server.stderr]) stream.on("data", (text) => (said = (said + text).slice(-4000)));
    await until("the server answers", async () => {
      if (this.server.exitCode !== null) throw new Error(`the server ended: ${said}`);
      return fetch(`${this.url}/health`).then((answer) => answer.ok, () => false);
    });
    this.token = readFileSync(join(this.folder, "token"), "utf8").trim();
  }

  async stop(signal = "SIGTERM") {
    await this.processes.end(this.server, signal);
  }

  /** Asks the API as its administrator. */
  async ask(method, path, body, type = "application/json") {
    const headers = { Authorization: `Bearer ${this.token}` };
    if (body !== undefined) headers["Content-Type"] = type;
    const sent = body === undefined || type !== "application/json" ? body : JSON.stringify(body);
    const answer = await fetch(`${this.url}${path.startsWith("/api") ? "" : "/api/v1/"}${path}`, { method, headers, body: sent });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text === "" ? null : JSON.parse(text);
  }

  /** Waits for these devices, by host number, and gives them names; enrols them unless told otherwise. */
  async moveIn(names, { enroll = true } = {}) {
    const ids = {};
    for (const [host, name] of Object.entries(names)) {
      const device = await until(`${host} is found`, async () => {
        const devices = await this.ask("GET", "devices");
        return devices.find((device) => device.address === `${this.network}.${host}`);
      });
      await this.ask("PATCH", `devices/${device.id}`, { name });
      ids[host] = device.id;
    }
    if (enroll) await this.ask("POST", "devices/enroll", { devices: Object.values(ids) });
    return ids;
  }

  /** Waits until these devices answer: on a busy machine one may have been called offline meanwhile. */
  online(hosts) {
    return until(`${hosts} answer`, async () => {
      const devices = await this.ask("GET", "devices");
      return hosts.every((host) => devices.find((device) => device.address === `${this.network}.${host}`)?.state === "online");
    }, 60_000);
  }

  addFirmware(name, bytes, running_on) {
    const query = new URLSearchParams({ file_name: name, ...(running_on ? { running_on } : {}) });
    return this.ask("POST", `firmware?${query}`, bytes, "application/octet-stream");
  }

  /** Waits for the end of a rollout. */
  over(id) {
    let last;
    const look = async () => {
      last = await this.ask("GET", `rollouts/${id}`);
      return ["finished", "aborted", "halted"].includes(last.state) && last;
    };
    return until(`rollout ${id} is over`, look, 60_000).catch((error) => {
      throw new Error(`${error.message}: ${JSON.stringify(last.members)}`);
    });
  }

  async close() {
    await this.processes.endAll();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
