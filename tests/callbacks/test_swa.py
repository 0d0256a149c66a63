"""SWA, beside torch.optim.swa_utils in loops written by hand, and averages that are resumed."""

import io

import pytest
import torch
from torch import nn, optim
from torch.optim import swa_utils
from torch.utils.data import DataLoader, Dataset, IterableDataset

from averages import (
    LOADER,
    Fails,
    Look,
    X,
    Y,
    assert_weights,
    is_same,
    make_model,
    make_net,
    train,
    weights,
)
from fitorch import KerasModel
from fitorch.callbacks import (
    EMA,
    SWA,
    Callback,
    Freeze,
)
from fitorch.engine.loop import fit
from fitorch.fitting.setup import prepare
from prepared import fit_arguments


class Snapshots(Callback):
    """Stores the state, as bytes, after every batch and epoch."""

    def __init__(self):
        self.taken = {}

    def on_train_batch_end(self, batch, logs=None):
        self.take(f"batch {batch} of {self.run.progress.epochs}")

    def on_epoch_end(self, epoch, logs=None):
        self.take(f"epoch {epoch}")

    def take(self, when):
        file = io.BytesIO()
        torch.save(self.run.state.state_dict(), file)
        self.taken[when] = file.getvalue()


def make_run(*averages, **options):
    snapshots = Snapshots()
    chosen = {"epochs": 4, "callbacks": [*averages, snapshots], "validation_freq": 2, **options}
    snapshots.run = prepare(make_model(make_net()), (X, Y), (X, Y), fit_arguments(**chosen))
    return snapshots.run, snapshots


def finish(run):
    fit(run)
    run.close()


AVERAGES = {
    "EMA": lambda: EMA(0.9),
    "EMA of every third": lambda: EMA(0.9, every=3),
    "SWA": lambda: SWA(1, data=(X, Y)),
    "SWA with a rate": lambda: SWA(0.25, lr=0.01, anneal_epochs=2, data=(X, Y)),
}


@pytest.mark.parametrize("options", [{}, {"patience": 9}, {"gradient_accumulation_steps": 4}])
@pytest.mark.parametrize("name", AVERAGES)
def test_a_fit_that_is_resumed_ends_with_the_same_bits(name, options):
    run, snapshots = make_run(AVERAGES[name](), **options)
    finish(run)
    expected, frame = run.net, run.model.history.frame
    at_updates = "gradient_accumulation_steps" not in options
    taken = {w: s for w, s in snapshots.taken.items() if at_updates or "batch" not in w}
    for when, stored in taken.items():
        torch.manual_seed(99)
        again, _ = make_run(AVERAGES[name](), **options)
        again.state.load_state_dict(torch.load(io.BytesIO(stored), weights_only=True))
        finish(again)
        assert is_same(again.net, expected), when
        columns = ["epoch", "lr", "val_loss"]
        assert again.model.history.frame[columns].equals(frame[columns]), when


def swa_by_hand(start, epochs=4, lr=None, anneal=10, net=None, batches=LOADER):
    net = net or make_net()
    optimizer = optim.SGD(net.parameters(), 0.1, 0.9)
    average = swa_utils.AveragedModel(net)
    scheduler = swa_utils.SWALR(optimizer, lr, anneal) if lr is not None else None
    rates = []
    for epoch in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
        if epoch >= start:
            average.update_parameters(net)
            if scheduler is not None:
                scheduler.step()
    swa_utils.update_bn(batches, average)
    return average.module, rates


@pytest.mark.parametrize("start", [0, 2, 3, 0.5, 0.9])
def test_the_net_ends_with_torchs_equal_mean(start):
    model = make_model()
    train(model, [SWA(start, data=LOADER)], epochs=4)
    expected, _ = swa_by_hand(start if isinstance(start, int) else int(4 * start))
    assert_weights(model.net, expected, rtol=1e-5, atol=1e-6)
    assert model.net[1].momentum == 0.1


