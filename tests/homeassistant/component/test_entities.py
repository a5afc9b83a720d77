"""What stands in Home Assistant for each device, and under which names."""

from conftest import SetUp
from homeassistant.core import HomeAssistant
from homeassistant.helpers import entity_registry as er

from server import House


async def test_two_remotes_have_the_founding_documents_entities(
    hass: HomeAssistant, two: House, set_up: SetUp
) -> None:
    await set_up(two)
    for slug in ("living_room_ir", "bedroom_ir"):
        assert hass.states.get(f"sensor.{slug}_firmware").state == "1.0"
        assert hass.states.get(f"sensor.{slug}_status").state == "online"
        assert hass.states.get(f"switch.{slug}_ota").state == "on"
        assert int(hass.states.get(f"sensor.{slug}_free_memory").state) > 0
        assert hass.states.get(f"sensor.{slug}_uptime").state != "unknown"
        assert hass.states.get(f"sensor.{slug}_update_state").state == "idle"
        assert hass.states.get(f"sensor.{slug}_last_update").state == "unknown"
        assert hass.states.get(f"update.{slug}_firmware").state == "off"
        assert hass.states.get(f"button.{slug}_force_update") is not None
        assert hass.states.get(f"button.{slug}_roll_back") is not None
        # Not there unless their owner asks for them.
        for entity_id in (f"switch.{slug}_force_update", f"sensor.{slug}_signal", f"sensor.{slug}_ip_address"):
            assert hass.states.get(entity_id) is None
            assert er.async_get(hass).async_get(entity_id).disabled
