"""States of torch's optimizers, schedulers, gradient scaler and generators pass the encoding."""

import numpy as np
import pytest
import torch

from checkpoint.encoded import bits, round_trip, same
from fitorch.randomness import random_state, set_random_state

OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
)


def stepped(name, weight):
    kind = getattr(torch.optim, name)
    options = {} if name in ("Adafactor", "Muon") else {"lr": 0.1}
    if name == "SGD":
        options["momentum"] = 0.9
    optimizer = kind([weight], **options)
    for _ in range(3):

        def closure():
            optimizer.zero_grad()
            loss = (weight**2).sum()
            loss.backward()
            if name == "SparseAdam":
                weight.grad = weight.grad.to_sparse()
            return loss

        closure()
        optimizer.step(*([closure] if name == "LBFGS" else []))
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_torchs_optimizers_come_back_and_go_on_alike(name):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = stepped(name, weight)
    state = optimizer.state_dict()
    back = round_trip(state)
    assert same(state, back)
    other = torch.nn.Parameter(weight.detach().clone())
    resumed = type(optimizer)([other], **({} if name in ("Adafactor", "Muon") else {"lr": 0.5}))
    resumed.load_state_dict(back)
    for each, used in ((weight, optimizer), (other, resumed)):

        def closure(each=each, used=used):
            used.zero_grad()
            loss = (each**2).sum()
            loss.backward()
            if name == "SparseAdam":
                each.grad = each.grad.to_sparse()
            return loss

        closure()
        used.step(*([closure] if name == "LBFGS" else []))
    assert bits(weight) == bits(other)


def schedulers(optimizer):
    lr = torch.optim.lr_scheduler
    return {
        "step": lr.StepLR(optimizer, 2),
        "multi": lr.MultiStepLR(optimizer, [3, 1, 3]),
        "one-cycle": lr.OneCycleLR(optimizer, 0.1, total_steps=50),
        "cyclic": lr.CyclicLR(optimizer, 0.01, 0.1),
        "plateau": lr.ReduceLROnPlateau(optimizer),
        "lambda": lr.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
        "multiplicative": lr.MultiplicativeLR(optimizer, lambda _: 0.9),
        "exponential": lr.ExponentialLR(optimizer, 0.9),
        "constant": lr.ConstantLR(optimizer),
        "linear": lr.LinearLR(optimizer),
        "polynomial": lr.PolynomialLR(optimizer),
        "cosine": lr.CosineAnnealingLR(optimizer, 10),
        "restarts": lr.CosineAnnealingWarmRestarts(optimizer, 3),
        "sequential": lr.SequentialLR(
            optimizer, [lr.ConstantLR(optimizer), lr.ExponentialLR(optimizer, 0.9)], [2]
        ),
        "chained": lr.ChainedScheduler(
            [lr.ConstantLR(optimizer), lr.ExponentialLR(optimizer, 0.9)]
        ),
    }


@pytest.mark.parametrize(
    "name", list(schedulers(torch.optim.SGD([torch.ones(1)], 0.1, momentum=0.9)))
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_states_of_torchs_schedulers_come_back(name):
    scheduler = schedulers(torch.optim.SGD([torch.ones(1)], 0.1, momentum=0.9))[name]
    for _ in range(4):
        scheduler.optimizer.step() if hasattr(scheduler, "optimizer") else None
        scheduler.step(*([1.0] if name == "plateau" else []))
    assert same(scheduler.state_dict(), round_trip(scheduler.state_dict()))


def test_the_random_state_comes_back_and_draws_the_same():
    state = random_state()
    back = round_trip(state)
    assert same(state, back)
    first = torch.rand(3), np.random.rand(3)
    set_random_state(back)
    assert torch.equal(first[0], torch.rand(3))
    assert (first[1] == np.random.rand(3)).all()


def test_the_state_of_a_gradient_scaler_comes_back():
    scaler = torch.amp.GradScaler("cpu")
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 0.1)
    scaler.scale((weight * 1e30).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert same(scaler.state_dict(), round_trip(scaler.state_dict()))