@pytest.mark.parametrize("anneal", [1, 2, 5])
def test_the_rate_is_annealed_as_by_torch(anneal):
    model = make_model(make_net(nn.ReLU()))
    frame = train(model, [SWA(1, lr=0.02, anneal_epochs=anneal)], epochs=5)
    expected, rates = swa_by_hand(1, 5, 0.02, anneal, make_net(nn.ReLU()))
    assert frame["lr"].tolist() == pytest.approx(rates)
    assert_weights(model.net, expected, rtol=1e-5, atol=1e-6)


def test_without_annealing_the_rate_is_set_at_once():
    model = make_model(make_net(nn.ReLU()))
    frame = train(model, [SWA(1, lr=0.02, anneal_epochs=0)], epochs=3)
    assert frame["lr"].tolist() == pytest.approx([0.1, 0.02, 0.02])


def test_the_plain_mean_goes_before_best_weights(tmp_path):
    model = make_model(make_net(nn.ReLU()))
    train(model, [SWA(1)], epochs=4, val=(X, Y), patience=9, ckpt_path=tmp_path)
    expected, _ = swa_by_hand(1, net=make_net(nn.ReLU()))
    assert_weights(model.net, expected, rtol=1e-5, atol=1e-6)


def test_an_error_leaves_the_weights_and_the_mean_can_be_put_in():
    model, swa, look = make_model(), SWA(0, data=LOADER), Look("on_train_batch_end")
    with pytest.raises(ArithmeticError):
        train(model, [swa, look, Fails("on_train_batch_end", after=9)])
    last = look.seen["on_train_batch_end"][-1]
    assert_weights(model.net, last)
    first, second = look.seen["on_train_batch_end"][3], look.seen["on_train_batch_end"][7]
    with swa.applied():
        mean = (first["0.weight"] + second["0.weight"]) / 2
        torch.testing.assert_close(model.net[0].weight.detach(), mean)
    assert_weights(model.net, last)


