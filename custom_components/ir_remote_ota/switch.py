"""Switches: whether updates are wanted, and the founding document's switch that forces one."""

from typing import Any

from homeassistant.components.switch import SwitchEntity
from homeassistant.const import EntityCategory, Platform
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback

from .client import Device, ReflashError
from .coordinator import Hub, ReflashConfigEntry
from .entity import DeviceEntity, Wanted, follow_devices
from .flash import async_begin
from .problems import offline, refused

PARALLEL_UPDATES = 0


async def async_setup_entry(
    hass: HomeAssistant, entry: ReflashConfigEntry, async_add_entities: AddConfigEntryEntitiesCallback
) -> None:
    """Add them for each device; the first only where a device can be told so."""
    hub = entry.runtime_data

    def wanted(device: Device) -> list[Wanted]:
        return [
            (OTA, device.ota in {"enabled", "disabled"}, lambda: OtaSwitch(hub, device)),
            (FORCE_UPDATE, True, lambda: ForceUpdateSwitch(hub, device)),
        ]

    follow_devices(hub, Platform.SWITCH, async_add_entities, wanted)


OTA = "ota"
FORCE_UPDATE = "force_update"


class OtaSwitch(DeviceEntity, SwitchEntity):
    """The wanted state: the server applies it again after each restart of the device."""

    _attr_entity_category = EntityCategory.CONFIG

    def __init__(self, hub: Hub, device: Device) -> None:
        super().__init__(hub, device, Platform.SWITCH, OTA)

    @property
    def is_on(self) -> bool:
        """Whether updates are wanted; what the device says, where nobody has said."""
        device = self.device
        return device.ota == "enabled" if device.ota_wanted is None else device.ota_wanted

    async def async_turn_on(self, **kwargs: Any) -> None:
        """Make updates possible."""
        await self._async_want(enabled=True)

    async def async_turn_off(self, **kwargs: Any) -> None:
        """Make updates impossible."""
        await self._async_want(enabled=False)

    async def _async_want(self, *, enabled: bool) -> None:
        try:
            self.hub.async_took(await self.hub.client.ota(self.device_key, enabled))
        except ReflashError as error:
            raise refused(error) from error


class ForceUpdateSwitch(DeviceEntity, SwitchEntity):
    """On while an update runs; turning it on begins one.

    Not there by default: `switch.turn_on` of a whole area must not flash anything.
    """

    _attr_entity_category = EntityCategory.CONFIG
    _attr_entity_registry_enabled_default = False

    def __init__(self, hub: Hub, device: Device) -> None:
        super().__init__(hub, device, Platform.SWITCH, FORCE_UPDATE)

    @property
    def is_on(self) -> bool:
        """Whether an update runs."""
        return self.device_key in self.hub.running

    async def async_turn_on(self, **kwargs: Any) -> None:
        """Install the newest image, even if it runs already."""
        if not self.device.is_online:
            raise offline(self.device)
        try:
            await async_begin(self.hub, {"devices": [self.device_key], "canary": 0, "force": True})
        except ReflashError as error:
            raise refused(error) from error

    async def async_turn_off(self, **kwargs: Any) -> None:
        """End it; an image that is on its way arrives, because half of one helps nobody."""
        progress = self.hub.running.get(self.device_key)
        if progress is None or progress.rollout is None:
            return
        try:
            self.hub.async_took_rollout(await self.hub.client.abort(progress.rollout))
        except ReflashError as error:
            raise refused(error) from error
