"""The founding document's YAML as it stands: configuration, both automations, both cards.

The blocks in docs/examples/founding are the document's own, byte for byte, cut only at their ends and between the two
cards.
A home with them lives in English (test_founding_english.py) and in German (test_founding_german.py), first without
areas and then with them.
"""

import asyncio
import re

import pytest
from browser import Browser
from home import FOUNDING, ROOT, Home, Simulated, image, until

LIVING_ROOM, BEDROOM = "192.168.1.100", "192.168.1.101"
# Every entity that the document names, and those of INTERFACES.md 5 that are made beside them.
ENTITIES = {
    f"{platform}.{room}_ir_{name}"
    for room in ("living_room", "bedroom")
    for platform, name in (
        ("update", "firmware"),
        ("sensor", "firmware"),
        ("sensor", "status"),
        ("sensor", "free_memory"),
        ("sensor", "uptime"),
        ("sensor", "last_update"),
        ("sensor", "update_state"),
        ("switch", "ota"),
        ("button", "force_update"),
        ("button", "roll_back"),
    )
} | {
    f"sensor.ir_remote_{name}"
    for name in (
        "latest_firmware",
        "firmware_available",
        "update_status",
        "device_count",
        "updates_available",
        "success_rate",
        "compliance",
    )
}
NIGHTLY, FAILED = "automation.ir_remote_firmware_update_check", "automation.ir_remote_update_failed"
MORE = """
notify:
  - platform: told_notifier
    name: mobile_app
lovelace:
  dashboards:
    founding-cards:
      mode: yaml
      title: Founding
      filename: founding.yaml
"""
CARDS = """
views:
  - title: IR
    cards:
      - !include card_entities.yaml
      - !include card_button.yaml
"""


