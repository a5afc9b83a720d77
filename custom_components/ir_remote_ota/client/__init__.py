"""A typed, asynchronous client of the Reflash server; it knows nothing of Home Assistant."""

from .api import ReflashClient
from .devices import Device, DeviceJob, Installed, LastUpdate, Offer, Remark
from .errors import ReflashAuthError, ReflashError, ReflashUnreachable
from .events import Event, EventReader
from .firmware import Feed, Firmware, FirmwareList
from .rollouts import (
    ENDINGS,
    FAILURES,
    SUCCESSES,
    Job,
    LeftOut,
    Member,
    Plan,
    Planned,
    Rollout,
    Stats,
    Window,
)
from .server import Server, WhoAmI

__all__ = [
    "ENDINGS",
    "FAILURES",
    "SUCCESSES",
    "Device",
    "DeviceJob",
    "Event",
    "EventReader",
    "Feed",
    "Firmware",
    "FirmwareList",
    "Installed",
    "Job",
    "LastUpdate",
    "LeftOut",
    "Member",
    "Offer",
    "Plan",
    "Planned",
    "ReflashAuthError",
    "ReflashClient",
    "ReflashError",
    "ReflashUnreachable",
    "Remark",
    "Rollout",
    "Server",
    "Stats",
    "WhoAmI",
    "Window",
]
