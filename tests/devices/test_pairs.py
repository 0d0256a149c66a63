"""Runs the scenarios of pairs.py."""

import pytest

from devices.pairs import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_have_a_device_each_and_the_figures_of_one(name, running):
    error = running.outcome("devices.pairs", name)["error"]
    assert error is None, error
