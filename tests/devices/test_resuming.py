"""Runs the scenarios of resuming.py."""

import pytest

from devices.resuming import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_stopped_fit_goes_on_exactly(name, running):
    error = running.outcome("devices.resuming", name)["error"]
    assert error is None, error
