"""Setting up: by hand, found, announced and written down; and all that can be wrong with it."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any
from unittest.mock import patch

import pytest
from aiohttp import web
from conftest import SetUp
from homeassistant.config_entries import (
    SOURCE_HASSIO,
    SOURCE_IGNORE,
    SOURCE_IMPORT,
    SOURCE_USER,
    SOURCE_ZEROCONF,
    ConfigEntryState,
    ConfigFlowResult,
)
from homeassistant.core import HomeAssistant
from homeassistant.data_entry_flow import FlowResultType
from homeassistant.helpers import issue_registry as ir
from homeassistant.helpers.service_info.hassio import HassioServiceInfo
from homeassistant.helpers.service_info.zeroconf import ZeroconfServiceInfo
from places import here, nothing_left  # noqa: F401 - fixtures
from pytest_homeassistant_custom_component.common import MockConfigEntry
from server import House
from yarl import URL

from custom_components.ir_remote_ota import config_flow, managed
from custom_components.ir_remote_ota.choice import CONF_LEFT_OUT
from custom_components.ir_remote_ota.client import ReflashClient, ReflashError, Server
from custom_components.ir_remote_ota.config_flow import normal_url
from custom_components.ir_remote_ota.connection import async_fingerprint
from custom_components.ir_remote_ota.const import DOMAIN
from custom_components.ir_remote_ota.managed import async_managed
from custom_components.ir_remote_ota.program import NoProgramError

ID = "0123456789abcdef0123456789abcdef"


pytestmark = pytest.mark.usefixtures("here", "nothing_left")


async def start(hass: HomeAssistant, source: str = SOURCE_USER, data: Any = None) -> ConfigFlowResult:
    return await hass.config_entries.flow.async_init(DOMAIN, context={"source": source}, data=data)


async def go_on(hass: HomeAssistant, flow: ConfigFlowResult, answer: dict[str, Any] | None = None) -> ConfigFlowResult:
    """Answer, and wait until something is to be seen again."""
    flow = await hass.config_entries.flow.async_configure(flow["flow_id"], answer)
    async with asyncio.timeout(60):
        while flow["type"] in (FlowResultType.SHOW_PROGRESS, FlowResultType.SHOW_PROGRESS_DONE):
            await hass.async_block_till_done()
            flow = await hass.config_entries.flow.async_configure(flow["flow_id"])
    return flow


async def choose(hass: HomeAssistant, what: str) -> ConfigFlowResult:
    menu = await start(hass)
    assert menu["type"] is FlowResultType.MENU
    return await go_on(hass, menu, {"next_step_id": what})


async def connect(hass: HomeAssistant, url: str, token: str) -> ConfigFlowResult:
    return await go_on(hass, await choose(hass, "connect"), {"url": url, "token": token})


@pytest.fixture
async def found(home: House) -> House:
    """A server that knows two devices, of which none is enrolled."""
    for number in (1, 2):
        await home.remote(f"Remote {number}", host=number, list_it=False)
    await home.serve()
    for number in (1, 2):
        await home.client.add_device(
            {"host": f"{home.net}.{number}", "family": "ir-remote", "name": f"Remote {number}"}
        )
    for device in await home.client.devices():
        async with home.client._session.delete(
            f"{home.url}/api/v1/devices/{device.id}/enroll", headers={"Authorization": f"Bearer {home.token}"}
        ) as answer:
            assert answer.status < 300, await answer.text()
    return home


@pytest.fixture
async def stranger() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Another web server, and what it answers to whom: a path to (status, body)."""
    answers: dict[str, Any] = {}

    async def answer(request: web.Request) -> web.Response:
        status, body = answers.get(request.path.rpartition("/")[2], (200, "<html>"))
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/html")
        return web.json_response(body, status=status)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    yield f"http://127.0.0.1:{port}", answers
    await runner.cleanup()


def told(**more: Any) -> dict[str, Any]:
    return {"id": ID, "name": "attic", "version": "0.1.0", "api": 1, "managed": False, **more}


# Connecting.


