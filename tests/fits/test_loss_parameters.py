"""Losses with parameters of their own: trained, kept, saved and loaded with the net's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback, EarlyStopping
from fitorch.losses import L2, no_decay_groups, term
from tolerances import FLOAT64

SAMPLES, EPOCHS = 40, 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(SAMPLES, 3, generator=GENERATOR, dtype=torch.float64)
Y = X[:, :1] * 2 + 0.3
CLASSES = torch.randint(8, (SAMPLES,), generator=GENERATOR)


class Uncertain(nn.Module):
    """Squared errors, weighted by a precision that is learned."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.dropout = nn.Dropout(dropout)
        self.modes = []

    def forward(self, y_pred, y_true):
        self.modes.append(self.training)
        error = self.dropout(y_pred - y_true).square().mean()
        return error * torch.exp(-self.log_scale) + self.log_scale


def make_net(outputs=1):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def by_hand(net, loss_fn, optimizer, y=Y, penalty=0.0, epochs=EPOCHS):
    for _ in range(epochs):
        for at in torch.arange(SAMPLES).split(8):
            optimizer.zero_grad()
            l2 = 0.5 * penalty * (net[0].weight.square().sum() + net[2].weight.square().sum())
            (loss_fn(net(X[at]), y[at]) + l2).backward()
            optimizer.step()


def fit(model, y=Y, **options):
    given = {"epochs": EPOCHS, "batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return model.fit((X, y), (X, y), **given)


def assert_same(module, expected):
    state, wanted = module.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(state[name], value, **FLOAT64)


OPTIMIZERS = {
    "none": (None, lambda p: torch.optim.Adam(p, lr=3e-4)),
    "name": ("adagrad", torch.optim.Adagrad),
    "function": (sgd, sgd),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_that_is_built_here_trains_them(kind):
    given, reference = OPTIMIZERS[kind]
    net, loss_fn, twin, expected = make_net(), Uncertain(), make_net(), Uncertain()
    fit(KerasModel(net, loss_fn, optimizer=given))
    by_hand(twin, expected, reference([*twin.parameters(), *expected.parameters()]))
    assert_same(net, twin)
    assert_same(loss_fn, expected)
    assert loss_fn.log_scale != 0


@pytest.mark.parametrize("window", [1, 2])
def test_they_are_trained_in_a_formula(window):
    net, loss_fn, twin, expected = make_net(), Uncertain(), make_net(), Uncertain()
    objective = 0.5 * term(loss_fn) + 1e-2 * L2()
    frame = fit(
        KerasModel(net, objective, optimizer=sgd),
        batch_size=8 // window,
        gradient_accumulation_steps=window,
        clip_grad_norm=1e9,
    )
    optimizer = sgd([*twin.parameters(), *expected.parameters()])
    by_hand(twin, lambda *batch: 0.5 * expected(*batch), optimizer, penalty=1e-2)
    assert_same(net, twin)
    assert_same(loss_fn, expected)
    assert {"train_uncertain", "train_l2", "val_uncertain"} <= set(frame)


def test_they_are_clipped_with_the_nets():
    net, loss_fn, twin, expected = make_net(), Uncertain(), make_net(), Uncertain()
    fit(KerasModel(net, loss_fn, optimizer=sgd), clip_grad_norm=0.1)
    parameters = [*twin.parameters(), *expected.parameters()]
    optimizer = sgd(parameters)

    def clip(*_):
        nn.utils.clip_grad_norm_(parameters, 0.1)

    optimizer.register_step_pre_hook(clip)
    by_hand(twin, expected, optimizer)
    assert_same(net, twin)
    assert_same(loss_fn, expected)


def test_an_adaptive_softmax_is_trained():
    def make_loss():
        torch.manual_seed(2)
        return nn.AdaptiveLogSoftmaxWithLoss(6, 8, cutoffs=[3, 5], div_value=1.0).double()

    net, loss_fn, twin, expected = make_net(6), make_loss(), make_net(6), make_loss()
    frame = fit(KerasModel(net, loss_fn + L2(1e-3, include="0"), optimizer=sgd), CLASSES)

    def penalized(y_pred, y_true):
        squares = sum(p.square().sum() for p in twin[0].parameters())
        return expected(y_pred, y_true).loss + 0.5e-3 * squares

    by_hand(twin, penalized, sgd([*twin.parameters(), *expected.parameters()]), CLASSES)
    assert_same(net, twin)
    assert_same(loss_fn, expected)
    with torch.no_grad():
        assert frame["val_adaptive_log_softmax"].iloc[-1] == pytest.approx(
            expected(twin(X), CLASSES).loss.item()
        )


def test_an_optimizer_of_ones_own_may_hold_both():
    net, loss_fn, twin, expected = make_net(), Uncertain(), make_net(), Uncertain()
    fit(KerasModel(net, loss_fn, optimizer=sgd([*net.parameters(), *loss_fn.parameters()])))
    by_hand(twin, expected, sgd([*twin.parameters(), *expected.parameters()]))
    assert_same(net, twin)
    assert_same(loss_fn, expected)


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (lambda loss_fn: loss_fn, "log_scale"),
        (lambda loss_fn: "mse" + 0.5 * term(loss_fn), "uncertain.log_scale"),
        (lambda loss_fn: {0: loss_fn, 1: "mse"}, "output_0.log_scale"),
    ],
)
def test_an_optimizer_that_lacks_them_is_refused_with_advice(objective, name):
    net, loss_fn = make_net(), Uncertain()
    with pytest.raises(ValueError, match="SGD lacks 1 parameters of the loss") as caught:
        KerasModel(net, objective(loss_fn), optimizer=sgd(net.parameters()))
    for words in (f"({name})", "*loss_fn.parameters()", "requires_grad_(False)"):
        assert words in str(caught.value)


