"""Plans, rollouts, jobs, and how updates went."""

from dataclasses import dataclass, field
from typing import Self

from .devices import Remark
from .reading import (
    Json,
    block,
    blocks,
    count_map,
    number,
    opt_flag,
    opt_int,
    opt_number,
    opt_text,
    text,
    words,
)

OPEN_STATES = frozenset({"draft", "scheduled", "running", "paused", "halted"})
"""States of a rollout that is not over."""

SUCCESSES = frozenset({"updated", "updated-label-unchanged", "already-current"})
"""Ends of a device in a rollout that are as they were meant to be."""

NOT_DONE = frozenset({"skipped", "cancelled", "missed-window"})
"""Ends that are no failures: nothing was tried."""

FAILURES = frozenset({"kept-old", "rolled-back", "failed", "unverified", "refused"})
"""Ends that are failures."""

ENDINGS = SUCCESSES | NOT_DONE | FAILURES


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A device that a plan leaves out, and why."""

    device: str
    name: str
    reason: Remark

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(device=text(raw, "device"), name=text(raw, "name"), reason=Remark.read(block(raw, "reason") or {}))


@dataclass(frozen=True, slots=True)
class Planned:
    """A device that would be updated."""

    device: str
    name: str
    runs: str
    firmware: str
    wave: int
    estimate_s: int
    way_back: str | None
    interrupts: str | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            device=text(raw, "device"),
            name=text(raw, "name"),
            runs=text(raw, "runs"),
            firmware=text(raw, "firmware"),
            wave=number(raw, "wave"),
            estimate_s=number(raw, "estimate_s"),
            way_back=opt_text(raw, "way_back"),
            interrupts=opt_text(raw, "interrupts"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What would happen, what not, and why."""

    members: tuple[Planned, ...]
    left_out: tuple[LeftOut, ...]
    estimate_s: int
    sentences: tuple[str, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            members=tuple(Planned.read(member) for member in blocks(raw, "members")),
            left_out=tuple(LeftOut.read(left_out) for left_out in blocks(raw, "left_out")),
            estimate_s=number(raw, "estimate_s"),
            sentences=words(raw, "sentences"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A device of a rollout."""

    device: str
    name: str
    runs: str
    firmware: str
    state: str
    percent: int | None
    reason: str | None
    text: str | None
    next_step: str | None
    job: int | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more becomes of it in this rollout."""
        return self.state in ENDINGS

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            device=text(raw, "device"),
            name=text(raw, "name"),
            runs=text(raw, "runs"),
            firmware=text(raw, "firmware"),
            state=text(raw, "state"),
            percent=opt_int(raw, "percent"),
            reason=opt_text(raw, "reason"),
            text=opt_text(raw, "text"),
            next_step=opt_text(raw, "next_step"),
            job=opt_int(raw, "job"),
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout; without its devices where it came in a list."""

    id: int
    name: str | None
    kind: str
    state: str
    cause: Remark | None
    firmware: tuple[str, ...]
    created_ms: int
    ended_ms: int | None
    counts: dict[str, int]
    n_devices: int
    ok: bool | None
    held: Remark | None
    members: tuple[Member, ...]
    left_out: tuple[LeftOut, ...]
    raw: Json = field(repr=False, compare=False)

    @property
    def is_open(self) -> bool:
        """Whether something may still become of it."""
        return self.state in OPEN_STATES

    def member(self, device: str) -> Member | None:
        """Return one of its devices."""
        return next((member for member in self.members if member.device == device), None)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        cause, held = block(raw, "cause"), block(raw, "held")
        return cls(
            id=number(raw, "id"),
            name=opt_text(raw, "name"),
            kind=text(raw, "kind"),
            state=text(raw, "state"),
            cause=Remark.read(cause) if cause else None,
            firmware=words(raw, "firmware"),
            created_ms=number(raw, "created_ms"),
            ended_ms=opt_int(raw, "ended_ms"),
            counts=count_map(raw, "counts"),
            n_devices=number(raw, "n_devices"),
            ok=opt_flag(raw, "ok"),
            held=Remark.read(held) if held else None,
            members=tuple(Member.read(member) for member in blocks(raw, "members")),
            left_out=tuple(LeftOut.read(left_out) for left_out in blocks(raw, "left_out")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One update of one device."""

    id: int
    device: str
    rollout: int | None
    firmware: str | None
    state: str
    reason: str | None
    text: str | None
    next_step: str | None
    ended_ms: int | None
    evidence: Json = field(repr=False)
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            id=number(raw, "id"),
            device=text(raw, "device"),
            rollout=opt_int(raw, "rollout"),
            firmware=opt_text(raw, "firmware"),
            state=text(raw, "state"),
            reason=opt_text(raw, "reason"),
            text=opt_text(raw, "text"),
            next_step=opt_text(raw, "next_step"),
            ended_ms=opt_int(raw, "ended_ms"),
            evidence=block(raw, "evidence") or {},
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Stats:
    """How updates went, and who runs what."""

    outcomes: dict[str, int]
    success_percent: float | None
    n_enrolled: int
    n_current: int
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            outcomes=count_map(raw, "outcomes"),
            success_percent=opt_number(raw, "success_percent"),
            n_enrolled=number(raw, "n_enrolled"),
            n_current=number(raw, "n_current"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Window:
    """A maintenance window."""

    name: str
    opens: str
    next_ms: int | None
    open_until_ms: int | None
    duration_s: int
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            name=text(raw, "name"),
            opens=text(raw, "opens"),
            next_ms=opt_int(raw, "next_ms"),
            open_until_ms=opt_int(raw, "open_until_ms"),
            duration_s=number(raw, "duration_s"),
            raw=raw,
        )
