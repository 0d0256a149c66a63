"""Training talks to the other processes as often as the same loop written by hand."""

import time
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from fitorch import KerasModel

SIZE, LONG, SHORT = 4, 12, 6  # samples in a batch; steps


def net_of(norm):
    """Return a net, with more than one of DistributedDataParallel's buckets where it is wide."""
    torch.manual_seed(0)
    width = 1500 if norm == "wide" else 8
    norms = [nn.BatchNorm1d(width)] if norm == "norm" else []
    return nn.Sequential(nn.Linear(6, width), *norms, nn.Linear(width, width), nn.Linear(width, 2))


def data(steps):
    x = torch.randn(2 * SIZE * steps, 6, generator=torch.Generator().manual_seed(1))
    return x, (x.sum(1) > 0).long()


def messages(function, *args, **options):
    """Return how often which kind of message was sent while a function ran."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function(*args, **options)
        time.sleep(0.05)  # gloo's threads note a message's end after it is waited for
    named = (event.name.partition(":") for event in recorded.events() or ())
    return Counter(name for head, _, name in named if head == "gloo")


def fit(norm, steps, epochs=1, metrics=None, **options):
    model = KerasModel(net_of(norm), nn.CrossEntropyLoss(), metrics or {}, "sgd")
    model.fit(data(steps), epochs=epochs, batch_size=SIZE, seed=0, verbose=0, **options)


def by_hand(norm, steps, window=1, **options):
    """Train as one does without fitorch."""
    net = net_of(norm)
    ddp = DistributedDataParallel(net, **options)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    x, y = data(steps)
    rank = distributed.get_rank()
    for number, index in enumerate(torch.arange(len(x)).split(2 * SIZE), start=1):
        own = index.tensor_split(2)[rank]
        closes = number % window == 0 or number == steps
        with nullcontext() if closes else ddp.no_sync():
            nn.functional.cross_entropy(ddp(x[own]), y[own]).backward()
        if closes:
            optimizer.step()
            optimizer.zero_grad()


def of_steps(train, *args, **options):
    """Return the messages of LONG - SHORT steps: what comes once a fit or an epoch falls out."""
    counted = messages(train, *args, steps=LONG, **options)
    counted.subtract(messages(train, *args, steps=SHORT, **options))
    return {name: count for name, count in counted.items() if count}


@pytest.mark.parametrize("norm", ["plain", "norm", "wide"])
def test_a_step_sends_what_the_loop_by_hand_sends(two, norm):
    ours = two.run(of_steps, fit, norm)
    assert ours == two.run(of_steps, by_hand, norm)
    buckets = 2 if norm == "wide" else 1
    assert [each["all_reduce"] for each in ours] == [buckets * (LONG - SHORT)] * 2
    assert all(set(each) <= {"all_reduce", "broadcast"} for each in ours)


def test_a_step_with_unused_parameters_sends_what_the_loop_by_hand_sends(two):
    ours = two.run(of_steps, fit, "plain", find_unused_parameters=True)
    assert ours == two.run(of_steps, by_hand, "plain", find_unused_parameters=True)


def test_a_synced_norm_sends_four_times_more(two):
    more = two.run(of_steps, fit, "norm", sync_batchnorm=True)
    steps = LONG - SHORT
    assert [each["all_reduce"] for each in more] == [(1 + 2 + 2) * steps] * 2


@pytest.mark.parametrize("norm", ["plain", "norm"])
def test_accumulation_sends_once_an_update(two, norm):
    ours = two.run(of_steps, fit, norm, gradient_accumulation_steps=3)
    assert ours == two.run(of_steps, by_hand, norm, window=3)
    assert [each["all_reduce"] for each in ours] == [(LONG - SHORT) // 3] * 2


def gathered(**options):
    """Return how often something is gathered in an epoch, whatever its steps."""
    four, one = (messages(fit, "plain", SHORT, epochs=n, **options) for n in (4, 1))
    return (four["all_gather"] - one["all_gather"]) / 3


@pytest.mark.parametrize("sets", [0, 2])
def test_an_epoch_gathers_a_few_times_more(two, sets):
    # The figures, with what processes want, and a meeting at the end; each validation's figures.
    validation = {f"set {n}": data(2) for n in range(sets)} or None
    options = {"val_data": validation, "metrics": {"acc": "acc", "other": "acc"}}
    assert two.run(gathered, **options) == [2 + sets] * 2
