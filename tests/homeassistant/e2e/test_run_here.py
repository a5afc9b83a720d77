"""Run it here: Home Assistant owns the server, and neither's death hurts a flash."""

import asyncio
import os
import pathlib
import signal

import pytest
from home import Home, Simulated, image, until

STUDY = "192.168.1.120"
UPDATE = "update.study_ir_firmware"


def servers(home: Home) -> list[int]:
    """The processes of the server that Home Assistant runs."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--managed" in words and str(home.managed_folder).encode() in b"\0".join(words):
            found.append(int(process.name))
    return found


class TestRunHere:
    """In this order."""

    study: Simulated

    @pytest.fixture(scope="class", autouse=True)
    async def everything(self, home: Home) -> None:
        TestRunHere.study = await home.simulate(
            STUDY, "--boot-s", "800ms", "--version", "1.0", "--rate", "60000", "--mdns"
        )
        home.add_component()
        home.write_managed_policy()
        home.write_configuration()
        home.with_program(False)
        await home.hass.start()

    async def test_without_the_program_it_says_what_to_do(self, home: Home) -> None:
        menu = await home.hass.flow("ir_remote_ota")
        assert menu["type"] == "menu"
        answer = await home.hass.step(menu["flow_id"], {"next_step_id": "managed"})
        assert answer["type"] == "abort", answer
        assert answer["reason"]
        assert await home.hass.entries() == []

    async def test_it_is_added_and_finds_what_is_announced(self, home: Home) -> None:
        home.with_program(True)
        await home.hass.restart()
        menu = await home.hass.flow("ir_remote_ota")
        answer = await home.hass.step(menu["flow_id"], {"next_step_id": "managed"})
        assert answer["type"] == "form", answer
        listed = next(field for field in answer["data_schema"] if field["name"] == "devices")
        options = [option["value"] for option in listed["selector"]["select"]["options"]]
        assert len(options) == 1, options
        assert listed.get("default", listed.get("description", {}).get("suggested_value")) == options
        answer = await home.hass.step(answer["flow_id"], {"devices": options})
        assert answer["type"] == "create_entry", answer
        await home.ask("PATCH", f"devices/{options[0]}", {"name": "Study IR"}, managed=True)
        assert len(servers(home)) == 1

    async def test_home_assistant_restarted_in_mid_flash_hurts_nothing(self, home: Home) -> None:
        await home.add_firmware("ir_remote_1.1.bin", image("1.1", 600_000), managed=True)
        update = next(entity for entity in await home.hass.states() if entity.startswith("update."))
        await home.hass.sees(update, "on")
        device = (await home.hass.devices()).popitem()
        assert device[0] != "Reflash" or len(await home.hass.devices()) == 1
        rollout = asyncio.create_task(home.hass.action("update.install", entity_id=update))
        await home.hass.sees(update, lambda state: (state["attributes"]["update_percentage"] or 0) > 0)
        await home.hass.stop()
        await asyncio.gather(rollout, return_exceptions=True)
        await home.hass.start()
        state = await home.hass.sees(update, lambda state: state["state"] == "off", 60)
        assert state["attributes"]["installed_version"] == "1.1"
        assert len(self.study.pushes()) == 1
        assert len(servers(home)) == 1

    async def test_a_killed_server_is_started_again(self, home: Home) -> None:
        before = servers(home)
        os.kill(before[0], signal.SIGKILL)
        update = next(entity for entity in await home.hass.states() if entity.startswith("update."))
        await until("another server runs", lambda: servers(home) and servers(home) != before, 60)
        await home.hass.sees(update, "off", 60)
        assert len(servers(home)) == 1

    async def test_a_killed_home_assistant_finds_its_server_again(self, home: Home) -> None:
        await home.hass.kill()
        await home.hass.start()
        update = next(entity for entity in await home.hass.states() if entity.startswith("update."))
        await home.hass.sees(update, "off", 60)
        await until("there is one server", lambda: len(servers(home)) == 1, 30)

    async def test_removing_it_ends_the_server(self, home: Home) -> None:
        entry = (await home.hass.entries())[0]["entry_id"]
        await home.hass.request("DELETE", f"/api/config/config_entries/entry/{entry}")
        await until("no server runs", lambda: not servers(home), 30)
