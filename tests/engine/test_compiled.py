"""jit_compile: the same training as without, in one compiled region where that is possible.

Most tests trace without generating code ("aot_eager"), which takes a second instead of ten.
"""

import copy
import warnings

import pandas as pd
import pytest
import torch
from torch import nn, optim
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks import Callback
from fitorch.engine.steps import compiled_region as region
from fitorch.losses import L1, L2, term
from tolerances import FLOAT32
from versions import since_torch

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3].sum(1) > 0).long()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def traced(monkeypatch):
    """Trace the step, but run it by torch's own operations."""
    if torch.__version__ < "2.13":
        pytest.skip("needs torch 2.13")
    monkeypatch.setattr(region, "_BACKEND", "aot_eager")


def perceptron(middle=None):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8, bias=False), middle or nn.ReLU(), nn.Linear(8, 3))


def fitted(
    jit,
    net=None,
    loss=None,
    optimizer=None,
    schedule=None,
    data=(X, Y),
    val=(X[:50], Y[:50]),
    **options,
):
    net = perceptron() if net is None else copy.deepcopy(net)
    loss = nn.CrossEntropyLoss() if loss is None else copy.deepcopy(loss)
    optimizer = optimizer or (lambda parameters: optim.Adam(parameters, 1e-2))
    model = KerasModel(net, loss, {"acc": "acc"}, optimizer, schedule, jit_compile=jit)
    chosen = {"epochs": 3, "batch_size": 64, "seed": 0, "verbose": 0} | options
    torch.manual_seed(5)
    frame = model.fit(data, val, **chosen)
    return model, frame.drop(columns="seconds")


def assert_same(compiled, plain, tolerance=FLOAT32):
    for (model, frame), (other, expected) in [(compiled, plain)]:
        pd.testing.assert_frame_equal(frame, expected, **tolerance)
        state, other_state = model.net.state_dict(), other.net.state_dict()
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, other_state[name], **tolerance)


def graphs():
    return counters["stats"]["unique_graphs"]


@since_torch("2.13")
@pytest.mark.filterwarnings("error")
@pytest.mark.slow  # as docs/faster.md does
def test_generated_code_trains_as_the_loop_does_and_is_compiled_once():
    compiled = fitted(True, perceptron(nn.Dropout(0.2)), loss=nn.CrossEntropyLoss() + 1e-3 * L2())
    assert graphs() == 1  # 3 epochs, a last batch of 8 samples in each
    assert compiled[0].compilation.region is not None
    plain = fitted(False, perceptron(nn.Dropout(0.2)), loss=nn.CrossEntropyLoss() + 1e-3 * L2())
    assert_same(compiled, plain)


def most_are_slow(cases, quick):
    """Return all cases for parametrize, those that are not named `quick` among the slow tests."""
    marks = {name: () if name in quick else pytest.mark.slow for name in cases}
    return [pytest.param(case, id=name, marks=marks[name]) for name, case in cases.items()]


OPTIMIZERS = {
    "adam": lambda p: optim.Adam(p, 1e-2),
    "fused adamw": lambda p: optim.AdamW(p, 1e-2, fused=True),
    "amsgrad": lambda p: optim.Adam(p, 1e-2, amsgrad=True, weight_decay=1e-2),
    "sgd": lambda p: optim.SGD(p, 0.1),
    "nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "rmsprop": lambda p: optim.RMSprop(p, 1e-2),
    "adagrad": lambda p: optim.Adagrad(p, 1e-2),
    "two groups": lambda p: optim.Adam([{"params": p[:1]}, {"params": p[1:], "lr": 0.1}], 1e-3),
    "by name": "adam",
    "two optimizers": lambda p: [
        optim.SGD([w for w in p if w.dim() == 2], 0.1, momentum=0.9),
        optim.AdamW([w for w in p if w.dim() != 2], 1e-2),
    ],
}


@pytest.mark.parametrize(
    "optimizer", most_are_slow(OPTIMIZERS, {"adam", "two groups", "two optimizers"})
)
def test_with_each_optimizer(traced, optimizer):
    compiled = fitted(True, optimizer=optimizer)
    assert graphs() == 1
    assert_same(compiled, fitted(False, optimizer=optimizer))


SCHEDULES = {
    "cosine, each epoch": lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 3),
    "one cycle, each update": lambda o: optim.lr_scheduler.OneCycleLR(
        o, 0.02, total_steps=20, cycle_momentum=False
    ),
    "plateau": lambda o: optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_learning_rates_change_without_compiling_anew(traced, schedule):
    compiled = fitted(True, schedule=schedule)
    assert graphs() == 1
    plain = fitted(False, schedule=schedule)
    assert_same(compiled, plain)
    assert compiled[1]["lr"].tolist() == plain[1]["lr"].tolist()