def test_training_that_stops_before_the_start_leaves_the_weights():
    class Stops(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    model, look = make_model(), Look("on_epoch_end")
    train(model, [SWA(2, data=LOADER), Stops(), look])
    assert_weights(model.net, look.seen["on_epoch_end"][0])


def test_statistics_are_renewed_over_arrays_and_dicts():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_net()

        def forward(self, a, b):
            return self.net(torch.cat([a, b], 1))

    data = ({"a": X[:, :1], "b": X[:, 1:]}, Y)
    net = Named()
    model = KerasModel(net, "mse", optimizer=optim.SGD(net.parameters(), 0.1, 0.9))
    train(model, [SWA(2, data=data, batch_size=8)], data=data, epochs=4, batch_size=8)
    with torch.no_grad():
        hidden = net.net[0](X)
    torch.testing.assert_close(net.net[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-6)
    variance = torch.stack([part.var(0) for part in hidden.split(8)]).mean(0)
    torch.testing.assert_close(net.net[1].running_var, variance, rtol=1e-4, atol=1e-6)


BATCHES = list(zip(X.split(12), Y.split(12), strict=True))  # the last one is smaller


class BatchStream(IterableDataset):
    def __iter__(self):
        return iter(BATCHES)


class BatchDataset(Dataset):
    def __len__(self):
        return len(BATCHES)

    def __getitem__(self, index):
        return BATCHES[index]


READY = {
    "a list": lambda: BATCHES,
    "a stream": BatchStream,
    "a dataset": BatchDataset,
    "a loader": lambda: DataLoader(BatchStream(), None),
    "a loader of a dataset": lambda: DataLoader(BatchDataset(), None),
}


@pytest.mark.parametrize("name", READY)
def test_statistics_of_ready_batches_are_those_of_torch(name):
    model, data = make_model(), READY[name]()
    swa = SWA(2, data=data, batch_size=None)
    train(model, [swa], data, epochs=4, batch_size=None, shuffle=False)
    expected, _ = swa_by_hand(2, batches=BATCHES)
    assert_weights(model.net, expected, rtol=1e-5, atol=1e-6)


def test_data_that_has_no_batches_is_refused_before_training():
    model = make_model()
    before = weights(model.net)
    with pytest.raises(ValueError, match="batch_size=None means that SWA's data consists of"):
        train(model, [SWA(2, data=(X, Y), batch_size=None)])
    assert_weights(model.net, before)


def test_an_error_in_reading_names_the_data_and_the_batch():
    class Failing(BatchDataset):
        def __getitem__(self, index):
            if index == 1:
                raise FileNotFoundError
            return super().__getitem__(index)

    with pytest.raises(FileNotFoundError) as caught:
        train(make_model(), [SWA(2, data=Failing(), batch_size=None)])
    assert "while reading batch 2 of SWA's data" in caught.value.__notes__[0]


def test_statistics_are_renewed_with_a_forward_of_ones_own():
    model = make_model(forward=lambda net, batch: (net(batch[0]), batch[1]))
    train(model, [SWA(2, data=LOADER)], epochs=4)
    assert_weights(model.net, swa_by_hand(2)[0], rtol=1e-5, atol=1e-6)


def test_frozen_statistics_stay():
    net = make_net()
    net[1].eval()
    model = make_model(net)
    train(model, [SWA(1)])  # without data
    assert torch.equal(net[1].running_mean, torch.zeros(8))


@pytest.mark.parametrize("order", [1, -1])
def test_statistics_that_a_callback_froze_stay(order):
    model = make_model()
    train(model, [SWA(1, data=LOADER), Freeze("1")][::order])
    assert torch.equal(model.net[1].running_mean, torch.zeros(8))


def test_data_that_fails_leaves_the_weights_of_training():
    model, look = make_model(), Look("on_train_batch_end")
    bad = [(X[:8], Y[:8]), (X[8:, :2], Y[8:])]
    with pytest.raises(RuntimeError):
        train(model, [SWA(1, data=bad, batch_size=None), look])
    assert_weights(model.net, look.seen["on_train_batch_end"][-1])
    assert model.net[1].momentum == 0.1


@pytest.mark.parametrize("samples", [17, 16])
def test_a_last_batch_of_one_sample_is_left_out_of_the_statistics(samples):
    model = make_model()
    train(model, [SWA(2, data=(X[:samples], Y[:samples]), batch_size=16)])
    with torch.no_grad():
        hidden = model.net[0](X[:16])
    torch.testing.assert_close(model.net[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-6)


def test_bad_arguments_are_refused():
    for decay in (1, 1.0, -0.1, float("nan"), True):
        with pytest.raises(ValueError, match=r"decay is .*; expected a number in \[0, 1\)"):
            EMA(decay)
    with pytest.raises(ValueError, match="every is 0; expected an int >= 1"):
        EMA(every=0)
    with pytest.raises(TypeError, match=r"every is 1\.5"):
        EMA(every=1.5)
    for start in (-1, 1.0, 1.5, -0.5, True, float("nan")):
        with pytest.raises(ValueError, match=r"start is .*; expected a fraction"):
            SWA(start)
    for lr in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"lr is .*; expected a rate > 0"):
            SWA(lr=lr)
    with pytest.raises(ValueError, match="anneal_epochs is -1; expected an int >= 0"):
        SWA(anneal_epochs=-1)


def test_what_would_fail_at_the_end_is_refused_before_training():
    model = make_model()
    with pytest.raises(ValueError, match=r"recompute them: SWA\(\.\.\., data=train_data\)"):
        train(model, [SWA()])
    with pytest.raises(ValueError, match=r"starts with epoch 3, counted from 0, .* has only 3"):
        train(model, [SWA(3, data=LOADER)])
    scheduled = make_model(lr_scheduler=lambda o: optim.lr_scheduler.StepLR(o, 1))
    with pytest.raises(ValueError, match="SWA and lr_scheduler=StepLR both set the learning rate"):
        train(scheduled, [SWA(1, lr=0.1, data=LOADER)])
    assert len(model.history) == len(scheduled.history) == 0
    assert_weights(model.net, make_net())
