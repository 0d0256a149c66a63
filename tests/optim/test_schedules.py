import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from fitorch import KerasModel
from fitorch.optim.scheduling import Scheduling, when_to_step

SGD = torch.optim.SGD


class Recorder:
    """A schedule that notes when it goes on, and with what."""

    def __init__(self):
        self.steps = []

    def step(self, *figures):
        self.steps.append(figures)


def optimizer():
    return SGD(nn.Linear(2, 1).parameters(), lr=1.0)


def fit(schedule, epochs=3, **options):
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    model = KerasModel(nn.Linear(2, 1), "mse", optimizer="sgd", lr_scheduler=schedule)
    val_data = (x, x[:, :1]) if options.pop("validates", False) else None
    return model.fit((x, x[:, :1]), val_data, epochs=epochs, batch_size=4, verbose=0, **options)


@pytest.mark.parametrize(
    ("make", "when"),
    [
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=10), "update"),
        (lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, cycle_momentum=False), "update"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o), "validation"),
        (lambda o: lr_scheduler.StepLR(o, 1), "epoch"),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 10), "epoch"),
        (lambda o: Recorder(), "epoch"),
    ],
)
def test_auto_knows_when_a_schedule_goes_on(make, when):
    assert when_to_step(make(optimizer()), "auto") == when


@pytest.mark.parametrize("asked", ["update", "epoch", "validation"])
def test_what_is_asked_for_holds(asked):
    assert when_to_step(lr_scheduler.StepLR(optimizer(), 1), asked) == asked


@pytest.mark.parametrize(
    ("asked", "options", "steps"),
    [
        ("auto", {}, 3),
        ("epoch", {}, 3),
        ("update", {}, 9),
        ("update", {"gradient_accumulation_steps": 2}, 6),
        ("validation", {"validates": True}, 3),
        ("validation", {"validates": True, "validation_freq": 2}, 1),
    ],
)
def test_a_schedule_goes_on_as_often_as_it_should(asked, options, steps):
    schedule = Recorder()
    fit(schedule, scheduler_step=asked, **options)
    assert schedule.steps == [()] * steps


@pytest.mark.parametrize("monitor", ["val_loss", "train_loss", "loss"])
def test_a_plateau_schedule_gets_the_monitored_figure(monitor):
    seen = []

    class Plateau(lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics):
            seen.append(metrics)
            super().step(metrics)

    frame = fit(Plateau, validates=True, monitor=monitor)
    assert seen == frame["train_loss" if monitor == "loss" else monitor].tolist()


def test_a_plateau_schedule_follows_the_training_loss_without_validation():
    def plateau(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)

    frame = fit(plateau, mode="max")  # the loss falls, which is worse for this mode
    assert frame["lr"].tolist() == [1e-3, 1e-3, 5e-4]


def test_a_plateau_schedule_goes_on_only_where_the_figure_is_new():
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer(), patience=0)
    logs = {"train_loss": 1.0, "lr": 1.0}
    scheduling = Scheduling(plateau, "validation")
    scheduling.after_epoch(1, "val_loss", logs)
    assert plateau.last_epoch == 0
    scheduling.after_epoch(2, "val_loss", {**logs, "val_loss": 2.0})
    assert plateau.last_epoch == 1
    assert plateau.best == 2.0


def test_nan_is_never_a_plateaus_best():
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer(), patience=5)
    for value in (math.nan, 3.0, math.nan):
        Scheduling(plateau, "validation").after_epoch(1, "val_loss", {"val_loss": value})
    assert plateau.best == 3.0


def test_a_plateau_schedule_cant_go_on_with_every_update():
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau .* scheduler_step='auto'"):
        fit(lr_scheduler.ReduceLROnPlateau, scheduler_step="update")


def test_without_a_schedule_nothing_happens():
    Scheduling(None, "auto").after_epoch(1, "val_loss", {"val_loss": 1.0})


# torch 2.4 itself passes it an epoch
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_a_chained_schedule_goes_on_as_a_whole():
    def chain(optimizer):
        warm = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
        return lr_scheduler.SequentialLR(
            optimizer, [warm, lr_scheduler.ExponentialLR(optimizer, 0.5)], [2]
        )

    frame = fit(chain, epochs=4)
    assert frame["lr"].tolist() == pytest.approx([1e-4, 5.5e-4, 1e-3, 5e-4])
