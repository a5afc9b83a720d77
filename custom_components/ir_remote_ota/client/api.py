"""Every question that can be put to the server, one method each."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any

import aiohttp
from yarl import URL

from .devices import Device
from .errors import ReflashError, ReflashUnreachable
from .events import Event, EventReader
from .firmware import Feed, Firmware, FirmwareList
from .reading import Json, opt_text
from .rollouts import Job, Plan, Rollout, Stats, Window
from .server import Server, WhoAmI

ANSWER_S = 40.0
"""How long most answers may take: the server's own limit is 30 s (docs/guide/api.md, Limits)."""
DEVICE_ANSWER_S = 130.0
"""How long an answer may take where a device is asked: the server's limit is 2 minutes."""
LONG_ANSWER_S = 620.0
"""How long a scan, the vendors' downloads or an upload may take: the server's limit is 10 minutes."""
SILENCE_S = 45.0
"""How long a stream may be silent: the server says every 15 s that it lives."""
ATTACH_SILENCE_S = 15.0
"""How long the stream that holds a managed server may be silent: it says every 5 s that it lives."""


class ReflashClient:
    """A client of one server; the session is its owner's, and is never closed here."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        token: str | None = None,
        *,
        ssl: SSLContext | aiohttp.Fingerprint | bool = True,
    ) -> None:
        """Remember where the server is, and what it is shown."""
        self._session = session
        self._base = URL(base_url.rstrip("/") + "/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ssl = ssl

    # What is there.

    async def server(self) -> Server:
        """Return who the server is."""
        return Server.read(await self._object("GET", "server"))

    async def whoami(self) -> WhoAmI:
        """Return who we are to it."""
        return WhoAmI.read(await self._object("GET", "whoami"))

    # Devices.

    async def devices(self) -> list[Device]:
        """Return all devices that are known."""
        return [Device.read(raw) for raw in await self._list("GET", "devices")]

    async def device(self, device: str) -> Device:
        """Return one device."""
        return Device.read(await self._object("GET", "devices", device))

    async def enroll(self, ids: list[str]) -> None:
        """Say of devices that they are ours."""
        await self._ask("POST", "devices", "enroll", body={"devices": ids}, timeout_s=DEVICE_ANSWER_S)

    async def add_device(self, body: Json) -> Device:
        """Add a device by its address or host name, and enrol it."""
        return Device.read(await self._object("POST", "devices", body=body, timeout_s=DEVICE_ANSWER_S))

    async def patch_device(self, device: str, body: Json) -> Device:
        """Change what its owner says of a device: what is None goes."""
        return Device.read(await self._object("PATCH", "devices", device, body=body))

    async def remove_device(self, device: str) -> None:
        """Forget a device."""
        await self._ask("DELETE", "devices", device)

    async def set_password(self, device: str, password: str | None) -> None:
        """Keep a device's password; None to forget it."""
        await self._ask("PUT", "devices", device, "password", body={"password": password})

    async def ota(self, device: str, enabled: bool) -> Device:
        """Say whether updates of a device are wanted."""
        body = {"enabled": enabled}
        return Device.read(await self._object("PUT", "devices", device, "ota", body=body, timeout_s=DEVICE_ANSWER_S))

    async def pin(self, device: str, version: str | None) -> Device:
        """Keep a device at a version or digest; None takes the pin away."""
        return await self._version("pin", device, version)

    async def skip(self, device: str, version: str | None) -> Device:
        """Leave a version or digest out for a device; None offers all again."""
        return await self._version("skip", device, version)

    async def unskip(self, device: str, version: str) -> Device:
        """Offer a version or digest again."""
        return Device.read(await self._object("DELETE", "devices", device, "skip", query={"version": version}))

    async def _version(self, what: str, device: str, version: str | None) -> Device:
        if version is None:
            return Device.read(await self._object("DELETE", "devices", device, what))
        return Device.read(await self._object("PUT", "devices", device, what, body={"version": version}))

    async def scan(self) -> Json:
        """Look for devices now, and return what was covered."""
        return await self._object("POST", "discovery", "scan", body={}, timeout_s=LONG_ANSWER_S)

    # Firmware.

    async def firmware(self) -> FirmwareList:
        """Return all images, the newest first."""
        return FirmwareList.read(await self._object("GET", "firmware"))

    async def image(self, sha256: str) -> Firmware:
        """Return one image, by its digest, version or file name."""
        return Firmware.read(await self._object("GET", "firmware", sha256))

    async def upload(self, name: str, image: bytes | Path, *, running_on: str | None = None) -> Firmware:
        """Bring an image; one that a device runs now becomes its way back."""
        if isinstance(image, Path):
            image = await asyncio.to_thread(image.read_bytes)
        query = {"file_name": name} if running_on is None else {"file_name": name, "running_on": running_on}
        raw = await self._object("POST", "firmware", query=query, body=image, timeout_s=LONG_ANSWER_S)
        return Firmware.read(raw)

    async def approve(self, sha256: str) -> Firmware:
        """Let an image be offered that waits or is quarantined."""
        return Firmware.read(await self._object("POST", "firmware", sha256, "approve", body={}))

    async def check_firmware(self) -> list[Feed]:
        """Look at the vendors' downloads now."""
        raw = await self._list("POST", "firmware", "check", body={}, timeout_s=LONG_ANSWER_S)
        return [Feed.read(feed) for feed in raw]

    async def notes(self, sha256: str) -> str | None:
        """Return the release notes of an image, Markdown."""
        return opt_text(await self._object("GET", "firmware", sha256, "notes"), "notes")

    # Rollouts.

    async def plan(self, body: Json) -> Plan:
        """Return what a rollout would do, and change nothing."""
        return Plan.read(await self._object("POST", "plans", body=body))

    async def rollout(self, body: Json, key: str) -> Rollout:
        """Plan and begin; the same key never begins twice."""
        return Rollout.read(await self._object("POST", "rollouts", body=body, key=key))

    async def rollouts(self, limit: int = 50) -> list[Rollout]:
        """Return rollouts without their devices, the newest first."""
        return [Rollout.read(raw) for raw in await self._list("GET", "rollouts", query={"limit": str(limit)})]

    async def rollout_of(self, rollout: int) -> Rollout:
        """Return a rollout with its devices."""
        return Rollout.read(await self._object("GET", "rollouts", str(rollout)))

    async def pause(self, rollout: int) -> Rollout:
        """Let nothing more begin; what runs goes on."""
        return await self._steer(rollout, "pause")

    async def resume(self, rollout: int) -> Rollout:
        """Let it go on, also after it has halted."""
        return await self._steer(rollout, "resume")

    async def abort(self, rollout: int) -> Rollout:
        """End it; what is being written is written to its end."""
        return await self._steer(rollout, "abort")

    async def _steer(self, rollout: int, act: str) -> Rollout:
        return Rollout.read(await self._object("POST", "rollouts", str(rollout), act, body={}))

    async def job(self, job: int) -> Job:
        """Return one update of one device, with what proves it."""
        return Job.read(await self._object("GET", "jobs", str(job)))

    async def stats(self) -> Stats:
        """Return how updates went."""
        return Stats.read(await self._object("GET", "stats"))

    # Windows and settings.

    async def windows(self) -> list[Window]:
        """Return all maintenance windows."""
        return [Window.read(raw) for raw in await self._list("GET", "windows")]

    async def put_window(self, name: str, body: Json) -> Window:
        """Make a window, or exchange one."""
        return Window.read(await self._object("PUT", "windows", name, body=body))

    async def remove_window(self, name: str) -> None:
        """Remove a window that nothing goes by."""
        await self._ask("DELETE", "windows", name)

    async def settings(self) -> Json:
        """Return the settings that win over the configuration file."""
        return await self._object("GET", "settings")

    async def patch_settings(self, body: Json) -> Json:
        """Change settings; what is None is left to the configuration file again."""
        return await self._object("PATCH", "settings", body=body)

    # Home Assistant's own.

    async def import_block(self, body: Json) -> None:
        """Hand over the YAML block; a ReflashError of 422 holds all `mistakes` in its problem."""
        await self._ask("PUT", "configuration", "home-assistant", body=body, timeout_s=DEVICE_ANSWER_S)

    async def forget_block(self) -> None:
        """Take back what the YAML block has said."""
        await self._ask("DELETE", "configuration", "home-assistant")

    async def shown(self, entry_id: str, ids: list[str]) -> None:
        """Say which devices an entry shows, so that MQTT discovery never announces them."""
        await self._ask("PUT", "home-assistant", entry_id, body={"devices": ids})

    async def forget_shown(self, entry_id: str) -> None:
        """Say that an entry is gone."""
        await self._ask("DELETE", "home-assistant", entry_id)

    # Streams.

    async def events(self, after: int | None = None) -> AsyncGenerator[Event]:
        """Yield what happens, from `hello` on, until the stream ends; `after` replays."""
        query = {} if after is None else {"after": str(after)}
        async with self._stream("events", query, SILENCE_S) as response:
            if response.content_type != "text/event-stream":
                raise _foreign(response.status)
            reader = EventReader()
            async for chunk in self._chunks(response):
                try:
                    events = reader.feed(chunk)
                except ValueError as error:
                    raise ReflashError(f"the event stream cannot be understood: {error}") from error
                for event in events:
                    yield event

    @asynccontextmanager
    async def attach(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Hold a managed server, as its parent, for as long as this lasts; yields what it says to that."""
        async with self._stream("attach", {}, ATTACH_SILENCE_S) as response:
            yield self._chunks(response)

    # How it is asked.

    async def _object(self, method: str, *path: str, **how: Any) -> Json:
        answer = await self._ask(method, *path, **how)
        if not isinstance(answer, dict):
            raise _foreign()
        return answer

    async def _list(self, method: str, *path: str, **how: Any) -> list[Json]:
        answer = await self._ask(method, *path, **how)
        if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
            raise _foreign()
        return answer

    async def _ask(
        self,
        method: str,
        *path: str,
        body: Json | bytes | None = None,
        query: dict[str, str] | None = None,
        key: str | None = None,
        timeout_s: float = ANSWER_S,
    ) -> Any:
        headers = dict(self._headers)
        content: bytes | None
        if isinstance(body, bytes):
            content = body
            headers["Content-Type"] = "application/octet-stream"
        elif body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        else:
            content = None
        if key is not None:
            headers["Idempotency-Key"] = key
        try:
            async with self._session.request(
                method,
                self._url(path, query),
                headers=headers,
                data=content,
                ssl=self._ssl,
                # The token must not follow to another place.
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                return await _answer(response)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error

    @asynccontextmanager
    async def _stream(
        self, path: str, query: dict[str, str], silence_s: float
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_S, sock_read=silence_s)
        try:
            async with self._session.get(
                self._url((path,), query),
                headers=self._headers,
                ssl=self._ssl,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                if response.status != 200:
                    await _answer(response)
                    raise _foreign()
                yield response
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        async for chunk in response.content.iter_any():
            yield chunk

    def _url(self, path: tuple[str, ...], query: dict[str, str] | None) -> URL:
        url = self._base.joinpath("api", "v1", *path)
        return url.with_query(query) if query else url


async def _answer(response: aiohttp.ClientResponse) -> Any:
    content = await response.read()
    is_good = 200 <= response.status < 300
    if is_good and not content:
        return None
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise _foreign(response.status) from error
    if is_good:
        return answer
    if not isinstance(answer, dict):
        raise _foreign(response.status)
    raise ReflashError.from_problem(response.status, answer)


def _foreign(status: int | None = None) -> ReflashError:
    return ReflashError(
        "what answers there is not a Reflash server", status=status, type="not-reflash", next_step="check the address"
    )


def _unreachable(error: Exception) -> ReflashUnreachable:
    if isinstance(error, TimeoutError):
        return ReflashUnreachable("the server does not answer in time", type="timeout")
    return ReflashUnreachable(f"the server cannot be reached: {error}", type="unreachable")
