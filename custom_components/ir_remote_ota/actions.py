"""The actions: for administrators and automations."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import probatio as vol
from homeassistant.config_entries import ConfigEntryState
from homeassistant.core import HomeAssistant, ServiceCall, ServiceResponse, SupportsResponse, callback
from homeassistant.helpers import config_validation as cv
from homeassistant.helpers import device_registry as dr
from homeassistant.helpers.service import async_register_admin_service

from .client import FAILURES, Device, Plan, ReflashError, Rollout
from .const import (
    DOMAIN,
    SERVICE_CHECK_UPDATES,
    SERVICE_DISABLE_OTA,
    SERVICE_ENABLE_OTA,
    SERVICE_PLAN_UPDATE,
    SERVICE_ROLLBACK_DEVICE,
    SERVICE_UPDATE_ALL_DEVICES,
    SERVICE_UPDATE_DEVICE,
)
from .coordinator import Hub, ReflashConfigEntry
from .firmware_file import async_resolved, named
from .flash import async_begin, async_end
from .problems import failure, mistake, refused
from .told import began, told_plan

ATTR_DEVICE_ID: Final = "device_id"
ATTR_EXCLUDE_DEVICES: Final = "exclude_devices"
ATTR_FIRMWARE_FILE: Final = "firmware_file"
ATTR_FORCE: Final = "force"
ATTR_WAIT: Final = "wait"
ATTR_WHEN_BACK: Final = "when_back"

DEVICES = vol.All(cv.ensure_list, [cv.string])
# What is no word is refused by name, and not made one: 1.1 is not "1.10".
HOW: dict[vol.Marker, Any] = {
    vol.Optional(ATTR_FIRMWARE_FILE): object,
    vol.Optional(ATTR_FORCE, default=False): cv.boolean,
    vol.Optional(ATTR_WAIT, default=False): cv.boolean,
    vol.Optional(ATTR_WHEN_BACK): cv.positive_time_period,
}

UPDATE_DEVICE = vol.Schema({vol.Required(ATTR_DEVICE_ID): DEVICES, **HOW})
UPDATE_ALL_DEVICES = vol.Schema({vol.Optional(ATTR_EXCLUDE_DEVICES, default=list): DEVICES, **HOW})
ROLLBACK_DEVICE = vol.Schema(
    {
        vol.Required(ATTR_DEVICE_ID): DEVICES,
        vol.Optional(ATTR_FIRMWARE_FILE): object,
        vol.Optional(ATTR_WAIT, default=False): cv.boolean,
    }
)
PLAN_UPDATE = vol.Schema(
    {
        vol.Optional(ATTR_DEVICE_ID): DEVICES,
        vol.Optional(ATTR_EXCLUDE_DEVICES, default=list): DEVICES,
        vol.Optional(ATTR_FIRMWARE_FILE): object,
        vol.Optional(ATTR_FORCE, default=False): cv.boolean,
    }
)
OTA = vol.Schema({vol.Required(ATTR_DEVICE_ID): DEVICES})
CHECK_UPDATES = vol.Schema({})

NOTHING_TO_DO = frozenset({"already-current", "not-offered"})
"""Rules by which a plan leaves a device out because it has what it should."""


@callback
def async_setup(hass: HomeAssistant) -> None:
    """Register them; they are there whether a server is or not, and say so where none is."""

    def register(
        name: str,
        act: Callable[[HomeAssistant, ServiceCall], Coroutine[Any, Any, ServiceResponse]],
        schema: vol.Schema,
        answers: SupportsResponse = SupportsResponse.OPTIONAL,
    ) -> None:
        async def called(call: ServiceCall) -> ServiceResponse:
            return await act(hass, call)

        async_register_admin_service(hass, DOMAIN, name, called, schema, answers)

    register(SERVICE_UPDATE_DEVICE, _update_device, UPDATE_DEVICE)
    register(SERVICE_UPDATE_ALL_DEVICES, _update_all_devices, UPDATE_ALL_DEVICES)
    register(SERVICE_CHECK_UPDATES, _check_updates, CHECK_UPDATES)
    register(SERVICE_ROLLBACK_DEVICE, _rollback_device, ROLLBACK_DEVICE)
    register(SERVICE_ENABLE_OTA, _enable_ota, OTA)
    register(SERVICE_DISABLE_OTA, _disable_ota, OTA)
    register(SERVICE_PLAN_UPDATE, _plan_update, PLAN_UPDATE, SupportsResponse.ONLY)


@dataclass(slots=True)
class Meant:
    """A server, and which of its devices are meant."""

    hub: Hub
    devices: list[Device] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The devices as the server calls them."""
        return [device.id for device in self.devices]


