"""A home: simulated devices, a broker, a server, firmware made here, and a Home Assistant.

It lives in a network of its own (`run` makes one for each file), so that the devices have the addresses and ports
that the founding document names.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import struct
import tempfile
from typing import Any

import aiohttp
from hass import DOMAIN, INSTALLED, ROOT, HomeAssistant, until

PROGRAM = pathlib.Path(os.environ.get("REFLASH", ROOT / "target" / "debug" / "reflash")).resolve()
FOUNDING = ROOT / "docs" / "examples" / "founding"
# Short, because what is watched after an update is not what is tested here.
POLICY = "policy: { canary: 1, canary_soak: 1s, soak: 1s }\n"
MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mosquitto"


def image(version: str | None, len_bytes: int = 200_000, *, chip: int = 13, seed: int = 1) -> bytes:
    """An application image for an ESP32-C6 (../shared/PROTOCOLS.md D1 and D2).

    Without a version it is as the Arduino core leaves it: the label is the library builder's.
    """
    descriptor = bytearray(256)
    struct.pack_into("<I", descriptor, 0, 0xABCD5432)
    label, project = (version, "ir_remote") if version else ("esp-idf: v4.4.7 38eeba213a", "arduino-lib-builder")
    for offset, text in ((16, label), (48, project), (80, "12:00:00"), (96, "Jan  1 2026"), (112, "v5.5")):
        descriptor[offset : offset + len(text)] = text.encode()
    length = -(-(len_bytes - 80) // 16) * 16
    segment = bytes(descriptor) + bytes([seed]) * (length - len(descriptor))
    head = bytes([0xE9, 1, 2, 0x20, 0, 0, 0x80, 0x40, 0xEE, 0, 0, 0, chip, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0, 1])
    whole = head + struct.pack("<II", 0x42000020, len(segment)) + segment
    checksum = 0xEF
    for byte in segment:
        checksum ^= byte
    bare = whole + bytes((31 - len(whole) % 16) % 16) + bytes([checksum])
    return bare + hashlib.sha256(bare).digest()


class Lines:
    """A program that says one JSON object a line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.said.append(json.loads(line))

    def events(self, *kinds: str, device: str | None = None) -> list[dict[str, Any]]:
        return [line for line in self.said if line.get("event") in kinds and device in (None, line.get("device"))]

    async def end(self, *, kill: bool = False) -> None:
        if self.process.returncode is None:
            self.process.kill() if kill else self.process.terminate()
            await self.process.wait()
        self.reading.cancel()


class Simulated(Lines):
    """Simulated devices; their words are the oracle of what was really sent."""

    def pushes(self, device: str | None = None) -> list[dict[str, Any]]:
        """Every time that image bytes began to flow."""
        return self.events("receiving", device=device)

    def received_bytes(self, device: str | None = None) -> int:
        return sum(line["len_bytes"] for line in self.events("received", device=device))


