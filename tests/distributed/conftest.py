"""One cluster of each size for all tests that use one, which xdist keeps in one process."""

import pytest
from distributed.cluster import Cluster
from distributed.forks import Parent

_clusters = {}


@pytest.fixture(scope="session")
def _all_clusters():
    yield _clusters
    for cluster in _clusters.values():
        cluster.close()


def _cluster(count):
    if count not in _clusters or _clusters[count].processes[0].poll() is not None:
        _clusters[count] = Cluster(count)
    return _clusters[count]


@pytest.fixture
def two(_all_clusters):
    return _cluster(2)


@pytest.fixture
def three(_all_clusters):
    return _cluster(3)


@pytest.fixture
def four(_all_clusters):
    return _cluster(4)


@pytest.fixture(params=[2, 3], ids=["2 processes", "3 processes"])
def several(request, _all_clusters):
    return _cluster(request.param)


@pytest.fixture(scope="session")
def forks():
    parent = Parent()
    yield parent
    parent.close()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks, also where only this folder runs
def pytest_collection_modifyitems(items):
    for item in items:
        if "distributed" in item.nodeid.split("/")[:2]:
            stays = {"two", "three", "four", "several"} & set(item.fixturenames)
            item.add_marker(pytest.mark.xdist_group("clusters" if stays else "launches"))
