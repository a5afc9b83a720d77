"""The update entity: install, progress, failure, rollback, skip."""

import asyncio
import itertools
from typing import Any

import pytest
from conftest import SetUp
from homeassistant.core import Event, EventStateChangedData, HomeAssistant, callback
from homeassistant.exceptions import HomeAssistantError
from homeassistant.helpers.event import async_track_state_change_event
from pytest_homeassistant_custom_component.typing import WebSocketGenerator
from server import House, image, until

LIVING = "update.living_room_ir_firmware"


async def install(hass: HomeAssistant, entity_id: str = LIVING, **more: Any) -> None:
    await hass.services.async_call("update", "install", {"entity_id": entity_id, **more}, blocking=True)


def history(hass: HomeAssistant, entity_id: str) -> list[Any]:
    seen: list[Any] = []

    @callback
    def keep(event: Event[EventStateChangedData]) -> None:
        seen.append(event.data["new_state"])

    async_track_state_change_event(hass, [entity_id], keep)
    return seen


async def remote(home: House, *arguments: str) -> Any:
    simulated = await home.remote("Living Room IR", *arguments)
    await home.serve()
    await home.online()
    return simulated


async def offered(hass: HomeAssistant, entity_id: str = LIVING) -> None:
    await until(lambda: hass.states.get(entity_id).state == "on", "an offer")


async def test_install_blocks_until_the_device_runs_it(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    simulated = await remote(home, "--rate", "40000")
    await set_up(home)
    assert hass.states.get(LIVING).attributes["latest_version"] == "1.0"
    await home.drop("mini_v2.0.0.bin", image("2.0.0", 120_000))
    await offered(hass)
    assert hass.states.get(LIVING).attributes["latest_version"] == "2.0.0"
    seen = history(hass, LIVING)
    await install(hass)
    state = hass.states.get(LIVING)
    assert (state.state, state.attributes["installed_version"]) == ("off", "2.0.0")
    assert state.attributes["in_progress"] is False
    percents = [one.attributes["update_percentage"] for one in seen if one.attributes["update_percentage"] is not None]
    assert len(percents) >= 2
    assert percents == sorted(percents)
    assert [line["len_bytes"] for line in simulated.events("received")] == [len(image("2.0.0", 120_000))]
    # At most one a second while it runs.
    times = [one.last_updated.timestamp() for one in seen if one.attributes["in_progress"]]
    assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(times))


