"""Today's examples, the blueprints and the dashboard, as they are in docs/examples and blueprints."""

import asyncio
import re
import shutil

import pytest
from browser import Browser
from home import ROOT, Home, Simulated, image, until

EXAMPLES = ROOT / "docs" / "examples"
BLUEPRINTS = ROOT / "blueprints"
LIVING_ROOM, BEDROOM = "192.168.1.100", "192.168.1.101"
MORE = """
automation: !include automations.yaml
notify:
  - platform: told_notifier
    name: mobile_app
lovelace:
  dashboards:
    today-cards:
      mode: yaml
      title: Today
      filename: today.yaml
    whole-dashboard:
      mode: yaml
      title: Firmware
      filename: dashboard.yaml
"""
USED = """
- id: nightly
  alias: Nightly blueprint
  use_blueprint:
    path: ir_remote_ota/nightly.yaml
    input: { watch_for: { seconds: 1 } }
- id: failure
  alias: Failure blueprint
  use_blueprint:
    path: ir_remote_ota/failure.yaml
    input: { notifier: notify.mobile_app }
"""


class TestExamples:
    """In this order."""

    living_room: Simulated
    bedroom: Simulated

    async def mini(self, home: Home, address: str, *faults: str, version: str = "1.0") -> Simulated:
        flags = ["--boot-s", "500ms", "--version", version]
        return await home.simulate(address, *flags, *(word for fault in faults for word in ("--fault", fault)))

    @pytest.fixture(scope="class", autouse=True)
    async def everything(self, home: Home) -> None:
        TestExamples.living_room = await self.mini(home, LIVING_ROOM)
        TestExamples.bedroom = await self.mini(home, BEDROOM)
        home.add_component()
        home.add_notifier()
        home.write_managed_policy("policy: { canary: 1, canary_soak: 1s, soak: 4s, rollback: never }\n")
        packages = {
            "ir": EXAMPLES / "today" / "configuration.yaml",
            "automations": EXAMPLES / "today" / "automations.yaml",
        }
        home.write_configuration(MORE, packages)
        (home.config / "secrets.yaml").write_text("ir_remote_ota: ir_remote_update\n")
        shutil.copytree(BLUEPRINTS, home.config / "blueprints")
        (home.config / "automations.yaml").write_text(USED)
        shutil.copyfile(EXAMPLES / "today" / "cards.yaml", home.config / "cards.yaml")
        (home.config / "today.yaml").write_text("views:\n  - title: IR\n    cards:\n      - !include cards.yaml\n")
        shutil.copyfile(EXAMPLES / "dashboard.yaml", home.config / "dashboard.yaml")
        await home.hass.start()
        await home.hass.listen("ir_remote_ota_update_failed")
        await home.hass.sees("update.living_room_ir_firmware", lambda state: state["state"] in ("on", "off"), 60)
        await home.hass.sees("update.bedroom_ir_firmware", lambda state: state["state"] in ("on", "off"), 60)

    async def drop(self, home: Home, version: str, seed: int) -> None:
        (home.firmware / f"ir_remote_v{version}.bin").write_bytes(image(version, 200_000, seed=seed))
        await home.hass.action("ir_remote_ota.check_updates")
        await home.hass.sees(
            "update.bedroom_ir_firmware", lambda state: state["attributes"]["latest_version"] == version
        )

    async def installed(self, home: Home, version: str, *rooms: str) -> None:
        for room in rooms:
            await home.hass.sees(
                f"update.{room}_ir_firmware", lambda state: state["attributes"]["installed_version"] == version, 60
            )

    async def test_nothing_is_wrong_with_any_of_them(self, home: Home) -> None:
        about = re.compile(r"(WARNING|ERROR).*(automation|blueprint|lovelace|notify|template)")
        assert [line for line in home.hass.log() if about.search(line)] == []
        states = await home.hass.states()
        automations = {entity for entity in states if entity.startswith("automation.")}
        assert len(automations) == 4, automations
        assert all(states[entity]["state"] == "on" for entity in automations), automations

    async def test_the_nightly_automation_of_today_updates_all(self, home: Home) -> None:
        await self.drop(home, "1.1", 1)
        await home.hass.action(
            "automation.trigger", entity_id="automation.reflash_update_at_night", skip_condition=False
        )
        await self.installed(home, "1.1", "living_room", "bedroom")

    async def test_the_nightly_blueprint_updates_the_named_device_first(self, home: Home) -> None:
        bedroom = (await home.hass.devices())["Bedroom IR"]["id"]
        used = USED.replace("input: { watch_for", f"input: {{ first: {bedroom}, watch_for")
        (home.config / "automations.yaml").write_text(used)
        await home.hass.action("automation.reload")
        await self.drop(home, "1.2", 2)
        await home.hass.action("automation.trigger", entity_id="automation.nightly_blueprint", skip_condition=False)
        await self.installed(home, "1.2", "living_room", "bedroom")
        rollouts = await home.ask("GET", "rollouts", managed=True)
        names = [
            [member["name"] for member in (await home.ask("GET", f"rollouts/{rollout['id']}", managed=True))["members"]]
            for rollout in rollouts[:2]
        ]
        # The newest stands first.
        assert names[1] == ["Bedroom IR"], names
        assert "Living Room IR" in names[0], names

    async def test_a_failure_is_told_with_buttons_and_roll_back_rolls_back(self, home: Home) -> None:
        await self.bedroom.end()
        TestExamples.bedroom = await self.mini(home, BEDROOM, "returns-but-crashes", version="1.2")
        await self.drop(home, "1.3", 3)
        bedroom = (await home.hass.devices())["Bedroom IR"]["id"]
        before = len(home.notifications())
        await home.hass.action("ir_remote_ota.update_device", device_id=bedroom)
        told = await until(
            "both messages", lambda: len(home.notifications()) >= before + 2 and home.notifications()[before:], 90
        )
        ours = next(message for message in told if message.get("data", {}).get("actions"))
        assert ours["message"].startswith("Bedroom IR: "), ours
        plain = next(message for message in told if not message.get("data"))
        assert plain["message"].startswith("Bedroom IR: "), plain
        actions = ours["data"]["actions"]
        assert [action["title"] for action in actions] == ["Roll back", "Try again"]
        await home.hass.command(
            "fire_event", event_type="mobile_app_notification_action", event_data={"action": actions[0]["action"]}
        )

        async def rolls_back() -> bool:
            rollouts = await home.ask("GET", "rollouts", managed=True)
            return rollouts[0]["kind"] == "rollback"

        await until("a rollback has begun", rolls_back, 30)
        await asyncio.sleep(0)

    async def test_the_dashboard_and_the_cards_show_the_fleet(self, home: Home, browser: Browser) -> None:
        await browser.visit("/today-cards/0")
        await browser.sees("IR Remote Devices")
        await browser.sees("Update all IR Remotes")
        await browser.visit("/whole-dashboard/firmware")
        for text in ("Devices", "Living Room IR", "Look for updates"):
            await browser.sees(text)
        await browser.shot("dashboard")
        text = await browser.text()
        assert "error" not in text.lower().replace("no errors", ""), text
