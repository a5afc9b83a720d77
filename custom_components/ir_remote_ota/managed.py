"""The server that this integration runs itself: one process to one folder, adopted where it runs already."""

import asyncio
import json
import logging
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
from homeassistant.const import EVENT_HOMEASSISTANT_STOP
from homeassistant.core import CALLBACK_TYPE, Event, HomeAssistant
from homeassistant.util.hass_dict import HassKey

from .client import ReflashClient, ReflashError
from .const import DOMAIN
from .program import NoProgramError, async_find_program

_LOGGER = logging.getLogger(__name__)

DATA_MANAGED: Final[HassKey[ManagedServer]] = HassKey(f"{DOMAIN}_managed")

SOCKET: Final = "reflash.sock"
"""The name of the server's socket in its folder (docs/guide/server.md, Folder)."""
LOG: Final = "managed.log"
"""What the server says to standard error.

It is a file and no pipe: the server may outlive us by the push that it finishes, and must still be able to speak.
"""
LOG_MAX_BYTES: Final = 1 << 20

READY_S: Final = 30.0
"""How long a start may take: the database is checked, and firmware is listed. go2rtc gets as long from core."""
START_S: Final = 30.0
"""How long a start may be tried again, so that a server which is just ending can leave its folder.

One that finishes an update may take longer: Home Assistant tries again by itself then."""
END_S: Final = 5.0
"""How long we wait for the end of a server without work; the server gives running requests five seconds."""
BACK_OFF_FIRST_S: Final = 1.0
BACK_OFF_MAX_S: Final = 60.0
STEADY_S: Final = 60.0
"""A server that has run for so long begins again with the shortest wait. Guess."""
LOOK_S: Final = 10.0
"""How often a server that cannot be held is asked whether it is still there."""


class ManagedError(Exception):
    """The server could not be started; `key` is one of the translated reasons, `detail` what it said itself."""

    def __init__(self, key: str, detail: str = "") -> None:
        """Keep both."""
        super().__init__(detail or key)
        self.key = key
        self.detail = detail