def _hubs(hass: HomeAssistant) -> list[Hub]:
    entries: list[ReflashConfigEntry] = hass.config_entries.async_entries(DOMAIN)
    hubs = [entry.runtime_data for entry in entries if entry.state is ConfigEntryState.LOADED]
    if not hubs:
        raise mistake("no_server")
    return hubs


def _meant(hass: HomeAssistant, device_ids: list[str]) -> list[Meant]:
    """Return the devices that are meant, by server; a mistake where one of them is none of ours."""
    registry = dr.async_get(hass)
    by_entry = {hub.entry.entry_id: Meant(hub) for hub in _hubs(hass)}
    for device_id in device_ids:
        entry = registry.async_get(device_id)
        if not isinstance(entry, dr.DeviceEntry) or entry.config_entry_id not in by_entry:
            raise mistake("not_a_device", device_id=device_id)
        meant = by_entry[entry.config_entry_id]
        keys = [key for domain, key in entry.identifiers if domain == DOMAIN]
        known = next((meant.hub.devices[key] for key in keys if key in meant.hub.devices), None)
        if known is None:
            raise mistake("not_a_device", device_id=entry.name_by_user or entry.name or device_id)
        if known not in meant.devices:
            meant.devices.append(known)
    return [meant for meant in by_entry.values() if meant.devices]


async def _firmware(hass: HomeAssistant, hub: Hub, call: ServiceCall) -> dict[str, Any]:
    if ATTR_FIRMWARE_FILE not in call.data:
        return {}
    word = await async_resolved(hub, hass.config.config_dir, named(call.data[ATTR_FIRMWARE_FILE]))
    return {"firmware": word} if word is not None else {}


def _how(call: ServiceCall) -> dict[str, Any]:
    when_back: timedelta | None = call.data.get(ATTR_WHEN_BACK)
    how: dict[str, Any] = {"force": call.data[ATTR_FORCE]}
    if when_back is not None:
        how["when_back_s"] = int(when_back.total_seconds())
    return how


async def _update_device(hass: HomeAssistant, call: ServiceCall) -> ServiceResponse:
    meant = _meant(hass, call.data[ATTR_DEVICE_ID])
    wishes = [
        (group, {"devices": group.ids, **_single(group), **_how(call), **await _firmware(hass, group.hub, call)})
        for group in meant
    ]
    return await _carry_out(wishes, is_named=True, wait=call.data[ATTR_WAIT])


async def _update_all_devices(hass: HomeAssistant, call: ServiceCall) -> ServiceResponse:
    excluded = {group.hub: group.ids for group in _meant(hass, call.data[ATTR_EXCLUDE_DEVICES])}
    wishes = [
        (
            Meant(hub),
            {"all": True, "exclude": excluded.get(hub, []), **_how(call), **await _firmware(hass, hub, call)},
        )
        for hub in _hubs(hass)
    ]
    return await _carry_out(wishes, is_named=False, wait=call.data[ATTR_WAIT])


async def _rollback_device(hass: HomeAssistant, call: ServiceCall) -> ServiceResponse:
    wishes = [
        (group, {"devices": group.ids, "kind": "rollback", **_single(group), **await _firmware(hass, group.hub, call)})
        for group in _meant(hass, call.data[ATTR_DEVICE_ID])
    ]
    return await _carry_out(wishes, is_named=True, wait=call.data[ATTR_WAIT])


