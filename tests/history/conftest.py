import pytest


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the plots, which take most of the time."""
    monkeypatch.setattr("fitorch.history.report.pictures", lambda history: [])