async def test_connecting_ends_with_the_list_of_devices_all_ticked(hass: HomeAssistant, found: House) -> None:
    flow = await connect(hass, found.url, found.token)
    assert (flow["type"], flow["step_id"]) == (FlowResultType.FORM, "devices")
    devices = await found.client.devices()
    ticked = flow["data_schema"]({})["devices"]
    assert set(ticked) == {device.id for device in devices}
    kept = ticked[0]
    flow = await go_on(hass, flow, {"devices": [kept]})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert flow["data"]["url"] == found.url
    assert flow["data"]["server_id"] == flow["result"].unique_id == (await found.client.server()).id
    # What was unticked is not asked about again.
    assert flow["options"] == {CONF_LEFT_OUT: ticked[1:]}
    assert {device.id for device in await found.client.devices() if device.enrolled} == {kept}
    await hass.async_block_till_done()
    assert flow["result"].state is ConfigEntryState.LOADED


async def test_nothing_ticked_enrols_nothing(hass: HomeAssistant, found: House) -> None:
    flow = await go_on(hass, await connect(hass, found.url, found.token), {"devices": []})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert len(flow["options"][CONF_LEFT_OUT]) == 2
    assert not any(device.enrolled for device in await found.client.devices())


async def test_without_new_devices_there_is_nothing_to_tick(hass: HomeAssistant, two: House) -> None:
    flow = await connect(hass, two.url, two.token)
    assert flow["step_id"] == "no_devices"
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY


async def test_a_wrong_token_is_told_and_can_be_mended(hass: HomeAssistant, two: House) -> None:
    flow = await connect(hass, two.url, "rfl_" + "0" * 64)
    assert flow["errors"] == {"base": "invalid_auth"}
    flow = await go_on(hass, flow, {"url": two.url, "token": two.token})
    assert flow["step_id"] == "no_devices"


async def test_a_token_that_may_only_look_is_too_little(hass: HomeAssistant, two: House) -> None:
    flow = await connect(hass, two.url, await token_of(two, "viewer"))
    assert flow["errors"] == {"base": "role_too_small"}


async def test_an_operators_token_will_do_without_the_list(hass: HomeAssistant, found: House) -> None:
    flow = await connect(hass, found.url, await token_of(found, "operator"))
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert not any(device.enrolled for device in await found.client.devices())


async def token_of(house: House, role: str) -> str:
    async with house.client._session.post(
        f"{house.url}/api/v1/tokens",
        json={"name": role, "role": role},
        headers={"Authorization": f"Bearer {house.token}"},
    ) as answer:
        token: str = (await answer.json())["token"]
    return token


async def test_where_nobody_answers_it_says_so(hass: HomeAssistant) -> None:
    flow = await connect(hass, "http://127.0.0.1:1", "rfl_x")
    assert flow["errors"] == {"base": "cannot_connect"}
    assert flow["description_placeholders"]["detail"] != "–"


@pytest.mark.parametrize(
    "url",
    ["http://", "https://:8927", "ftp://127.0.0.1", "http://127.0.0.1:99999999", "", "http://me:pw@127.0.0.1"],
)
async def test_what_is_no_address_is_told(hass: HomeAssistant, url: str) -> None:
    flow = await connect(hass, url, "rfl_x")
    assert flow["errors"] == {"base": "invalid_url"}


async def test_a_token_is_never_sent_in_the_clear_to_another_machine(hass: HomeAssistant) -> None:
    with patch.object(config_flow, "network_client") as client:
        flow = await connect(hass, "http://192.0.2.1:8927", "rfl_x")
    assert flow["errors"] == {"base": "plain_http"}
    client.assert_not_called()


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({}, "not_reflash"),
        ({"server": (302, "")}, "not_reflash"),
        ({"server": (200, {"hello": "world"}), "whoami": (200, {"role": "admin"})}, "not_reflash"),
        ({"server": (404, {"type": "urn:reflash:problem:not-found", "detail": "no such route"})}, "server_too_old"),
        ({"server": (200, told(api=0)), "whoami": (200, {"role": "admin"})}, "server_too_old"),
        ({"server": (200, told(api=2)), "whoami": (200, {"role": "admin"})}, "integration_too_old"),
        ({"server": (421, {"detail": "this server does not answer to that host"})}, "refused"),
        ({"server": (200, told()), "whoami": (200, {"role": "viewer"})}, "role_too_small"),
    ],
)
async def test_another_program_or_another_time_is_told(
    hass: HomeAssistant, stranger: tuple[str, dict[str, Any]], answers: dict[str, Any], error: str
) -> None:
    url, known = stranger
    known.update(answers)
    flow = await connect(hass, url, "rfl_x")
    assert flow["errors"] == {"base": error}


