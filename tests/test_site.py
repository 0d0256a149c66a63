"""The documentation's site: every public name has its place in the reference."""

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {
    "fitorch": "fitorch",
    "fitorch.callbacks": "callbacks",
    "fitorch.losses": "losses",
    "fitorch.metrics": "metrics",
    "fitorch.sklearn": "sklearn",
    "fitorch.checkpoint": "checkpoint",
}


@pytest.mark.parametrize("module", PAGES)
def test_the_reference_has_every_public_name_once(module):
    page = (DOCS / f"reference/{PAGES[module]}.md").read_text(encoding="utf-8")
    shown = re.findall(rf"^::: {re.escape(module)}\.(\w+)$", page, flags=re.MULTILINE)
    public = [name for name in importlib.import_module(module).__all__ if name != "__version__"]
    assert sorted(shown) == sorted(public)


@pytest.mark.parametrize("module", PAGES)
def test_what_the_reference_shows_of_a_class_is_there(module):
    page = (DOCS / f"reference/{PAGES[module]}.md").read_text(encoding="utf-8")
    members = re.findall(rf"^::: {re.escape(module)}\.(\w+)\.(\w+)$", page, flags=re.MULTILINE)
    missing = [
        (name, member)
        for name, member in members
        if not hasattr(getattr(importlib.import_module(module), name), member)
    ]
    assert missing == []
