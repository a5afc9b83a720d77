"""Without the integration: the server announces its devices by MQTT, and Home Assistant makes entities of that."""

import asyncio
import shutil

import pytest
from home import Home, Simulated, image, until

ATTIC, SHED = "192.168.1.130", "192.168.1.131"
MQTT = 'mqtt: { broker: "mqtt://127.0.0.1:1883", discovery: true, commands: true }\n'
DEVICES = '  network_range: "192.168.1.128/27"\n'


async def retained(topic: str) -> dict[str, str]:
    """What the broker keeps below a topic."""
    process = await asyncio.create_subprocess_exec(
        shutil.which("mosquitto_sub") or "mosquitto_sub",
        "-p",
        "1883",
        "-t",
        topic,
        "-F",
        "%t %p",
        "--retained-only",
        "-W",
        "1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said, _ = await process.communicate()
    return dict(line.split(" ", 1) for line in said.decode().splitlines() if " " in line)


class TestMqtt:
    """In this order."""

    attic: Simulated
    update: str

    @pytest.fixture(scope="class", autouse=True)
    async def everything(self, home: Home) -> None:
        await home.broker()
        TestMqtt.attic = await home.simulate(ATTIC, "--boot-s", "800ms", "--version", "1.0", "--rate", "80000")
        await home.serve(MQTT, devices=DEVICES)

        async def found() -> str | None:
            return next(
                (device["id"] for device in await home.ask("GET", "devices") if device["address"] == ATTIC), None
            )

        device = await until("the attic is found", found)
        await home.ask("PATCH", f"devices/{device}", {"name": "Attic IR"})
        await home.ask("POST", "devices/enroll", {"devices": [device]})
        await home.add_firmware("ir_remote_1.1.bin", image("1.1", 400_000))
        home.write_configuration()
        await home.hass.start()
        broker = {
            "broker": "127.0.0.1",
            "port": 1883,
            "other_settings": {"set_client_cert": False, "set_ca_cert": "off"},
        }
        answer = await home.hass.flow("mqtt", broker)
        assert answer["type"] == "create_entry", answer
        await home.hass.listen("state_changed")

    async def test_the_device_is_there_with_its_update(self, home: Home) -> None:
        async def announced() -> str | None:
            return next((entity for entity in await home.hass.states() if entity.startswith("update.attic_ir")), None)

        TestMqtt.update = await until("an update entity", announced)
        state = await home.hass.sees(self.update, "on")
        assert state["attributes"]["installed_version"] == "1.0"
        assert state["attributes"]["latest_version"] == "1.1"
        devices = await home.hass.command("config/device_registry/list")
        assert [device["name"] for device in devices if "Attic" in (device["name"] or "")] == ["Attic IR"]

    async def test_install_moves_a_percentage_and_ends(self, home: Home) -> None:
        await home.hass.action("update.install", entity_id=self.update)
        await home.hass.sees(self.update, "off", 60)
        course = home.hass.course(self.update)
        percentages = [percentage for *_, percentage in course if percentage is not None]
        assert len(set(percentages)) >= 2, course
        assert percentages == sorted(percentages), course
        assert course[-1] == ("off", "1.1", False, None), course
        assert len(self.attic.pushes()) == 1

    async def test_killed_in_mid_update_it_is_not_in_progress_for_ever(self, home: Home) -> None:
        await home.add_firmware("ir_remote_1.2.bin", image("1.2", 800_000, seed=2))
        await home.hass.sees(self.update, "on")
        await home.hass.action("update.install", entity_id=self.update)
        await home.hass.sees(self.update, lambda state: (state["attributes"]["update_percentage"] or 0) > 0)
        await home.kill_server()
        await home.hass.sees(self.update, "unavailable")
        await home.serve(MQTT, devices=DEVICES)
        state = await home.hass.sees(
            self.update, lambda state: state["state"] in ("on", "off") and not state["attributes"]["in_progress"], 180
        )
        truth = next(device for device in await home.ask("GET", "devices") if device["address"] == ATTIC)
        assert state["attributes"]["installed_version"] == truth["installed"]["text"], truth

    async def test_after_a_restart_of_home_assistant_all_is_there(self, home: Home) -> None:
        await home.hass.restart()
        await home.hass.sees(self.update, lambda state: state["state"] in ("on", "off"), 60)

    async def test_what_an_entry_shows_is_not_announced(self, home: Home) -> None:
        topics = await retained("homeassistant/device/#")
        assert len(topics) == 1, topics
        home.add_component()
        await home.hass.restart()
        menu = await home.hass.flow("ir_remote_ota")
        form = await home.hass.step(menu["flow_id"], {"next_step_id": "connect"})
        answer = await home.hass.step(form["flow_id"], {"url": home.server_url, "token": home.token})
        if answer["type"] == "form":
            answer = await home.hass.step(answer["flow_id"], {})
        assert answer["type"] == "create_entry", answer

        async def taken_back() -> bool:
            return not [text for text in (await retained("homeassistant/device/#")).values() if text]

        await until("what was announced is taken back", taken_back)

        async def shown() -> list[str]:
            entities = await home.hass.command("config/entity_registry/list")
            return [
                entity["entity_id"]
                for entity in entities
                if entity["platform"] == "ir_remote_ota" and entity["entity_id"].startswith("update.")
            ]

        ours = await until("the integration shows it", shown)
        await home.hass.sees(ours[0], lambda state: state["state"] in ("on", "off"))
        devices = await home.hass.command("config/device_registry/list")
        assert len([device for device in devices if device["name"] == "Attic IR"]) == 1

    async def test_off_by_default_nothing_is_announced(self, home: Home) -> None:
        entry = (await home.hass.entries())[0]["entry_id"]
        await home.hass.request("DELETE", f"/api/config/config_entries/entry/{entry}")
        assert home.server is not None
        home.server.terminate()
        await home.server.wait()
        await home.serve(MQTT.replace(", discovery: true", ""), devices=DEVICES)

        async def none() -> bool:
            return not [text for text in (await retained("homeassistant/device/#")).values() if text]

        await until("nothing is announced", none)
