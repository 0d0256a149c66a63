import pytest

from fitorch.callbacks.display import progress
from terminals import Clock, Figures


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    Figures.reads = 0
    monkeypatch.setattr(progress, "perf_counter", clock)
    return clock
