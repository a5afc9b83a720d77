"""The server that Home Assistant runs itself: started once, adopted, started again, handed over, never orphaned."""

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from unittest.mock import AsyncMock, patch

import pytest
import pytest_socket
from homeassistant.const import EVENT_HOMEASSISTANT_STOP
from homeassistant.core import HomeAssistant
from homeassistant.requirements import RequirementsNotFound
from server import House, image

from custom_components.ir_remote_ota import managed, program
from custom_components.ir_remote_ota.client import ReflashError
from custom_components.ir_remote_ota.managed import LOG, ManagedError, ManagedServer, async_managed, managed_folder
from custom_components.ir_remote_ota.program import NoProgramError, async_find_program, find_program

PROGRAM = Path(os.environ.get("REFLASH", "reflash")).resolve()


async def until(what: str, is_so: Callable[[], bool | Awaitable[bool]], timeout_s: float = 20) -> None:
    """Wait for something to come about."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = is_so()
        if answer if isinstance(answer, bool) else await answer:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"not within {timeout_s} s: {what}")


def is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short, as a socket's has to be."""
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def sockets() -> None:
    """A server of our own is spoken to through its socket."""
    pytest_socket.socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "BACK_OFF_FIRST_S", 0.1)
    monkeypatch.setattr(managed, "LOOK_S", 0.1)


@pytest.fixture(autouse=True)
def the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program under test is found first of all."""
    monkeypatch.setattr(program, "program_folders", lambda: [PROGRAM.parent])


@pytest.fixture
async def server(hass: HomeAssistant, folder: Path) -> AsyncIterator[ManagedServer]:
    server = ManagedServer(hass, folder)
    yield server
    while server._n_users:
        await server.async_leave()
    await server.async_leave()


async def test_it_is_started_and_answers(server: ManagedServer, folder: Path) -> None:
    client = await server.async_use()
    told = await client.server()
    assert told.managed
    assert told.raw["pid"] == server.pid
    assert not server.adopted
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / LOG).stat().st_mode) == 0o600


async def test_a_folder_that_others_could_enter_is_closed(server: ManagedServer, folder: Path) -> None:
    folder.mkdir(mode=0o755, parents=True)
    folder.chmod(0o755)
    await server.async_use()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_it_ends_with_its_last_user_and_not_before(server: ManagedServer) -> None:
    await server.async_use()
    await server.async_use()
    pid = server.pid
    assert server.n_starts == 1
    await server.async_leave()
    assert is_alive(pid)
    await server.async_leave()
    assert not is_alive(pid)


async def test_it_is_started_again_after_its_last_user(server: ManagedServer) -> None:
    await server.async_use()
    first = server.pid
    await server.async_leave()
    client = await server.async_use()
    assert (await client.server()).raw["pid"] == server.pid
    assert server.pid != first


async def test_a_killed_one_is_started_again(server: ManagedServer) -> None:
    client = await server.async_use()
    before, identity = server.pid, (await client.server()).id
    assert before is not None
    os.kill(before, signal.SIGKILL)
    await until("another one runs", lambda: server.pid not in (None, before))
    # The very client that was handed out reaches it.
    assert (await client.server()).id == identity
    assert server.n_starts == 2


async def test_one_that_keeps_ending_is_started_ever_more_slowly(
    server: ManagedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    begin = server._async_begin_again

    async def slowly(back_off_s: float) -> tuple[managed._Hold, float]:
        waits.append(back_off_s)
        hold, _ = await begin(0.01)
        return hold, back_off_s * 2

    monkeypatch.setattr(server, "_async_begin_again", slowly)
    await server.async_use()
    for n_starts in (2, 3, 4):
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(
            "another one runs", lambda n_starts=n_starts: server.n_starts == n_starts and server.pid is not None
        )
    assert waits == pytest.approx([0.1, 0.2, 0.4])


async def test_one_that_does_not_start_again_is_tried_again(
    server: ManagedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.async_use()
    pid = server.pid
    assert pid is not None
    n_tries = 0

    async def nothing(_hass: HomeAssistant) -> Path:
        nonlocal n_tries
        n_tries += 1
        if n_tries < 3:
            raise NoProgramError
        return PROGRAM

    monkeypatch.setattr(managed, "async_find_program", nothing)
    os.kill(pid, signal.SIGKILL)
    await until("another one runs", lambda: server.n_starts == 2)
    assert n_tries == 3


async def test_a_second_parent_adopts_it_and_there_are_never_two(
    hass: HomeAssistant, server: ManagedServer, folder: Path
) -> None:
    await server.async_use()
    pid = server.pid
    second = ManagedServer(hass, folder)
    client = await second.async_use()
    assert second.adopted
    assert second.n_starts == 0
    assert second.pid == pid
    await server.async_leave()
    # Its first parent has gone, and it stays for the second.
    assert is_alive(pid)
    assert (await client.server()).raw["pid"] == pid
    await second.async_leave()
    await until("it has ended", lambda: not is_alive(pid), 30)


async def test_an_adopted_one_that_is_killed_is_replaced(
    hass: HomeAssistant, server: ManagedServer, folder: Path
) -> None:
    await server.async_use()
    pid = server.pid
    assert pid is not None
    second = ManagedServer(hass, folder)
    client = await second.async_use()
    # The first parent is gone, as a killed Home Assistant is.
    keeper = server._keeper
    assert keeper is not None
    keeper.cancel()
    os.kill(pid, signal.SIGKILL)
    await until("another one runs", lambda: second.pid not in (None, pid))
    assert (await client.server()).raw["pid"] == second.pid
    await second.async_leave()


async def test_one_that_somebody_runs_himself_is_used_and_left_alone(
    hass: HomeAssistant, server: ManagedServer, folder: Path
) -> None:
    folder.mkdir(mode=0o700, parents=True)
    process = await asyncio.create_subprocess_exec(
        PROGRAM, "serve", "--data", folder, "--listen", "127.0.0.1:0",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await until("it listens", (folder / "reflash.sock").exists)
        await server.async_use()
        assert server.adopted
        assert server.pid == process.pid
        await server.async_leave()
        assert is_alive(process.pid)
        # When it ends, ours takes its place.
        await server.async_use()
        process.terminate()
        await process.wait()
        await until("ours runs", lambda: server.n_starts == 1)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_home_assistants_end_ends_it(hass: HomeAssistant, server: ManagedServer) -> None:
    await server.async_use()
    await server.async_use()
    pid = server.pid
    hass.bus.async_fire(EVENT_HOMEASSISTANT_STOP)
    await hass.async_block_till_done()
    await until("it has ended", lambda: not is_alive(pid))


async def test_a_push_outlives_home_assistants_end(
    hass: HomeAssistant, server: ManagedServer, folder: Path, home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being written to a device is written to its end, once, and the next parent finds it so."""
    remote = await home.remote("Living Room IR", "--rate", "40000")
    folder.mkdir(mode=0o700, parents=True)
    (folder / "reflash.yaml").write_text(home.configuration())
    (folder / "reflash.yaml").chmod(0o600)
    client = await server.async_use()
    pid = server.pid

    async def is_online() -> bool:
        return any(device.is_online for device in await client.devices())

    await until("the device is online", is_online)
    brought = await client.upload("mini_v2.0.0.bin", image("2.0.0", 200_000))
    rollout = await client.rollout({"all": True}, key="one")
    await until("it is being written", lambda: bool(remote.events("receiving")))
    monkeypatch.setattr(managed, "END_S", 0.5)
    hass.bus.async_fire(EVENT_HOMEASSISTANT_STOP)
    await hass.async_block_till_done(wait_background_tasks=True)
    assert is_alive(pid)
    assert not remote.events("received")
    # The next start of Home Assistant takes it over, or waits for its end and goes on from there.
    second = ManagedServer(hass, folder)
    client = await second.async_use()
    try:
        assert second.pid == pid or not is_alive(pid)

        async def is_over() -> bool:
            return not (await client.rollout_of(rollout.id)).is_open

        await until("it is over", is_over)
        assert (await client.rollout_of(rollout.id)).members[0].state == "updated"
        assert [event["sha256"] for event in remote.events("received")] == [brought.sha256]
    finally:
        await second.async_leave()


