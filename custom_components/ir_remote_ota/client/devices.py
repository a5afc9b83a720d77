"""Devices, as the server knows them."""

from dataclasses import dataclass, field
from typing import Self

from .reading import (
    Json,
    block,
    blocks,
    flag,
    number,
    opt_flag,
    opt_int,
    opt_text,
    text,
    word_map,
    words,
)


@dataclass(frozen=True, slots=True)
class Installed:
    """What a device is believed to run: an image put into words."""

    sha256: str | None
    text: str
    kept: bool

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            sha256=opt_text(raw, "sha256"),
            text=opt_text(raw, "text") or text(raw, "name"),
            kept=flag(raw, "kept"),
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """The newest image that fits a device."""

    sha256: str
    text: str
    file_name: str
    why_not: str | None

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            sha256=text(raw, "sha256"),
            text=opt_text(raw, "text") or text(raw, "name"),
            file_name=text(raw, "file_name"),
            why_not=opt_text(raw, "why_not"),
        )


@dataclass(frozen=True, slots=True)
class LastUpdate:
    """How the last update of a device ended."""

    job: int | None
    outcome: str
    ended_ms: int | None
    reason: str | None
    next_step: str | None
    text: str | None

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            job=opt_int(raw, "job"),
            outcome=text(raw, "outcome"),
            ended_ms=opt_int(raw, "ended_ms"),
            reason=opt_text(raw, "reason"),
            next_step=opt_text(raw, "next_step"),
            text=opt_text(raw, "text"),
        )


@dataclass(frozen=True, slots=True)
class DeviceJob:
    """The running or the last job of a device."""

    id: int | None
    rollout: int | None
    state: str
    running: bool
    percent: int | None
    reason: str | None
    next_step: str | None

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            id=opt_int(raw, "id"),
            rollout=opt_int(raw, "rollout"),
            state=text(raw, "state"),
            running=flag(raw, "running"),
            percent=opt_int(raw, "percent"),
            reason=opt_text(raw, "reason"),
            next_step=opt_text(raw, "next_step"),
        )


@dataclass(frozen=True, slots=True)
class Remark:
    """A named remark or refusal: the rule for programs, the sentences for people."""

    rule: str
    text: str
    next_step: str | None

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            rule=opt_text(raw, "rule") or text(raw, "kind"),
            text=text(raw, "text"),
            next_step=opt_text(raw, "next_step"),
        )


@dataclass(frozen=True, slots=True)
class Device:
    """A device; what is not known of it is None."""

    id: str
    family: str
    title: str
    name: str
    named: bool
    mac: str | None
    address: str | None
    host_name: str | None
    configured: bool
    enrolled: bool
    state: str
    trouble: str | None
    last_seen_ms: int | None
    reported_version: str | None
    versions: dict[str, str]
    model: str | None
    chip: str | None
    free_heap_bytes: int | None
    uptime_s: int | None
    signal_dbm: int | None
    ota: str
    ota_wanted: bool | None
    busy: bool
    has_password: bool
    installed: Installed | None
    latest: Offer | None
    offered: bool
    can_install: bool
    why_not: str | None
    remedy: str | None
    last_update: LastUpdate | None
    job: DeviceJob | None
    way_back: tuple[str, ...]
    estimate_s: int | None
    tags: tuple[str, ...]
    pinned: str | None
    skipped: tuple[str, ...]
    conflict: Remark | None
    warnings: tuple[Remark, ...]
    raw: Json = field(repr=False, compare=False)

    @property
    def is_online(self) -> bool:
        """Whether it answers."""
        return self.state == "online"

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        installed, latest, conflict = block(raw, "installed"), block(raw, "latest"), block(raw, "conflict")
        last_update, job = block(raw, "last_update"), block(raw, "job")
        supported = block(raw, "supported") or {}
        return cls(
            id=text(raw, "id"),
            family=text(raw, "family"),
            title=text(raw, "title"),
            name=text(raw, "name"),
            named=flag(raw, "named"),
            mac=opt_text(raw, "mac"),
            address=opt_text(raw, "address"),
            host_name=opt_text(raw, "host_name"),
            configured=flag(raw, "configured"),
            enrolled=flag(raw, "enrolled"),
            state=text(raw, "state"),
            trouble=opt_text(raw, "trouble"),
            last_seen_ms=opt_int(raw, "last_seen_ms"),
            reported_version=opt_text(raw, "reported_version"),
            versions=word_map(raw, "versions"),
            model=opt_text(raw, "model"),
            chip=opt_text(raw, "chip"),
            free_heap_bytes=opt_int(raw, "free_heap_bytes"),
            uptime_s=opt_int(raw, "uptime_s"),
            signal_dbm=opt_int(raw, "signal_dbm"),
            ota=text(raw, "ota"),
            ota_wanted=opt_flag(raw, "ota_wanted"),
            busy=flag(raw, "busy"),
            has_password=flag(raw, "has_password"),
            installed=Installed.read(installed) if installed else None,
            latest=Offer.read(latest) if latest else None,
            offered=flag(raw, "offered"),
            can_install=opt_flag(supported, "install") is not False,
            why_not=opt_text(supported, "why_not"),
            remedy=opt_text(supported, "next_step"),
            last_update=LastUpdate.read(last_update) if last_update else None,
            job=DeviceJob.read(job) if job else None,
            way_back=words(raw, "way_back"),
            estimate_s=opt_int(raw, "estimate_s"),
            tags=words(raw, "tags"),
            pinned=opt_text(raw, "pinned"),
            skipped=words(raw, "skipped"),
            conflict=Remark.read(conflict) if conflict else None,
            warnings=tuple(Remark.read(warning) for warning in blocks(raw, "warnings")),
            raw=raw,
        )

    @property
    def n_restarts(self) -> int:
        """How often it has restarted since it is known."""
        return number(self.raw, "restarts")
