"""A real browser, as the owner of a Home Assistant sees it: a program in Node drives it, told line by line."""

import asyncio
import json
import os
import pathlib
from typing import Any

from hass import ROOT, HomeAssistant

HERE = pathlib.Path(__file__).parent
# With SCREENSHOTS=docs/images the pictures of the guide are made anew.
SHOTS = os.environ.get("SCREENSHOTS")


class Browser:
    """One tab, logged in."""

    def __init__(self, hass: HomeAssistant) -> None:
        self.hass = hass
        self.process: asyncio.subprocess.Process | None = None

    async def tell(self, do: str, patience_s: float = 60, **words: Any) -> Any:
        """One step; the words are those of browser.mjs."""
        if self.process is None:
            self.process = await asyncio.create_subprocess_exec(
                "node",
                HERE / "browser.mjs",
                self.hass.base,
                json.dumps(self.hass.session_tokens),
                self.hass.language,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**24,
                env=dict(os.environ, NODE_PATH=str(ROOT / "tests" / "browser" / "node_modules")),
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **words}).encode() + b"\n")
        line = await asyncio.wait_for(self.process.stdout.readline(), patience_s)
        answer = json.loads(line)
        assert "error" not in answer, f"{do} {words}: {answer['error']}"
        return answer.get("result")

    async def visit(self, path: str) -> None:
        await self.tell("visit", path=path)

    async def leave(self) -> None:
        """To nowhere: an open page holds up Home Assistant's end."""
        await self.tell("leave")

    async def sees(self, text: str, patience_s: float = 30) -> None:
        """Waits until this is to be read on the page; a text between slashes is a regular expression."""
        await self.tell("see", patience_s + 10, text=text, patience_ms=patience_s * 1000)

    async def click(self, text: str, *, role: str | None = None) -> None:
        await self.tell("click", text=text, role=role)

    async def fill(self, *values: str) -> None:
        """The fields of the form that is open, from above."""
        await self.tell("fill", values=values)

    async def text(self) -> str:
        """All that is to be read."""
        return str(await self.tell("text"))

    async def shot(self, name: str) -> None:
        """A picture for the guide, where it is asked for."""
        if SHOTS:
            path = pathlib.Path(SHOTS).resolve() / f"homeassistant-{name}.png"
            await self.tell("shot", path=str(path))

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            await self.process.wait()
