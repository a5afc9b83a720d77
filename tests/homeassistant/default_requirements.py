"""Prints what Home Assistant would install at its first start, so that it starts without a network.

That is the pinned requirements of the integrations which it loads by itself, and of those on which these depend.
"""

import json
import pathlib
import sys

import homeassistant.components

LOADED = [
    "automation",
    "bluetooth_adapters",
    "calendar",
    "camera",
    "conversation",
    "diagnostics",
    "ffmpeg",
    "file_upload",
    "frontend",
    "hassio",
    "history",
    "infrared",
    "logbook",
    "marketplace",
    "mqtt",
    "radio_frequency",
    "recorder",
    "repairs",
    "stream",
    "system_health",
    "tts",
    "zeroconf",
    "cloud",
    "google_translate",
    "met",
    "radio_browser",
]
# No wheel for this Python, and nothing that is used here asks for it.
WITHOUT = ("av==",)


def requirements(domains: list[str]) -> set[str]:
    components = pathlib.Path(homeassistant.components.__path__[0])
    found: set[str] = set()
    seen: set[str] = set()
    while domains:
        domain = domains.pop()
        manifest = components / domain / "manifest.json"
        if domain in seen or not manifest.exists():
            continue
        seen.add(domain)
        told = json.loads(manifest.read_text())
        found.update(told.get("requirements", []))
        domains += told.get("dependencies", [])
    # Without these two, which belong to the satellites of its voice assistant, asking for all actions fails.
    found.update(json.loads((components / "assist_pipeline" / "manifest.json").read_text()).get("requirements", []))
    return {line for line in found if not line.startswith(WITHOUT)}


if __name__ == "__main__":
    print("\n".join(sorted(requirements(sys.argv[1:] or list(LOADED)))))
