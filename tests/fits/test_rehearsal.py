"""What would fail at the end of the first epoch fails before it, and the look leaves no trace."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.fitting import start
from fitorch.metrics import MetricError

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, :1]


class Counting(Callback):
    """Counts the batches that were trained on."""

    def __init__(self):
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1


class Noisy(Dataset):
    """Draws from a generator of its own, and from torch's."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        noise = torch.randn(3, generator=self.generator) + torch.randn(3)
        return X[index] + 0.1 * noise, Y[index]


def net_with_everything():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.utils.spectral_norm(nn.Linear(8, 1))
    )


def fails_in(*, update=False, compute=False, result=0.0):
    class Failing:
        def update(self, y_pred, y_true):
            if update:
                message = "this metric takes no such batch"
                raise TypeError(message)

        def compute(self):
            if compute:
                message = "not enough samples"
                raise ValueError(message)
            return result

        def reset(self):
            pass

    return Failing()


class ValidationOnly(nn.Linear):
    """Fails in eval mode."""

    def forward(self, x):
        if not self.training:
            x = x.reshape(-1, 7)
        return super().forward(x)


MISTAKES = {
    "a metric that does not take the batch": ({"metrics_dict": {"m": fails_in(update=True)}}, Y),
    "a metric whose result is no number": ({"metrics_dict": {"m": fails_in(result="text")}}, Y),
    "targets of another shape": ({}, Y.repeat(1, 2)),
    "a net that fails in eval mode": ({"net": ValidationOnly(3, 1)}, Y),
    "a forward that fails in eval mode": (
        {"forward": lambda net, batch: (net(batch[0]), {True: batch[1]}[net.training])},
        Y,
    ),
}


@pytest.mark.parametrize("as_loader", [False, True], ids=["tensors", "a loader"])
@pytest.mark.parametrize(("options", "val_y"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_of_validation_is_found_before_the_first_update(options, val_y, as_loader):
    counting, net = Counting(), options.get("net", nn.Linear(3, 1))
    others = {name: value for name, value in options.items() if name != "net"}
    model = KerasModel(net, "mse", **others)
    val_data = DataLoader(TensorDataset(X, val_y), 8) if as_loader else (X, val_y)
    with pytest.raises(
        (TypeError, ValueError, RuntimeError, KeyError), match=r"val_data batch 1 \(before"
    ):
        model.fit((X, Y), val_data, epochs=2, verbose=0, train_metrics=False, callbacks=[counting])
    assert counting.batches == 0


def test_a_metric_that_needs_more_samples_only_warns():
    model = KerasModel(nn.Linear(3, 1), "mse", {"m": fails_in(compute=True)})
    counting = Counting()
    with (
        pytest.warns(UserWarning, match=r"\(before training\): metric 'm' .*not enough samples"),
        pytest.raises(MetricError),
    ):
        model.fit((X, Y), (X, Y), epochs=1, verbose=0, train_metrics=False, callbacks=[counting])
    assert counting.batches > 0


def sampled():
    generator = torch.Generator().manual_seed(5)
    return DataLoader(TensorDataset(X, Y), 8, sampler=RandomSampler(X, generator=generator))


SETS = {
    "tensors": lambda: (X, Y),
    "a loader that shuffles": lambda: DataLoader(TensorDataset(X, Y), 8, shuffle=True),
    "a sampler with a generator": sampled,
    "a dataset that draws": Noisy,
    "a loader of a dataset that draws": lambda: DataLoader(Noisy(), 8, shuffle=True),
    "batches": lambda: list(zip(X.split(15), Y.split(15), strict=True)),
}


def trained(data, val_data):
    torch.manual_seed(7)
    net = net_with_everything()
    model = KerasModel(net, "mse", {"mae": "mae"}, "adam")
    frame = model.fit(data(), val_data(), epochs=3, batch_size=8, verbose=0, seed=2)
    return net.state_dict(), frame.drop(columns="seconds"), torch.rand(3)


@pytest.mark.parametrize("val_data", SETS.values(), ids=SETS)
@pytest.mark.parametrize("data", [SETS["tensors"], SETS["a loader of a dataset that draws"]])
def test_the_bits_are_those_without_a_rehearsal(data, val_data, monkeypatch):
    state, frame, numbers = trained(data, val_data)
    monkeypatch.setattr(start, "rehearse", lambda run: None)
    expected, table, drawn = trained(data, val_data)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert frame.equals(table)
    assert torch.equal(numbers, drawn)


def test_it_costs_one_forward_pass_in_eval_mode_and_none_in_training_mode():
    calls = []

    class Noting(nn.Linear):
        def forward(self, x):
            calls.append((self.training, len(x)))
            return super().forward(x)

    KerasModel(Noting(3, 1), "mse").fit((X, Y), (X, Y), epochs=1, batch_size=20, verbose=0)
    assert calls == [(False, 20), (True, 20), (True, 20), (False, 20), (False, 20)]


def test_data_that_can_be_read_only_once_is_left_alone():
    read = []

    class Once:
        def __iter__(self):
            read.append(True)
            yield X, Y

    KerasModel(nn.Linear(3, 1), "mse").fit((X, Y), Once(), epochs=1, verbose=0)
    assert read == [True]


@pytest.mark.parametrize(("window", "updates"), [(1, 10), (2, 6)])
def test_a_schedule_that_is_too_short_is_refused_before_the_first_update(window, updates):
    def fit(total):
        counting = Counting()
        model = KerasModel(
            nn.Linear(3, 1),
            "mse",
            lr_scheduler=lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=total),
        )
        options = {"gradient_accumulation_steps": window, "callbacks": [counting]}
        model.fit((X, Y), epochs=2, batch_size=8, verbose=0, **options)
        return model, counting.batches

    model, batches = fit(updates)  # 5 batches an epoch
    assert batches == 10
    with pytest.raises(ValueError, match=rf"has {updates - 1} steps, .* makes {updates} updates"):
        fit(updates - 1)
    # A second fit of the same schedule has no steps left.
    longer = updates + updates // 2
    with pytest.raises(ValueError, match=rf"which {updates} are taken.*total_steps={longer}"):
        model.fit((X, Y), epochs=1, batch_size=8, verbose=0, gradient_accumulation_steps=window)


def test_a_schedule_whose_step_wants_more_is_refused_before_the_first_update():
    class Foreign:
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self, epoch, temperature):
            raise AssertionError

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    counting = Counting()
    model = KerasModel(nn.Linear(3, 1), "mse", lr_scheduler=Foreign)
    with pytest.raises(ValueError, match=r"Foreign\.step needs temperature, which fit does not"):
        model.fit((X, Y), epochs=1, verbose=0, callbacks=[counting])
    assert counting.batches == 0


def test_a_state_that_the_best_weights_cannot_hold_is_refused_before_the_first_update(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"temperature": 1.0}

        def set_extra_state(self, state): ...

    counting = Counting()
    model = KerasModel(Extra(3, 1), "mse")
    with pytest.raises(TypeError, match=r"'_extra_state' in the state dict is a dict"):
        model.fit((X, Y), (X, Y), epochs=1, verbose=0, ckpt_path=tmp_path, callbacks=[counting])
    assert counting.batches == 0
