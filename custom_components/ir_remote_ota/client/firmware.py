"""Firmware images, and where they come from."""

from dataclasses import dataclass, field
from typing import Self

from .devices import Remark
from .reading import Json, block, blocks, number, opt_int, opt_text, text, words


@dataclass(frozen=True, slots=True)
class Firmware:
    """An image in the repository, named by its SHA-256."""

    sha256: str
    file_name: str
    name: str
    len_bytes: int
    family: str | None
    version: str | None
    state: str
    source: str
    added_ms: int
    latest_for: tuple[str, ...]
    running_on: tuple[str, ...]
    refusals: tuple[Remark, ...]
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            sha256=text(raw, "sha256"),
            file_name=text(raw, "file_name"),
            name=text(raw, "name"),
            len_bytes=number(raw, "len_bytes"),
            family=opt_text(raw, "family"),
            version=opt_text(raw, "version"),
            state=text(raw, "state"),
            source=text(raw, "source"),
            added_ms=number(raw, "added_ms"),
            latest_for=words(raw, "latest_for"),
            running_on=words(raw, "running_on"),
            refusals=tuple(Remark.read(refusal) for refusal in blocks(raw, "refusals")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Feed:
    """A vendor's download."""

    name: str
    last_checked_at: int | None
    error: str | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            name=text(raw, "name"),
            last_checked_at=opt_int(raw, "last_checked_at"),
            error=opt_text(raw, "error"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class FirmwareList:
    """All images, the newest first, the feeds, and the folder on the server."""

    firmware: tuple[Firmware, ...]
    feeds: tuple[Feed, ...]
    folder: str | None
    raw: Json = field(repr=False, compare=False)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        return cls(
            firmware=tuple(Firmware.read(image) for image in blocks(raw, "firmware")),
            feeds=tuple(Feed.read(feed) for feed in blocks(raw, "feeds")),
            folder=opt_text(block(raw, "folder") or {}, "path"),
            raw=raw,
        )
