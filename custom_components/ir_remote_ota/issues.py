"""What needs somebody: kept in step with what the server tells, so that each goes away by itself once it is mended."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from homeassistant.config_entries import ConfigEntry
from homeassistant.core import CALLBACK_TYPE, HomeAssistant, callback
from homeassistant.helpers import issue_registry as ir

from .choice import CONF_LEFT_OUT, candidates, label
from .client import Device, Firmware, Rollout
from .const import DOMAIN
from .coordinator import Hub

KIND_BOOT_LOOP: Final = "boot_loop"
KIND_HALTED: Final = "halted"
KIND_PASSWORD: Final = "password"  # noqa: S105 - the name of a repair
KIND_NEW_DEVICES: Final = "new_devices"
KIND_FIRMWARE: Final = "firmware_waiting"
KIND_NO_WAY_BACK: Final = "no_way_back"
KIND_NOT_SUPPORTED: Final = "not_supported"
KIND_CONFLICT: Final = "conflict"
KIND_MISFIT: Final = "misfit"

CONF_MENDED: Final = "mended"
"""In an entry's options: for devices whose password was given anew, the update that had failed without it."""

REASON_BOOT_LOOP: Final = "boot loop"
REASONS_PASSWORD: Final = frozenset({"wrong password", "password needed", "locked"})
"""Reasons of the server (docs/guide/troubleshooting.md) that a password mends."""

BROUGHT: Final = frozenset({"upload", "folder", "feed", "index"})
"""How an image came that somebody wants to be offered; what was pushed by hand is kept as a way back only."""
WAITING: Final = frozenset({"waiting", "quarantined"})
"""States of an image that needs somebody's word (docs/guide/firmware.md, States)."""

N_NAMES: Final = 12
"""So many names stand in one sentence."""


@dataclass(frozen=True, slots=True)
class Need:
    """Something that needs somebody."""

    kind: str
    severity: ir.IssueSeverity
    placeholders: Mapping[str, str]
    is_fixable: bool = True
    key: str = ""
    detail: dict[str, str | int | float | None] = field(default_factory=dict)


def watch(hass: HomeAssistant, entry: ConfigEntry, hub: Hub) -> CALLBACK_TYPE:
    """Keep the repairs of an entry in step with its server; returns what ends that, and takes them all away."""
    known: dict[str, Need] = {}

    @callback
    def keep_up() -> None:
        if not hub.available:
            # What was so is so until somebody says otherwise.
            return
        wanted = needs(hub, entry)
        for issue_id in known.keys() - wanted.keys():
            ir.async_delete_issue(hass, DOMAIN, issue_id)
            del known[issue_id]
        for issue_id, need in wanted.items():
            if known.get(issue_id) != need:
                known[issue_id] = need
                _create(hass, entry, issue_id, need)

    keep_up()
    leave: Callable[[], None] = hub.async_add_listener(keep_up)

    @callback
    def end() -> None:
        leave()
        for issue_id in known:
            ir.async_delete_issue(hass, DOMAIN, issue_id)

    return end


def _create(hass: HomeAssistant, entry: ConfigEntry, issue_id: str, need: Need) -> None:
    ir.async_create_issue(
        hass,
        DOMAIN,
        issue_id,
        is_fixable=need.is_fixable,
        severity=need.severity,
        translation_key=need.key or need.kind,
        translation_placeholders=dict(need.placeholders),
        data={"kind": need.kind, "entry_id": entry.entry_id, **need.detail},
    )


def needs(hub: Hub, entry: ConfigEntry) -> dict[str, Need]:
    """Return all that needs somebody now, by the name of its repair."""
    found: dict[str, Need] = {}
    mended = entry.options.get(CONF_MENDED, {})
    for device in hub.shown.values():
        for need in _of_device(device, mended.get(device.id)):
            found[f"{need.kind}_{entry.entry_id}_{device.id}"] = need
    for rollout in hub.rollouts.values():
        if rollout.state == "halted":
            found[f"{KIND_HALTED}_{entry.entry_id}_{rollout.id}"] = _halted(rollout)
    for image in hub.firmware.firmware:
        if image.state in WAITING and image.source in BROUGHT:
            found[f"{KIND_FIRMWARE}_{entry.entry_id}_{image.sha256}"] = _firmware(image)
    if new := candidates(hub.devices.values(), entry.options.get(CONF_LEFT_OUT, [])):
        # The name changes with the devices: whoever has ignored these is asked again when another one comes.
        digest = hashlib.sha256(" ".join(sorted(device.id for device in new)).encode()).hexdigest()[:12]
        found[f"{KIND_NEW_DEVICES}_{entry.entry_id}_{digest}"] = _new_devices(new)
    if stuck := [device for device in hub.shown.values() if has_no_way_back(device)]:
        found[f"{KIND_NO_WAY_BACK}_{entry.entry_id}"] = Need(
            KIND_NO_WAY_BACK,
            ir.IssueSeverity.WARNING,
            {"n": str(len(stuck)), "devices": _names([device.name for device in stuck])},
        )
    return found


