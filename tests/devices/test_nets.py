"""Runs the scenarios of nets.py."""

import pytest

from devices.nets import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_nets_of_many_forms_train_as_on_the_cpu(name, running):
    error = running.outcome("devices.nets", name)["error"]
    assert error is None, error
