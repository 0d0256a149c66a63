import io

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from fitorch import KerasModel
from fitorch.callbacks import Callback, EarlyStopping
from fitorch.engine.loop import fit
from fitorch.engine.state import Progress
from fitorch.fitting.setup import prepare
from fitorch.losses import L2, term
from prepared import fit_arguments

EPOCHS, BATCHES = 3, 4

SCHEDULES = {
    "none": None,
    "per epoch": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    "per update": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=50),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


def make_model(schedule=None, loss_fn=None):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Tanh(), nn.Linear(8, 1)
    )
    return KerasModel(
        net,
        loss_fn or nn.MSELoss(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        lr_scheduler=schedule,
    )


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 3, generator=generator)  # 4 batches of 8, the last of 6
    return x, x[:, :1]


class Snapshots(Callback):
    """Stores the state, as bytes, at every update boundary and at the end of every epoch."""

    def __init__(self, window=1):
        self.window = window
        self.taken = {}

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.window == 0 or batch + 1 == BATCHES:
            self.take(f"batch {batch + 1} of epoch {self.run.progress.epochs + 1}")

    def on_epoch_end(self, epoch, logs=None):
        self.take(f"epoch {epoch + 1}")

    def take(self, when):
        file = io.BytesIO()
        torch.save(self.run.state.state_dict(), file)
        self.taken[when] = file.getvalue()


def make_run(model, snapshots, **options):
    callbacks = [EarlyStopping(patience=50, restore_best_weights=False), snapshots]
    arguments = fit_arguments(**{"epochs": EPOCHS, "callbacks": callbacks, **options})
    run = prepare(model, data(), data(), arguments)
    snapshots.run = run
    return run


def finish(run):
    fit(run)
    run.close()


def assert_same(model, expected):
    state = model.net.state_dict()
    for name, value in expected.net.state_dict().items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_fit_goes_on_with_the_same_bits_from_any_update(name, window):
    expected, snapshots = make_model(SCHEDULES[name]), Snapshots(window)
    options = {"gradient_accumulation_steps": window}
    finish(make_run(expected, snapshots, **options))
    for when, stored in snapshots.taken.items():
        torch.manual_seed(99)
        model = make_model(SCHEDULES[name])
        run = make_run(model, Snapshots(), **options)
        run.state.load_state_dict(torch.load(io.BytesIO(stored), weights_only=True))
        finish(run)
        assert_same(model, expected)
        figures = ["epoch", "lr", "val_loss"]
        wanted = expected.history.frame[figures]
        assert model.history.frame[figures].equals(wanted), when
        assert model.progress == expected.progress, when


@pytest.mark.parametrize("steps", [2, 3, 4, 7])
def test_a_fit_goes_on_where_epochs_cut_passes(steps):
    expected, snapshots = make_model(), Snapshots()
    finish(make_run(expected, snapshots, steps_per_epoch=steps))
    for when, stored in snapshots.taken.items():
        model = make_model()
        run = make_run(model, Snapshots(), steps_per_epoch=steps)
        run.state.load_state_dict(torch.load(io.BytesIO(stored), weights_only=True))
        finish(run)
        assert_same(model, expected)
        assert model.progress == expected.progress, when


def test_a_fit_goes_on_with_the_same_history_from_the_end_of_an_epoch():
    expected, snapshots = make_model(), Snapshots()
    finish(make_run(expected, snapshots))
    model = make_model()
    run = make_run(model, Snapshots())
    run.state.load_state_dict(torch.load(io.BytesIO(snapshots.taken["epoch 2"]), weights_only=True))
    finish(run)
    columns = ["epoch", "train_loss", "lr", "val_loss"]
    assert model.history.frame[columns].equals(expected.history.frame[columns])


def test_callbacks_go_on_where_they_were():
    stopping = EarlyStopping(patience=2, min_delta=1e9)  # nothing but the first epoch improves
    expected, snapshots = make_model(), Snapshots()
    finish(make_run(expected, snapshots, epochs=10, callbacks=[stopping, snapshots]))
    assert expected.progress.epochs == 3
    model, again = make_model(), Snapshots()
    stopping = EarlyStopping(patience=2, min_delta=1e9)
    run = make_run(model, again, epochs=10, callbacks=[stopping, again])
    run.state.load_state_dict(torch.load(io.BytesIO(snapshots.taken["epoch 2"]), weights_only=True))
    finish(run)
    assert model.progress.epochs == 3
    assert stopping.stopped_epoch == 2
    assert stopping.watched.best_epoch == 0