def has_no_way_back(device: Device) -> bool:
    """Return whether an update is offered that could not be undone, as the image that runs now is not kept."""
    is_kept = device.installed is not None and device.installed.kept
    return device.offered and device.can_install and not is_kept


def _of_device(device: Device, mended_job: int | None) -> list[Need]:
    found = []
    last = device.last_update
    named = {"name": device.name}
    detail: dict[str, str | int | float | None] = {"device": device.id, "name": device.name}
    if last is not None and last.reason == REASON_BOOT_LOOP and last.outcome == "failed" and not device.busy:
        way_back = device.way_back[0] if device.way_back else None
        found.append(
            Need(
                KIND_BOOT_LOOP,
                ir.IssueSeverity.ERROR,
                {**named, "way_back": way_back or "–", "next_step": last.next_step or ""},
                is_fixable=way_back is not None,
                key=KIND_BOOT_LOOP if way_back else f"{KIND_BOOT_LOOP}_no_way_back",
                detail={**detail, "way_back": way_back},
            )
        )
    if last is not None and last.reason in REASONS_PASSWORD and (last.job is None or last.job != mended_job):
        found.append(
            Need(
                KIND_PASSWORD,
                ir.IssueSeverity.ERROR,
                {**named, "text": last.text or last.reason or ""},
                detail={**detail, "job": last.job, "family": device.family},
            )
        )
    if not device.can_install and device.why_not:
        found.append(
            Need(KIND_NOT_SUPPORTED, ir.IssueSeverity.WARNING, {**named, "text": device.why_not}, is_fixable=False)
        )
    if device.conflict is not None:
        told = {"text": device.conflict.text, "next_step": device.conflict.next_step or ""}
        found.append(Need(KIND_CONFLICT, ir.IssueSeverity.ERROR, {**named, **told}, is_fixable=False))
    return found


def _halted(rollout: Rollout) -> Need:
    cause = rollout.cause
    return Need(
        KIND_HALTED,
        ir.IssueSeverity.ERROR,
        {
            "rollout": rollout.name or str(rollout.id),
            "firmware": ", ".join(rollout.firmware),
            "text": cause.text if cause else "",
            "next_step": (cause.next_step if cause else None) or "",
            "counts": ", ".join(f"{n} {state}" for state, n in rollout.counts.items()),
        },
        detail={"rollout": rollout.id},
    )


def _firmware(image: Firmware) -> Need:
    return Need(
        KIND_FIRMWARE,
        ir.IssueSeverity.WARNING,
        {
            "firmware": image.name,
            "file_name": image.file_name,
            "sha256": image.sha256,
            "text": " ".join(refusal.text for refusal in image.refusals),
        },
        detail={"sha256": image.sha256},
    )


def _new_devices(devices: list[Device]) -> Need:
    return Need(
        KIND_NEW_DEVICES,
        ir.IssueSeverity.WARNING,
        {"n": str(len(devices)), "devices": _names([label(device) for device in devices])},
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:N_NAMES])
    return shown if len(names) <= N_NAMES else f"{shown}, … (+{len(names) - N_NAMES})"


def misfit_id(entry: ConfigEntry) -> str:
    """Return the name of the repair for a server that this integration does not speak with."""
    return f"{KIND_MISFIT}_{entry.entry_id}"


@callback
def tell_misfit(hass: HomeAssistant, entry: ConfigEntry, key: str, version: str) -> None:
    """Say that server and integration are not of one time."""
    ir.async_create_issue(
        hass,
        DOMAIN,
        misfit_id(entry),
        is_fixable=False,
        severity=ir.IssueSeverity.ERROR,
        translation_key=key,
        translation_placeholders={"version": version, "title": entry.title},
    )


@callback
def forget(hass: HomeAssistant, entry: ConfigEntry) -> None:
    """Take away every repair of an entry."""
    for domain, issue_id in list(ir.async_get(hass).issues):
        if domain == DOMAIN and entry.entry_id in issue_id:
            ir.async_delete_issue(hass, DOMAIN, issue_id)
