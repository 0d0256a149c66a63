"""The weights after `fit` are, bit for bit, those of a loop written by hand.

Both make the same calls on batches of the same shapes, strides and alignment, so that any processor
runs the same kernels for both. Where batches are of other sizes, or a formula is written otherwise,
the comparison is relative.
"""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.data.sampling import Order
from tolerances import FLOAT32, FLOAT64

SAMPLES, BATCH, EPOCHS = 50, 8, 3  # the last batch has 2 samples

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


def regression(samples=SAMPLES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=generator, dtype=dtype)
    return x, x[:, :1] * 2 - x[:, 1:2] ** 2


def classes(samples=SAMPLES):
    x, _ = regression(samples)
    return x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long()


def make_net(outputs=1, *, batch_norm=False, dtype=torch.float32):
    torch.manual_seed(2)
    middle = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 8), middle, nn.Tanh(), nn.Linear(8, outputs)).to(dtype)


def loader(*tensors, batch_size=BATCH, **options):
    return DataLoader(TensorDataset(*tensors), batch_size, **options)


def by_hand(net, batches, optimizer, loss_fn, epochs=EPOCHS, each_update=None, each_epoch=None):
    """Train on `batches()` of every epoch; return the mean loss of each."""
    means = []
    for epoch in range(epochs):
        total = count = 0.0
        for x, y in batches(epoch):
            loss = loss_fn(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            if each_update is not None:
                each_update()
            optimizer.step()
            total, count = total + loss.item() * len(y), count + len(y)
        means.append(total / count)
        if each_epoch is not None:
            each_epoch(means[-1])
    return means


def assert_same(net, expected):
    state, wanted = net.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(state[name], value), name


def twins(make=make_net, **options):
    net = make(**options)
    return net, copy.deepcopy(net)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loader_in_order_gives_the_weights_of_a_hand_written_loop(name):
    x, y = regression()
    net, expected = twins()
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS[name](expected.parameters()),
        nn.MSELoss(),
    )
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS[name])
    model.fit(loader(x, y), epochs=EPOCHS, verbose=0)
    assert_same(net, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tensors_are_seen_in_the_order_of_the_seed(name):
    x, y = regression()
    net, expected = twins()
    order = Order(SAMPLES, BATCH, shuffle=True, seed=5)
    by_hand(
        expected,
        lambda epoch: ((x[i], y[i]) for i in order.batches(epoch)),
        OPTIMIZERS[name](expected.parameters()),
        nn.MSELoss(),
    )
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS[name])
    model.fit((x, y), epochs=EPOCHS, batch_size=BATCH, seed=5, verbose=0)
    assert_same(net, expected)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_shuffling_loader_with_a_generator_gives_its_own_order(workers):
    x, y = regression()
    net, expected = twins()
    generators = [torch.Generator().manual_seed(9) for _ in range(2)]
    theirs = loader(x, y, shuffle=True, generator=generators[0], num_workers=workers)
    by_hand(expected, lambda _: theirs, OPTIMIZERS["momentum"](expected.parameters()), nn.MSELoss())
    ours = loader(x, y, shuffle=True, generator=generators[1], num_workers=workers)
    KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["momentum"]).fit(
        ours, epochs=EPOCHS, verbose=0
    )
    assert_same(net, expected)


def test_a_loader_that_collates_itself_gives_the_same_weights():
    x, y = regression()
    net, expected = twins()
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS["adam"](expected.parameters()),
        nn.MSELoss(),
    )

    def collate(samples):
        features, targets = zip(*samples, strict=True)
        return torch.stack(features), torch.stack(targets)

    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["adam"])
    model.fit(loader(x, y, collate_fn=collate), epochs=EPOCHS, verbose=0)
    assert_same(net, expected)


def test_two_fits_give_the_weights_of_one_long_one():
    x, y = regression()
    net, expected = twins()
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS["adam"](expected.parameters()),
        nn.MSELoss(),
    )
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["adam"])
    model.fit(loader(x, y), epochs=1, verbose=0)
    model.fit(loader(x, y), epochs=EPOCHS - 1, verbose=0)
    assert_same(net, expected)


def test_validation_and_metrics_leave_the_weights_alone():
    x, y = regression()
    net, expected = twins(batch_norm=True)
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS["adam"](expected.parameters()),
        nn.MSELoss(),
    )
    model = KerasModel(net, nn.MSELoss(), {"mae": "mae"}, OPTIMIZERS["adam"])
    model.fit(loader(x, y), loader(x, y), epochs=EPOCHS, verbose=0)
    assert_same(net, expected)


def test_batch_norm_ends_with_the_same_buffers():
    x, y = regression()
    net, expected = twins(batch_norm=True)
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS["adam"](expected.parameters()),
        nn.MSELoss(),
    )
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["adam"])
    model.fit(loader(x, y), epochs=EPOCHS, verbose=0)
    assert_same(net, expected)
    assert net[1].num_batches_tracked == EPOCHS * 7


