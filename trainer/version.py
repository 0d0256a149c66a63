"""The version of fitorch, and those of other packages."""

from __future__ import annotations

from functools import cache
from importlib import metadata

__version__ = "0.1.0"


@cache  # a look-up takes milliseconds, and every checkpoint records several versions
def version_of(package: str) -> str:
    """Return the version of an installed package, "" if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
