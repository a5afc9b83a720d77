"""The client, against the real server and against what is none."""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from server import House, image

from custom_components.ir_remote_ota.client import (
    Device,
    Event,
    EventReader,
    ReflashAuthError,
    ReflashClient,
    ReflashError,
    ReflashUnreachable,
    Rollout,
)
from custom_components.ir_remote_ota.client.events import MAX_LINE_BYTES


async def test_every_question_of_a_viewer_is_answered(two: House) -> None:
    client = two.client
    server = await client.server()
    assert len(server.id) == 32
    assert server.api == 1
    assert not server.managed
    assert server.firmware_path == str(two.firmware_path)
    assert (await client.whoami()).role == "admin"
    devices = await client.devices()
    assert {device.name for device in devices} == {"Living Room IR", "Bedroom IR"}
    assert await client.device(devices[0].id) == devices[0]
    assert devices[0].n_restarts == 0
    assert (await client.firmware()).firmware == ()
    assert await client.rollouts() == []
    assert await client.windows() == []
    assert (await client.stats()).n_enrolled == 2
    assert "scan_interval_s" in await client.settings()


async def test_a_device_is_changed_by_its_owner(two: House) -> None:
    client = two.client
    key = (await two.device("Living Room IR")).id
    assert (await client.patch_device(key, {"tags": ["a"]})).tags == ("a",)
    assert (await client.pin(key, "1.0")).pinned == "1.0"
    assert (await client.pin(key, None)).pinned is None
    assert (await client.skip(key, "9.9")).skipped == ("9.9",)
    assert (await client.skip(key, "9.8")).skipped == ("9.9", "9.8")
    assert (await client.unskip(key, "9.9")).skipped == ("9.8",)
    assert (await client.skip(key, None)).skipped == ()
    assert (await client.ota(key, False)).ota_wanted is False
    await client.set_password(key, "of its own")
    await client.set_password(key, None)
    await client.enroll([key])
    with pytest.raises(ReflashError) as caught:
        await client.remove_device(key)
    assert caught.value.status == 409
    with pytest.raises(ReflashError, match="network"):
        await client.scan()


async def test_firmware_is_brought_approved_and_told(two: House, tmp_path: Path) -> None:
    client = two.client
    content = image("2.0.0")
    brought = await client.upload("mini_v2.0.0.bin", content)
    assert (brought.sha256, brought.name) == (hashlib.sha256(content).hexdigest(), "2.0.0")
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    assert (await client.upload("mini_v2.0.0.bin", path)).sha256 == brought.sha256
    assert await client.image("2.0.0") == await client.approve(brought.sha256)
    assert await client.notes(brought.sha256) is None
    assert await client.check_firmware() == []


async def test_rollouts_are_planned_begun_once_and_steered(two: House) -> None:
    client = two.client
    await client.upload("mini_v2.0.0.bin", image("2.0.0"))
    plan = await client.plan({"all": True})
    assert {member.name for member in plan.members} == {"Living Room IR", "Bedroom IR"}
    assert plan.sentences
    assert plan.estimate_s > 0
    begun = await client.rollout({"all": True}, "key")
    assert (await client.rollout({"all": True}, "key")).id == begun.id
    assert (await client.pause(begun.id)).state == "paused"
    assert (await client.resume(begun.id)).state in {"running", "finished"}
    ended = await client.abort(begun.id)
    async with asyncio.timeout(20):
        while ended.is_open or not all(member.has_ended for member in ended.members):
            await asyncio.sleep(0.1)
            ended = await client.rollout_of(begun.id)
    assert len(await client.rollouts()) == 1
    job = next(member.job for member in ended.members if member.job is not None)
    assert (await client.job(job)).device in {member.device for member in ended.members}


async def test_windows_and_settings_are_kept_by_the_server(two: House) -> None:
    client = two.client
    window = await client.put_window("night", {"start": "02:00", "duration": "3h"})
    assert (window.name, window.duration_s) == ("night", 10800)
    assert [one.name for one in await client.windows()] == ["night"]
    await client.remove_window("night")
    assert await client.windows() == []
    assert (await client.patch_settings({"scan_interval_s": 600}))["scan_interval_s"] == 600


async def test_what_home_assistant_hands_over(two: House) -> None:
    client = two.client
    with pytest.raises(ReflashError) as caught:
        await client.import_block({"scan_intervall": 3, "devices": [{"name": "no address"}]})
    assert caught.value.status == 422
    assert len(caught.value.problem["mistakes"]) >= 2
    await client.import_block({"scan_interval": 300})
    await client.forget_block()
    await client.shown("entry", [(await two.device("Living Room IR")).id])
    await client.forget_shown("entry")


async def test_a_parent_holds_the_server_by_its_socket(two: House) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(two.data / "reflash.sock"))) as session:
        client = ReflashClient(session, "http://localhost")
        assert (await client.whoami()).raw["source"] == "socket"
        async with client.attach() as said, asyncio.timeout(10):
            assert b'"attached":true' in (await anext(said)).replace(b" ", b"")


async def test_a_wrong_token_is_an_error_of_its_own(two: House) -> None:
    wrong = ReflashClient(two.client._session, two.url, "rfl_wrong")
    with pytest.raises(ReflashAuthError) as caught:
        await wrong.devices()
    assert caught.value.status == 401
    with pytest.raises(ReflashAuthError):
        await anext(wrong.events())


async def test_what_the_server_refuses_comes_with_reason_and_next_step(two: House) -> None:
    with pytest.raises(ReflashError) as caught:
        await two.client.device("nobody")
    error = caught.value
    assert (error.status, type(error)) == (404, ReflashError)
    assert error.detail
    assert error.next_step
    assert error.type
    # A name is one segment of the path, whatever is in it.
    with pytest.raises(ReflashError) as caught:
        await two.client.device("../whoami?x=1#y")
    assert caught.value.status == 404


