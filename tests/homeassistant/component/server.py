"""The real program: a server with simulated devices, each on addresses and in a folder of its own."""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from custom_components.ir_remote_ota.client import Device, ReflashClient, ReflashError

PROGRAM = os.environ.get("REFLASH") or shutil.which("reflash") or "reflash"
# The devices' ports are the same for all; what differs are their addresses, so that tests can run side by side.
HTTP_PORT = 18080
OTA_PORT = 13232
MODBUS_PORT = 11502
PATIENCE_S = 30.0


def image(version: str | None, len_bytes: int = 60_000, *, chip: int = 13, seed: int = 1) -> bytes:
    """An application image for an ESP32-C6 (../shared/PROTOCOLS.md D1 and D2).

    Without a version it is as the Arduino core leaves it, with the label of the library's builder.
    """
    descriptor = bytearray(256)
    struct.pack_into("<I", descriptor, 0, 0xABCD5432)
    label, project = (version, "ir_remote") if version else ("esp-idf: v4.4.7 38eeba213a", "arduino-lib-builder")
    for offset, text in ((16, label), (48, project), (80, "12:00:00"), (96, "Jan  1 2026"), (112, "v5.5")):
        descriptor[offset : offset + len(text)] = text.encode()
    filler = max(0, len_bytes - 80 - len(descriptor)) // 16 * 16
    segment = bytes(descriptor) + bytes([seed]) * filler
    head = bytes([0xE9, 1, 2, 0x20, 0, 0, 0x80, 0x40, 0xEE, 0, 0, 0, chip, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0, 1])
    whole = head + struct.pack("<II", 0x42000020, len(segment)) + segment
    checksum = 0xEF
    for byte in segment:
        checksum ^= byte
    bare = whole + bytes((31 - len(whole) % 16) % 16) + bytes([checksum])
    return bare + hashlib.sha256(bare).digest()


async def until[T](answer: Callable[[], T | None], what: object = None, patience_s: float = PATIENCE_S) -> T:
    """Waits until something is true, and returns it."""
    try:
        async with asyncio.timeout(patience_s):
            while not (found := answer()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        shown = what() if callable(what) else what
        raise AssertionError(f"after {patience_s} s still not: {shown or answer}") from None
    return found


class Program:
    """A running program whose lines are kept."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, *arguments: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    async def end(self, *, kill: bool = False) -> None:
        if self.process.returncode is None:
            self.process.kill() if kill else self.process.terminate()
            await self.process.wait()
        await self._reading


class Simulated(Program):
    """Simulated devices; what they say is the judge of what was really sent."""

    def events(self, kind: str) -> list[dict[str, Any]]:
        said = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [line for line in said if line.get("event") == kind]


class House:
    """A server, its devices, and a client that may do everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.firmware_path = folder / "firmware"
        self.data = folder / "data"
        self.net = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250) + 1}"
        self.devices: list[dict[str, Any]] = []
        self.units: list[dict[str, Any]] = []
        self.programs: list[Program] = []
        self.server: Program | None = None
        self.url = ""
        self.policy = "canary: 1, canary_soak: 1s, soak: 1s"
        self.more = ""
        self._session: aiohttp.ClientSession | None = None
        for path in (self.firmware_path, self.data):
            path.mkdir(parents=True)

    # Devices.

    async def remote(self, name: str, *arguments: str, host: int | None = None, list_it: bool = True) -> Simulated:
        """Starts an IR Remote Mini; it is listed in the configuration unless that is not wanted."""
        number = host or len(self.devices) + 1
        address = f"{self.net}.{number}"
        simulated = await Simulated.start(
            "simulate", "ir-remote", "--bind", address, "--http-port", str(HTTP_PORT), "--ota-port", str(OTA_PORT),
            *(() if "--boot-s" in arguments else ("--boot-s", "200ms")), *arguments,
        )  # fmt: skip
        self.programs.append(simulated)
        await until(lambda: simulated.events("ready"), simulated.lines)
        if list_it:
            self.devices.append({"ip": address, "name": name})
        return simulated

    async def unit(self, name: str, *arguments: str) -> Simulated:
        """Starts a ventilation unit, and lists it."""
        address = f"{self.net}.{200 + len(self.units)}"
        simulated = await Simulated.start(
            "simulate", "komfovent", "--bind", address, "--http-port", str(HTTP_PORT),
            "--modbus-port", str(MODBUS_PORT), "--rate", "5000000", "--restart-s", "500ms", *arguments,
        )  # fmt: skip
        self.programs.append(simulated)
        await until(lambda: simulated.events("ready"), simulated.lines)
        self.units.append({"ip": address, "name": name})
        return simulated

    # The server.

    def configuration(self) -> str:
        listen = self.url.removeprefix("http://") or "127.0.0.1:0"
        # JSON is YAML.
        return "\n".join(
            [
                f'server: {{ allowed_networks: [loopback], listen: "{listen}" }}',
                f"policy: {{ {self.policy} }}",
                "ir_remote_ota:",
                "  auto_discovery: false",
                "  scan_interval: 3600",
                "  poll_interval: 5",
                f"  http_port: {HTTP_PORT}",
                f"  ota_port: {OTA_PORT}",
                f"  firmware_path: {self.firmware_path}",
                f"  devices: {json.dumps(self.devices)}",
                "komfovent:",
                "  auto_discovery: false",
                "  update_check_interval: 0",
                "  firmware_urls: { C6: null, C8: null }",
                f"  http_port: {HTTP_PORT}",
                f"  modbus_port: {MODBUS_PORT}",
                "  username: user",
                "  password: user",
                f"  devices: {json.dumps(self.units)}",
                self.more,
            ]
        )

    async def serve(self) -> None:
        """Starts the server, again on the same port where it ran before."""
        configuration = self.folder / "reflash.yaml"
        configuration.write_text(self.configuration())
        configuration.chmod(0o600)
        self.server = await Program.start("serve", "--config", str(configuration), "--data", str(self.data))
        server = self.server

        def url() -> str | None:
            lines = (line.partition(" serves at ")[2] for line in server.lines)
            return next((line.partition(",")[0] for line in lines if line), None)

        self.url = await until(url, server.lines)

    async def kill(self) -> None:
        """The server dies as if the power went."""
        assert self.server is not None
        await self.server.end(kill=True)

    @property
    def token(self) -> str:
        return (self.data / "token").read_text().strip()

    @property
    def client(self) -> ReflashClient:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return ReflashClient(self._session, self.url, self.token)

    async def device(self, name: str) -> Device:
        return next(device for device in await self.client.devices() if device.name == name)

    async def online(self) -> None:
        """Waits until every listed device answers."""
        n_listed = len(self.devices) + len(self.units)
        async with asyncio.timeout(PATIENCE_S):
            while sum(device.is_online for device in await self.client.devices()) < n_listed:
                await asyncio.sleep(0.05)

    async def drop(self, name: str, content: bytes) -> str:
        """Puts a file into the folder, waits until the server has it, and returns its digest."""
        part = self.firmware_path / f".{name}"
        part.write_bytes(content)
        part.rename(self.firmware_path / name)
        digest = hashlib.sha256(content).hexdigest()
        await self.knows(digest)
        return digest

    async def knows(self, name: str) -> None:
        """Waits until the server knows an image by this name."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(ReflashError):
                    await self.client.image(name)
                    return
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        if self._session is not None:
            await self._session.close()
        for program in [self.server, *self.programs]:
            if program is not None:
                await program.end()


@contextlib.asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    """A house without devices and without a running server."""
    found = House(folder)
    try:
        yield found
    finally:
        await found.end()