def test_a_function_that_makes_groups_of_the_net_alone_is_refused_too():
    net = make_net()
    with pytest.raises(ValueError, match="AdamW lacks 1 parameters of the loss"):
        KerasModel(
            net, Uncertain(), optimizer=lambda _: torch.optim.AdamW(no_decay_groups(net, 0.1))
        )


def test_frozen_ones_need_no_optimizer():
    net, loss_fn = make_net(), Uncertain().requires_grad_(False)
    fit(KerasModel(net, loss_fn, optimizer=sgd(net.parameters())))
    assert loss_fn.log_scale == 0


def test_a_loss_alone_can_be_trained():
    net, loss_fn = make_net().requires_grad_(False), Uncertain()
    fit(KerasModel(net, loss_fn, optimizer=sgd))
    assert loss_fn.log_scale != 0


def test_a_loss_that_stands_in_two_terms_is_trained_once():
    loss_fn, expected, net, twin = Uncertain(), Uncertain(), make_net(), make_net()
    model = KerasModel(net, 0.25 * term(loss_fn) + 0.5 * term(loss_fn), optimizer=sgd)
    assert sum(len(group["params"]) for group in model.optimizer.param_groups) == 5
    frame = fit(model)
    optimizer = sgd([*twin.parameters(), *expected.parameters()])
    by_hand(twin, lambda *batch: 0.75 * expected(*batch), optimizer)
    assert_same(loss_fn, expected)
    assert frame["val_uncertain_2"].iloc[-1] == pytest.approx(2 * frame["val_uncertain"].iloc[-1])