class Steps:
    """What happens in such a home, in this order."""

    living_room: Simulated
    bedroom: Simulated

    async def mini(self, home: Home, address: str, *flags: str) -> Simulated:
        return await home.simulate(address, "--boot-s", "500ms", "--rate", "200000", *flags)

    @pytest.fixture(scope="class", autouse=True)
    async def everything(self, home: Home) -> None:
        """Home Assistant's first start with the founding document's configuration."""
        # The label of the one stays what it is, whatever is flashed; that of the other moves, as its firmware sets it.
        Steps.living_room = await self.mini(home, LIVING_ROOM, "--fault", "label-unchanged")
        Steps.bedroom = await self.mini(home, BEDROOM, "--version-after", "2.0.0")
        home.add_component()
        home.add_notifier()
        home.write_managed_policy()
        home.write_configuration(
            MORE, {"configuration": FOUNDING / "configuration.yaml", "automations": FOUNDING / "automations.yaml"}
        )
        for card in ("card_entities.yaml", "card_button.yaml"):
            (home.config / card).write_bytes((FOUNDING / card).read_bytes())
        (home.config / "founding.yaml").write_text(CARDS)
        await home.hass.start()
        await home.hass.listen("ir_remote_ota_update_finished")
        await home.hass.listen("ir_remote_ota_update_failed")
        await home.hass.sees("sensor.living_room_ir_status", "online", 60)
        await home.hass.sees("sensor.bedroom_ir_status", "online", 30)

    def test_the_examples_are_the_founding_document_s_own(self) -> None:
        """Where the document is at hand, the copies are held to it."""
        for document in (ROOT.parent / "shared" / "mission").glob("000_*.txt"):
            text = document.read_bytes()
            blocks = re.findall(rb"```yaml\n(.*?)```", text, re.DOTALL)
            copies = [
                (FOUNDING / name).read_bytes() for name in ("configuration.yaml", "services.yaml", "automations.yaml")
            ]
            cards = (FOUNDING / "card_entities.yaml").read_bytes() + (FOUNDING / "card_button.yaml").read_bytes()
            assert blocks == [*copies, cards]

    async def test_its_configuration_makes_every_entity_under_its_name(self, home: Home) -> None:
        states = await home.hass.states()
        assert set(states) >= ENTITIES, sorted(ENTITIES - set(states))
        devices = await home.hass.devices()
        assert {"Living Room IR", "Bedroom IR"} <= set(devices), list(devices)
        assert all(device["area_id"] is None for device in devices.values())
        assert states["sensor.ir_remote_device_count"]["state"] == "2"
        assert states["sensor.living_room_ir_firmware"]["state"] == "1.0"
        assert (await home.hass.entries())[0]["state"] == "loaded"

    async def test_without_firmware_the_nightly_automation_does_nothing(self, home: Home) -> None:
        assert (await home.hass.state("sensor.ir_remote_firmware_available"))["state"] == "unknown"
        await self.night(home)
        rollouts = await home.ask("GET", "rollouts", managed=True)
        assert rollouts == []

    async def night(self, home: Home) -> None:
        """Two o'clock: what the automation does then, with its condition."""
        await home.hass.action("automation.trigger", entity_id=NIGHTLY, skip_condition=False)

    async def drop(self, home: Home, version: str, seed: int) -> None:
        """The user drops a file into the folder that the document names."""
        (home.firmware / f"ir_remote_v{version}.bin").write_bytes(image(None, 250_000, seed=seed))
        await home.hass.action("ir_remote_ota.check_updates")
        await home.hass.sees("sensor.ir_remote_firmware_available", lambda state: version in state["state"])
        path = await home.hass.sees("sensor.ir_remote_latest_firmware", lambda state: version in state["state"])
        assert path["state"].endswith(f"/ir_remote_firmware/ir_remote_v{version}.bin")

    async def test_the_nightly_automation_updates_both_once(self, home: Home) -> None:
        await self.drop(home, "2.0.0", 2)
        await home.hass.sees("update.living_room_ir_firmware", "on")
        await self.night(home)
        rooms = (("living_room", self.living_room, "1.0"), ("bedroom", self.bedroom, "2.0.0"))
        for room, simulated, label in rooms:
            state = await home.hass.sees(f"update.{room}_ir_firmware", "off", 60)
            assert state["attributes"]["installed_version"] == "2.0.0"
            assert state["attributes"]["latest_version"] == "2.0.0"
            assert state["attributes"]["reported_version"] == label
            assert len(simulated.pushes()) == 1
        await home.hass.sees("sensor.ir_remote_firmware_available", "unknown")
        assert len(await until("both are told", lambda: home.hass.told("ir_remote_ota_update_finished"))) >= 1

    async def test_a_device_whose_label_stays_is_not_offered_it_again_and_gets_0_bytes(self, home: Home) -> None:
        sent = self.living_room.received_bytes() + self.bedroom.received_bytes()
        await self.night(home)
        # Also where its condition is left out.
        latest = (await home.hass.state("sensor.ir_remote_latest_firmware"))["state"]
        answer = await home.hass.action(
            "ir_remote_ota.update_all_devices", respond=True, firmware_file=latest, wait=True
        )
        assert answer is not None
        for room in ("living_room", "bedroom"):
            assert (await home.hass.state(f"update.{room}_ir_firmware"))["state"] == "off"
        for simulated in (self.living_room, self.bedroom):
            assert len(simulated.pushes()) == 1
        assert self.living_room.received_bytes() + self.bedroom.received_bytes() == sent

    async def fails(self, home: Home, n_notifications: int) -> None:
        """A failed update sends exactly one notification that names the device."""
        told = await until(
            "a notification", lambda: len(home.notifications()) >= n_notifications and home.notifications(), 60
        )
        await home.hass.sees("sensor.ir_remote_update_status", lambda state: state["state"] != "failed", 30)
        assert home.notifications() == told
        assert len(told) == n_notifications
        assert told[-1]["title"] == "IR Remote Update Failed"
        assert told[-1]["message"] == "Device Bedroom IR failed to update"

    async def test_the_card_updates_all_and_a_failure_sends_exactly_one_notification(
        self, home: Home, browser: Browser
    ) -> None:
        # From now on this one takes every image, restarts, and runs what it ran before.
        await self.bedroom.end()
        Steps.bedroom = await self.mini(home, BEDROOM, "--version", "2.0.0", "--fault", "keeps-old")
        await self.drop(home, "3.0.0", 3)
        await browser.visit("/founding-cards/0")
        for text in ("IR Remote Devices", "Living Room - Firmware", "Bedroom - OTA Enabled", "2.0.0"):
            await browser.sees(text)
        await browser.shot(f"founding-cards-{home.hass.language}")
        await browser.click("Update All IR Remotes")
        await self.fails(home, 1)
        await browser.leave()
        await home.hass.sees(
            "update.living_room_ir_firmware", lambda state: state["attributes"]["installed_version"] == "3.0.0", 60
        )
        state = await home.hass.sees("update.bedroom_ir_firmware", lambda state: not state["attributes"]["in_progress"])
        assert state["state"] == "on"
        failed = home.hass.told("ir_remote_ota_update_failed")
        assert [event["data"]["name"] for event in failed] == ["Bedroom IR"], failed
        assert failed[0]["data"]["reason"]
        assert failed[0]["data"]["next_step"]

    async def test_a_second_failure_sends_another(self, home: Home) -> None:
        device = (await home.hass.devices())["Bedroom IR"]["id"]
        await home.hass.action("ir_remote_ota.update_device", device_id=device, firmware_file="latest.bin")
        await self.fails(home, 2)

    async def test_a_restart_sends_none_and_areas_change_no_name(self, home: Home) -> None:
        # The devices move into areas, and everything of them is made anew there.
        for name, device in (await home.hass.devices()).items():
            area = await home.hass.command("config/area_registry/create", name=f"Area of {name}")
            await home.hass.command("config/device_registry/update", device_id=device["id"], area_id=area["area_id"])
        entry = (await home.hass.entries())[0]["entry_id"]
        await home.hass.request("POST", f"/api/config/config_entries/entry/{entry}/reload")
        entities = await home.hass.command("config/entity_registry/list")
        for entity in entities:
            if entity["platform"] == "ir_remote_ota":
                await home.hass.command("config/entity_registry/remove", entity_id=entity["entity_id"])
        await home.hass.restart()
        await home.hass.sees("sensor.bedroom_ir_status", "online", 60)
        await home.hass.sees(
            "sensor.ir_remote_update_status", lambda state: state["state"] not in ("unavailable", "unknown")
        )
        states = await home.hass.states()
        assert set(states) >= ENTITIES, sorted(ENTITIES - set(states))
        devices = await home.hass.devices()
        assert all(device["area_id"] for device in devices.values())
        # Longer than the pulse and its gathering take together.
        await asyncio.sleep(3)
        assert len(home.notifications()) == 2
        assert (await home.hass.state(FAILED))["state"] == "on"

    async def test_in_areas_a_failure_sends_one_too(self, home: Home) -> None:
        await self.night(home)
        await self.fails(home, 3)

    async def test_the_server_says_no_password(self, home: Home) -> None:
        """The password of the devices is in no state and no log."""
        said = "\n".join(home.hass.log()) + str(await home.hass.states())
        # Names of entities and actions begin as it does.
        assert re.findall(r".{0,80}ir_remote_update(?![_s]).{0,80}", said) == []
