"""The founding document's YAML as it stands, in an English Home Assistant."""

from founding import Steps

LANGUAGE = "en"


class TestEnglish(Steps):
    """See founding.py."""