OBJECTIVES = {
    "penalties": nn.CrossEntropyLoss() + 1e-2 * L2() + 1e-3 * L1(),
    "penalty on a schedule": nn.CrossEntropyLoss() + (lambda epoch: 0.01 * (epoch + 1)) * L2(),
    "loss on a schedule": (lambda epoch: 0.5 + epoch) * term(nn.CrossEntropyLoss()),
    "class weights and ignored": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), ignore_index=0),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "a function": lambda y_pred, y_true: nn.functional.multi_margin_loss(y_pred, y_true),
}


@pytest.mark.parametrize("loss", most_are_slow(OBJECTIVES, {"penalties", "a function"}))
def test_with_each_kind_of_objective(traced, loss):
    compiled = fitted(True, loss=loss)
    assert graphs() == 1
    assert_same(compiled, fitted(False, loss=loss))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.output = nn.Linear(6, 3)

    def forward(self, x, labels):
        return self.output(x)


OPTIONS = {
    "clipped norm": {"clip_grad_norm": 0.1},
    "clipped values": {"clip_grad_value": 0.01},
    "class weights": {"class_weight": {0: 2.0, 1: 0.5}},
    "sample weights": {"data": (X, Y, torch.linspace(0.1, 2, 200))},
    "a DataLoader": {"data": DataLoader(TensorDataset(X, Y), 64)},
    "a mapping": {"net": Named(), "data": {"x": X, "labels": Y}, "val": None},
    "without metrics": {"train_metrics": False},
}


@pytest.mark.parametrize("options", most_are_slow(OPTIONS, {"clipped norm", "sample weights"}))
def test_with_each_option(traced, options):
    compiled = fitted(True, **options)
    assert graphs() == 1
    assert_same(compiled, fitted(False, **options))


def test_batch_normalization(traced):
    compiled = fitted(True, perceptron(nn.BatchNorm1d(8)))
    assert graphs() == 1
    assert_same(compiled, fitted(False, perceptron(nn.BatchNorm1d(8))))


def test_a_second_fit_compiles_nothing(traced):
    model, _ = fitted(True)
    plain, _ = fitted(False)
    for each in (model, plain):
        each.fit((X, Y), epochs=2, batch_size=64, seed=1, verbose=0)
    assert graphs() == 1
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, **FLOAT32)


def test_a_second_fit_with_class_weights_compiles_nothing(traced):
    model, _ = fitted(True, class_weight={0: 2.0})
    model.fit((X, Y), epochs=2, batch_size=64, seed=1, verbose=0, class_weight={0: 2.0})
    assert graphs() == 1
    model.fit((X, Y), epochs=1, batch_size=64, seed=1, verbose=0, class_weight={0: 3.0})
    assert graphs() == 2


def test_another_optimizer_in_the_place_of_the_first_is_the_one_that_trains(traced):
    models = [fitted(jit)[0] for jit in (True, False)]
    for model in models:
        model.optimizer = optim.Adam(model.net.parameters(), 1e-2)
        model.fit((X, Y), epochs=2, batch_size=64, seed=1, verbose=0)
        assert all(state["step"].item() == 8 for state in model.optimizer.state.values())
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, q, **FLOAT32)


class Grows(Callback):
    """Gives the optimizer another parameter in the middle of the first epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.progress.epochs == 0 and batch == 1:
            self.model.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def test_a_parameter_group_that_is_added_on_the_way_ends_compiled_steps(traced):
    with pytest.warns(UserWarning, match="another parameter group in the middle of an epoch"):
        model, frame = fitted(True, callbacks=[Grows()])
    assert frame["train_loss"].notna().all()
    assert len(model.optimizer.param_groups) == 2


def test_a_loss_that_is_nan_is_told_before_the_gradients_norm(traced):
    x = X.clone()
    x[130] = torch.nan
    with pytest.raises(NonFiniteError, match="the training loss"):
        fitted(True, data=(x, Y), shuffle=False, clip_grad_norm=1.0)


def test_the_optimizers_state_stays_in_the_users_optimizer(traced):
    net = perceptron()
    optimizer = optim.Adam(net.parameters(), 1e-2)
    model = KerasModel(net, nn.CrossEntropyLoss(), {}, optimizer, jit_compile=True)
    model.fit((X, Y), epochs=2, batch_size=50, seed=0, verbose=0)
    assert model.optimizer is optimizer
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert all(state["step"].item() == 8 for state in optimizer.state.values())
    plain = fitted(False, batch_size=50, epochs=2)[0].optimizer
    for state, other in zip(optimizer.state.values(), plain.state.values(), strict=True):
        torch.testing.assert_close(state["exp_avg"], other["exp_avg"], **FLOAT32)


def test_a_loaded_state_of_the_optimizer_counts(traced):
    model, _ = fitted(True)
    plain, _ = fitted(False)
    for each in (model, plain):
        other = optim.Adam(each.net.parameters(), 0.05)
        each.optimizer.load_state_dict(other.state_dict())
        each.fit((X, Y), epochs=2, batch_size=64, seed=1, verbose=0)
        assert each.optimizer.param_groups[0]["lr"] == 0.05
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, **FLOAT32)


class Freeze(Callback):
    """Freezes the first layer in the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.net[0].requires_grad_(False)


