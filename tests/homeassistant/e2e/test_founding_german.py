"""The founding document's YAML as it stands, in a German Home Assistant."""

from founding import Steps

LANGUAGE = "de"


class TestGerman(Steps):
    """See founding.py."""