async def test_a_server_that_falls_silent_before_its_list_is_told(
    hass: HomeAssistant, stranger: tuple[str, dict[str, Any]]
) -> None:
    url, known = stranger
    known.update({"server": (200, told()), "whoami": (200, {"role": "admin"}), "devices": (503, {"detail": "no disk"})})
    flow = await connect(hass, url, "rfl_x")
    assert (flow["step_id"], flow["errors"]) == ("no_devices", {"base": "refused"})
    assert flow["description_placeholders"]["detail"] == "no disk"


async def test_a_server_that_refuses_to_enrol_is_told_and_the_list_stays(
    hass: HomeAssistant, stranger: tuple[str, dict[str, Any]]
) -> None:
    url, known = stranger
    device = {"id": "a0b1c2d3e4f5", "name": "Lamp", "title": "IR Remote Mini", "address": "192.0.2.7"}
    known.update({"server": (200, told()), "whoami": (200, {"role": "admin"}), "devices": (200, [device])})
    flow = await connect(hass, url, "rfl_x")
    assert flow["step_id"] == "devices"
    known["enroll"] = (409, {"detail": "two devices claim one address"})
    flow = await go_on(hass, flow, {"devices": ["a0b1c2d3e4f5"]})
    assert (flow["step_id"], flow["errors"]) == ("devices", {"base": "refused"})


async def test_the_same_server_is_not_set_up_twice(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    await set_up(two)
    flow = await connect(hass, two.url, two.token)
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "already_configured")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("reflash.lan:8927", "https://reflash.lan:8927"),
        (" 127.0.0.1:8927 ", "http://127.0.0.1:8927"),
        ("localhost:8927", "http://localhost:8927"),
        ("[::1]:8927", "http://[::1]:8927"),
        ("https://reflash.lan/home?x#y", "https://reflash.lan/home"),
        ("ftp://reflash.lan", None),
        ("https://[::", None),
    ],
)
def test_an_address_is_understood_as_it_is_typed(typed: str, meant: str | None) -> None:
    assert normal_url(typed) == (URL(meant) if meant else None)


# Certificates.


@pytest.fixture
async def secure(home: House) -> House:
    """A server with a certificate that it made for itself."""
    await home.serve()
    await home.kill()
    configuration = home.configuration().replace("listen:", "tls: self-signed, listen:").replace('"http://', '"')
    home.configuration = lambda: configuration  # type: ignore[method-assign]
    home.url = ""
    await home.serve()
    return home


async def test_a_certificate_of_ones_own_is_compared_and_then_trusted_alone(hass: HomeAssistant, secure: House) -> None:
    flow = await connect(hass, secure.url, secure.token)
    assert flow["step_id"] == "certificate"
    pem = (secure.data / "tls-certificate.pem").read_text()
    expected = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    assert flow["description_placeholders"]["fingerprint"].replace(":", "").lower() == expected
    flow = await go_on(hass, flow, {})
    assert flow["step_id"] == "no_devices"
    flow = await go_on(hass, flow, {})
    assert flow["data"]["fingerprint"] == expected
    await hass.async_block_till_done()
    assert flow["result"].state is ConfigEntryState.LOADED


async def test_a_certificate_that_changes_while_it_is_compared_is_not_trusted(
    hass: HomeAssistant, secure: House
) -> None:
    with patch.object(config_flow, "async_fingerprint", return_value="00" * 32):
        flow = await connect(hass, secure.url, secure.token)
        assert flow["step_id"] == "certificate"
        flow = await go_on(hass, flow, {})
    assert (flow["step_id"], flow["errors"]) == ("connect", {"base": "cannot_connect"})


async def test_a_certificate_that_is_not_shown_cannot_be_compared(hass: HomeAssistant, secure: House) -> None:
    with patch.object(config_flow, "async_fingerprint", return_value=None):
        flow = await connect(hass, secure.url, secure.token)
    assert flow["errors"] == {"base": "cannot_connect"}


