"""Repairs that mend what they tell of, and notifications that come and go with their cause."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from conftest import SetUp
from homeassistant.components import persistent_notification
from homeassistant.components.repairs import RepairsFlowResult, repairs_flow_manager
from homeassistant.core import HomeAssistant
from homeassistant.data_entry_flow import FlowResultType
from homeassistant.helpers import issue_registry as ir
from homeassistant.setup import async_setup_component
from places import here, issues, nothing_left, placeholders  # noqa: F401 - fixtures
from pytest_homeassistant_custom_component.common import MockConfigEntry
from server import House, image, until

from custom_components.ir_remote_ota.choice import CONF_LEFT_OUT
from custom_components.ir_remote_ota.client import Device, Firmware, ReflashClient, ReflashError, Rollout
from custom_components.ir_remote_ota.const import DOMAIN
from custom_components.ir_remote_ota.issues import CONF_MENDED, needs
from custom_components.ir_remote_ota.notifications import CONF_NOTIFY
from custom_components.ir_remote_ota.repairs import async_create_fix_flow
from custom_components.ir_remote_ota.yaml_import import DATA_BLOCK, async_import

pytestmark = pytest.mark.usefixtures("here", "nothing_left")


async def mend(hass: HomeAssistant, issue: ir.IssueEntry) -> RepairsFlowResult:
    manager = repairs_flow_manager(hass)
    assert manager is not None
    return await manager.async_init(DOMAIN, data={"issue_id": issue.issue_id})


async def go_on(hass: HomeAssistant, flow: RepairsFlowResult, answer: dict[str, Any]) -> RepairsFlowResult:
    manager = repairs_flow_manager(hass)
    assert manager is not None
    return await manager.async_configure(flow["flow_id"], answer)


async def the(hass: HomeAssistant, kind: str) -> ir.IssueEntry:
    found = await until(lambda: issues(hass, kind), f"a repair {kind}")
    assert len(found) == 1
    return found[0]


def notes(hass: HomeAssistant) -> list[str]:
    return [note["message"] for note in persistent_notification._async_get_or_create_notifications(hass).values()]


async def roll_out(home: House, **more: Any) -> Rollout:
    """A rollout to all, awaited until nothing more happens in it."""
    rollout = await home.client.rollout({"all": True, **more}, key=uuid4().hex)
    async with asyncio.timeout(60):
        while (now := await home.client.rollout_of(rollout.id)).state in ("scheduled", "running"):
            await asyncio.sleep(0.3)
    return now


# A device that keeps restarting.


async def test_a_device_that_keeps_restarting_is_rolled_back(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    simulated = await home.remote("Living Room IR", "--fault", "returns-but-crashes")
    home.policy = "canary: 0, soak: 8s, rollback: never"
    await home.serve()
    await home.online()
    # As itself, and no longer as the address that is listed.
    device = next(device for device in await home.client.devices() if device.is_online)
    before = image("1.0", seed=7)
    await home.client.upload("mini_v1.0.bin", before, running_on=device.id)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await set_up(home)
    assert (await roll_out(home)).members[0].reason == "boot loop"
    issue = await the(hass, "boot_loop")
    assert placeholders(issue)["way_back"].startswith("1.0")
    assert any("Living Room IR" in note for note in notes(hass))
    # What is brought next starts as it should.
    await simulated.end(kill=True)
    simulated = await home.remote("Living Room IR", "--version", "2.0.0", host=1, list_it=False)
    flow = await mend(hass, issue)
    assert (flow["type"], flow["step_id"]) == (FlowResultType.FORM, "confirm")
    with patch.object(ReflashClient, "rollout", side_effect=ReflashError("busy", next_step="wait")):
        flow = await go_on(hass, flow, {})
    assert flow["errors"] == {"base": "refused"}
    assert flow["description_placeholders"]["detail"] == "busy (wait)"
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    await until(lambda: simulated.events("received"), "it was given back what it ran", 60)
    assert simulated.events("received")[0]["len_bytes"] == len(before)
    await until(lambda: not issues(hass, "boot_loop"), "the repair is gone")
    # The success has cleared what the failure had told.
    await until(lambda: not notes(hass), "the notification is gone", 60)


def told_device(**more: Any) -> Device:
    raw = {"id": "a0b1c2d3e4f5", "name": "Lamp", "title": "IR Remote Mini", "enrolled": True, "state": "online", **more}
    return Device.read(raw)


class TestNeeds:
    """What needs somebody, of what the server tells."""

    def kinds(self, *devices: Device, images: tuple[Firmware, ...] = (), **options: Any) -> dict[str, Any]:
        hub = SimpleNamespace(
            devices={device.id: device for device in devices},
            shown={device.id: device for device in devices if device.enrolled},
            rollouts={},
            firmware=SimpleNamespace(firmware=images),
        )
        entry = MockConfigEntry(domain=DOMAIN, entry_id="e", options=options)
        return {need.key or need.kind: need for need in needs(hub, entry).values()}  # type: ignore[arg-type]

    def test_nothing_is_wrong(self) -> None:
        assert self.kinds(told_device()) == {}

    def test_without_a_way_back_nothing_can_be_promised(self) -> None:
        last = {"job": 7, "outcome": "failed", "reason": "boot loop", "next_step": "Push an image that works."}
        found = self.kinds(told_device(last_update=last, way_back=[]))
        assert not found["boot_loop_no_way_back"].is_fixable
        assert "boot_loop" in self.kinds(told_device(last_update=last, way_back=["1.0"]))
        # While it is being mended, nobody has to.
        assert self.kinds(told_device(last_update=last, way_back=["1.0"], busy=True)) == {}

    @pytest.mark.parametrize("reason", ["wrong password", "password needed", "locked"])
    def test_a_password_is_asked_for_once(self, reason: str) -> None:
        last = {"job": 7, "outcome": "refused", "reason": reason}
        device = told_device(last_update=last)
        assert "password" in self.kinds(device)
        assert self.kinds(device, **{CONF_MENDED: {device.id: 7}}) == {}
        assert "password" in self.kinds(device, **{CONF_MENDED: {device.id: 6}})

    def test_a_unit_that_is_too_old_says_why(self) -> None:
        device = told_device(supported={"install": False, "why_not": "v1.3.10 takes no file"})
        assert self.kinds(device)["not_supported"].placeholders["text"] == "v1.3.10 takes no file"

    def test_a_conflict_is_told(self) -> None:
        conflict = {"kind": "one-address-two-macs", "text": "Two answer.", "next_step": "Find them."}
        assert not self.kinds(told_device(conflict=conflict))["conflict"].is_fixable

    def test_an_update_without_a_way_back_is_told_only_where_there_is_one(self) -> None:
        lost, kept = ({"name": "1.0", "sha256": None, "kept": is_kept} for is_kept in (False, True))
        assert "no_way_back" in self.kinds(told_device(offered=True, installed=lost))
        assert "no_way_back" in self.kinds(told_device(offered=True))
        assert self.kinds(told_device(offered=False, installed=lost)) == {}
        assert self.kinds(told_device(offered=True, installed=kept)) == {}

    def test_new_devices_are_one_repair_that_names_some(self) -> None:
        many = [told_device(id=f"d{at}", name=f"Lamp {at:02}", enrolled=False) for at in range(20)]
        found = self.kinds(*many)
        assert list(found) == ["new_devices"]
        assert found["new_devices"].placeholders["n"] == "20"
        assert found["new_devices"].placeholders["devices"].endswith("(+8)")
        assert self.kinds(*many, **{CONF_LEFT_OUT: [device.id for device in many]}) == {}

    def test_only_what_somebody_wants_offered_waits_for_a_word(self) -> None:
        def kept(**more: Any) -> Firmware:
            raw = {
                "sha256": "ab" * 32,
                "file_name": "x.bin",
                "name": "2.0",
                "state": "waiting",
                "source": "index",
                **more,
            }
            return Firmware.read(raw)

        assert "firmware_waiting" in self.kinds(images=(kept(),))
        assert "firmware_waiting" in self.kinds(images=(kept(state="quarantined", source="feed"),))
        assert self.kinds(images=(kept(source="push"), kept(state="approved"), kept(state="refused"))) == {}


# A rollout that has halted.


@pytest.fixture
async def halted(hass: HomeAssistant, home: House, set_up: SetUp) -> MockConfigEntry:
    """A rollout that has halted after its first device, with the second one still to come."""
    await home.remote("Living Room IR", "--fault", "other-version=9.9")
    await home.remote("Bedroom IR", "--fault", "other-version=9.9")
    home.policy += ", max_failures: 1, at_once: 1"
    await home.serve()
    await home.online()
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    entry = await set_up(home)
    rollout = await roll_out(home)
    assert rollout.state == "halted", rollout.raw
    return entry


async def test_a_halted_rollout_is_told_and_ended(hass: HomeAssistant, home: House, halted: MockConfigEntry) -> None:
    issue = await the(hass, "halted")
    await until(lambda: len(notes(hass)) == 1, "one notification")
    flow = await mend(hass, issue)
    assert (flow["type"], flow["menu_options"]) == (FlowResultType.MENU, ["resume", "abort"])
    flow = await go_on(hass, flow, {"next_step_id": "abort"})
    assert flow["step_id"] == "abort"
    with patch.object(ReflashClient, "abort", side_effect=ReflashError("no disk")):
        flow = await go_on(hass, flow, {})
    assert flow["errors"] == {"base": "refused"}
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    await until(lambda: not issues(hass, "halted"), "the repair is gone")
    # It failed all the same: the same notification stays, with other words.
    await until(lambda: notes(hass) and "Repairs" not in notes(hass)[0], "the notification is replaced")
    assert len(notes(hass)) == 1


async def test_a_halted_rollout_goes_on(hass: HomeAssistant, home: House, halted: MockConfigEntry) -> None:
    first = await the(hass, "halted")
    flow = await go_on(hass, await mend(hass, first), {"next_step_id": "resume"})
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    async with asyncio.timeout(30):
        while any(not member.has_ended for member in (await home.client.rollout_of(1)).members):
            await asyncio.sleep(0.3)


async def test_notifications_can_be_turned_off(hass: HomeAssistant, home: House, halted: MockConfigEntry) -> None:
    await until(lambda: len(notes(hass)) == 1, "one notification")
    hass.config_entries.async_update_entry(halted, options={**halted.options, CONF_NOTIFY: False})
    await halted.runtime_data.async_refresh()
    assert notes(hass) == []


async def test_a_reload_tells_no_failure_twice_and_loses_none(
    hass: HomeAssistant, home: House, halted: MockConfigEntry
) -> None:
    await until(lambda: len(notes(hass)) == 1, "one notification")
    await home.client.abort(1)
    await until(lambda: notes(hass) and "Repairs" not in notes(hass)[0], "the notification is replaced")
    await hass.config_entries.async_reload(halted.entry_id)
    assert len(notes(hass)) == 1
    # A start of Home Assistant, which remembers nothing, does not bring up what is over.
    hass.data.pop("ir_remote_ota_told")
    persistent_notification.async_dismiss_all(hass)
    await hass.config_entries.async_reload(halted.entry_id)
    assert notes(hass) == []


async def test_removing_the_entry_takes_all_of_it_away(
    hass: HomeAssistant, home: House, halted: MockConfigEntry
) -> None:
    await the(hass, "halted")
    await until(lambda: len(notes(hass)) == 1, "one notification")
    await hass.config_entries.async_remove(halted.entry_id)
    assert notes(hass) == []
    assert [key for key in ir.async_get(hass).issues if key[0] == DOMAIN] == []


# A password.


async def test_a_wrong_password_is_asked_for_and_never_tried_twice(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    simulated = await home.remote("Living Room IR", "--password", "its-own-word")
    await home.serve()
    await home.online()
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    entry = await set_up(home)
    assert (await roll_out(home)).members[0].reason == "wrong password"
    issue = await the(hass, "password")
    n_tried = len(simulated.events("auth"))
    flow = await mend(hass, issue)
    assert flow["step_id"] == "password"
    with patch.object(ReflashClient, "set_password", side_effect=ReflashError("no disk")):
        flow = await go_on(hass, flow, {"password": "its-own-word"})
    assert flow["errors"] == {"base": "refused"}
    flow = await go_on(hass, flow, {"password": "its-own-word"})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    await entry.runtime_data.async_refresh()
    assert issues(hass, "password") == []
    # Giving it has tried nothing; the next update does.
    assert len(simulated.events("auth")) == n_tried
    assert "its-own-word" not in str(entry.as_dict())
    assert (await roll_out(home, force=True)).members[0].state == "updated"


# New devices.


async def test_new_devices_are_one_list(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    for number in (1, 2):
        await home.remote(f"Remote {number}", host=number, list_it=False)
    await home.serve()
    for number in (1, 2):
        body = {"host": f"{home.net}.{number}", "family": "ir-remote", "name": f"Remote {number}"}
        device = await home.client.add_device(body)
        await home.client._ask("DELETE", "devices", device.id, "enroll")
    entry = await set_up(home)
    issue = await the(hass, "new_devices")
    assert placeholders(issue)["n"] == "2"
    flow = await mend(hass, issue)
    both = flow["data_schema"]({})["devices"]
    assert len(both) == 2
    with patch.object(ReflashClient, "enroll", side_effect=ReflashError("two devices claim one address")):
        flow = await go_on(hass, flow, {"devices": both})
    assert flow["errors"] == {"base": "refused"}
    flow = await go_on(hass, flow, {"devices": both[:1]})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    await hass.async_block_till_done()
    assert entry.options[CONF_LEFT_OUT] == both[1:]
    assert issues(hass, "new_devices") == []
    assert {device.id for device in await home.client.devices() if device.enrolled} == {both[0]}


async def test_an_empty_list_may_be_answered(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.remote("Remote 1", host=1, list_it=False)
    await home.serve()
    device = await home.client.add_device({"host": f"{home.net}.1", "family": "ir-remote", "name": "Remote 1"})
    await home.client._ask("DELETE", "devices", device.id, "enroll")
    entry = await set_up(home)
    flow = await mend(hass, await the(hass, "new_devices"))
    flow = await go_on(hass, flow, {"devices": []})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert entry.options[CONF_LEFT_OUT] == [device.id]


# Firmware.


async def test_unsigned_firmware_waits_for_a_word(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
    home.policy += f', require_signature: true, signing_keys: ["{key}"]'
    await home.serve()
    digest = await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await set_up(home)
    issue = await the(hass, "firmware_waiting")
    assert placeholders(issue)["sha256"] == digest
    flow = await mend(hass, issue)
    with patch.object(ReflashClient, "approve", side_effect=ReflashError("no")):
        flow = await go_on(hass, flow, {})
    assert flow["errors"] == {"base": "refused"}
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert (await home.client.image(digest)).state == "approved"
    assert issues(hass, "firmware_waiting") == []


async def test_a_way_back_can_be_brought(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.remote("Living Room IR")
    await home.serve()
    await home.online()
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await set_up(home)
    issue = await the(hass, "no_way_back")
    assert placeholders(issue)["devices"] == "Living Room IR"
    device = await home.device("Living Room IR")
    flow = await mend(hass, issue)
    assert flow["step_id"] == "image"
    flow = await go_on(hass, flow, {"device": device.id, "file": "0" * 32})
    assert flow["errors"] == {"base": "refused"}
    given = ("mini_v1.0.bin", image("1.0", seed=7))
    with patch("custom_components.ir_remote_ota.repairs.async_uploaded_file", return_value=given):
        flow = await go_on(hass, flow, {"device": device.id, "file": "0" * 32})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    await until(lambda: not issues(hass, "no_way_back"), "the repair is gone")


# The block.


async def test_a_mended_block_is_read_again(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    assert await async_setup_component(hass, DOMAIN, {})
    entry = await set_up(home)
    hass.data[DATA_BLOCK] = {"scan_intervall": 300}
    assert not await async_import(hass, entry, entry.runtime_data.client)
    issue = await the(hass, "yaml")
    file = Path(hass.config.path("configuration.yaml"))
    file.write_text("ir_remote_ota: [")
    flow = await mend(hass, issue)
    flow = await go_on(hass, flow, {})
    assert (flow["type"], flow["reason"]) == (FlowResultType.ABORT, "yaml_unreadable")
    file.write_text("ir_remote_ota:\n  scan_interval: never\n")
    flow = await go_on(hass, await mend(hass, issue), {})
    assert flow["step_id"] == "confirm"
    assert "scan_interval" in flow["description_placeholders"]["mistakes"]
    file.write_text("ir_remote_ota:\n  scan_interval: 300\n")
    flow = await go_on(hass, flow, {})
    assert flow["type"] is FlowResultType.CREATE_ENTRY
    assert issues(hass, "yaml") == []


async def test_without_the_server_nothing_is_mended(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await home.serve()
    entry = await set_up(home)
    told = {"kind": "halted", "entry_id": entry.entry_id, "rollout": 1}
    flow = await async_create_fix_flow(hass, "halted_1", told)
    flow.hass, flow.flow_id, flow.handler = hass, "1", DOMAIN
    await hass.config_entries.async_unload(entry.entry_id)
    result = await flow.async_step_init()  # type: ignore[attr-defined]
    assert (result["type"], result["reason"]) == (FlowResultType.ABORT, "not_loaded")


async def test_repairs_stay_while_the_server_is_away(hass: HomeAssistant, home: House, halted: MockConfigEntry) -> None:
    issue = await the(hass, "halted")
    await home.kill()
    await until(lambda: not halted.runtime_data.available, "it is seen to be gone")
    assert issues(hass, "halted") == [issue]
