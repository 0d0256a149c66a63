"""Runs the scenarios of failing.py."""

import pytest

from devices.failing import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_wrong_is_found_on_a_device(name, running):
    error = running.outcome("devices.failing", name)["error"]
    assert error is None, error
