"""Where the server's program is: beside the interpreter, on the path, or in a wheel that is fetched for it."""

import hashlib
import logging
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

from homeassistant.core import HomeAssistant
from homeassistant.requirements import RequirementsNotFound, async_process_requirements

from .const import DOMAIN

_LOGGER = logging.getLogger(__name__)

PROGRAM = "reflash"
"""What the program is called."""

WHEEL = "reflash==0.1.0"
"""The wheel that holds the program and nothing else; never among the manifest's requirements, or a machine without
internet, or of a kind that there is no wheel for, could not even load the integration."""

WHEEL_DIGESTS: frozenset[str] = frozenset()
"""SHA-256 of the programs in that wheel, one for each kind of machine, written down with each release.

While this is empty nothing is fetched: a name that is not ours yet could become a stranger's tomorrow.
"""

VERSION_S = 10
"""How long the program may take to say its version. Guess: it takes a few milliseconds; a card may be slow to read."""


class NoProgramError(Exception):
    """There is no program to start on this machine."""


async def async_find_program(hass: HomeAssistant) -> Path:
    """Return the program; NoProgramError where there is none, nor a wheel for this machine."""
    program = await hass.async_add_executor_job(find_program)
    if program is None:
        program = await _async_fetch_program(hass)
    if program is None:
        raise NoProgramError
    return program


def find_program() -> Path | None:
    """Return the program of this machine, if it is one of ours."""
    for folder in program_folders():
        program = folder / PROGRAM
        if os.access(program, os.X_OK) and _is_ours(program):
            return program
    found = shutil.which(PROGRAM)
    if found is not None and _is_ours(Path(found)):
        return Path(found)
    return None


def program_folders() -> list[Path]:
    """Return where a wheel puts its programs; in an environment started by its full path none of it is on PATH."""
    folders = [Path(sys.executable).parent, Path(sys.prefix) / "bin"]
    if site.ENABLE_USER_SITE:
        folders.append(Path(site.getuserbase()) / "bin")
        # Home Assistant installs with `--target` there, and programs land in its folder `bin`.
        folders.append(Path(site.getusersitepackages()) / "bin")
    return folders


def _is_ours(program: Path) -> bool:
    """Return whether a program called so is really this one, and runs on this machine."""
    try:
        answer = subprocess.run(  # noqa: S603 - a program that is installed here, without anybody's words
            [program, "--version"], capture_output=True, timeout=VERSION_S, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        _LOGGER.debug("%s is no server: %s", program, error)
        return False
    return answer.stdout.split()[:1] == [PROGRAM.encode()]


async def _async_fetch_program(hass: HomeAssistant) -> Path | None:
    if not WHEEL_DIGESTS:
        return None
    try:
        await async_process_requirements(hass, DOMAIN, [WHEEL], is_built_in=False)
    except RequirementsNotFound as error:
        _LOGGER.warning("The server's program could not be fetched: %s", error)
        return None
    return await hass.async_add_executor_job(_fetched_program)


def _fetched_program() -> Path | None:
    """Return what was fetched, before it is ever run, if it is what was published."""
    for folder in program_folders():
        program = folder / PROGRAM
        if not os.access(program, os.X_OK):
            continue
        with program.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest in WHEEL_DIGESTS:
            return program
        _LOGGER.error("%s is not the program that was published, and is not started (SHA-256 %s)", program, digest)
    return None