def test_what_is_frozen_between_epochs_stays(traced):
    compiled = fitted(True, callbacks=[Freeze()])
    assert graphs() == 2
    assert_same(compiled, fitted(False, callbacks=[Freeze()]))


class Watch(Callback):
    """Notes the gradients' norm after each batch."""

    def __init__(self):
        self.norms = []

    def on_train_batch_end(self, batch, logs=None):
        gradients = [parameter.grad for parameter in self.model.net.parameters()]
        self.norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())


def test_callbacks_see_the_gradients(traced):
    compiled, plain = Watch(), Watch()
    fitted(True, callbacks=[compiled])
    fitted(False, callbacks=[plain])
    assert compiled.norms == pytest.approx(plain.norms, rel=1e-4)


class Toggle(Callback):
    """Puts the middle of the net into eval mode within an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.net[1].train(batch != 1)


def test_a_mode_that_changes_within_an_epoch(traced):
    compiled = fitted(True, perceptron(nn.Dropout(0.3)), callbacks=[Toggle()])
    assert_same(compiled, fitted(False, perceptron(nn.Dropout(0.3)), callbacks=[Toggle()]))


def sequences(lengths):
    """Give batches of tokens, each of its own length."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, n, 6, generator=generator), torch.randint(3, (16,), generator=generator))
        for n in lengths
    ]


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(x.mean(1))


def test_batches_of_other_shapes_run_uncompiled_and_many_of_them_are_told(traced):
    few = [5] * 40 + [6, 7]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = fitted(True, Pooled(), data=sequences(few), val=None, batch_size=None)
    assert graphs() == 1
    torch.manual_seed(1)
    many = [5, *range(1, 40)]
    with pytest.warns(UserWarning, match=r"31 of 32 batches differ in shape .* pad them"):
        fitted(True, Pooled(), data=sequences(many), val=None, batch_size=None)
    assert compiled[0].compilation.region is not None


REFUSED = {
    "accumulation": ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2"),
    "cycled momentum": (
        {"schedule": lambda o: optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=20)},
        "cycle_momentum=False",
    ),
}


class Undecided(nn.Module):
    """Asks for a value in the middle of the forward pass."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(x) * (2 if x.sum().item() > 0 else 1)


REFUSED["a value that is read"] = ({"net": Undecided()}, "item|data-dependent")


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compiled_is_told_once_and_trained_as_without(traced, options, reason):
    with pytest.warns(UserWarning, match=rf"jit_compile: .* runs uncompiled: .*({reason})") as told:
        compiled = fitted(True, **options)
    assert len(told) == 1
    model, frame = compiled
    plain, expected = fitted(False, **options)
    assert frame.equals(expected)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)


def test_torch_that_is_too_old_is_told_and_trains_as_without(monkeypatch):
    monkeypatch.delattr(torch._dynamo.config, "trace_autograd_ops", raising=False)
    with pytest.warns(UserWarning, match=r"runs uncompiled: torch .*, older than 2\.13"):
        _, frame = fitted(True)
    assert frame.equals(fitted(False)[1])


def test_hooks_on_parameters_and_on_the_optimizer_are_not_left_out(traced):
    seen = []
    for hooked in ("parameters", "the optimizer"):
        net = perceptron()
        optimizer = optim.Adam(net.parameters())
        if hooked == "parameters":
            net[0].weight.register_post_accumulate_grad_hook(lambda _: seen.append("parameters"))
        else:
            optimizer.register_step_post_hook(lambda *_: seen.append("the optimizer"))
        model = KerasModel(net, nn.CrossEntropyLoss(), {}, optimizer, jit_compile=True)
        with pytest.warns(UserWarning, match=f"hooks on {hooked}"):
            model.fit((X, Y), epochs=1, batch_size=100, seed=0, verbose=0)
        assert seen.count(hooked) == 2


def test_a_loss_that_is_not_finite_is_found(traced):
    x = X.clone()
    x[130] = torch.inf
    with pytest.raises(NonFiniteError, match="batch 3"):
        fitted(True, data=(x, Y), shuffle=False)


def test_what_compiling_took_is_stated(traced, capsys):
    fitted(True, verbose=2)
    out = capsys.readouterr().out
    assert out.count("compiled the training step in ") == 1


@pytest.mark.slow
def test_many_models_in_one_process(traced):
    for _ in range(12):  # torch keeps eight versions of a function
        model, _ = fitted(True, epochs=1)
        assert model.compilation.region is not None
    assert graphs() == 12


def test_it_is_a_bool():
    with pytest.raises(TypeError, match=r"jit_compile is 'max'.*True or False"):
        KerasModel(perceptron(), nn.CrossEntropyLoss(), jit_compile="max")
