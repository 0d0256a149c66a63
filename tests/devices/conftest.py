"""Two processes with simulated devices for all scenarios, as there are two cores."""

import pytest
from devices.scenarios import Running

_SHARED = (("devices.training", "devices.waiting"), ("devices.places", "devices.resuming"))


@pytest.fixture(scope="session")
def _running():
    processes = [Running(*modules) for modules in _SHARED]
    yield dict(zip(_SHARED, processes, strict=True))
    for process in processes:
        process.close()


@pytest.fixture(scope="session")
def outcome(_running):
    """Return a function that returns the outcome of a scenario of a module."""

    def outcome_of(module, name):
        process = next(process for modules, process in _running.items() if module in modules)
        found = process.outcomes().get(module, {})
        return found.get(name, {"error": f"the process has ended before: {process.printed()}"})

    return outcome_of


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks, also where only this folder runs
def pytest_collection_modifyitems(items):
    for item in items:
        if "devices" in item.nodeid.split("/")[:2]:
            item.add_marker(pytest.mark.xdist_group("devices"))
