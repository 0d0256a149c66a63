"""One process with simulated devices for all scenarios."""

import pytest

from devices.scenarios import Running


@pytest.fixture(scope="session")
def running():
    running = Running()
    yield running
    running.close()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks, also where only this folder runs
def pytest_collection_modifyitems(items):
    for item in items:
        if "devices" in item.nodeid.split("/")[:2]:
            item.add_marker(pytest.mark.xdist_group("devices"))