def test_a_float64_net_trains_in_float64():
    x, y = regression(dtype=torch.float64)
    net, expected = twins(dtype=torch.float64)
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS["adam"](expected.parameters()),
        nn.MSELoss(),
    )
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["adam"])
    model.fit((x.numpy(), y.numpy()), epochs=EPOCHS, batch_size=BATCH, shuffle=False, verbose=0)
    assert_same(net, expected)
    assert net[0].weight.dtype == torch.float64


def accumulated_by_hand(net, batches, optimizer, window):
    """Update once per window, on the mean over all samples of the window."""
    for _ in range(EPOCHS):
        epoch = list(batches)
        for start in range(0, len(epoch), window):
            micro = epoch[start : start + window]
            total = sum(len(y) for _, y in micro)
            optimizer.zero_grad()
            for x, y in micro:
                (nn.functional.mse_loss(net(x), y) / (total / len(y))).backward()
            optimizer.step()


@pytest.mark.parametrize("samples", [48, 50, 40, 17], ids=lambda n: f"{n} samples")
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_accumulation_updates_on_the_mean_of_a_window(samples, name):
    x, y = regression(samples)  # 6 batches of 8; 7 with a last one of 2; 5; 3 with one of 1
    net, expected = twins()
    accumulated_by_hand(expected, loader(x, y), OPTIMIZERS[name](expected.parameters()), window=3)
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS[name])
    model.fit(loader(x, y), epochs=EPOCHS, gradient_accumulation_steps=3, verbose=0)
    assert_same(net, expected)


@pytest.mark.parametrize("samples", [48, 50], ids=lambda n: f"{n} samples")
def test_accumulating_small_batches_is_training_on_large_ones(samples):
    x, y = (tensor.double() for tensor in regression(samples))
    net, expected = twins(dtype=torch.float64)
    optimizer = OPTIMIZERS["momentum"](expected.parameters())
    by_hand(expected, lambda _: loader(x, y, batch_size=3 * BATCH), optimizer, nn.MSELoss())
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["momentum"])
    model.fit(loader(x, y), epochs=EPOCHS, gradient_accumulation_steps=3, verbose=0)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)


def test_accumulating_a_summed_loss_adds_up():
    x, y = (tensor.double() for tensor in regression())
    net, expected = twins(dtype=torch.float64)
    optimizer = torch.optim.SGD(expected.parameters(), lr=1e-3)
    loss_fn = nn.MSELoss(reduction="sum")
    by_hand(expected, lambda _: loader(x, y, batch_size=3 * BATCH), optimizer, loss_fn)
    model = KerasModel(net, loss_fn, optimizer=lambda p: torch.optim.SGD(p, lr=1e-3))
    model.fit(loader(x, y), epochs=EPOCHS, gradient_accumulation_steps=3, verbose=0)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)


def test_accumulating_with_sample_weights_is_training_on_large_batches():
    x, y = (tensor.double() for tensor in regression())
    weight = torch.linspace(0, 3, SAMPLES, dtype=torch.float64)
    weighted = {"epochs": EPOCHS, "shuffle": False, "verbose": 0}
    net, expected = twins(dtype=torch.float64)
    KerasModel(expected, nn.MSELoss(), optimizer=OPTIMIZERS["sgd"]).fit(
        (x, y, weight), batch_size=3 * BATCH, **weighted
    )
    KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["sgd"]).fit(
        (x, y, weight), batch_size=BATCH, gradient_accumulation_steps=3, **weighted
    )
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)


def test_gradients_are_clipped_by_norm():
    x, y = regression()
    net, expected = twins()
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS["momentum"](expected.parameters()),
        nn.MSELoss(),
        each_update=lambda: nn.utils.clip_grad_norm_(expected.parameters(), 0.1),
    )
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["momentum"])
    model.fit(loader(x, y), epochs=EPOCHS, clip_grad_norm=0.1, verbose=0)
    assert_same(net, expected)


def test_gradients_are_clipped_by_value():
    x, y = regression()
    net, expected = twins()
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS["momentum"](expected.parameters()),
        nn.MSELoss(),
        each_update=lambda: nn.utils.clip_grad_value_(expected.parameters(), 0.01),
    )
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["momentum"])
    model.fit(loader(x, y), epochs=EPOCHS, clip_grad_value=0.01, verbose=0)
    assert_same(net, expected)


def test_nothing_is_clipped_unless_asked_for():
    net = nn.Linear(1, 1, bias=False)
    before = net.weight.item()
    model = KerasModel(
        net, lambda y_pred, _: y_pred.mean(), optimizer=lambda p: torch.optim.SGD(p, lr=1.0)
    )
    model.fit((torch.full((4, 1), 2000.0), torch.zeros(4, 1)), epochs=1, verbose=0)
    assert before - net.weight.item() == pytest.approx(2000.0, rel=1e-6)