async def _plan_update(hass: HomeAssistant, call: ServiceCall) -> ServiceResponse:
    if ATTR_DEVICE_ID in call.data:
        meant = [(group.hub, dict[str, Any](devices=group.ids)) for group in _meant(hass, call.data[ATTR_DEVICE_ID])]
    else:
        meant = [(hub, dict[str, Any](all=True)) for hub in _hubs(hass)]
    excluded = {group.hub: group.ids for group in _meant(hass, call.data[ATTR_EXCLUDE_DEVICES])}
    answers = []
    for hub, devices in meant:
        wanted = {
            **devices,
            "exclude": excluded.get(hub, []),
            "force": call.data[ATTR_FORCE],
            **await _firmware(hass, hub, call),
        }
        try:
            answers.append(told_plan(hub, await hub.client.plan(wanted)))
        except ReflashError as error:
            raise refused(error) from error
    return answers[0] if len(answers) == 1 else {"plans": [*answers]}


async def _check_updates(hass: HomeAssistant, _call: ServiceCall) -> ServiceResponse:
    offered = []
    for hub in _hubs(hass):
        try:
            await hub.client.check_firmware()
            await hub.async_refresh()
        except ReflashError as error:
            raise refused(error) from error
        offered += [device for device in hub.shown.values() if device.offered]
    return {
        "updates_available": len(offered),
        "devices": [
            {
                "name": device.name,
                "from": device.installed.text if device.installed else device.reported_version,
                "to": device.latest.text if device.latest else None,
            }
            for device in offered
        ],
    }


async def _enable_ota(hass: HomeAssistant, call: ServiceCall) -> ServiceResponse:
    return await _want_ota(hass, call, enabled=True)


async def _disable_ota(hass: HomeAssistant, call: ServiceCall) -> ServiceResponse:
    return await _want_ota(hass, call, enabled=False)


async def _want_ota(hass: HomeAssistant, call: ServiceCall, *, enabled: bool) -> ServiceResponse:
    changed = []
    for group in _meant(hass, call.data[ATTR_DEVICE_ID]):
        for device in group.devices:
            try:
                group.hub.async_took(await group.hub.client.ota(device.id, enabled))
            except ReflashError as error:
                raise refused(error) from error
            changed.append(device.name)
    return {"ota": enabled, "devices": [*changed]}


def _single(group: Meant) -> dict[str, Any]:
    """Return the rules for one device: nobody goes before it."""
    return {"canary": 0} if len(group.devices) == 1 else {}


async def _carry_out(wishes: list[tuple[Meant, dict[str, Any]]], *, is_named: bool, wait: bool) -> ServiceResponse:
    """Plan and begin at each server; nothing begins anywhere where one of them refuses the plan."""
    plans: list[tuple[Hub, dict[str, Any], Plan]] = []
    for group, wanted in wishes:
        try:
            plan = await group.hub.client.plan(wanted)
        except ReflashError as error:
            raise refused(error) from error
        if is_named:
            _nobody_refused(plan)
        plans.append((group.hub, wanted, plan))
    begun: list[tuple[Hub, Plan, Rollout | None]] = []
    for hub, wanted, plan in plans:
        try:
            begun.append((hub, plan, await async_begin(hub, wanted) if plan.members else None))
        except ReflashError as error:
            raise refused(error) from error
    answers = []
    for hub, plan, rollout in begun:
        ended = await async_end(hub, rollout.id) if wait and rollout else rollout
        if wait and ended is not None and ended.ok is not True:
            raise _not_all(ended)
        answers.append(began(hub, plan, ended))
    return answers[0] if len(answers) == 1 else {"rollouts": [*answers]}


def _nobody_refused(plan: Plan) -> None:
    """Refuse where a device that was named would be left out for a reason that its owner must know of."""
    reasons = [left for left in plan.left_out if left.reason.rule not in NOTHING_TO_DO]
    if reasons and not plan.members:
        first = reasons[0]
        raise failure("left_out", name=first.name, detail=first.reason.text, next_step=first.reason.next_step or "")


def _not_all(rollout: Rollout) -> Exception:
    bad = [member for member in rollout.members if member.state in FAILURES]
    names = ", ".join(f"{member.name}: {member.reason or member.state}" for member in bad)
    cause = rollout.cause
    return failure(
        "rollout_failed",
        rollout=str(rollout.id),
        devices=names or (cause.text if cause else rollout.state),
        next_step=next((member.next_step for member in bad if member.next_step), None)
        or (cause.next_step if cause else None)
        or "",
    )
