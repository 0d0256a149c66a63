"""One process with simulated devices for all scenarios."""

import pytest

from devices.faults import FAULTS
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
            _expect_faults(item)


def _expect_faults(item):
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    scenario = f"{item.path.stem.removeprefix('test_')}: {parameters.get('name', item.name)}"
    for reason, names in FAULTS.items():
        if scenario in names or item.name in names:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