async def test_without_a_program_it_says_so(server: ManagedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "program_folders", list)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ManagedError) as caught:
        await server.async_use()
    assert caught.value.key == "no_program"


def write_program(folder: Path, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "reflash"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    return made


OURS = 'if [ "$1" = --version ]; then echo reflash 0.1.0; exit; fi\n'


async def test_one_that_ends_at_once_is_told_with_its_last_words(
    server: ManagedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path, OURS + "echo 'secret.key is no key of this program' >&2; exit 1")
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path])
    with pytest.raises(ManagedError) as caught:
        await server.async_use()
    assert caught.value.key == "start_failed"
    assert "is no key of this program" in caught.value.detail


async def test_one_that_never_gets_ready_is_ended(
    server: ManagedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path, OURS + f"echo $$ > {tmp_path}/pid; exec sleep 600")
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path])
    monkeypatch.setattr(managed, "READY_S", 0.5)
    with pytest.raises(ManagedError) as caught:
        await server.async_use()
    assert caught.value.key == "start_failed"
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_one_that_says_something_else_is_not_ours(
    server: ManagedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path, OURS + "echo READY for anything")
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path])
    with pytest.raises(ManagedError) as caught:
        await server.async_use()
    assert caught.value.key == "start_failed"


async def test_a_folder_in_use_is_waited_for_and_then_told(
    server: ManagedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(
        tmp_path, OURS + f"echo x >> {tmp_path}/tries; echo 'A server is at work in this folder already' >&2; exit 1"
    )
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path])
    monkeypatch.setattr(managed, "START_S", 0.5)
    with pytest.raises(ManagedError) as caught:
        await server.async_use()
    assert caught.value.key == "folder_in_use"
    assert len((tmp_path / "tries").read_text().split()) > 1


