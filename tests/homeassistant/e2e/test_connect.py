"""A server of one's own, found and added in the browser; install, fail, roll back, kill, restart."""

import asyncio
import itertools
import json
import re

import pytest
from browser import Browser
from hass import ActionError, State
from home import Home, Simulated, image, until

KITCHEN, HALL, CELLAR = "192.168.1.110", "192.168.1.111", "192.168.1.112"
UPDATE = "update.kitchen_ir_firmware"


class TestConnect:
    """In this order."""

    kitchen: Simulated
    hall: Simulated

    @pytest.fixture(scope="class", autouse=True)
    async def everything(self, home: Home) -> None:
        quick = ["--boot-s", "800ms", "--version", "1.0"]
        TestConnect.kitchen = await home.simulate(KITCHEN, *quick, "--rate", "100000")
        TestConnect.hall = await home.simulate(HALL, *quick)
        await home.serve(devices='  network_range: "192.168.1.96/27"\n  scan_interval: 10s\n')
        ids = {}
        for address, name in ((KITCHEN, "Kitchen IR"), (HALL, "Hall IR")):

            async def found(address: str = address) -> str | None:
                return next(
                    (device["id"] for device in await home.ask("GET", "devices") if device["address"] == address), None
                )

            ids[name] = await until(f"{address} is found", found)
            await home.ask("PATCH", f"devices/{ids[name]}", {"name": name})
        home.add_component()
        home.write_configuration()
        await home.hass.start()
        await home.hass.listen("ir_remote_ota_update_failed")
        await home.hass.listen("state_changed")

    async def test_it_is_added_in_the_browser_and_its_devices_are_ticked(self, home: Home, browser: Browser) -> None:
        await browser.visit("/config/integrations/dashboard/add?domain=ir_remote_ota")
        await self.confirm(browser)
        await browser.sees("Connect to a server")
        await browser.shot("add")
        await browser.click("/^Connect to a server/")
        await browser.sees("/token/i")
        await browser.fill(home.server_url, "rfl_wrong")
        await browser.click("/^(Submit|Next)$/", role="button")
        await browser.sees("does not know this token")
        await browser.fill(home.server_url, home.token)
        await browser.click("/^(Submit|Next)$/", role="button")
        await browser.sees("/Kitchen IR/")
        await browser.sees("/Hall IR/")
        await browser.shot("enrol")
        await browser.click("/^(Submit|Next)$/", role="button")
        await until("there is an entry", home.hass.entries)
        await home.hass.sees(UPDATE, lambda state: state["state"] in ("on", "off", "unknown"))
        assert [device["enrolled"] for device in await home.ask("GET", "devices")] == [True, True]

    async def confirm(self, browser: Browser) -> None:
        """The question whether one really wants to set up what a link names, where it is asked."""
        text = await browser.text()
        if "Connect to a server" not in text:
            await browser.click("/^(OK|Submit|Yes)$/", role="button")

    async def test_install_moves_a_percentage_in_the_browser(self, home: Home, browser: Browser) -> None:
        await home.add_firmware("ir_remote_1.0.bin", image("1.0", 100_000), running_on=KITCHEN)
        await home.add_firmware("ir_remote_1.0.bin", image("1.0", 100_000), running_on=HALL)
        await home.add_firmware("ir_remote_1.1.bin", image("1.1", 1_000_000))
        state = await home.hass.sees(UPDATE, "on")
        assert state["attributes"]["installed_version"] == "1.0"
        assert state["attributes"]["latest_version"] == "1.1"
        device = (await home.hass.devices())["Kitchen IR"]["id"]
        await browser.visit(f"/config/devices/device/{device}")
        await browser.sees("Kitchen IR")
        await browser.sees("/Firmware/")
        await browser.shot("device")
        # What its owner sees: the dialog of the update, with its notes and a button.
        await browser.click("Update available")
        await browser.click("/^(Install|Update)$/", role="button")
        await home.hass.sees(UPDATE, lambda state: (state["attributes"]["update_percentage"] or 0) > 0, 60)
        await browser.sees("/[0-9.]+ ?%/")
        await browser.shot("installing")
        await home.hass.sees(UPDATE, "off", 60)
        await browser.leave()
        course = home.hass.course(UPDATE)
        percentages = [percentage for *_, percentage in course if percentage is not None]
        assert len(set(percentages)) >= 3, course
        assert percentages == sorted(percentages), course
        # There is no moment at which it is over and not there yet.
        ends = [after for before, after in itertools.pairwise(course) if before[2] and not after[2]]
        assert ends == [("off", "1.1", False, None)], course
        assert len(self.kitchen.pushes()) == 1

    async def test_installing_on_a_device_that_puts_itself_back_is_an_error_that_says_so(self, home: Home) -> None:
        # Its label is known to move: an update has moved it.
        await home.hass.action("update.install", entity_id="update.hall_ir_firmware")
        await home.hass.sees("update.hall_ir_firmware", "off")
        await self.hall.end()
        TestConnect.hall = await home.simulate(HALL, "--boot-s", "800ms", "--version", "1.1", "--fault", "keeps-old")
        await home.add_firmware("ir_remote_1.2.bin", image("1.2", 150_000, seed=2))
        await home.hass.sees("update.hall_ir_firmware", "on")
        with pytest.raises(ActionError, match=r"Hall IR was not updated.*(old|back)"):
            await home.hass.action("update.install", entity_id="update.hall_ir_firmware")
        assert len(self.hall.pushes()) == 1
        state = await home.hass.sees("update.hall_ir_firmware", "on")
        assert state["attributes"]["installed_version"] == "1.1"
        assert state["attributes"]["latest_version"] == "1.2"
        assert not state["attributes"]["in_progress"]
        failed = await until("an event", lambda: home.hass.told("ir_remote_ota_update_failed"))
        assert [event["data"]["name"] for event in failed] == ["Hall IR"]
        assert failed[0]["data"]["entity_id"] == "update.hall_ir_firmware"

    async def test_the_notes_tell_what_was_proven_and_how_long_it_takes(self, home: Home) -> None:
        notes = await home.hass.command("update/release_notes", entity_id="update.hall_ir_firmware")
        assert re.search(r"minute", notes), notes
        assert re.search(r"old|back", notes), notes

    async def test_a_specific_version_rolls_back(self, home: Home) -> None:
        await home.hass.action("update.install", entity_id=UPDATE, version="1.0")
        state = await home.hass.sees(UPDATE, lambda state: state["attributes"]["installed_version"] == "1.0")
        assert state["state"] == "on"
        assert len(self.kitchen.pushes()) == 2

    async def test_the_button_rolls_back_too(self, home: Home) -> None:
        await home.hass.action("update.install", entity_id=UPDATE, version="1.1")
        await home.hass.sees(UPDATE, lambda state: state["attributes"]["installed_version"] == "1.1")
        await home.hass.action("button.press", entity_id="button.kitchen_ir_roll_back")
        await home.hass.sees(UPDATE, lambda state: state["attributes"]["installed_version"] == "1.0", 60)
        assert len(self.kitchen.pushes()) == 4

    async def test_an_offline_device_is_refused_at_once_with_the_offer_to_wait(self, home: Home) -> None:
        await self.hall.end()
        await home.hass.sees("sensor.hall_ir_status", "offline", 60)
        with pytest.raises(ActionError, match="When back"):
            await home.hass.action("update.install", entity_id="update.hall_ir_firmware")

    async def test_a_skipped_version_is_skipped_by_the_server_too(self, home: Home) -> None:
        await home.hass.action("update.skip", entity_id=UPDATE)
        await home.hass.sees(UPDATE, "off")

        async def is_left_out() -> bool:
            plan = await home.ask("POST", "plans", {"all": True})
            return "Kitchen IR" not in json.dumps(plan.get("members", []))

        await until("the server leaves it out", is_left_out)
        await home.hass.action("update.clear_skipped", entity_id=UPDATE)
        await home.hass.sees(UPDATE, "on")

    async def test_home_assistant_restarted_in_mid_flash_hurts_nothing(self, home: Home) -> None:
        device = (await home.hass.devices())["Kitchen IR"]["id"]
        await home.hass.action("ir_remote_ota.update_device", device_id=device, firmware_file="ir_remote_1.1.bin")
        await home.hass.sees(UPDATE, lambda state: (state["attributes"]["update_percentage"] or 0) > 0)
        await home.hass.restart()

        def runs_it(state: State) -> bool:
            return state["attributes"].get("installed_version") == "1.1" and not state["attributes"]["in_progress"]

        await home.hass.sees(UPDATE, runs_it, 60)
        assert len(self.kitchen.pushes()) == 5
        jobs = await home.ask("GET", "history")
        assert jobs[0]["state"].startswith("updated"), jobs[0]

    async def test_a_dead_server_makes_entities_unavailable_once_and_they_come_back(self, home: Home) -> None:
        await home.kill_server()
        for entity in (UPDATE, "sensor.kitchen_ir_status", "sensor.ir_remote_device_count"):
            await home.hass.sees(entity, "unavailable", 60)
        # Several tries pass in vain.
        await asyncio.sleep(8)
        assert len(home.hass.complaints()) == 1, home.hass.complaints()
        await home.serve(devices='  network_range: "192.168.1.96/27"\n  scan_interval: 10s\n')
        for entity in (UPDATE, "sensor.kitchen_ir_status", "sensor.ir_remote_device_count"):
            await home.hass.sees(entity, lambda state: state["state"] != "unavailable", 60)

        def told() -> list[str]:
            return [word for line in home.hass.log() for word in (" is gone", " is back") if word in line]

        await until("it is told that the server is back", lambda: " is back" in told())
        assert told() == [" is gone", " is back"], home.hass.log()

    async def test_a_new_device_appears_by_itself(self, home: Home) -> None:
        await home.simulate(CELLAR, "--boot-s", "500ms", "--version", "1.0")
        await home.ask("POST", "devices", {"family": "ir-remote", "host": CELLAR, "name": "Cellar IR"})
        await home.hass.sees("update.cellar_ir_firmware", lambda state: state["state"] in ("on", "off"), 60)

    async def test_removing_the_entry_leaves_nothing(self, home: Home) -> None:
        entry = (await home.hass.entries())[0]["entry_id"]
        status, _ = await home.hass.request("DELETE", f"/api/config/config_entries/entry/{entry}")
        assert status == 200
        assert not [entity for entity in await home.hass.states() if "kitchen_ir" in entity]
        assert await home.hass.devices() == {}