async def test_events_are_replayed_from_a_number_on(two: House) -> None:
    client = two.client
    stream = client.events(0)
    kinds = []
    async with asyncio.timeout(10):
        async for event in stream:
            kinds.append(event.kind)
            if kinds.count("device.enrolled") == 2:
                break
    await stream.aclose()
    assert kinds[0] == "hello"


async def test_a_server_that_ends_ends_the_stream(two: House) -> None:
    stream = two.client.events()
    assert (await anext(stream)).kind == "hello"
    await two.kill()
    with contextlib.suppress(ReflashUnreachable):
        async with asyncio.timeout(10):
            async for _event in stream:
                pass
    with pytest.raises(ReflashUnreachable):
        await two.client.server()


# What is no server.

type Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[ReflashClient]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as session:
            yield ReflashClient(session, f"http://127.0.0.1:{port}/below/", "secret")
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "<html>"), (200, "[1]"), (200, '"x"'), (404, "<html>"), (500, "[]"), (302, ""), (200, "")],
)
async def test_another_program_is_recognised(socket_enabled: None, status: int, body: str) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers={"Location": "/elsewhere"})

    async with answering(answer) as client:
        for ask in (client.server, client.devices):
            with pytest.raises(ReflashError) as caught:
                await ask()
            assert caught.value.type == "not-reflash"
        with pytest.raises(ReflashError):
            await anext(client.events())


async def test_the_token_goes_nowhere_else(socket_enabled: None) -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("Authorization")))
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/elsewhere")

    async with answering(answer) as client:
        with pytest.raises(ReflashError):
            await client.server()
    assert seen == [("/below/api/v1/server", "Bearer secret")]


async def test_problems_are_read_whatever_is_missing_in_them(socket_enabled: None) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"type": 3, "next_step": 4}, status=418)

    async with answering(answer) as client:
        with pytest.raises(ReflashError) as caught:
            await client.server()
    assert (caught.value.type, caught.value.next_step, caught.value.status) == (None, None, 418)
    assert "418" in str(caught.value)


async def test_a_stream_that_is_none_is_an_error(socket_enabled: None) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="data: nonsense\n\n", content_type="text/event-stream")

    async with answering(answer) as client:
        with pytest.raises(ReflashError):
            await anext(client.events())

    async def nothing(_request: web.Request) -> web.Response:
        return web.Response(status=204)

    async with answering(nothing) as client:
        with pytest.raises(ReflashError) as caught:
            await anext(client.events())
        assert caught.value.type == "not-reflash"


async def test_silence_is_not_waited_out(socket_enabled: None) -> None:
    over = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    async with answering(answer) as client:
        with pytest.raises(ReflashUnreachable) as caught:
            await client._ask("GET", "server", timeout_s=0.2)
        over.set()
    assert caught.value.type == "timeout"


async def test_nobody_there(socket_enabled: None) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with aiohttp.ClientSession() as session:
            client = ReflashClient(session, f"http://127.0.0.1:{held.getsockname()[1]}")
            with pytest.raises(ReflashUnreachable) as caught:
                await client.server()
    assert caught.value.type == "unreachable"


# Reading.


def test_events_are_read_however_they_are_cut() -> None:
    stream = (
        b'retry: 3000\nevent: hello\ndata: {"last":41}\n\n: alive\n\n'
        b'id: 42\r\ndata: {"seq":42,"at_ms":5,"kind":"device.online",\r\ndata: "device":"a","detail":{"x":1}}\r\n\r\n'
        b"event: message\n\n"
    )
    expected = [
        Event(seq=0, at_ms=0, kind="hello", device=None, detail={"last": 41}),
        Event(seq=42, at_ms=5, kind="device.online", device="a", detail={"x": 1}),
    ]
    assert EventReader().feed(stream) == expected
    for cut in range(len(stream)):
        reader = EventReader()
        assert reader.feed(stream[:cut]) + reader.feed(stream[cut:]) == expected


@pytest.mark.parametrize("stream", [b"data: [1]\n\n", b"data: {\n\n", b"x" * (MAX_LINE_BYTES + 1)])
def test_what_is_no_event_stream_is_refused(stream: bytes) -> None:
    with pytest.raises(ValueError):
        EventReader().feed(stream)


def test_odd_values_harm_only_themselves() -> None:
    odd: dict[str, Any] = {
        "id": "a", "name": 5, "uptime_s": "long", "free_heap_bytes": True, "skipped": [1, "x"],
        "versions": {"a": 1, "b": "2"},
        "installed": "1.0", "latest": {"sha256": "00"}, "warnings": ["x", {"rule": "r", "text": "t"}], "job": [],
        "ota_wanted": "yes", "enrolled": 1,
    }  # fmt: skip
    device = Device.read(odd)
    assert (device.name, device.uptime_s, device.free_heap_bytes, device.skipped) == ("", None, None, ("x",))
    assert (device.versions, device.installed, device.job, device.ota_wanted) == ({"b": "2"}, None, None, None)
    assert device.latest is not None
    assert device.latest.sha256 == "00"
    assert [warning.rule for warning in device.warnings] == ["r"]
    assert not device.enrolled
    assert not device.is_online
    assert device.can_install
    rollout = Rollout.read({"members": 5, "counts": {"a": "x", "b": 2}, "cause": "x"})
    assert (rollout.members, rollout.counts, rollout.cause) == ((), {"b": 2}, None)
    assert rollout.member("a") is None
    assert not rollout.is_open