async def test_where_nobody_listens_there_is_no_certificate(hass: HomeAssistant) -> None:
    assert await async_fingerprint("https://127.0.0.1:1") is None


# Running it here.


async def test_run_here_starts_one_and_keeps_it(hass: HomeAssistant) -> None:
    flow = await choose(hass, "managed")
    assert flow["step_id"] == "no_devices"
    pid = async_managed(hass).pid
    assert pid is not None
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert flow["title"] == "Reflash"
    await hass.async_block_till_done()
    assert flow["result"].state is ConfigEntryState.LOADED
    # The flow has let go of it, and the entry holds the very same.
    assert (async_managed(hass).pid, async_managed(hass)._n_users) == (pid, 1)


async def test_a_flow_that_is_closed_leaves_no_server_behind(hass: HomeAssistant) -> None:
    flow = await choose(hass, "managed")
    server = async_managed(hass)
    assert server.pid is not None
    hass.config_entries.flow.async_abort(flow["flow_id"])
    await hass.async_block_till_done()
    assert server._process is None


async def test_a_flow_that_is_closed_while_it_starts_leaves_none_either(hass: HomeAssistant) -> None:
    menu = await start(hass)
    flow = await hass.config_entries.flow.async_configure(menu["flow_id"], {"next_step_id": "managed"})
    assert flow["type"] is FlowResultType.SHOW_PROGRESS
    hass.config_entries.flow.async_abort(flow["flow_id"])
    await hass.async_block_till_done()
    assert async_managed(hass)._process is None


async def test_without_a_program_it_says_what_to_use(hass: HomeAssistant) -> None:
    with patch.object(managed, "async_find_program", side_effect=NoProgramError):
        flow = await choose(hass, "managed")
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "no_program")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (told(api=0), "server_too_old"),
        (told(api=2), "integration_too_old"),
    ],
)
async def test_a_program_of_another_time_is_told(hass: HomeAssistant, answer: dict[str, Any], reason: str) -> None:
    with patch.object(ReflashClient, "server", return_value=Server.read(answer)):
        flow = await choose(hass, "managed")
    assert flow["reason"] == reason
    await hass.async_block_till_done()
    assert async_managed(hass)._process is None


@pytest.mark.parametrize(("status", "reason"), [(404, "server_too_old"), (503, "start_failed")])
async def test_a_program_that_does_not_say_who_it_is_is_told(hass: HomeAssistant, status: int, reason: str) -> None:
    with patch.object(ReflashClient, "server", side_effect=ReflashError("no", status=status)):
        flow = await choose(hass, "managed")
    assert flow["reason"] == reason


async def test_there_is_one_of_them(hass: HomeAssistant) -> None:
    await go_on(hass, await choose(hass, "managed"), {})
    flow = await start(hass)
    # What is left is to connect to another one.
    assert (flow["type"], flow["step_id"]) == (FlowResultType.FORM, "connect")


async def test_one_that_another_flow_has_set_up_meanwhile_is_there_already(hass: HomeAssistant) -> None:
    first = await choose(hass, "managed")
    second = await start(hass)
    await go_on(hass, first, {})
    flow = await go_on(hass, second, {"next_step_id": "managed"})
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "already_configured")


# Announced.


def announced(kind: str = "_reflash._tcp.local.", port: int | None = 8927, **properties: str) -> ZeroconfServiceInfo:
    return ZeroconfServiceInfo(
        ip_address=ip_address("127.0.0.1"),
        ip_addresses=[ip_address("127.0.0.1")],
        port=port,
        hostname="attic.local.",
        type=kind,
        name=f"attic.{kind}",
        properties=properties,
    )


async def server_announced(house: House) -> ZeroconfServiceInfo:
    server = await house.client.server()
    return announced(port=URL(house.url).port, id=server.id, version=server.version, api="1", tls="false", name="attic")


async def test_an_announced_server_needs_only_its_token(hass: HomeAssistant, two: House) -> None:
    flow = await start(hass, SOURCE_ZEROCONF, await server_announced(two))
    assert (flow["type"], flow["step_id"]) == (FlowResultType.FORM, "token")
    flow = await go_on(hass, flow, {"token": "rfl_" + "0" * 64})
    assert flow["errors"] == {"base": "invalid_auth"}
    flow = await go_on(hass, flow, {"token": two.token})
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert flow["data"]["url"] == two.url