def test_a_step_schedule_goes_on_with_each_epoch():
    x, y = regression()
    net, expected = twins()
    optimizer = OPTIMIZERS["sgd"](expected.parameters())
    schedule = lr_scheduler.StepLR(optimizer, 1, 0.1)
    by_hand(
        expected,
        lambda _: loader(x, y),
        optimizer,
        nn.MSELoss(),
        each_epoch=lambda _: schedule.step(),
    )
    model = KerasModel(
        net,
        nn.MSELoss(),
        optimizer=OPTIMIZERS["sgd"],
        lr_scheduler=lambda optimizer: lr_scheduler.StepLR(optimizer, 1, 0.1),
    )
    model.fit(loader(x, y), epochs=EPOCHS, verbose=0)
    assert_same(net, expected)


@pytest.mark.parametrize("window", [1, 3])
def test_a_one_cycle_schedule_goes_on_with_each_update(window):
    x, y = regression()
    updates = EPOCHS * -(-7 // window)
    net, expected = twins()
    optimizer = OPTIMIZERS["sgd"](expected.parameters())
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=updates)
    for _ in range(EPOCHS):
        batches = list(loader(x, y))
        for start in range(0, len(batches), window):
            micro = batches[start : start + window]
            total = sum(len(target) for _, target in micro)
            optimizer.zero_grad()
            for features, target in micro:
                loss = nn.functional.mse_loss(expected(features), target)
                (loss / (total / len(target))).backward()
            optimizer.step()
            schedule.step()
    model = KerasModel(
        net,
        nn.MSELoss(),
        optimizer=OPTIMIZERS["sgd"],
        lr_scheduler=lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=updates),
    )
    model.fit(loader(x, y), epochs=EPOCHS, gradient_accumulation_steps=window, verbose=0)
    assert_same(net, expected)


def test_a_plateau_schedule_follows_the_monitored_figure():
    x, y = regression()
    net, expected = twins()
    optimizer = torch.optim.SGD(expected.parameters(), lr=1.0, momentum=0.9)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.3)
    by_hand(
        expected,
        lambda _: loader(x, y),
        optimizer,
        nn.MSELoss(),
        epochs=6,
        each_epoch=lambda loss: schedule.step(loss),
    )
    assert optimizer.param_groups[0]["lr"] < 1.0
    model = KerasModel(
        net,
        nn.MSELoss(),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
        lr_scheduler=lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.3),
    )
    model.fit(loader(x, y), epochs=6, verbose=0)
    assert model.optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert_same(net, expected)


def test_sample_weights_give_the_gradient_of_the_weighted_mean():
    x, y = regression()
    weight = torch.linspace(0, 2, SAMPLES)
    net, expected = twins()
    optimizer = OPTIMIZERS["sgd"](expected.parameters())
    for _ in range(EPOCHS):
        for features, target, w in loader(x, y, weight):
            losses = nn.functional.mse_loss(expected(features), target, reduction="none").mean(1)
            optimizer.zero_grad()
            ((losses * w).sum() / w.sum()).backward()
            optimizer.step()
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["sgd"])
    model.fit(loader(x, y, weight), epochs=EPOCHS, verbose=0)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT32)


def test_class_weights_are_those_of_torchs_own_cross_entropy():
    x, y = classes()
    net, expected = twins(outputs=3, dtype=torch.float64)
    x = x.double()
    by_hand(
        expected,
        lambda _: loader(x, y),
        OPTIMIZERS["sgd"](expected.parameters()),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)),
    )
    model = KerasModel(net, nn.CrossEntropyLoss(), optimizer=OPTIMIZERS["sgd"])
    model.fit(loader(x, y), epochs=EPOCHS, class_weight={1: 5.0, 2: 0.5}, verbose=0)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)


@pytest.mark.parametrize("form", ["ones", "class weights of one"])
def test_weights_of_one_change_nothing(form):
    x, y = classes()
    net, expected = twins(outputs=3)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]), ignore_index=1)
    by_hand(expected, lambda _: loader(x, y), OPTIMIZERS["sgd"](expected.parameters()), loss_fn)
    model = KerasModel(net, loss_fn, optimizer=OPTIMIZERS["sgd"])
    data = loader(x, y, torch.ones(SAMPLES)) if form == "ones" else loader(x, y)
    class_weight = None if form == "ones" else {0: 1.0}
    model.fit(data, epochs=EPOCHS, class_weight=class_weight, verbose=0)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT32)


def test_frozen_parameters_stay_as_they_are():
    x, y = regression()
    net, expected = twins()
    for each in (net, expected):
        each[0].requires_grad_(False)
    optimizer = OPTIMIZERS["adamw"]([p for p in expected.parameters() if p.requires_grad])
    by_hand(expected, lambda _: loader(x, y), optimizer, nn.MSELoss())
    model = KerasModel(net, nn.MSELoss(), optimizer=OPTIMIZERS["adamw"])
    model.fit(loader(x, y), epochs=EPOCHS, verbose=0)
    assert_same(net, expected)


def test_dropout_follows_the_seed():
    x, y = regression()
    nets = [nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        KerasModel(net, nn.MSELoss(), optimizer="sgd").fit((x, y), epochs=2, seed=3, verbose=0)
    assert_same(*nets)
