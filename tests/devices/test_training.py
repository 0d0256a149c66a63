"""Runs the scenarios of training.py."""

import pytest

from devices.training import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_figures_of_the_cpu_come_from_the_device(name, running):
    error = running.outcome("devices.training", name)["error"]
    assert error is None, error
