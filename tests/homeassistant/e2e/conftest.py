"""What every file here has: a home of its own, and how to make one."""

import os
from collections.abc import AsyncIterator

import pytest

pytest.register_assert_rewrite("browser", "founding", "hass", "home")

from browser import Browser  # noqa: E402
from home import Home  # noqa: E402


def pytest_configure() -> None:
    """Outside of a network of its own, tests would meet the real 192.168.1.0/24."""
    if "REFLASH_HOME_NETWORK" not in os.environ:
        pytest.exit("start these tests with tests/homeassistant/run, which gives each file a network of its own", 64)


@pytest.fixture(scope="module")
async def home(request: pytest.FixtureRequest) -> AsyncIterator[Home]:
    """The home of this file; the variable LANGUAGE of the file is its language."""
    home = Home(language=getattr(request.module, "LANGUAGE", "en"))
    try:
        yield home
    finally:
        await home.close()


@pytest.fixture(scope="module")
async def browser(home: Home) -> AsyncIterator[Browser]:
    """A browser in which the owner is logged in."""
    browser = Browser(home.hass)
    try:
        yield browser
    finally:
        await browser.close()
