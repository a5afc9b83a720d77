"""What *Configure* opens: each form does what it says, and says what the server has against it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from conftest import SetUp
from homeassistant.config_entries import ConfigFlowResult
from homeassistant.core import Event, HomeAssistant
from homeassistant.data_entry_flow import FlowResultType
from places import here, nothing_left  # noqa: F401 - fixtures
from pytest_homeassistant_custom_component.common import MockConfigEntry
from server import House, image

from custom_components.ir_remote_ota import logbook, options_flow, upload
from custom_components.ir_remote_ota.client import ReflashClient, ReflashError
from custom_components.ir_remote_ota.const import (
    DOMAIN,
    EVENT_ROLLOUT_FINISHED,
    EVENT_UPDATE_FAILED,
    EVENT_UPDATE_FINISHED,
)
from custom_components.ir_remote_ota.notifications import CONF_NOTIFY

pytestmark = pytest.mark.usefixtures("here", "nothing_left")

NO = ReflashError("the disk is full", next_step="make room")


async def open_form(hass: HomeAssistant, entry: MockConfigEntry, what: str) -> ConfigFlowResult:
    menu = await hass.config_entries.options.async_init(entry.entry_id)
    assert menu["type"] is FlowResultType.MENU
    return await go_on(hass, menu, {"next_step_id": what})


async def go_on(hass: HomeAssistant, flow: ConfigFlowResult, answer: dict[str, Any]) -> ConfigFlowResult:
    return await hass.config_entries.options.async_configure(flow["flow_id"], answer)


def suggested(flow: ConfigFlowResult) -> dict[str, Any]:
    schema = flow["data_schema"]
    assert schema is not None
    return {str(key): (key.description or {}).get("suggested_value") for key in schema.schema}


def refused(flow: ConfigFlowResult) -> None:
    assert flow["errors"] == {"base": "refused"}
    assert flow["description_placeholders"]["detail"] == "the disk is full (make room)"


async def test_nothing_is_configured_while_the_server_is_away(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    entry = await set_up(home)
    await hass.config_entries.async_unload(entry.entry_id)
    flow = await hass.config_entries.options.async_init(entry.entry_id)
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "not_loaded")


async def test_a_device_is_added_by_its_address(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.remote("Cellar IR", host=9, list_it=False)
    await home.serve()
    entry = await set_up(home)
    flow = await open_form(hass, entry, "add_device")
    wanted = {"host": f"{home.net}.9", "family": "ir-remote", "name": "Cellar IR", "password": "its-own-word"}
    with patch.object(ReflashClient, "add_device", side_effect=NO):
        flow = await go_on(hass, flow, wanted)
    refused(flow)
    # What was typed is there again, but for the password.
    assert suggested(flow)["name"] == "Cellar IR"
    assert suggested(flow)["password"] is None
    flow = await go_on(hass, flow, wanted)
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    device = await home.device("Cellar IR")
    assert device.enrolled
    assert device.has_password
    assert "its-own-word" not in str(entry.as_dict())
    assert hass.states.get("sensor.cellar_ir_status") is not None


async def test_a_place_where_no_device_is_is_told(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    entry = await set_up(home)
    flow = await open_form(hass, entry, "add_device")
    flow = await go_on(hass, flow, {"host": "192.0.2.1", "family": "ir-remote"})
    assert flow["errors"] == {"base": "refused"}


@pytest.fixture
def given(hass: HomeAssistant) -> Iterator[dict[str, Any]]:
    """Files that were given to the form, by their id."""
    files: dict[str, Any] = {}

    async def read(_hass: HomeAssistant, file_id: str) -> Any:
        found = files[file_id]
        if isinstance(found, Exception):
            raise found
        return found

    with patch.object(options_flow, "async_uploaded_file", read):
        yield files


async def test_firmware_is_brought_and_judged(
    hass: HomeAssistant, home: House, set_up: SetUp, given: dict[str, Any]
) -> None:
    await home.serve()
    entry = await set_up(home)
    flow = await open_form(hass, entry, "firmware")
    given["0" * 32] = NO
    flow = await go_on(hass, flow, {"file": "0" * 32})
    refused(flow)
    given["0" * 32] = ("mini_v2.0.0.bin", image("2.0.0"))
    flow = await go_on(hass, flow, {"file": "0" * 32})
    assert flow["step_id"] == "brought"
    assert (flow["description_placeholders"]["firmware"], flow["description_placeholders"]["state"]) == (
        "2.0.0",
        "approved",
    )
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert hass.states.get("sensor.ir_remote_latest_firmware") is not None


async def test_a_policy_that_stands_in_the_file_alone_is_said(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    entry = await set_up(home)
    with patch.object(ReflashClient, "settings", return_value={"auto_enroll": None}):
        flow = await open_form(hass, entry, "policy")
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "policy_in_file")


async def test_the_policy_is_changed_and_what_is_emptied_is_left_to_the_file(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await home.serve()
    entry = await set_up(home)
    known = {"policy": {"canary": 1, "max_failures": "2", "soak_s": None, "something_new": 1}}
    with (
        patch.object(ReflashClient, "settings", return_value=known),
        patch.object(ReflashClient, "patch_settings", side_effect=[NO, known]) as changed,
    ):
        flow = await open_form(hass, entry, "policy")
        assert suggested(flow) == {"canary": 1, "max_failures": "2", "soak_s": None}
        refused(await go_on(hass, flow, {"canary": 2.0, "soak_s": 60.0}))
        flow = await go_on(hass, flow, {"canary": 2.0, "soak_s": 60.0})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    (body,) = changed.call_args.args
    assert body["policy"] == {"canary": 2, "max_failures": None, "soak_s": 60}


@pytest.mark.parametrize(("what", "asked"), [("policy", "settings"), ("settings", "settings"), ("windows", "windows")])
async def test_a_server_that_says_no_is_told(
    hass: HomeAssistant, home: House, set_up: SetUp, what: str, asked: str
) -> None:
    await home.serve()
    entry = await set_up(home)
    with patch.object(ReflashClient, asked, side_effect=NO):
        flow = await open_form(hass, entry, what)
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "refused")


async def test_windows_are_made_changed_and_removed(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    entry = await set_up(home)
    flow = await open_form(hass, entry, "windows")
    # There is none yet: the form of a new one comes at once.
    assert flow["step_id"] == "window"
    wanted = {"name": "night", "start": "02:00:00", "duration": {"hours": 3, "minutes": 30}, "days": ["mon", "sun"]}
    with patch.object(ReflashClient, "put_window", side_effect=NO):
        flow = await go_on(hass, flow, wanted)
    refused(flow)
    flow = await go_on(hass, flow, wanted)
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    (window,) = await home.client.windows()
    assert (window.name, window.duration_s, window.raw["days"]) == ("night", 12600, ["mon", "sun"])
    flow = await open_form(hass, entry, "windows")
    flow = await go_on(hass, flow, {"window": "night"})
    shown = suggested(flow)
    assert (shown["duration"], shown["days"]) == ({"hours": 3, "minutes": 30, "seconds": 0}, ["mon", "sun"])
    changed = {"start": "03:00:00", "duration": {"hours": 1}, "days": ["tue"]}
    await go_on(hass, flow, changed)
    (window,) = await home.client.windows()
    assert (window.duration_s, window.raw["days"]) == (3600, ["tue"])
    flow = await go_on(hass, await open_form(hass, entry, "windows"), {"window": "night"})
    await go_on(hass, flow, {**changed, "remove": True})
    assert await home.client.windows() == []


async def test_a_window_keeps_its_time_zone(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    await home.client.put_window("night", {"start": "02:00", "duration": "3h", "timezone": "Europe/Vilnius"})
    entry = await set_up(home)
    flow = await go_on(hass, await open_form(hass, entry, "windows"), {"window": "night"})
    await go_on(hass, flow, {"start": "03:00:00", "duration": {"hours": 1}, "days": ["tue"]})
    (window,) = await home.client.windows()
    assert window.raw["timezone"] == "Europe/Vilnius"
    # And + makes another one.
    flow = await go_on(hass, await open_form(hass, entry, "windows"), {"window": "+"})
    assert "name" in suggested(flow)


async def test_settings_are_the_servers_and_notifications_ours(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    entry = await set_up(home)
    flow = await open_form(hass, entry, "settings")
    assert suggested(flow)[CONF_NOTIFY] is True
    wanted = {"auto_discovery": False, "scan_interval_s": 600.0, CONF_NOTIFY: False}
    with patch.object(ReflashClient, "patch_settings", side_effect=NO):
        flow = await go_on(hass, flow, wanted)
    refused(flow)
    flow = await go_on(hass, flow, wanted)
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert entry.options[CONF_NOTIFY] is False
    settings = await home.client.settings()
    assert (settings["auto_discovery"], settings["scan_interval_s"]) == (False, 600)
    # What was left empty is the file's again.
    assert settings["auto_enroll"] is None


# Files.


async def test_a_file_that_is_gone_or_too_large_is_told(
    hass: HomeAssistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReflashError, match="not there any more"):
        await upload.async_uploaded_file(hass, "0" * 32)
    file = tmp_path / "mini_v2.0.0.bin"
    file.write_bytes(b"12345")
    with patch.object(upload, "process_uploaded_file") as process:
        process.return_value.__enter__.return_value = file
        process.return_value.__exit__.return_value = None
        assert await upload.async_uploaded_file(hass, "x") == ("mini_v2.0.0.bin", b"12345")
        monkeypatch.setattr(upload, "MAX_BYTES", 4)
        with pytest.raises(ReflashError, match="16 MiB"):
            await upload.async_uploaded_file(hass, "x")


# The logbook.


def test_the_logbook_tells_each_in_a_sentence(hass: HomeAssistant) -> None:
    described: dict[str, Any] = {}
    logbook.async_describe_events(hass, lambda domain, kind, tell: described.update({kind: (domain, tell)}))
    told = {"name": "Lamp", "entity_id": "update.lamp_firmware", "from": "1.0", "to": "2.0.0"}
    happened = [
        (EVENT_UPDATE_FINISHED, {**told, "outcome": "updated"}),
        (EVENT_UPDATE_FINISHED, {"name": "Lamp", "outcome": "updated-label-unchanged"}),
        (EVENT_UPDATE_FAILED, {**told, "reason": "boot loop", "next_step": "Roll it back."}),
        (EVENT_UPDATE_FAILED, {"name": "Lamp"}),
        (EVENT_ROLLOUT_FINISHED, {"rollout_id": 7, "counts": {"updated": 2, "kept-old": 1}}),
        (EVENT_ROLLOUT_FINISHED, {"rollout_id": 8}),
    ]
    entries = [described[kind][1](Event(kind, detail)) for kind, detail in happened]
    assert [f"{entry['name']} {entry['message']}" for entry in entries] == [
        "Lamp runs 2.0.0, after 1.0",
        "Lamp runs its new firmware (the device still reports its old label)",
        "Lamp was not updated to 2.0.0: boot loop. Roll it back.",
        "Lamp was not updated to its new firmware",
        "Reflash finished rollout 7: 2 updated, 1 kept old",
        "Reflash finished rollout 8: no device",
    ]
    assert entries[0]["entity_id"] == "update.lamp_firmware"
    assert {domain for domain, _ in described.values()} == {DOMAIN}
