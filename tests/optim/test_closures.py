"""Optimizers that evaluate the loss several times in a step, against a loop by hand."""

import copy

import pytest
import torch
from torch import nn, optim
from torch.nn.functional import mse_loss

from fitorch import KerasModel
from fitorch.callbacks import LambdaCallback
from fitorch.losses import L2
from fitorch.optim.closures import needs_closure

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sum(1, keepdim=True).sin()


def net(*extra):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), *extra, nn.Linear(8, 1)).double()


class SAM(optim.SGD):
    """As libraries write it: the gradients exist, and the closure is called in the middle."""

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "SAM requires closure"
        closure = torch.enable_grad()(closure)
        weights = [p for group in self.param_groups for p in group["params"]]
        moves = [0.05 * p.grad / (p.grad.norm() + 1e-12) for p in weights]
        for p, move in zip(weights, moves, strict=True):
            p.add_(move)
        self.zero_grad()
        closure()
        for p, move in zip(weights, moves, strict=True):
            p.sub_(move)
        super().step()


def sam_of_library(parameters):
    library = pytest.importorskip("pytorch_optimizer")
    return library.SAM(parameters, optim.SGD, rho=0.05, lr=0.1)


OPTIMIZERS = {
    "LBFGS": lambda p: optim.LBFGS(p, lr=0.5, max_iter=4, history_size=3),
    "LBFGS, strong Wolfe": lambda p: optim.LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
    "SAM": lambda p: SAM(p, 0.1),
    "SAM of pytorch_optimizer": sam_of_library,
}
GRADIENTS_FIRST = ("SAM", "SAM of pytorch_optimizer")


def by_hand(name, batch_size, epochs=3, loss_of=None, clip=None, module=None):
    """Train with the loop that the documentation of these optimizers shows."""
    module = net() if module is None else module
    optimizer = OPTIMIZERS[name](module.parameters())
    loss_of = loss_of or (lambda module, x, y: mse_loss(module(x), y))
    losses = []
    for _ in range(epochs):
        firsts = []
        for begin in range(0, len(X), batch_size):
            x, y = X[begin : begin + batch_size], Y[begin : begin + batch_size]
            first = []

            def closure(x=x, y=y, first=first):
                optimizer.zero_grad()
                loss = loss_of(module, x, y)
                loss.backward()
                if clip:
                    nn.utils.clip_grad_norm_(module.parameters(), clip)
                first.append(loss.item())
                return loss

            if name in GRADIENTS_FIRST:
                closure()
            optimizer.step(closure)
            firsts.append((first[0], len(x)))
        losses.append(sum(loss * n for loss, n in firsts) / len(X))
    return module, losses


def fitted(name, batch_size, loss="mse", module=None, **options):
    module = net() if module is None else module
    model = KerasModel(module, loss, {"mae": "mae"}, OPTIMIZERS[name])
    given = {"epochs": 3, "batch_size": batch_size, "shuffle": False, "verbose": 0, **options}
    return module, model.fit((X, Y), **given)