def test_best_weights_of_before_are_restored_at_the_end():
    snapshots = Snapshots()
    expected = make_model()
    run = make_run(expected, snapshots, patience=50, monitor="train_loss", mode="max")
    finish(run)  # the highest training loss is that of the first epoch
    model, again = make_model(), Snapshots()
    run = make_run(model, again, patience=50, monitor="train_loss", mode="max")
    run.state.load_state_dict(torch.load(io.BytesIO(snapshots.taken["epoch 2"]), weights_only=True))
    finish(run)
    assert_same(model, expected)
    assert model.history.best["epoch"] == expected.history.best["epoch"] == 1


def test_the_state_counts_what_is_completed():
    snapshots = Snapshots(window=2)
    finish(make_run(make_model(), snapshots, gradient_accumulation_steps=2))
    state = torch.load(io.BytesIO(snapshots.taken["batch 2 of epoch 3"]), weights_only=True)
    assert state["progress"] == {
        "seed": 3,
        "epochs": 2,
        "batches": 2,
        "updates": 5,
        "pass_index": 2,
        "position": 2,
    }


class Uncertain(nn.Module):
    """Squared errors, some left out by chance, weighted by a precision that is learned."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(0.2)

    def forward(self, y_pred, y_true):
        error = self.dropout(y_pred - y_true).square().mean()
        return error * torch.exp(-self.log_scale) + self.log_scale


def ramp(epoch):
    return 0.01 * epoch


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("when", ["batch 2 of epoch 2", "epoch 1", "batch 4 of epoch 3"])
def test_an_objective_with_parameters_and_a_schedule_goes_on_with_the_same_bits(window, when):
    def begin():
        model = make_model(SCHEDULES["per epoch"], term(Uncertain()) + ramp * L2() + 0.1 * L2())
        snapshots = Snapshots(window)
        options = {"gradient_accumulation_steps": window, "patience": 9, "clip_grad_norm": 1.0}
        return model, snapshots, make_run(model, snapshots, **options)

    expected, snapshots, run = begin()
    finish(run)
    torch.manual_seed(99)
    model, _, run = begin()
    run.state.load_state_dict(torch.load(io.BytesIO(snapshots.taken[when]), weights_only=True))
    finish(run)
    assert_same(model, expected)
    ours, theirs = (each.objective.losses[0].loss_fn.log_scale for each in (model, expected))
    assert torch.equal(ours, theirs)
    assert ours != 0
    figures = ["epoch", "lr", "l2_weight", "val_loss", "val_uncertain", "val_l2", "val_l2_2"]
    assert model.history.frame[figures].equals(expected.history.frame[figures])
    assert model.history.frame["l2_weight"].tolist() == [0.0, 0.01, 0.02]


def test_a_loss_with_parameters_is_part_of_the_state():
    loss_fn = Uncertain()
    model = KerasModel(nn.Linear(3, 1), loss_fn, optimizer="sgd")
    run = make_run(model, Snapshots())
    finish(run)
    assert loss_fn.log_scale.item() != 0
    assert torch.equal(run.state.state_dict()["loss"]["losses.0.log_scale"], loss_fn.log_scale)


def test_each_part_is_there_once():
    run = make_run(make_model(SCHEDULES["per epoch"]), Snapshots(), patience=3)
    parts = run.state.parts()
    assert len({id(part) for part in parts.values()}) == len(parts)
    assert {"net", "loss", "optimizer", "scheduler", "history", "progress"} <= set(parts)


def test_a_state_with_missing_or_unknown_parts_is_refused():
    run = make_run(make_model(), Snapshots())
    state = run.state.state_dict()
    del state["optimizer"]
    state["wings"] = {}
    with pytest.raises(ValueError, match=r"lacks \['optimizer'\] and has unknown \['wings'\]"):
        run.state.load_state_dict(state)


def test_progress_refuses_unknown_counters():
    with pytest.raises(ValueError, match=r"counters .*'epochs'.* but got \['miles'\]"):
        Progress().load_state_dict({"miles": 3})
    progress = Progress()
    progress.load_state_dict({**Progress(seed=4, epochs=2).state_dict()})
    assert progress == Progress(seed=4, epochs=2)
