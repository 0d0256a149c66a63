from datetime import timedelta

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import MaxTime, max_time
from fitorch.callbacks.max_time import seconds_of


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second each time somebody looks."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(max_time.time, "monotonic", lambda: float(next(ticks)))


def fit(*callbacks, epochs=10, **options):
    x = torch.randn(20, 2)
    model = KerasModel(nn.Linear(2, 1), "mse")
    model.fit(
        (x, x[:, :1]),
        (x, x[:, :1]),
        epochs=epochs,
        batch_size=5,
        callbacks=callbacks,
        verbose=0,
        **options,
    )
    return model


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (timedelta(minutes=2), 120),
        (90, 90),
        (0.5, 0.5),
        ("00:01:30", 90),
        ("100:00:00", 360000),
        ("0:0:0.5", 0.5),
    ],
)
def test_a_limit_comes_in_three_forms(limit, seconds):
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize(
    "limit", [0, -1, "1:30", "soon", "0:0:0", timedelta(0), None, float("nan"), [1]]
)
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match=r"max_time is .*; expected a timedelta, seconds above 0"):
        MaxTime(limit)


@pytest.mark.usefixtures("clock")
def test_training_stops_after_the_batch_in_which_the_time_is_up():
    callback = MaxTime(6)  # seen after 6 looks: the second batch of the second epoch
    model = fit(callback)
    assert model.progress.updates == 6
    frame = model.history.frame
    assert frame["epoch"].tolist() == [1, 2]
    assert frame["val_loss"].notna().all()
    assert callback.stopping_reason == "max_time of 6 s is up"


@pytest.mark.usefixtures("clock")
def test_the_argument_of_fit_does_the_same():
    assert fit(max_time=timedelta(seconds=6)).progress.updates == 6


def test_a_limit_that_is_not_reached_changes_nothing():
    callback = MaxTime("01:00:00")
    assert len(fit(callback, epochs=2).history) == 2
    assert callback.stopping_reason == ""


@pytest.mark.usefixtures("clock")
def test_the_clock_starts_again_with_each_fit():
    callback = MaxTime(6)
    for _ in range(2):
        assert fit(callback).progress.updates == 6