async def test_a_server_with_tls_is_asked_so(hass: HomeAssistant) -> None:
    flow = await start(hass, SOURCE_ZEROCONF, announced(id=ID, api="1", tls="true"))
    assert flow["description_placeholders"]["url"] == "https://127.0.0.1:8927"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (announced(), "not_reflash"),
        (announced(port=None, id=ID, api="1"), "not_reflash"),
        (announced(id=ID, api="0"), "server_too_old"),
        (announced(id=ID), "server_too_old"),
    ],
)
async def test_an_announcement_that_is_not_understood_makes_no_card(
    hass: HomeAssistant, told: ZeroconfServiceInfo, reason: str
) -> None:
    flow = await start(hass, SOURCE_ZEROCONF, told)
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, reason)


async def test_whoever_announces_a_known_servers_id_is_not_shown_its_token(
    hass: HomeAssistant, two: House, set_up: SetUp
) -> None:
    entry = await set_up(two)
    before = dict(entry.data)
    told = await server_announced(two)
    told.port = 1
    flow = await start(hass, SOURCE_ZEROCONF, told)
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "already_configured")
    assert dict(entry.data) == before


async def test_a_device_that_could_be_updated_makes_one_card(hass: HomeAssistant) -> None:
    first = await start(hass, SOURCE_ZEROCONF, announced("_arduino._tcp.local."))
    assert (first["type"], first["step_id"]) == (FlowResultType.MENU, "user")
    second = await start(hass, SOURCE_ZEROCONF, announced("_arduino._tcp.local."))
    assert second["reason"] == "already_in_progress"
    assert len(hass.config_entries.flow.async_progress()) == 1


async def test_a_server_takes_the_place_of_the_devices_card_and_a_second_one_makes_none(hass: HomeAssistant) -> None:
    await start(hass, SOURCE_ZEROCONF, announced("_arduino._tcp.local."))
    server = await start(hass, SOURCE_ZEROCONF, announced(id=ID, api="1"))
    assert server["step_id"] == "token"
    another = await start(hass, SOURCE_ZEROCONF, announced(id=ID[::-1], api="1"))
    assert another["reason"] == "already_in_progress"
    device = await start(hass, SOURCE_ZEROCONF, announced("_arduino._tcp.local."))
    assert device["type"] is FlowResultType.ABORT
    cards = hass.config_entries.flow.async_progress()
    assert [card["flow_id"] for card in cards] == [server["flow_id"]]


async def test_devices_make_no_card_once_there_is_a_server(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    await set_up(two)
    flow = await start(hass, SOURCE_ZEROCONF, announced("_arduino._tcp.local."))
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "already_configured")


async def test_an_ignored_card_stays_away(hass: HomeAssistant) -> None:
    await start(hass, SOURCE_ZEROCONF, announced("_arduino._tcp.local."))
    unique_id = hass.config_entries.flow.async_progress()[0]["context"]["unique_id"]
    await hass.config_entries.flow.async_init(
        DOMAIN, context={"source": SOURCE_IGNORE}, data={"unique_id": unique_id, "title": "x"}
    )
    flow = await start(hass, SOURCE_ZEROCONF, announced("_arduino._tcp.local."))
    assert flow["type"] is FlowResultType.ABORT


# As an app.


def app(url: str, token: str | None) -> HassioServiceInfo:
    place = URL(url)
    return HassioServiceInfo(
        config={"host": place.host, "port": place.port, "token": token}, name="Reflash", slug="reflash", uuid="1"
    )


async def test_an_apps_server_is_confirmed_and_used(hass: HomeAssistant, two: House) -> None:
    flow = await start(hass, SOURCE_HASSIO, app(two.url, two.token))
    assert (flow["type"], flow["step_id"]) == (FlowResultType.FORM, "hassio_confirm")
    flow = await go_on(hass, flow, {})
    assert flow["step_id"] == "no_devices"
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert flow["data"]["token"] == two.token


