"""Runs the scenarios of places.py."""

import pytest

from devices.places import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_nets_data_and_random_numbers_are_where_they_should_be(name, running):
    error = running.outcome("devices.places", name)["error"]
    assert error is None, error