def same(left, right):
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("batch_size", [50, 20])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_and_figures_are_those_of_a_loop_by_hand(name, batch_size):
    expected, losses = by_hand(name, batch_size)
    module, frame = fitted(name, batch_size)
    assert same(module, expected)
    assert frame["train_loss"].tolist() == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("form", ["pairs", "forward"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_window_of_batches_is_one_batch(name, form):
    expected, losses = by_hand(name, 40)  # a window of 20 and 20, and one of 10
    module = net()

    def forward(net, batch):
        return net(batch[0]), batch[1]

    model = KerasModel(
        module, "mse", None, OPTIMIZERS[name], forward=forward if form == "forward" else None
    )
    frame = model.fit(
        (X, Y), epochs=3, batch_size=20, shuffle=False, verbose=0, gradient_accumulation_steps=2
    )
    for a, b in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert frame["train_loss"].tolist() == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_penalties_are_part_of_the_loss_and_each_gradient_is_clipped(name):
    def loss_of(module, x, y):
        squares = sum((p**2).sum() for p in module.parameters() if p.dim() == 2)
        return mse_loss(module(x), y) + 0.01 * squares

    expected, losses = by_hand(name, 50, loss_of=loss_of, clip=0.5)
    penalty = L2(0.02)
    module, frame = fitted(name, 50, loss=nn.MSELoss() + penalty, clip_grad_norm=0.5)
    for a, b in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert frame["train_loss"].tolist() == pytest.approx(losses, rel=1e-6)


class Seen(nn.Module):
    """Notes the random numbers that each evaluation draws, and the statistics it begins with."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.seen = norm, []

    def forward(self, x):
        if self.training:
            drawn = torch.rand(1).item()
            self.seen.append((drawn, *self.norm.running_mean.tolist()))
        return x


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_evaluation_draws_the_same_numbers_and_statistics_move_once(name):
    norm = nn.BatchNorm1d(8)
    seen = Seen(norm)
    fitted(name, 50, module=net(seen, norm, nn.Dropout(0.5)), epochs=2)
    states = list(dict.fromkeys(seen.seen))
    assert len(seen.seen) > 2
    assert len(states) == 2  # one of each update
    assert norm.num_batches_tracked == 2
    # The second update begins with the statistics of the first evaluation of the first one.
    first = net()[:2]
    with torch.no_grad():
        expected = 0.1 * first(X).mean(0)
    torch.testing.assert_close(torch.tensor(states[1][1:], dtype=torch.float64), expected)


class Cut(Exception):
    """Raised in the middle of a fit."""


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_ends_at_the_same_bits(name, tmp_path):
    given = {"seed": 1, "shuffle": True, "save_every_n_steps": 3}
    whole, _ = fitted(name, 10, module=net(nn.Dropout(0.2)), ckpt_path=tmp_path / "a", **given)
    calls = []

    def cut(batch, logs):
        calls.append(batch)
        if len(calls) == 8:
            raise Cut

    options = {**given, "ckpt_path": tmp_path / "b"}
    callback = LambdaCallback(on_train_batch_end=cut)
    with pytest.raises(Cut):
        fitted(name, 10, callbacks=[callback], module=net(nn.Dropout(0.2)), **options)
    resumed, _ = fitted(name, 10, resume=True, module=net(nn.Dropout(0.2)), **options)
    assert same(resumed, whole)


def test_lbfgs_goes_by_name():
    model = KerasModel(net(), "mse", optimizer="LBFGS")
    frame = model.fit((X, Y), epochs=2, batch_size=50, verbose=0)
    assert frame["train_loss"].iloc[-1] < 0.5 * frame["train_loss"].iloc[0]


def test_a_schedule_counts_updates_not_evaluations():
    module = net()
    optimizer = optim.LBFGS(module.parameters(), lr=1.0)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    model = KerasModel(module, "mse", None, optimizer, schedule)
    frame = model.fit((X, Y), epochs=2, batch_size=25, verbose=0, scheduler_step="update")
    assert frame["lr"].tolist() == [0.5, 0.125]


ADAMS = [optim.Adam, optim.AdamW, optim.SGD, optim.RMSprop, optim.Adagrad, optim.NAdam]


@pytest.mark.parametrize("kind", ADAMS)
def test_others_get_no_closure(kind):
    assert not needs_closure(kind(net().parameters(), lr=0.1))


def test_an_optional_closure_in_any_form_is_told_from_a_needed_one():
    class Plain(optim.SGD):
        def step(self, closure=None):
            if closure is None:  # noqa: SIM108 - the form of many libraries
                loss = None
            else:
                loss = closure()
            super().step()
            return loss

    class Short(optim.SGD):
        def step(self, closure=None):
            loss = None if closure is None else closure()
            super().step()
            return loss

    class Needing(optim.SGD):
        def step(self, closure=None):
            if closure is None:
                raise RuntimeError
            closure()

    parameters = [*net().parameters()]
    assert not needs_closure(Plain(parameters, 0.1))
    assert not needs_closure(Short(parameters, 0.1))
    assert needs_closure(Needing(parameters, 0.1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_copies_and_find_lr_have_what_the_optimizer_holds(name):
    module = net()
    model = KerasModel(module, "mse", None, OPTIMIZERS[name])
    copied = copy.deepcopy(model)
    for each in (copied, model):
        each.fit((X, Y), epochs=2, batch_size=50, shuffle=False, verbose=0)
    assert same(copied.net, module)
    before = [p.detach().clone() for p in module.parameters()]
    assert len(model.find_lr((X, Y), steps=10, batch_size=50, end=0.1)) == 10
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))


def test_libraries_are_told_apart():
    library = pytest.importorskip("pytorch_optimizer")
    parameters = list(net().parameters())
    made = [
        library.SAM(parameters, optim.SGD, lr=0.1),
        library.LookSAM(parameters, optim.SGD, lr=0.1),
        library.WSAM(net(), parameters, optim.SGD, lr=0.1),
        library.BSAM(parameters, num_data=50),
    ]
    for optimizer in made:
        assert needs_closure(optimizer), type(optimizer).__name__
    for name in ("Lion", "SOAP", "Prodigy", "ScheduleFreeAdamW", "AdaBelief", "Lamb"):
        assert not needs_closure(getattr(library, name)(parameters)), name
    lookahead = library.Lookahead(library.SAM(parameters, optim.SGD, lr=0.1))
    assert needs_closure(lookahead)


def test_a_batch_that_can_be_read_only_once_is_refused():
    def forward(net, batch):
        return net(next(batch[0])), batch[1]

    data = [[(iter([X]), Y)]]
    model = KerasModel(net(), "mse", None, OPTIMIZERS["SAM"], forward=forward)
    with pytest.raises(TypeError, match="an iterator, which can be read only once"):
        model.fit(data[0], epochs=1, verbose=0, batch_size=None)


def test_two_optimizers_one_of_which_needs_a_closure_are_refused():
    module = net()
    both = [optim.LBFGS(module[0].parameters()), optim.SGD(module[2].parameters(), 0.1)]
    model = KerasModel(module, "mse", optimizer=both)
    with pytest.raises(ValueError, match=r"one of several optimizers \(LBFGS \+ SGD\)"):
        model.fit((X, Y), epochs=1, verbose=0)


def test_jit_compile_runs_uncompiled_and_says_so():
    model = KerasModel(net(), "mse", optimizer="lbfgs", jit_compile=True)
    with pytest.warns(UserWarning, match="LBFGS evaluates a closure"):
        model.fit((X, Y), epochs=1, batch_size=50, verbose=0)


def test_a_step_that_diverges_within_is_told():
    module = net()
    model = KerasModel(module, "mse", None, lambda p: optim.LBFGS(p, lr=1e200, max_iter=4))
    with pytest.raises(ArithmeticError, match="a step of LBFGS has diverged"):
        model.fit((X, Y), epochs=1, batch_size=50, verbose=0)


def test_a_loss_that_is_not_finite_is_raised_before_the_weights_change():
    module = net()
    before = [p.detach().clone() for p in module.parameters()]
    model = KerasModel(module, "mse", optimizer="lbfgs")
    with pytest.raises(ArithmeticError, match="training loss"):
        model.fit((X, torch.full_like(Y, 1e200)), epochs=1, verbose=0)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))
