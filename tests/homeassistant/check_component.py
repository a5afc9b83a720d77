"""Checks an integration by Home Assistant's own rules, as far as these are in its package (hassfest is not).

usage: check_component.py custom_components/DOMAIN [FOLDER_WITH_HACS_JSON], with the Python in which Home Assistant is.
"""

import ast
import json
import pathlib
import struct
import sys
from collections.abc import Iterator
from typing import Any

import homeassistant.components
from awesomeversion import AwesomeVersion
from homeassistant import loader
from homeassistant.helpers import service
from homeassistant.util.yaml import load_yaml_dict

CORE = pathlib.Path(homeassistant.components.__path__[0])
# Those whose text a user gets to read.
EXCEPTIONS = {
    "ConfigEntryAuthFailed",
    "ConfigEntryError",
    "ConfigEntryNotReady",
    "HomeAssistantError",
    "ServiceValidationError",
    "UpdateFailed",
}
PLATFORMS = {"binary_sensor", "button", "calendar", "event", "select", "sensor", "switch", "update"}
# Two words of a rule's state, from developers.home-assistant.io on the quality scale.
STATES = {"done", "exempt", "todo"}


def words(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a translation, with the way to it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from words(value, f"{path}.{key}" if path else key)
    else:
        yield path, tree


def placeholders(text: str) -> set[str]:
    """Names in braces, as Home Assistant fills them in."""
    return {part.split("}")[0] for part in text.split("{")[1:]}


class Check:
    """The findings about one integration."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.findings: list[str] = []
        self.english: dict[str, Any] = self.read("translations/en.json")
        self.icons: dict[str, Any] = self.read("icons.json")

    def read(self, name: str) -> Any:
        """A file of JSON, or nothing with a finding."""
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            self.find(f"{name} is missing")
        except ValueError as error:
            self.find(f"{name}: {error}")
        return {}

    def find(self, text: str) -> None:
        self.findings.append(text)

    def needs(self, *path: str) -> None:
        """The English translation has this key."""
        here = self.english
        for key in path:
            if not isinstance(here, dict) or key not in here:
                self.find(f"translations/en.json: {'.'.join(path)} is missing")
                return
            here = here[key]

    def manifest(self) -> None:
        told = self.read("manifest.json")
        domain = told.get("domain")
        if domain != self.folder.name:
            self.find("manifest.json: the domain is not the folder's name")
        for key in (
            "codeowners",
            "config_flow",
            "documentation",
            "integration_type",
            "iot_class",
            "issue_tracker",
            "name",
            "version",
        ):
            if key not in told:
                self.find(f"manifest.json: {key} is missing")
        order = ["domain", "name", *sorted(set(told) - {"domain", "name"})]
        if list(told) != order:
            self.find("manifest.json: the keys are domain, name, and then the others in the order of the alphabet")
        for key in set(told) - set(loader.Manifest.__annotations__):
            self.find(f"manifest.json: Home Assistant knows no {key}")
        for line in told.get("requirements", []):
            if "==" not in line:
                self.find(f"manifest.json: {line} is not pinned")
        for other in told.get("dependencies", []) + told.get("after_dependencies", []):
            if not (CORE / other).exists():
                self.find(f"manifest.json: there is no integration {other}")
        if (CORE / str(domain)).exists():
            self.find("manifest.json: Home Assistant itself has an integration of this domain")
        if AwesomeVersion(told.get("version", "")).strategy == "unknown":
            self.find("manifest.json: the version is none")

    def actions(self) -> None:
        path = self.folder / "services.yaml"
        if not path.exists():
            return
        described = load_yaml_dict(str(path))
        service._SERVICES_SCHEMA(described)
        for action, body in described.items():
            self.needs("services", action, "name")
            self.needs("services", action, "description")
            if action not in self.icons.get("services", {}):
                self.find(f"icons.json: no icon for the action {action}")
            for field in (body or {}).get("fields", {}):
                self.needs("services", action, "fields", field, "name")
                self.needs("services", action, "fields", field, "description")

    def languages(self) -> None:
        """Every language says everything, and fills in the same words."""
        english = dict(words(self.english))
        for file in sorted((self.folder / "translations").glob("*.json")):
            told = dict(words(self.read(f"translations/{file.name}")))
            for key in sorted(english.keys() - told.keys()):
                self.find(f"translations/{file.name}: {key} is missing")
            for key in sorted(told.keys() - english.keys()):
                self.find(f"translations/{file.name}: {key} is not in en.json")
            for key in english.keys() & told.keys():
                if placeholders(english[key]) != placeholders(told[key]):
                    self.find(f"translations/{file.name}: {key} fills in other words than en.json")
        for platform, keys in self.english.get("entity", {}).items():
            for key in keys:
                if key not in self.icons.get("entity", {}).get(platform, {}):
                    self.find(f"icons.json: no icon for {platform}.{key}")

    def code(self) -> None:
        for file in self.folder.rglob("*.py"):
            source = file.read_text()
            for node in ast.walk(ast.parse(source)):
                if not isinstance(node, ast.Call):
                    continue
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name not in EXCEPTIONS:
                    continue
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                if "translation_key" not in given and None not in given:
                    self.find(f"{file.name}:{node.lineno}: {name} without a translation_key")
                elif isinstance(key := given.get("translation_key"), ast.Constant):
                    self.needs("exceptions", key.value, "message")
            if file.stem in PLATFORMS and file.parent == self.folder and "PARALLEL_UPDATES" not in source:
                self.find(f"{file.name}: PARALLEL_UPDATES is missing")

    def quality(self) -> dict[str, int]:
        """Every rule that Home Assistant knows has a state; gives how often each state is there."""
        path = self.folder / "quality_scale.yaml"
        known = set(load_yaml_dict(str(CORE / "esphome" / "quality_scale.yaml"))["rules"])
        if not path.exists():
            self.find("quality_scale.yaml is missing")
            return {}
        told = load_yaml_dict(str(path))["rules"]
        for rule in sorted(known - set(told)):
            self.find(f"quality_scale.yaml: {rule} is missing")
        for rule in sorted(set(told) - known):
            self.find(f"quality_scale.yaml: there is no rule {rule}")
        counted: dict[str, int] = {}
        for rule, state in told.items():
            status = state["status"] if isinstance(state, dict) else state
            counted[status] = counted.get(status, 0) + 1
            if status not in STATES:
                self.find(f"quality_scale.yaml: {rule} is {status}")
            if status != "done" and not (isinstance(state, dict) and state.get("comment")):
                self.find(f"quality_scale.yaml: {rule} is {status} without saying why")
        return counted

    def brand(self) -> None:
        for name, size in (("icon.png", 256), ("icon@2x.png", 512)):
            picture = self.folder / "brand" / name
            if not picture.exists():
                self.find(f"brand/{name} is missing")
            elif (found := struct.unpack(">II", picture.read_bytes()[16:24])) != (size, size):
                self.find(f"brand/{name} is {found[0]} x {found[1]} instead of {size} x {size}")

    def marketplace(self, root: pathlib.Path) -> None:
        """What was HACS and is in Home Assistant now."""
        from homeassistant.components.marketplace.utils.validate import REPOSITORY_MANIFEST_VALUES

        path = root / "hacs.json"
        if not path.exists():
            self.find("hacs.json is missing")
            return
        for key, value in json.loads(path.read_text()).items():
            if key in REPOSITORY_MANIFEST_VALUES:
                REPOSITORY_MANIFEST_VALUES[key](value)
            elif key not in ("country", "render_readme"):
                self.find(f"hacs.json: the marketplace knows no {key}")


def main() -> int:
    check = Check(pathlib.Path(sys.argv[1]).resolve())
    check.manifest()
    check.actions()
    check.languages()
    check.code()
    rules = check.quality()
    check.brand()
    if len(sys.argv) > 2:
        check.marketplace(pathlib.Path(sys.argv[2]))
    print("\n".join(check.findings))
    scale = ", ".join(f"{count} {state}" for state, count in sorted(rules.items()))
    print(f"{len(check.findings)} findings; quality scale: {scale}")
    return 1 if check.findings else 0


if __name__ == "__main__":
    sys.exit(main())
