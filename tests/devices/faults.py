"""Faults of fitorch that the scenarios show; take out what is mended.

Modules and names of scenarios, or names of tests, by what is wrong: they are expected to fail.
"""

FAULTS: dict[str, tuple[str, ...]] = {}
