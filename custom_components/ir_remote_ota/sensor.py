"""Sensors of devices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from homeassistant.components.sensor import SensorDeviceClass, SensorEntity, SensorEntityDescription, SensorStateClass
from homeassistant.const import SIGNAL_STRENGTH_DECIBELS_MILLIWATT, EntityCategory, Platform, UnitOfInformation
from homeassistant.core import HomeAssistant
from homeassistant.helpers.entity_platform import AddConfigEntryEntitiesCallback
from homeassistant.helpers.typing import StateType
from homeassistant.util import slugify

from .client import Device
from .coordinator import Hub, ReflashConfigEntry
from .entity import DeviceEntity, Wanted, follow_devices
from .hub_sensor import HUB_SENSORS, HubSensor, UpdateStatusSensor
from .standing import STANDINGS, standing_attributes, standing_of

PARALLEL_UPDATES = 0

STATUSES = ("online", "offline", "unreadable")


async def async_setup_entry(
    hass: HomeAssistant, entry: ReflashConfigEntry, async_add_entities: AddConfigEntryEntitiesCallback
) -> None:
    """Add the server's own, and those of each device that it has something to show for."""
    hub = entry.runtime_data
    async_add_entities([UpdateStatusSensor(hub), *(HubSensor(hub, description) for description in HUB_SENSORS)])

    def make(device: Device, description: DeviceSensorDescription) -> Callable[[], DeviceSensor]:
        return lambda: DeviceSensor(hub, device, description)

    def wanted(device: Device) -> list[Wanted]:
        sensors = [*SENSORS, *part_sensors(device)]
        return [(sensor.key, sensor.is_there(device), make(device, sensor)) for sensor in sensors]

    follow_devices(hub, Platform.SENSOR, async_add_entities, wanted)


def _always(_device: Device) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class DeviceSensorDescription(SensorEntityDescription):
    """A sensor of a device: its value, whether a device has it, and what it depends on."""

    value: Callable[[Hub, Device], StateType | datetime]
    is_there: Callable[[Device], bool] = _always
    attributes: Callable[[Hub, Device], Mapping[str, Any]] | None = None
    needs_device: bool = False
    """Whether it means nothing while the device does not answer."""
    placeholders: Mapping[str, str] = field(default_factory=dict)


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def _up_since(device: Device) -> datetime | None:
    if device.uptime_s is None or device.last_seen_ms is None:
        return None
    return _time(device.last_seen_ms - device.uptime_s * 1000)


def _firmware(device: Device) -> str | None:
    if len(device.versions) > 1:
        # Each part has a sensor of its own; the first one is what the device is called by.
        return next(iter(device.versions.values()))
    return device.installed.text if device.installed else device.reported_version


def part_sensors(device: Device) -> list[DeviceSensorDescription]:
    """Return the sensors of the further parts that a device tells versions of, such as a panel."""

    def version(part: str) -> Callable[[Hub, Device], StateType]:
        return lambda _hub, device: device.versions.get(part)

    return [
        DeviceSensorDescription(
            key=f"{slugify(part)}_firmware",
            translation_key="part_firmware",
            placeholders={"part": part.replace("-", " ").replace("_", " ").capitalize()},
            entity_category=EntityCategory.DIAGNOSTIC,
            value=version(part),
        )
        for part in list(device.versions)[1:]
    ]


