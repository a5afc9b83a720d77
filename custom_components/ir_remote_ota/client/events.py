"""Server-sent events: bytes in, events out."""

import json
from dataclasses import dataclass, field
from typing import Self

from .reading import Json, block, number, opt_text, text

MAX_LINE_BYTES = 1 << 20
"""A line longer than this is none of the server's, whose events are small. Guess: 1 MiB is far above all of them."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    `hello` begins every stream, `gap` says that events were missed; both have no number.
    """

    seq: int
    at_ms: int
    kind: str
    device: str | None
    detail: Json = field(default_factory=dict)

    @classmethod
    def read(cls, raw: Json) -> Self:
        """Read its JSON."""
        detail = block(raw, "detail") or {}
        return cls(
            seq=number(raw, "seq"),
            at_ms=number(raw, "at_ms"),
            kind=text(raw, "kind"),
            device=opt_text(raw, "device") or opt_text(detail, "device"),
            detail=detail,
        )


class EventReader:
    """Makes events of the bytes of a stream, however they are cut."""

    def __init__(self) -> None:
        """Begin at the start of a stream."""
        self._rest = b""
        self._name = ""
        self._lines: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Take what has come, and return the events that it completes; ValueError for what is no event stream."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError("a line of the event stream does not end")
        events = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: str) -> Event | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                self._lines.append(value)
            elif name == "event":
                self._name = value
            return None
        name, lines = self._name, self._lines
        self._name, self._lines = "", []
        if not lines:
            return None
        raw = json.loads("\n".join(lines))
        if not isinstance(raw, dict):
            raise ValueError("an event that is no object")
        if name and name != "message":
            return Event(seq=0, at_ms=0, kind=name, device=None, detail=raw)
        return Event.read(raw)
