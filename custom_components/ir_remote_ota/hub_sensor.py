"""Sensors of the server: those of the founding document, and how the whole fleet stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from homeassistant.components.sensor import SensorDeviceClass, SensorEntity, SensorEntityDescription, SensorStateClass
from homeassistant.const import PERCENTAGE, EntityCategory, Platform
from homeassistant.core import callback
from homeassistant.helpers.typing import StateType

from .client import Event, Firmware
from .coordinator import Hub
from .entity import HubEntity
from .pulse import FailurePulse

REMOTES = "ir-remote"
"""The family whose newest image the founding document asks for by name; the only family that is named here."""

STATUSES = ("idle", "running", "halted", "paused", "failed")


@dataclass(frozen=True, kw_only=True)
class HubSensorDescription(SensorEntityDescription):
    """A sensor of the server, and its value."""

    value: Callable[[Hub], StateType]


def newest(hub: Hub) -> Firmware | None:
    """Return the newest approved image of the remotes: the server names it, and lists the newest first."""
    images = [image for image in hub.firmware.firmware if image.family == REMOTES and image.state == "approved"]
    return next((image for image in images if image.latest_for), images[0] if images else None)


def _latest_firmware(hub: Hub) -> str | None:
    image = newest(hub)
    if image is None:
        return None
    folder = hub.firmware.folder or hub.server.firmware_path
    # Never a mere version: a template would make the number 1.1 of "1.10".
    return str(PurePosixPath(folder) / image.file_name) if folder else image.file_name


def _firmware_available(hub: Hub) -> str | None:
    offers = [device.latest for device in hub.shown.values() if device.offered and device.family == REMOTES]
    names = {offer.sha256: offer.text for offer in offers if offer is not None}
    image = newest(hub)
    return names.get(image.sha256 if image else "", next(iter(names.values()), None))


HUB_SENSORS = (
    HubSensorDescription(key="latest_firmware", entity_category=EntityCategory.DIAGNOSTIC, value=_latest_firmware),
    HubSensorDescription(
        key="firmware_available", entity_category=EntityCategory.DIAGNOSTIC, value=_firmware_available
    ),
    HubSensorDescription(
        key="device_count",
        entity_category=EntityCategory.DIAGNOSTIC,
        state_class=SensorStateClass.MEASUREMENT,
        value=lambda hub: len(hub.shown),
    ),
    HubSensorDescription(
        key="updates_available",
        state_class=SensorStateClass.MEASUREMENT,
        value=lambda hub: sum(device.offered for device in hub.shown.values()),
    ),
    HubSensorDescription(
        key="success_rate",
        entity_category=EntityCategory.DIAGNOSTIC,
        native_unit_of_measurement=PERCENTAGE,
        suggested_display_precision=0,
        state_class=SensorStateClass.MEASUREMENT,
        value=lambda hub: hub.stats.success_percent,
    ),
    HubSensorDescription(
        key="compliance",
        entity_category=EntityCategory.DIAGNOSTIC,
        native_unit_of_measurement=PERCENTAGE,
        suggested_display_precision=0,
        state_class=SensorStateClass.MEASUREMENT,
        value=lambda hub: 100 * hub.stats.n_current / hub.stats.n_enrolled if hub.stats.n_enrolled else None,
    ),
)


class HubSensor(HubEntity, SensorEntity):
    """A sensor of the server."""

    entity_description: HubSensorDescription

    def __init__(self, hub: Hub, description: HubSensorDescription) -> None:
        super().__init__(hub, Platform.SENSOR, description.key)
        self.entity_description = description

    @property
    def native_value(self) -> StateType:
        """What the server says."""
        return self.entity_description.value(self.hub)


class UpdateStatusSensor(HubEntity, SensorEntity):
    """How the fleet stands in one word; `failed` only for a moment, whenever something has."""

    _attr_device_class = SensorDeviceClass.ENUM
    _attr_options = list(STATUSES)  # noqa: RUF012 - Home Assistant declares it so

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, Platform.SENSOR, "update_status")
        self._pulse = FailurePulse(hub.hass, self.async_write_ha_state)

    @property
    def native_value(self) -> str:
        """The word."""
        if self._pulse.current is not None:
            return "failed"
        states = {rollout.state for rollout in self.hub.rollouts.values()}
        if self.hub.running or "running" in states:
            return "running"
        return next((state for state in ("halted", "paused") if state in states), "idle")

    @property
    def extra_state_attributes(self) -> Mapping[str, Any]:
        """Whose update has failed, why, and what to do."""
        failed = self._pulse.current
        if failed is None:
            return {"device_name": None, "devices": [], "reason": None, "next_step": None}
        return {
            "device_name": ", ".join(failed.names),
            "devices": [self.hub.device_entry_id(device) or device for device in failed.ids],
            "reason": ", ".join(failed.reasons),
            "next_step": " ".join(failed.next_steps) or None,
        }

    async def async_added_to_hass(self) -> None:
        """Listen to what fails from now on."""
        await super().async_added_to_hass()
        self.async_on_remove(self.hub.async_add_listener(self._cut))
        self.async_on_remove(self.hub.async_on_event(self._happened))
        self.async_on_remove(self._pulse.stop)

    @callback
    def _cut(self) -> None:
        if not self.hub.available:
            self._pulse.cut()

    @callback
    def _happened(self, event: Event) -> None:
        device = self.hub.devices.get(event.device or "")
        name = event.detail.get("name") or (device.name if device else event.device)
        self._pulse.feed(event, str(name))