SENSORS = (
    DeviceSensorDescription(
        key="firmware",
        entity_category=EntityCategory.DIAGNOSTIC,
        value=lambda _hub, device: _firmware(device),
        attributes=lambda _hub, device: {
            "installed_version": device.installed.text if device.installed else None,
            "reported_version": device.reported_version,
        },
    ),
    DeviceSensorDescription(
        key="status",
        entity_category=EntityCategory.DIAGNOSTIC,
        device_class=SensorDeviceClass.ENUM,
        options=list(STATUSES),
        value=lambda _hub, device: device.state if device.state in STATUSES else None,
        attributes=lambda _hub, device: {"trouble": device.trouble},
    ),
    DeviceSensorDescription(
        key="update_state",
        entity_category=EntityCategory.DIAGNOSTIC,
        device_class=SensorDeviceClass.ENUM,
        options=list(STANDINGS),
        value=standing_of,
        attributes=standing_attributes,
    ),
    DeviceSensorDescription(
        key="last_update",
        entity_category=EntityCategory.DIAGNOSTIC,
        device_class=SensorDeviceClass.TIMESTAMP,
        value=lambda _hub, device: _time(device.last_update.ended_ms if device.last_update else None),
        attributes=lambda _hub, device: {"outcome": device.last_update.outcome if device.last_update else None},
    ),
    DeviceSensorDescription(
        key="free_memory",
        entity_category=EntityCategory.DIAGNOSTIC,
        device_class=SensorDeviceClass.DATA_SIZE,
        native_unit_of_measurement=UnitOfInformation.BYTES,
        state_class=SensorStateClass.MEASUREMENT,
        value=lambda _hub, device: device.free_heap_bytes,
        is_there=lambda device: device.free_heap_bytes is not None,
        needs_device=True,
    ),
    DeviceSensorDescription(
        key="uptime",
        entity_category=EntityCategory.DIAGNOSTIC,
        device_class=SensorDeviceClass.UPTIME,
        value=lambda _hub, device: _up_since(device),
        is_there=lambda device: device.uptime_s is not None,
        needs_device=True,
    ),
    DeviceSensorDescription(
        key="last_seen",
        entity_category=EntityCategory.DIAGNOSTIC,
        entity_registry_enabled_default=False,
        device_class=SensorDeviceClass.TIMESTAMP,
        value=lambda _hub, device: _time(device.last_seen_ms),
    ),
    DeviceSensorDescription(
        key="signal",
        entity_category=EntityCategory.DIAGNOSTIC,
        entity_registry_enabled_default=False,
        device_class=SensorDeviceClass.SIGNAL_STRENGTH,
        native_unit_of_measurement=SIGNAL_STRENGTH_DECIBELS_MILLIWATT,
        state_class=SensorStateClass.MEASUREMENT,
        value=lambda _hub, device: device.signal_dbm,
        is_there=lambda device: device.signal_dbm is not None,
        needs_device=True,
    ),
    DeviceSensorDescription(
        key="ip_address",
        entity_category=EntityCategory.DIAGNOSTIC,
        entity_registry_enabled_default=False,
        value=lambda _hub, device: device.address,
        is_there=lambda device: device.address is not None,
    ),
)

OUR_JOB = frozenset({"firmware", "update_state", "last_update"})
"""What follows an update while it runs; all else keeps its value until the device is back."""


class DeviceSensor(DeviceEntity, SensorEntity):
    """A sensor of a device."""

    entity_description: DeviceSensorDescription

    def __init__(self, hub: Hub, device: Device, description: DeviceSensorDescription) -> None:
        super().__init__(hub, device, Platform.SENSOR, description.key)
        self.entity_description = description
        self._attr_translation_key = description.translation_key or description.key
        self._attr_translation_placeholders = dict(description.placeholders)

    @property
    def _shown(self) -> Device:
        if self.entity_description.key in OUR_JOB:
            return self.device
        return self.hub.steady(self.device_key) or self.device

    @property
    def available(self) -> bool:
        """Whether the server answers; and the device, where it means nothing otherwise."""
        return super().available and (self._shown.is_online or not self.entity_description.needs_device)

    @property
    def native_value(self) -> StateType | datetime:
        """What the server says of it."""
        return self.entity_description.value(self.hub, self._shown)

    @property
    def extra_state_attributes(self) -> Mapping[str, Any] | None:
        """More of it."""
        attributes = self.entity_description.attributes
        return attributes(self.hub, self._shown) if attributes else None