class ManagedServer:
    """A server that is kept running for as long as anybody here uses it."""

    def __init__(self, hass: HomeAssistant, folder: Path) -> None:
        """Prepare; nothing is started yet."""
        self.hass = hass
        self.folder = folder
        self.pid: int | None = None
        self.n_starts = 0
        self.adopted = False
        self._n_users = 0
        self._lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._unsubscribe: CALLBACK_TYPE | None = None

    @property
    def socket(self) -> Path:
        """Return where it is spoken to."""
        return self.folder / SOCKET

    @property
    def client(self) -> ReflashClient:
        """Return a client; it works again by itself after the server was started again."""
        if self._session is None or self._session.closed:
            connector = aiohttp.UnixConnector(path=str(self.socket))
            self._session = aiohttp.ClientSession(connector=connector)
        return ReflashClient(self._session, "http://localhost", None)

    async def async_use(self) -> ReflashClient:
        """Begin to use it, starting it if need be; ManagedError where that fails."""
        async with self._lock:
            if self._keeper is None or self._keeper.done():
                await self._async_start()
            self._n_users += 1
            return self.client

    async def async_leave(self) -> None:
        """Use it no longer; with its last user it ends, as soon as what it writes is written."""
        async with self._lock:
            self._n_users -= 1
            if self._n_users <= 0:
                self._n_users = 0
                await self._async_end()

    async def _async_start(self) -> None:
        await self.hass.async_add_executor_job(_make_folder, self.folder)
        hold = await self._async_begin()
        self._keeper = self.hass.async_create_background_task(self._async_keep(hold), "reflash server")
        self._unsubscribe = self.hass.bus.async_listen_once(EVENT_HOMEASSISTANT_STOP, self._async_on_stop)

    async def _async_on_stop(self, _event: Event) -> None:
        """Hand over: what it writes to a device is written to its end, whether we are here or not."""
        self._unsubscribe = None
        async with self._lock:
            self._n_users = 0
            await self._async_end()

    async def _async_end(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        process, self._process = self._process, None
        if process is not None:
            # The end of its standard input, and not a signal, is what tells it: it finishes first.
            _close(process)
            if not await _async_exit(process, END_S):
                _LOGGER.info("The server (process %s) finishes an update, and ends by itself after that", process.pid)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _async_begin(self) -> _Hold:
        """Adopt the server of this folder, or start one."""
        deadline = time.monotonic() + START_S
        while True:
            if (attached := await self._async_adopt()) is not None:
                return attached
            try:
                return await self._async_spawn()
            except ManagedError as error:
                # One that is just ending still has the folder, and one that has just begun is not ready yet.
                if error.key != "folder_in_use" or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(BACK_OFF_FIRST_S)

    async def _async_adopt(self) -> _Hold | None:
        """Take over the server that runs on this folder, if there is one."""
        if not await self.hass.async_add_executor_job(self.socket.is_socket):
            return None
        try:
            server = await self.client.server()
        except ReflashError:
            # Nobody listens any more, or it is ending.
            return None
        pid = server.raw.get("pid")
        hold = _Attached(self)
        if server.managed and not await hold.async_open():
            return None
        self.pid = pid if isinstance(pid, int) else None
        self.adopted = True
        _LOGGER.debug("Took over the server that runs already (process %s)", self.pid)
        return hold

    async def _async_spawn(self) -> _Hold:
        try:
            program = await async_find_program(self.hass)
        except NoProgramError as error:
            raise ManagedError("no_program") from error
        try:
            process = await self.hass.async_add_executor_job(_spawn, program, self.folder)
        except OSError as error:
            raise ManagedError("start_failed", str(error)) from error
        try:
            async with asyncio.timeout(READY_S):
                line = await _async_first_line(self.hass, process)
            ready = _ready(line)
        except TimeoutError as error:
            _end_at_once(process)
            raise ManagedError("start_failed", f"{program} was not ready within {READY_S:.0f} s") from error
        except BaseException:
            _close(process)
            raise
        if ready is None:
            _close(process)
            await _async_exit(process, END_S)
            said = await self.hass.async_add_executor_job(_last_words, self.folder)
            key = "folder_in_use" if "at work in this folder" in said else "start_failed"
            raise ManagedError(key, said)
        self._process = process
        self.pid = process.pid
        self.adopted = False
        self.n_starts += 1
        _LOGGER.debug("Started %s %s (process %s)", program, ready.get("version"), process.pid)
        return _Child(process)

    async def _async_keep(self, hold: _Hold) -> None:
        """Keep it running: begin anew whenever it has ended, ever more slowly while it keeps ending."""
        back_off_s = BACK_OFF_FIRST_S
        while True:
            since = time.monotonic()
            try:
                await hold.async_ended()
            finally:
                hold.close()
            if time.monotonic() - since > STEADY_S:
                back_off_s = BACK_OFF_FIRST_S
            self.pid = None
            said = await self.hass.async_add_executor_job(_last_words, self.folder)
            _LOGGER.warning("The server has ended, and is started again in %.0f s: %s", back_off_s, said)
            hold, back_off_s = await self._async_begin_again(back_off_s)

    async def _async_begin_again(self, back_off_s: float) -> tuple[_Hold, float]:
        while True:
            await asyncio.sleep(back_off_s)
            back_off_s = min(back_off_s * 2, BACK_OFF_MAX_S)
            try:
                return await self._async_begin(), back_off_s
            except ManagedError as error:
                _LOGGER.warning("The server does not start, and is tried again in %.0f s: %s", back_off_s, error)


class _Hold(Protocol):
    """What tells that a server is still there, and keeps it there."""

    async def async_ended(self) -> None:
        """Return once it is gone."""

    def close(self) -> None:
        """Let go."""


class _Child:
    """A server that we started: it is held by its standard input."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    async def async_ended(self) -> None:
        await async_wait(self._process)

    def close(self) -> None:
        """Leave its standard input open: whoever ends it closes that."""


class _Attached:
    """A server that somebody else started, such as we before a restart: it is held by a stream."""

    def __init__(self, server: ManagedServer) -> None:
        self._client = server.client
        self._hass = server.hass
        self._is_attached = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def async_open(self) -> bool:
        """Take hold; False where the server lets nobody."""
        self._task = self._hass.async_create_background_task(self._async_hold(), "reflash server, attached")
        attached = self._hass.async_create_background_task(self._is_attached.wait(), "reflash server, attaching")
        await asyncio.wait([self._task, attached], return_when=asyncio.FIRST_COMPLETED)
        attached.cancel()
        return self._is_attached.is_set()

    async def _async_hold(self) -> None:
        with suppress(ReflashError):
            async with self._client.attach() as lines:
                async for _ in lines:
                    self._is_attached.set()

    async def async_ended(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])
        while self._task is None:
            # Somebody runs it on his own account, and it is not ours to hold.
            await asyncio.sleep(LOOK_S)
            try:
                await self._client.server()
            except ReflashError:
                return

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


def async_managed(hass: HomeAssistant) -> ManagedServer:
    """Return the server that this Home Assistant runs itself; there is one, started when it is first used."""
    if DATA_MANAGED not in hass.data:
        hass.data[DATA_MANAGED] = ManagedServer(hass, managed_folder(hass))
    return hass.data[DATA_MANAGED]


def managed_folder(hass: HomeAssistant) -> Path:
    """Return where such a server keeps its data: in the configuration, the only place that lasts in a container."""
    return Path(hass.config.path(".storage", DOMAIN))


async def async_wait(process: subprocess.Popen[bytes]) -> None:
    """Return once a process has ended.

    It is no process of asyncio's, which kills its processes when its loop is closed: one that is writing to a device
    has to survive us.
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except AttributeError, OSError:
        while process.poll() is None:  # noqa: ASYNC110 - no event tells it here
            await asyncio.sleep(1)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    process.poll()


async def _async_exit(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for the end of a process; returns whether it has come."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await async_wait(process)
    return process.poll() is not None


async def _async_first_line(hass: HomeAssistant, process: subprocess.Popen[bytes]) -> bytes:
    """Return the first line of its standard output; empty where it ends without one."""
    reader = asyncio.StreamReader()
    transport, _ = await hass.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    try:
        return await reader.readline()
    finally:
        # It says one line there, and nothing after that.
        transport.close()


def _ready(line: bytes) -> dict[str, Any] | None:
    """Return what a server tells that is ready; None for any other line."""
    if not line.startswith(b"READY "):
        return None
    try:
        ready = json.loads(line.removeprefix(b"READY "))
    except ValueError:
        return None
    return ready if isinstance(ready, dict) else None


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _spawn(program: Path, folder: Path) -> subprocess.Popen[bytes]:
    log = folder / LOG
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
        flags |= os.O_TRUNC
    stderr = os.open(log, flags, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - our own program, without anybody's words
            [program, "serve", "--managed", "--data", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
            # A Ctrl-C on our terminal is for us; it ends with its standard input.
            start_new_session=True,
        )
    finally:
        os.close(stderr)


def _last_words(folder: Path, n_lines: int = 3) -> str:
    """Return the end of what it has said, for the one who has to mend it."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2048))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return " ".join(line.strip() for line in lines[-n_lines:] if line.strip())


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close the standard input by which it is held, and what is left of its output."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _end_at_once(process: subprocess.Popen[bytes]) -> None:
    """End a server that never got ready, and has therefore begun nothing."""
    _close(process)
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