class Home:
    """Everything of one test file."""

    def __init__(self, *, language: str = "en") -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="reflash-home-"))
        self.programs: list[Lines] = []
        self.hass = HomeAssistant(self.folder / "config", language=language)
        self.config = self.hass.folder
        self.firmware = self.config / "ir_remote_firmware"
        self.broker_port = 1883
        self.server: asyncio.subprocess.Process | None = None
        self.server_folder = self.folder / "server"
        self.server_url = "http://127.0.0.1:8927"
        for folder in (self.config / "custom_components", self.firmware, self.server_folder, self.folder / "bin"):
            folder.mkdir(parents=True)
        (self.folder / "bin" / "reflash").symlink_to(PROGRAM)
        self.with_program(True)

    # Home Assistant's folder

    def with_program(self, there: bool) -> None:
        """Whether a program `reflash` is in the PATH of Home Assistant."""
        path = os.environ["PATH"]
        self.hass.environment["PATH"] = f"{self.folder / 'bin'}:{path}" if there else path

    def add_component(self) -> None:
        """Installs the integration as one does by hand."""
        shutil.copytree(
            ROOT / "custom_components" / DOMAIN,
            self.config / "custom_components" / DOMAIN,
            ignore=shutil.ignore_patterns("__pycache__"),
        )

    def add_notifier(self) -> None:
        """A notifier that is called `mobile_app` and writes down what it is told."""
        shutil.copytree(
            pathlib.Path(__file__).parent / "told_notifier", self.config / "custom_components" / "told_notifier"
        )

    def notifications(self) -> list[dict[str, Any]]:
        told = self.config / "notified.jsonl"
        return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []

    def write_configuration(self, more: str = "", packages: dict[str, pathlib.Path] | None = None) -> None:
        """A configuration.yaml; packages are files that are taken in byte for byte."""
        lines = [
            "homeassistant:",
            "  name: Home",
            "  latitude: 0",
            "  longitude: 0",
            "  elevation: 0",
            "  unit_system: metric",
            "  time_zone: UTC",
            f"  language: {self.hass.language}",
        ]
        if packages:
            lines.append("  packages:")
        for name, source in (packages or {}).items():
            package = self.config / "packages" / source.name
            package.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, package)
            lines.append(f"    {name}: !include packages/{source.name}")
        lines += ["frontend:", "config:", "api:", "websocket_api:", "history:", "logbook:", "zeroconf:"]
        # The part of default_config that is used here.
        lines += ["logger: { default: warning, logs: { custom_components.ir_remote_ota: debug } }"]
        (self.config / "configuration.yaml").write_text("\n".join(lines) + "\n" + more)

    @property
    def managed_folder(self) -> pathlib.Path:
        """Where the server that Home Assistant runs keeps its things."""
        return self.config / ".storage" / DOMAIN

    def write_managed_policy(self, policy: str = POLICY) -> None:
        """The server that Home Assistant runs reads this as any other reads the file in its folder."""
        self.managed_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.managed_folder / "reflash.yaml").write_text(policy)

    # Programs

    async def _spawn(self, *words: str | pathlib.Path, errors: str = "errors") -> asyncio.subprocess.Process:
        with (self.folder / f"{errors}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log, cwd=self.folder
            )

    async def simulate(self, address: str, *flags: str, family: str = "ir-remote", count: int = 1) -> Simulated:
        words = [PROGRAM, "simulate", family, "--bind", address, "--count", str(count), *flags]
        simulated = Simulated(await self._spawn(*words, errors="simulate"))
        self.programs.append(simulated)
        await until(f"{count} simulated devices at {address}", lambda: len(simulated.events("ready")) == count, 10)
        return simulated

    async def broker(self) -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.broker_port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest stderr\n"
        )
        self.programs.append(Lines(await self._spawn(MOSQUITTO, "-c", str(config), errors="mosquitto")))
        await until("the broker runs", lambda: " running" in (self.folder / "mosquitto.log").read_text(), 10)

    async def serve(self, more: str = "", *, devices: str = "") -> None:
        """Starts a server, or starts it again over the same folder."""
        config = self.server_folder / "reflash.yaml"
        limits = "server: { limits: { requests_per_minute: 60000 } }\n"
        config.write_text(f"{limits}{POLICY}{more}ir_remote_ota:\n  poll_interval: 5s\n{devices}")
        log = (self.folder / "server.log").open("ab")
        self.server = await asyncio.create_subprocess_exec(
            PROGRAM,
            "serve",
            "--config",
            config,
            "--data",
            self.server_folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()

        async def answers() -> bool:
            assert self.server is not None
            if self.server.returncode is not None:
                raise AssertionError((self.folder / "server.log").read_text()[-4000:])
            try:
                async with aiohttp.ClientSession() as session, session.get(self.server_url + "/health") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await until("the server answers", answers, 20, 0.05)

    @property
    def token(self) -> str:
        return (self.server_folder / "token").read_text().strip()

    async def kill_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        await self.server.wait()

    async def ask(self, method: str, path: str, body: Any = None, *, managed: bool = False, **query: str) -> Any:
        """Asks the server's API: that of the server of `serve`, or that which Home Assistant runs."""
        if managed:
            connector, base, headers = (
                aiohttp.UnixConnector(str(self.managed_folder / "reflash.sock")),
                "http://localhost",
                {},
            )
        else:
            connector, base, headers = None, self.server_url, {"Authorization": f"Bearer {self.token}"}
        words: dict[str, Any] = (
            {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        )
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/octet-stream"
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.request(method, f"{base}/api/v1/{path}", params=query, **words) as answer,
        ):
            text = await answer.text()
            assert answer.status < 300, f"{method} {path}: {answer.status} {text}"
            return json.loads(text) if text else None

    async def add_firmware(self, name: str, content: bytes, *, managed: bool = False, **query: str) -> Any:
        return await self.ask("POST", "firmware", content, managed=managed, file_name=name, **query)

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self.hass.stop()
        if self.server is not None and self.server.returncode is None:
            await self.kill_server()
        for program in reversed(self.programs):
            await program.end(kill=True)
        if keep := os.environ.get("KEEP"):
            shutil.copytree(
                self.folder,
                pathlib.Path(keep) / self.folder.name,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.sock", "*.sock.*"),
            )
        shutil.rmtree(self.folder, ignore_errors=True)


__all__ = ["DOMAIN", "FOUNDING", "INSTALLED", "Home", "Simulated", "image", "until"]
