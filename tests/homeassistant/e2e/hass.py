"""A real Home Assistant, and a client for its REST and WebSocket interfaces."""

import asyncio
import itertools
import json
import os
import pathlib
import re
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = HERE.parent
ROOT = SCRIPTS.parent.parent
INSTALLED = pathlib.Path(os.environ.get("HOME_ASSISTANT_FOLDER", ROOT / "target" / "homeassistant")).resolve()
DOMAIN = "ir_remote_ota"
type State = dict[str, Any]


class ActionError(Exception):
    """An action, a flow or a command that Home Assistant refused."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("message", ""))
        self.code = error.get("code")
        self.error = error


async def until[T](what: str, look: Callable[[], T | Awaitable[T]], patience_s: float = 30, every_s: float = 0.1) -> T:
    """Waits until `look` gives something true, and returns it."""
    deadline = time.monotonic() + patience_s
    while True:
        seen = look()
        if isinstance(seen, Awaitable):
            seen = await seen
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience_s:.0f} s in vain: {what}")
        await asyncio.sleep(every_s)


class HomeAssistant:
    """One instance over a folder of its own."""

    def __init__(self, folder: pathlib.Path, *, language: str = "en", port: int = 18123) -> None:
        self.folder = folder
        self.language = language
        self.port = port
        self.base = f"http://127.0.0.1:{port}"
        self.environment = dict(os.environ, HA_PORT=str(port))
        self.token: str | None = None
        self.session_tokens: dict[str, Any] = {}
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._pump: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []

    # Its life

    async def start(self) -> None:
        """Starts it, onboards it the first time, and connects."""
        process = await asyncio.create_subprocess_exec(
            SCRIPTS / "start.sh",
            INSTALLED,
            self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
        if self.token is None:
            await self._onboard()
        await self.connect()
        await until("Home Assistant runs", self._runs, 60)

    async def _runs(self) -> bool:
        status, body = await self.request("GET", "/api/config")
        return status == 200 and body["state"] == "RUNNING"

    async def stop(self) -> None:
        """Ends it as its user would."""
        await self.disconnect()
        process = await asyncio.create_subprocess_exec(SCRIPTS / "stop.sh", self.folder)
        assert await process.wait() == 0

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        await self.disconnect()
        os.kill(self.pid, signal.SIGKILL)
        await until("it is gone", lambda: not pathlib.Path(f"/proc/{self.pid}/exe").exists(), 10)

    @property
    def pid(self) -> int:
        return int((self.folder / "hass.pid").read_text())

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def _onboard(self) -> None:
        client = self.base + "/"
        async with aiohttp.ClientSession() as session:
            owner = {
                "client_id": client,
                "name": "Test",
                "username": "test",
                "password": "test-pass-1",
                "language": self.language,
            }
            async with session.post(self.base + "/api/onboarding/users", json=owner) as answer:
                assert answer.status == 200, await answer.text()
                code = (await answer.json())["auth_code"]
            grant = {"client_id": client, "grant_type": "authorization_code", "code": code}
            async with session.post(self.base + "/auth/token", data=grant) as answer:
                assert answer.status == 200, await answer.text()
                self.session_tokens = await answer.json()
            headers = {"Authorization": "Bearer " + self.session_tokens["access_token"]}
            for step, body in (
                ("core_config", {}),
                ("analytics", {}),
                ("integration", {"client_id": client, "redirect_uri": client}),
            ):
                async with session.post(f"{self.base}/api/onboarding/{step}", json=body, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
        self.token = self.session_tokens["access_token"]
        await self.connect()
        self.token = await self.command("auth/long_lived_access_token", client_name="tests", lifespan=365)
        await self.command("config/core/update", language=self.language)
        await self.command("frontend/set_user_data", key="language", value={"language": self.language})
        await self.disconnect()

    async def connect(self) -> None:
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.token}"})
        self._socket = await self._session.ws_connect(
            self.base.replace("http", "ws") + "/api/websocket", max_msg_size=0
        )
        await self._socket.receive_json()
        await self._socket.send_json({"type": "auth", "access_token": self.token})
        assert (await self._socket.receive_json())["type"] == "auth_ok"
        self._pump = asyncio.create_task(self._read(self._socket))

    async def disconnect(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        if self._socket is not None:
            await self._socket.close()
        if self._session is not None:
            await self._session.close()
        self._pump = self._socket = self._session = None
        self._forget_waiting()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            told = json.loads(message.data)
            for line in told if isinstance(told, list) else [told]:
                if line["type"] == "event":
                    self.events.append(line["event"])
                elif (waiting := self._waiting.pop(line["id"], None)) and not waiting.done():
                    waiting.set_result(line)
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        """Nobody answers any more what was asked over a connection that is gone."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("Home Assistant has hung up"))
        self._waiting.clear()

    # What is asked of it

    async def command(self, kind: str, patience_s: float = 120, **words: Any) -> Any:
        """One command of the WebSocket."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._socket is not None
        await self._socket.send_json({"id": number, "type": kind, **words})
        answer = await asyncio.wait_for(waiting, patience_s)
        if not answer.get("success", True):
            raise ActionError(answer["error"])
        return answer.get("result")

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        assert self._session is not None
        async with self._session.request(method, self.base + path, json=body) as answer:
            text = await answer.text()
            try:
                return answer.status, json.loads(text)
            except ValueError:
                return answer.status, text

    async def action(self, name: str, *, respond: bool = False, target: Any = None, **words: Any) -> Any:
        """Runs an action, waits for its end, and gives its response."""
        domain, service = name.split(".")
        more = {"target": target} if target else {}
        result = await self.command(
            "call_service", domain=domain, service=service, service_data=words, return_response=respond, **more
        )
        return result["response"] if respond else None

    async def states(self) -> dict[str, State]:
        _, states = await self.request("GET", "/api/states")
        return {state["entity_id"]: state for state in states}

    async def state(self, entity: str) -> State | None:
        status, state = await self.request("GET", f"/api/states/{entity}")
        return state if status == 200 else None

    async def sees(self, entity: str, wanted: str | Callable[[State], Any], patience_s: float = 30) -> State:
        """Waits until an entity is in this state."""
        last: State | None = None

        async def look() -> State | None:
            nonlocal last
            last = await self.state(entity)
            if last is None:
                return None
            return last if (wanted(last) if callable(wanted) else last["state"] == wanted) else None

        try:
            return await until(f"{entity} is as wanted", look, patience_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {json.dumps(last)}") from None

    async def template(self, text: str) -> str:
        status, answer = await self.request("POST", "/api/template", {"template": text})
        assert status == 200, answer
        return str(answer)

    async def listen(self, kind: str) -> None:
        """From now on such events come into `events`."""
        await self.command("subscribe_events", event_type=kind)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("event_type") == kind]

    def course(self, entity: str) -> list[tuple[str, str | None, bool | None, float | None]]:
        """An update entity since `listen("state_changed")`: each state, what is installed, in progress, percent."""
        states = [
            told["data"]["new_state"] for told in self.told("state_changed") if told["data"]["entity_id"] == entity
        ]
        words = ("installed_version", "in_progress", "update_percentage")
        return [(state["state"], *(state["attributes"].get(word) for word in words)) for state in states if state]

    # Entries, devices

    async def flow(self, handler: str, *steps: dict[str, Any]) -> dict[str, Any]:
        """A flow as its user goes through it; gives what its last step answered."""
        status, answer = await self.request(
            "POST", "/api/config/config_entries/flow", {"handler": handler, "show_advanced_options": True}
        )
        assert status == 200, (status, answer)
        for step in steps:
            answer = await self.step(answer["flow_id"], step)
        return answer

    async def step(self, flow: str, words: dict[str, Any]) -> dict[str, Any]:
        status, answer = await self.request("POST", f"/api/config/config_entries/flow/{flow}", words)
        assert status == 200, (status, answer)
        # While a server is started the flow shows that it works.
        while answer.get("type") in ("progress", "progress_done"):
            await asyncio.sleep(0.2)
            _, answer = await self.request("GET", f"/api/config/config_entries/flow/{flow}")
        return answer

    async def entries(self, domain: str = DOMAIN) -> list[dict[str, Any]]:
        _, entries = await self.request("GET", f"/api/config/config_entries/entry?domain={domain}")
        return entries

    async def devices(self) -> dict[str, dict[str, Any]]:
        """The devices of the integration, by name."""
        entries = {entry["entry_id"] for entry in await self.entries()}
        found = await self.command("config/device_registry/list")
        return {
            device["name"]: device
            for device in found
            if device.get("config_entry_id") in entries or entries & set(device.get("config_entries", []))
        }

    def log(self) -> list[str]:
        """What it has logged since its last start."""
        return (self.folder / "hass.log").read_text(errors="replace").splitlines()

    def complaints(self) -> list[str]:
        """Warnings and errors of the integration, or about it."""
        about = re.compile(r" (WARNING|ERROR|CRITICAL) .*(custom_components\.)?ir_remote_ota")
        harmless = "We found a custom integration"
        return [line for line in self.log() if about.search(line) and harmless not in line]