async def test_a_program_that_cannot_be_run_is_told(
    server: ManagedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "async_find_program", AsyncMock(return_value=tmp_path / "missing"))
    with pytest.raises(ManagedError) as caught:
        await server.async_use()
    assert caught.value.key == "start_failed"


async def test_a_socket_that_nobody_listens_at_is_no_server(server: ManagedServer, folder: Path) -> None:
    await server.async_use()
    pid = server.pid
    assert pid is not None
    await server.async_leave()
    # As a kill leaves it.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "reflash.sock"))
    client = await server.async_use()
    assert (await client.server()).raw["pid"] == server.pid
    assert not server.adopted


async def test_a_server_that_lets_nobody_hold_it_is_not_adopted(server: ManagedServer) -> None:
    await server.async_use()
    with patch.object(type(server.client), "attach", side_effect=ReflashError("no")):
        assert await server._async_adopt() is None


async def test_a_log_does_not_grow_for_ever(
    server: ManagedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "LOG_MAX_BYTES", 10)
    folder.mkdir(mode=0o700, parents=True)
    (folder / LOG).write_text("x" * 100_000)
    await server.async_use()
    assert (folder / LOG).stat().st_size < 100_000


def test_a_folder_without_words_has_no_last_ones(tmp_path: Path) -> None:
    assert managed._last_words(tmp_path) == ""


async def test_an_end_is_noticed_where_the_system_has_no_handles_of_processes(
    hass: HomeAssistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_pid: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "pidfd_open", unknown)
    process = subprocess.Popen(["sleep", "0.1"])
    await managed.async_wait(process)
    assert process.returncode == 0


def test_there_is_one_of_it_in_a_home_assistant(hass: HomeAssistant) -> None:
    assert async_managed(hass) is async_managed(hass)
    assert managed_folder(hass) == Path(hass.config.path(".storage", "ir_remote_ota"))


# The program.


def test_a_program_of_that_name_that_is_another_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "beside", "echo flasher 9.9")
    write_program(tmp_path / "path", "exit 3")
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path / "beside"])
    monkeypatch.setenv("PATH", f"{tmp_path}/path:/bin")
    assert find_program() is None


def test_beside_the_interpreter_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = write_program(tmp_path / "beside", "echo reflash 0.1.0")
    path = write_program(tmp_path / "path", "echo reflash 0.1.0")
    monkeypatch.setenv("PATH", f"{tmp_path}/path:/bin")
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path / "beside"])
    assert find_program() == beside
    beside.chmod(0o644)
    assert find_program() == path


def test_wheels_are_looked_for_where_they_put_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(program.site, "ENABLE_USER_SITE", True)
    folders = program.program_folders()
    assert Path(program.sys.executable).parent in folders
    assert len(folders) == 4


async def test_nothing_is_fetched_before_there_is_something_published(
    hass: HomeAssistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "program_folders", list)
    monkeypatch.setenv("PATH", "/nonexistent")
    with patch.object(program, "async_process_requirements") as fetch, pytest.raises(NoProgramError):
        await async_find_program(hass)
    fetch.assert_not_called()


@pytest.mark.parametrize("is_published", [True, False])
async def test_what_is_fetched_runs_only_if_it_is_what_was_published(
    hass: HomeAssistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_published: bool
) -> None:
    script = OURS + f"touch {tmp_path}/was-run"
    expected = hashlib.sha256(f"#!/bin/sh\n{script}\n".encode()).hexdigest() if is_published else "00" * 32
    monkeypatch.setattr(program, "WHEEL_DIGESTS", frozenset({expected}))
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path / "none", tmp_path / "bin"])
    monkeypatch.setenv("PATH", "/nonexistent")

    async def fetch(*_: object, **__: object) -> None:
        write_program(tmp_path / "bin", script)

    with patch.object(program, "async_process_requirements", fetch):
        if is_published:
            assert await async_find_program(hass) == tmp_path / "bin" / "reflash"
        else:
            with pytest.raises(NoProgramError):
                await async_find_program(hass)
    assert not (tmp_path / "was-run").exists()


async def test_a_wheel_that_is_not_to_be_had_is_no_program(
    hass: HomeAssistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "WHEEL_DIGESTS", frozenset({"00"}))
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path])
    monkeypatch.setenv("PATH", "/nonexistent")
    failure = RequirementsNotFound("ir_remote_ota", [program.WHEEL])
    with patch.object(program, "async_process_requirements", side_effect=failure), pytest.raises(NoProgramError):
        await async_find_program(hass)


async def test_a_wheel_without_the_program_is_no_program(
    hass: HomeAssistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "WHEEL_DIGESTS", frozenset({"00"}))
    monkeypatch.setattr(program, "program_folders", lambda: [tmp_path])
    monkeypatch.setenv("PATH", "/nonexistent")
    with patch.object(program, "async_process_requirements"), pytest.raises(NoProgramError):
        await async_find_program(hass)
