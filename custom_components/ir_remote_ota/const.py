"""Names that are the same everywhere in this integration."""

from typing import Final

from homeassistant.const import Platform

DOMAIN: Final = "ir_remote_ota"

CONF_MODE: Final = "mode"
CONF_URL: Final = "url"
CONF_TOKEN: Final = "token"  # noqa: S105 - it is the name of a field
CONF_SERVER_ID: Final = "server_id"
MODE_MANAGED: Final = "managed"
MODE_CONNECT: Final = "connect"

API_VERSION: Final = 1
"""The version of the server's contract that this integration speaks."""

PLATFORMS: Final = [
    Platform.BUTTON,
    Platform.CALENDAR,
    Platform.SENSOR,
    Platform.SWITCH,
    Platform.UPDATE,
]

SERVICE_UPDATE_DEVICE: Final = "update_device"
SERVICE_UPDATE_ALL_DEVICES: Final = "update_all_devices"
SERVICE_CHECK_UPDATES: Final = "check_updates"
SERVICE_ROLLBACK_DEVICE: Final = "rollback_device"
SERVICE_ENABLE_OTA: Final = "enable_ota"
SERVICE_DISABLE_OTA: Final = "disable_ota"
SERVICE_PLAN_UPDATE: Final = "plan_update"

EVENT_UPDATE_FINISHED: Final = f"{DOMAIN}_update_finished"
EVENT_UPDATE_FAILED: Final = f"{DOMAIN}_update_failed"
EVENT_ROLLOUT_FINISHED: Final = f"{DOMAIN}_rollout_finished"
