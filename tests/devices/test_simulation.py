"""Runs the scenarios of simulation.py."""

import pytest

from devices.simulation import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_simulation_does_as_a_device(name, running):
    error = running.outcome("devices.simulation", name)["error"]
    assert error is None, error
