"""What all entities have in common: fixed ids, and whom they listen to."""

from collections.abc import Callable, Iterable

from homeassistant.const import Platform
from homeassistant.core import callback
from homeassistant.helpers import entity_registry as er
from homeassistant.helpers.device_registry import DeviceInfo
from homeassistant.helpers.entity import Entity
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .client import Device
from .const import DOMAIN
from .coordinator import Hub
from .registry import object_id_base, unique_id

HUB_OBJECT_ID = "ir_remote"
"""What the ids of the server's own entities begin with, as in the founding document."""


class HubEntity(Entity):
    """An entity of the server itself."""

    _attr_has_entity_name = True
    _attr_should_poll = False

    def __init__(self, hub: Hub, platform: Platform, key: str) -> None:
        self.hub = hub
        self._attr_translation_key = key
        self._attr_unique_id = unique_id(hub.server.id, "hub", key)
        self._attr_device_info = DeviceInfo(identifiers={(DOMAIN, hub.server.id)})
        self.entity_id = f"{platform}.{HUB_OBJECT_ID}_{key}"

    @property
    def available(self) -> bool:
        """Whether the server answers."""
        return self.hub.available

    async def async_added_to_hass(self) -> None:
        """Listen to every change."""
        self.async_on_remove(self.hub.async_add_listener(self.async_write_ha_state))


class DeviceEntity(Entity):
    """An entity of a device."""

    _attr_has_entity_name = True
    _attr_should_poll = False

    def __init__(self, hub: Hub, device: Device, platform: Platform, key: str) -> None:
        self.hub = hub
        self.device_key = device.id
        self._attr_translation_key = key
        self._attr_unique_id = unique_id(hub.server.id, device.id, key)
        self._attr_device_info = DeviceInfo(identifiers={(DOMAIN, device.id)})
        self.entity_id = f"{platform}.{object_id_base(hub.hass, hub.server.id, device)}_{key}"
        self._last = device

    @property
    def device(self) -> Device:
        """The device as it is known now, or was last."""
        self._last = self.hub.devices.get(self.device_key, self._last)
        return self._last

    @property
    def available(self) -> bool:
        """Whether the server answers, and knows the device."""
        return self.hub.available and self.device_key in self.hub.devices

    async def async_added_to_hass(self) -> None:
        """Listen to what changes of the device."""
        self.async_on_remove(self.hub.async_add_listener(self.async_write_ha_state, self.device_key))


type Wanted = tuple[str, bool, Callable[[], Entity]]
"""A key, whether the device has what the entity shows, and what makes the entity."""


@callback
def follow_devices(
    hub: Hub,
    platform: Platform,
    add: AddConfigEntryEntitiesCallback,
    wanted: Callable[[Device], Iterable[Wanted]],
) -> None:
    """Add the entities of each device, when it comes and when it learns something.

    An entity that was there once is there again, even if the device is off just now.
    """
    known: set[tuple[str, str]] = set()
    registry = er.async_get(hub.hass)

    @callback
    def check() -> None:
        shown = hub.shown
        gone = {pair for pair in known if pair[0] not in shown}
        known.difference_update(gone)
        new = []
        for device in shown.values():
            for key, is_there, make in wanted(device):
                if (device.id, key) in known:
                    continue
                identity = unique_id(hub.server.id, device.id, key)
                if is_there or registry.async_get_entity_id(platform, DOMAIN, identity) is not None:
                    known.add((device.id, key))
                    new.append(make())
        if new:
            add(new)

    check()
    hub.entry.async_on_unload(hub.async_on_devices(check))
