"""The update entity: what is installed, what is offered, and the way from one to the other."""

import logging
from typing import Any

from homeassistant.components.update import (
    UpdateDeviceClass,
    UpdateEntity,
    UpdateEntityFeature,
)
from homeassistant.components.update.const import ATTR_SKIPPED_VERSION
from homeassistant.const import EntityCategory, Platform
from homeassistant.core import Event, EventStateChangedData, HomeAssistant, callback
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback
from homeassistant.helpers.event import async_track_state_change_event

from .client import Device, ReflashError
from .coordinator import Hub, ReflashConfigEntry
from .entity import DeviceEntity, Wanted, follow_devices
from .flash import async_install
from .notes import async_notes

PARALLEL_UPDATES = 0

_LOGGER = logging.getLogger(__name__)

KEY = "firmware"
FEATURES = UpdateEntityFeature.PROGRESS | UpdateEntityFeature.RELEASE_NOTES
INSTALL_FEATURES = UpdateEntityFeature.INSTALL | UpdateEntityFeature.SPECIFIC_VERSION


async def async_setup_entry(
    hass: HomeAssistant, entry: ReflashConfigEntry, async_add_entities: AddConfigEntryEntitiesCallback
) -> None:
    """Add one for each device."""
    hub = entry.runtime_data

    def wanted(device: Device) -> list[Wanted]:
        return [(KEY, True, lambda: FirmwareUpdate(hub, device))]

    follow_devices(hub, Platform.UPDATE, async_add_entities, wanted)


class FirmwareUpdate(DeviceEntity, UpdateEntity):
    """The firmware of one device; all of its words are the server's."""

    _attr_device_class = UpdateDeviceClass.FIRMWARE
    _attr_entity_category = EntityCategory.CONFIG
    _is_telling = False

    def __init__(self, hub: Hub, device: Device) -> None:
        super().__init__(hub, device, Platform.UPDATE, KEY)

    @property
    def supported_features(self) -> UpdateEntityFeature:
        """What can be done: nothing where the device's own firmware is too old for it."""
        return FEATURES | INSTALL_FEATURES if self.device.can_install else FEATURES

    @property
    def installed_version(self) -> str | None:
        """The image that is proven to run, in words."""
        return self.device.installed.text if self.device.installed else self.device.reported_version

    @property
    def latest_version(self) -> str | None:
        """The newest image that fits, in words; what runs already, where nothing is known to fit."""
        return self.device.latest.text if self.device.latest else self.installed_version

    @property
    def has_update(self) -> bool:
        """Whether the server offers it."""
        return self.device.offered

    def version_is_newer(self, latest_version: str, installed_version: str) -> bool:
        """Return the same: Home Assistant before 2026.11 asks in this way."""
        return self.device.offered

    @property
    def title(self) -> str:
        """What one of its family is called."""
        return self.device.title

    @property
    def release_summary(self) -> str | None:
        """Why the newest is not offered, or cannot be installed."""
        device = self.device
        return device.why_not or (device.latest.why_not if device.latest else None)

    @property
    def in_progress(self) -> bool:
        """Whether an update of it runs, whoever has begun it."""
        return self.device_key in self.hub.running

    @property
    def update_percentage(self) -> int | None:
        """How much of the image has arrived."""
        progress = self.hub.running.get(self.device_key)
        return progress.percent if progress else None

    @property
    def extra_state_attributes(self) -> dict[str, Any]:
        """What it says of itself, and what it could go back to."""
        return {"reported_version": self.device.reported_version, "way_back": list(self.device.way_back)}

    async def async_install(self, version: str | None, backup: bool, **kwargs: Any) -> None:
        """Install it, and return when the device is proven to run it."""
        device = self.device
        if version is not None and version in device.way_back:
            await async_install(self.hub, device, kind="rollback", firmware=version)
        elif version is None and device.latest is not None:
            await async_install(self.hub, device, firmware=device.latest.sha256)
        else:
            # Whoever names a version means it, also where it is an older one.
            await async_install(self.hub, device, firmware=version, allow=["downgrade"])

    async def async_release_notes(self) -> str | None:
        """Return what is new, how long it takes, and how the last update went."""
        return await async_notes(self.hub, self.device)

    async def async_added_to_hass(self) -> None:
        """Listen to the server, and to what people skip here."""
        await super().async_added_to_hass()
        self.async_on_remove(async_track_state_change_event(self.hass, [self.entity_id], self._async_on_state))
        self.async_on_remove(self.hub.async_add_listener(self._mirror, self.device_key))
        self._mirror()

    # A skip belongs to the server: rollouts honour it. Home Assistant keeps one of its own, which is made to follow.

    @property
    def _skips(self) -> set[str]:
        """The words by which the newest image is left out: its digest, or its name."""
        latest = self.device.latest
        return {latest.sha256, latest.text} & set(self.device.skipped) if latest else set()

    @callback
    def _async_on_state(self, event: Event[EventStateChangedData]) -> None:
        new, old = event.data["new_state"], event.data["old_state"]
        if new is None or old is None or self._is_telling:
            return
        skipped, was = (state.attributes.get(ATTR_SKIPPED_VERSION) for state in (new, old))
        latest = self.device.latest
        if skipped == was or latest is None or not self.hub.available:
            return
        is_wanted = skipped == latest.text
        if is_wanted != bool(self._skips) and (is_wanted or was == latest.text):
            self._is_telling = True
            self.hub.entry.async_create_task(self.hass, self._async_tell_skip(is_wanted))

    @property
    def _is_shown_as_skipped(self) -> bool:
        state = self.hass.states.get(self.entity_id)
        shown = state.attributes.get(ATTR_SKIPPED_VERSION) if state else None
        return shown is not None and shown == self.latest_version

    async def _async_tell_skip(self, is_wanted: bool) -> None:
        client = self.hub.client
        try:
            while (latest := self.device.latest) is not None:
                if is_wanted:
                    self.hub.async_took(await client.skip(self.device_key, latest.sha256))
                for word in () if is_wanted else self._skips:
                    self.hub.async_took(await client.unskip(self.device_key, word))
                # Who has changed his mind meanwhile is heard as well.
                if self._is_shown_as_skipped == is_wanted:
                    break
                is_wanted = not is_wanted
        except ReflashError as error:
            _LOGGER.warning("The server was not told what %s skips: %s", self.device.name, error)
        finally:
            self._is_telling = False
            self._mirror()

    @callback
    def _mirror(self) -> None:
        if self._is_telling or not self.hub.available:
            return
        if bool(self._skips) != self._is_shown_as_skipped:
            self.hub.entry.async_create_task(self.hass, self._async_mirror())

    async def _async_mirror(self) -> None:
        if self._skips and self.installed_version != self.latest_version:
            await self.async_skip()
        elif not self._skips:
            await self.async_clear_skipped()