async def test_an_app_that_has_moved_mends_its_entry(hass: HomeAssistant, two: House) -> None:
    server = await two.client.server()
    entry = MockConfigEntry(
        domain=DOMAIN, unique_id=server.id, data={"mode": "connect", "url": "http://127.0.0.1:1", "token": "old"}
    )
    entry.add_to_hass(hass)
    flow = await start(hass, SOURCE_HASSIO, app(two.url, two.token))
    assert flow["reason"] == "already_configured"
    assert (entry.data["url"], entry.data["token"]) == (two.url, two.token)


@pytest.mark.parametrize(("token", "reason"), [("rfl_x", "invalid_auth"), (None, "invalid_auth")])
async def test_an_app_that_will_not_have_us_makes_no_card(
    hass: HomeAssistant, two: House, token: str | None, reason: str
) -> None:
    flow = await start(hass, SOURCE_HASSIO, app(two.url, token))
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, reason)


async def test_an_app_that_does_not_answer_makes_no_card(hass: HomeAssistant) -> None:
    flow = await start(hass, SOURCE_HASSIO, app("http://127.0.0.1:1", "rfl_x"))
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "cannot_connect")


# Written down.


async def test_a_block_in_the_configuration_gets_a_server(hass: HomeAssistant) -> None:
    flow = await start(hass, SOURCE_IMPORT, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert flow["data"]["mode"] == "managed"
    flow = await start(hass, SOURCE_IMPORT, {})
    assert flow["reason"] == "already_configured"


async def test_a_block_without_a_program_is_one_repair(hass: HomeAssistant) -> None:
    with patch.object(managed, "async_find_program", side_effect=NoProgramError):
        flow = await start(hass, SOURCE_IMPORT, {})
    assert flow["reason"] == "no_program"
    issue = ir.async_get(hass).async_get_issue(DOMAIN, "yaml_unserved")
    assert issue is not None
    assert issue.translation_key == "yaml_unserved_no_program"


# Mending.


async def test_a_revoked_token_is_replaced(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    token = await token_of(two, "admin")
    hass.config_entries.async_update_entry(entry, data={**entry.data, "token": "rfl_" + "0" * 64, "yaml": True})
    flow = await entry.start_reauth_flow(hass)
    assert flow["step_id"] == "reauth_confirm"
    flow = await go_on(hass, flow, {"token": "rfl_" + "1" * 64})
    assert flow["errors"] == {"base": "invalid_auth"}
    flow = await go_on(hass, flow, {"token": token})
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "reauth_successful")
    assert (entry.data["token"], entry.data["yaml"]) == (token, True)
    await hass.async_block_till_done()


async def test_a_server_that_does_not_take_its_token_asks_for_another(hass: HomeAssistant, two: House) -> None:
    server = await two.client.server()
    entry = MockConfigEntry(
        domain=DOMAIN, unique_id=server.id, data={"mode": "connect", "url": two.url, "token": "rfl_" + "0" * 64}
    )
    entry.add_to_hass(hass)
    assert not await hass.config_entries.async_setup(entry.entry_id)
    assert entry.state is ConfigEntryState.SETUP_ERROR
    flows = hass.config_entries.flow.async_progress()
    assert [flow["step_id"] for flow in flows] == ["reauth_confirm"]


async def test_a_server_that_has_moved_is_found_again(hass: HomeAssistant, two: House, set_up: SetUp) -> None:
    entry = await set_up(two)
    moved = two.url.replace("127.0.0.1", "localhost")
    flow = await entry.start_reconfigure_flow(hass)
    assert flow["step_id"] == "reconfigure"
    # The token is not shown to another host unasked.
    flow = await go_on(hass, flow, {"url": moved})
    assert flow["errors"] == {"base": "token_needed"}
    flow = await go_on(hass, flow, {"url": two.url + "/"})
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "reconfigure_successful")
    assert (entry.data["url"], entry.data["token"]) == (two.url, two.token)
    await hass.async_block_till_done()


async def test_another_server_is_not_taken_for_it(
    hass: HomeAssistant, two: House, set_up: SetUp, stranger: tuple[str, dict[str, Any]]
) -> None:
    entry = await set_up(two)
    before = dict(entry.data)
    url, known = stranger
    known.update({"server": (200, told()), "whoami": (200, {"role": "admin"})})
    flow = await entry.start_reconfigure_flow(hass)
    flow = await go_on(hass, flow, {"url": url, "token": "rfl_x"})
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "wrong_server")
    assert dict(entry.data) == before