class Anchored(nn.Module):
    """A loss that looks into the net: it stays near what it was."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("start", net[0].weight.detach().clone())

    def forward(self, y_pred, y_true):
        return F.mse_loss(y_pred, y_true) + (self.net[0].weight - self.start).square().sum()


def test_a_loss_that_holds_the_net_doubles_nothing(tmp_path):
    net, twin = make_net(), make_net()
    model = KerasModel(net, Anchored(net), optimizer=sgd)
    assert sum(len(group["params"]) for group in model.optimizer.param_groups) == 4
    fit(model)
    by_hand(twin, Anchored(twin), sgd(twin.parameters()))
    assert_same(net, twin)
    model.save_ckpt(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["best.safetensors"]


def test_a_loss_that_holds_the_net_leaves_its_modes():
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)).double()
    net[1].eval()  # frozen on purpose
    fit(KerasModel(net, Anchored(net), optimizer=sgd))
    assert [module.training for module in net] == [True, False, True]
    assert net[1].num_batches_tracked == 0


# Modes


def test_a_loss_is_in_eval_mode_while_validating():
    loss_fn = Uncertain(dropout=0.5)
    model = KerasModel(make_net(), loss_fn, optimizer=sgd)
    fit(model, epochs=2)
    # 40 samples in batches of 8, after the rehearsal of one validation batch.
    assert loss_fn.modes == [False] + ([True] * 5 + [False] * 5) * 2
    loss_fn.modes.clear()
    scores = [model.evaluate((X, Y), batch_size=8, verbose=0) for _ in range(2)]
    assert loss_fn.modes == [False] * 10
    assert scores[0] == scores[1]
    assert loss_fn.training
    assert loss_fn.dropout.training


def test_a_loss_knows_its_mode_with_sample_weights_too():
    class Drops(nn.MSELoss):
        def forward(self, y_pred, y_true):
            return super().forward(F.dropout(y_pred, 0.5, self.training), y_true)

    net, loss_fn = make_net(), Drops()
    weight = torch.linspace(0.5, 2, SAMPLES, dtype=torch.float64)
    model = KerasModel(net, loss_fn, optimizer=sgd)
    model.fit((X, Y, weight), (X, Y, weight), epochs=1, verbose=0)
    with torch.no_grad():
        errors = (net(X) - Y).square().squeeze(1)
    expected = (errors * weight).sum() / weight.sum()
    assert model.history.frame["val_loss"][0] == pytest.approx(expected.item())


def test_what_is_frozen_in_a_loss_stays_so():
    class Perceptual(nn.Module):
        """Compares features of a net that is trained already."""

        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4)).double()
            self.features.requires_grad_(False).eval()

        def forward(self, y_pred, y_true):
            return F.mse_loss(self.features(y_pred), self.features(y_true))

    loss_fn = Perceptual()
    model = KerasModel(make_net(), loss_fn + L2(1e-3), optimizer=sgd)
    assert not loss_fn.features.training
    fit(model)
    assert not loss_fn.features.training
    assert loss_fn.features[1].num_batches_tracked == 0


# The best weights


class Scripted(Callback):
    """Gives each epoch its figure, and remembers the weights after it."""

    def __init__(self, loss_fn, *figures):
        self.loss_fn, self.figures, self.states = loss_fn, figures, []

    def on_test_end(self, logs=None):
        logs["val_loss"] = self.figures[len(self.states)]
        states = self.model.net.state_dict(), self.loss_fn.state_dict()
        self.states.append(copy.deepcopy(states))


@pytest.mark.parametrize("how", ["patience", "callback"])
def test_the_best_weights_of_net_and_loss_are_restored_together(how):
    loss_fn = Uncertain()
    script = Scripted(loss_fn, 5.0, 2.0, 3.0, 4.0)
    model = KerasModel(make_net(), loss_fn + L2(1e-3), optimizer=sgd)
    stopping = EarlyStopping(patience=9, restore_best_weights=True)
    if how == "patience":
        fit(model, epochs=4, patience=9, callbacks=[script])
    else:
        fit(model, epochs=4, callbacks=[script, stopping])
    net_state, loss_state = script.states[1]
    assert all(torch.equal(net_state[k], v) for k, v in model.net.state_dict().items())
    assert all(torch.equal(loss_state[k], v) for k, v in loss_fn.state_dict().items())
    assert not torch.equal(loss_state["log_scale"], script.states[3][1]["log_scale"])


def test_a_stopping_goes_on_with_the_weights_of_a_saved_state():
    loss_fn = Uncertain()
    first = EarlyStopping(patience=9, restore_best_weights=True)
    script = Scripted(loss_fn, 1.0, 2.0)
    model = KerasModel(make_net(), loss_fn, optimizer=sgd)
    fit(model, epochs=2, callbacks=[script, first])
    state = first.state_dict()
    second = EarlyStopping(patience=9, restore_best_weights=True)
    second.load_state_dict(state)
    fit(model, epochs=2, callbacks=[Scripted(loss_fn, 3.0, 4.0), second])
    assert torch.equal(loss_fn.log_scale, script.states[0][1]["log_scale"])
    assert second.watched.best == 1.0


# Files


def test_they_are_saved_beside_the_best_weights(tmp_path):
    loss_fn = Uncertain()
    script = Scripted(loss_fn, 5.0, 2.0, 3.0)
    model = KerasModel(make_net(), loss_fn + L2(1e-3), optimizer=sgd)
    fit(model, ckpt_path=tmp_path, callbacks=[script])
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        "best.safetensors",
        "best.loss.safetensors",
    }
    (value,) = load_file(tmp_path / "best.loss.safetensors").values()
    assert torch.equal(value, script.states[1][1]["log_scale"])
    fresh = make_net()
    fresh.load_state_dict(load_file(tmp_path / "best.safetensors"))  # as without fitorch
    assert torch.equal(fresh[0].weight, script.states[1][0]["0.weight"])


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.bin"])
def test_they_are_loaded_with_the_nets(tmp_path, name):
    model = KerasModel(make_net(), Uncertain(), optimizer=sgd)
    fit(model)
    path = model.save_ckpt(tmp_path / name)
    assert (tmp_path / name.replace(".", ".loss.")).is_file()
    loss_fn, net = Uncertain(), make_net()
    other = KerasModel(net, loss_fn, optimizer=sgd)
    other.load_ckpt(path)
    assert_same(net, model.net)
    assert_same(loss_fn, model.objective.losses[0].loss_fn)
    scores = [each.evaluate((X, Y), verbose=0) for each in (model, other)]
    assert scores[0] == scores[1]


def test_a_file_without_them_is_loaded_with_a_warning(tmp_path):
    KerasModel(make_net(), "mse").save_ckpt(tmp_path)
    loss_fn = Uncertain()
    with pytest.warns(UserWarning, match=r"file .*best\.loss\.safetensors with the parameters of"):
        KerasModel(make_net(), loss_fn).load_ckpt(tmp_path)
    assert loss_fn.log_scale == 0


def test_a_loss_without_parameters_leaves_no_file(tmp_path):
    model = KerasModel(make_net(), nn.SmoothL1Loss() + L2(1e-3), optimizer=sgd)
    fit(model, ckpt_path=tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["best.safetensors"]
    model.load_ckpt(tmp_path)


def test_buffers_of_a_loss_are_restored_with_the_best_weights():
    class Centered(nn.Module):
        """Measures the distance to the mean of what it has seen."""

        def __init__(self):
            super().__init__()
            self.register_buffer("center", torch.zeros(1, dtype=torch.float64))

        def forward(self, y_pred, y_true):
            if self.training:
                self.center.lerp_(y_true.mean(0), 0.5)
            return (y_pred - self.center).square().mean()

    loss_fn = Centered()
    script = Scripted(loss_fn, 5.0, 2.0, 3.0)
    fit(KerasModel(make_net(), loss_fn, optimizer=sgd), patience=9, callbacks=[script])
    assert torch.equal(loss_fn.center, script.states[1][1]["center"])