async def test_a_label_that_stays_is_updated_once_and_not_offered_again(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    simulated = await remote(home, "--fault", "label-unchanged")
    await set_up(home)
    await home.drop("mini_v2.0.0.bin", image(None))
    await offered(hass)
    await install(hass)
    state = hass.states.get(LIVING)
    assert (state.state, state.attributes["installed_version"]) == ("off", "2.0.0")
    assert state.attributes["reported_version"] == "1.0"
    with pytest.raises(HomeAssistantError):
        await install(hass)
    # The nightly automation finds nothing to do, and that is no error.
    answer = await hass.services.async_call(
        "ir_remote_ota", "update_all_devices", {}, blocking=True, return_response=True
    )
    assert answer["rollout_id"] is None
    assert len(simulated.events("received")) == 1


async def test_a_device_that_rolls_itself_back_ends_install_with_an_error_and_is_still_offered(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    simulated = await remote(home)
    await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass)
    await install(hass)
    # Its label is known to move from now on.
    await simulated.end()
    home.programs.remove(simulated)
    await home.remote("Living Room IR", "--version", "2.0.0", "--fault", "keeps-old", host=1, list_it=False)
    await home.drop("mini_v3.0.0.bin", image("3.0.0"))
    await offered(hass)
    await until(lambda: hass.states.get("sensor.living_room_ir_status").state == "online")
    with pytest.raises(HomeAssistantError) as caught:
        await install(hass)
    assert caught.value.translation_key == "update_failed"
    assert caught.value.translation_placeholders["outcome"] == "rolled back"
    assert "Living Room IR" in str(caught.value)
    assert caught.value.translation_placeholders["next_step"]
    await hass.async_block_till_done()
    state = hass.states.get(LIVING)
    assert (state.state, state.attributes["installed_version"]) == ("on", "2.0.0")
    assert state.attributes["in_progress"] is False
    assert hass.states.get("sensor.living_room_ir_update_state").state == "rolled_back"


async def test_an_offline_device_fails_at_once_with_the_offer_to_queue_it(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    simulated = await remote(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await set_up(home)
    await offered(hass)
    await simulated.end(kill=True)
    await until(lambda: hass.states.get("sensor.living_room_ir_status").state == "offline")
    # It still says what it would get, and the sensors that mean nothing now say nothing.
    assert hass.states.get(LIVING).state == "on"
    assert hass.states.get("sensor.living_room_ir_free_memory").state == "unavailable"
    assert hass.states.get("sensor.living_room_ir_firmware").state == "1.0"
    began = asyncio.get_running_loop().time()
    with pytest.raises(HomeAssistantError) as caught:
        await install(hass)
    assert asyncio.get_running_loop().time() - began < 1
    assert caught.value.translation_key == "device_offline"
    assert "When back" in str(caught.value)
    assert await home.client.rollouts() == []


async def test_a_named_version_is_the_way_back(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    simulated = await remote(home)
    await set_up(home)
    for version in ("2.0.0", "3.0.0"):
        await home.drop(f"mini_v{version}.bin", image(version))
        await until(lambda: hass.states.get(LIVING).attributes["latest_version"] == version)  # noqa: B023
        await install(hass)
    await install(hass, version="2.0.0")
    assert hass.states.get(LIVING).attributes["installed_version"] == "2.0.0"
    assert len(simulated.events("received")) == 3


async def test_an_unknown_version_is_refused_with_the_servers_words(
    hass: HomeAssistant, home: House, set_up: SetUp
) -> None:
    await remote(home)
    await set_up(home)
    with pytest.raises(HomeAssistantError) as caught:
        await install(hass, version="9.9.9")
    assert caught.value.translation_key == "refused"
    assert "9.9.9" in str(caught.value)


async def test_a_skip_belongs_to_the_server(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await remote(home)
    digest = await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await set_up(home)
    await offered(hass)
    await hass.services.async_call("update", "skip", {"entity_id": LIVING}, blocking=True)
    await hass.async_block_till_done()
    assert (await home.device("Living Room IR")).skipped == (digest,)
    assert hass.states.get(LIVING).state == "off"
    assert hass.states.get(LIVING).attributes["skipped_version"] == "2.0.0"
    # Taken back at the server, it is offered here again, and the other way round.
    await home.client.skip((await home.device("Living Room IR")).id, None)
    await offered(hass)
    assert hass.states.get(LIVING).attributes["skipped_version"] is None
    await home.client.skip((await home.device("Living Room IR")).id, digest)
    await until(lambda: hass.states.get(LIVING).attributes["skipped_version"] == "2.0.0", "a skip of the server")
    await hass.services.async_call("update", "clear_skipped", {"entity_id": LIVING}, blocking=True)
    await hass.async_block_till_done()
    assert (await home.device("Living Room IR")).skipped == ()
    await offered(hass)


async def test_a_pin_of_the_server_is_no_update_here(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await remote(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await set_up(home)
    await offered(hass)
    await home.client.pin((await home.device("Living Room IR")).id, "1.0")
    await until(lambda: hass.states.get(LIVING).state == "off")
    assert hass.states.get(LIVING).attributes["release_summary"]


async def test_release_notes_tell_what_is_new_and_how_the_last_update_went(
    hass: HomeAssistant, home: House, set_up: SetUp, hass_ws_client: WebSocketGenerator
) -> None:
    await remote(home)
    (home.firmware_path / "mini_v2.0.0.md").write_text("Learns *codes* faster.")
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await set_up(home)
    await offered(hass)
    socket = await hass_ws_client(hass)

    async def notes() -> str:
        await socket.send_json_auto_id({"type": "update/release_notes", "entity_id": LIVING})
        return (await socket.receive_json())["result"]

    assert "Learns *codes* faster." in await notes()
    await install(hass)
    assert "Learns *codes* faster." in await notes()
    assert "**Last update:**" in await notes()


async def test_other_sensors_keep_their_values_while_we_update(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await remote(home, "--boot-s", "2s")
    await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass)
    seen = history(hass, "sensor.living_room_ir_status") + history(hass, "sensor.living_room_ir_free_memory")
    states = history(hass, "sensor.living_room_ir_update_state")
    memory = hass.states.get("sensor.living_room_ir_free_memory").state
    installing = hass.async_create_task(install(hass))
    await until(lambda: hass.states.get("sensor.living_room_ir_update_state").state == "rebooting")
    assert hass.states.get("sensor.living_room_ir_status").state == "online"
    assert hass.states.get("sensor.living_room_ir_free_memory").state == memory
    assert hass.states.get("sensor.ir_remote_update_status").state == "running"
    await installing
    assert not {state.state for state in seen} & {"offline", "unavailable", "unknown"}
    assert states[-1].state == "updated"
    assert hass.states.get("sensor.living_room_ir_last_update").state != "unknown"


async def test_a_second_update_of_the_same_device_is_refused(hass: HomeAssistant, home: House, set_up: SetUp) -> None:
    await remote(home, "--rate", "30000")
    await set_up(home)
    await home.drop("mini_v2.0.0.bin", image("2.0.0"))
    await offered(hass)
    installing = hass.async_create_task(install(hass))
    await until(lambda: hass.states.get(LIVING).attributes["in_progress"])
    with pytest.raises(HomeAssistantError):
        await install(hass)
    await installing
