"""Streams in several processes: read whole by each, or by shares; each sample counts once."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from fitorch import KerasModel
from fitorch.callbacks import LambdaCallback
from fitorch.errors import CheckpointMismatchError, DataError

N = 50
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Shares(IterableDataset):
    """Looks at the rank: each process has samples of its own, the first one the most."""

    def __init__(self, sizes, rank):
        self.begin, self.end = sum(sizes[:rank]), sum(sizes[: rank + 1])

    def __iter__(self):
        return iter([(X[i], Y[i]) for i in range(self.begin, self.end)])


class SizedShares(Shares):
    def __len__(self):
        return self.end - self.begin


def rank_of_process():
    from torch import distributed

    return distributed.get_rank() if distributed.is_initialized() else 0


def model():
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    return KerasModel(net, "mse", {"mae": "mae"}, lambda p: torch.optim.SGD(p, lr=0.0))


def measured(sizes, kind, form):
    KerasModel(nn.Linear(4, 1), "mse").place(cpu=True)  # joins the group
    stream = kind(sizes, rank_of_process())
    data = stream if form == "stream" else DataLoader(stream, 8)
    made = model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"epochs": 2, "batch_size": 8, "verbose": 0, "cpu": True}
        frame = made.fit(data, data, **options)
        result = made.evaluate(data, verbose=0, batch_size=8)
    told = sum("reads a share" in str(warning.message) for warning in caught)
    return frame.drop(columns=["seconds", "lr"]), result, told


@pytest.mark.parametrize("form", ["stream", "loader"])
@pytest.mark.parametrize("kind", [Shares, SizedShares])
@pytest.mark.parametrize("sizes", [(25, 25), (42, 8)], ids=str)
def test_shares_of_any_size_give_the_figures_of_all_samples(two, sizes, kind, form):
    # The weights do not change, so that the figures are those of the samples, whatever the order.
    net = model().net
    with torch.no_grad():
        error = net(X) - Y
    loss, mae = error.square().mean().item(), error.abs().mean().item()
    found = two.run(measured, sizes, kind, form)
    for frame, result, _ in found:
        for column, value in (("loss", loss), ("mae", mae)):
            assert frame[f"train_{column}"].tolist() == pytest.approx([value] * 2, rel=1e-5)
            assert frame[f"val_{column}"].tolist() == pytest.approx([value] * 2, rel=1e-5)
            assert result[f"val_{column}"] == pytest.approx(value, rel=1e-5)
    assert [told > 0 for *_, told in found] == [True, False]


def measured_without_a_batch():
    with pytest.raises(DataError) as caught:
        measured((50, 0), Shares, "stream")
    return str(caught.value)


def test_a_process_without_a_single_batch_is_told_to_all(two):
    for told in two.run(measured_without_a_batch):
        assert told.startswith("train_data has 1 batches, fewer than the 2 processes")


class Lengthless:
    """Batches of which each process reads all."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def trained_whole(count, size):
    batches = [(X[i : i + size], Y[i : i + size]) for i in range(0, count, size)]
    torch.manual_seed(0)
    made = KerasModel(nn.Linear(4, 1), "mse", None, lambda p: torch.optim.SGD(p, lr=0.1))
    made.fit(Lengthless(batches), epochs=2, verbose=0, cpu=True)
    return made.net.weight.detach()


def by_hand(count, size):
    """Train on two batches at a time, weighted by their samples, as two processes do."""
    batches = [(X[i : i + size], Y[i : i + size]) for i in range(0, count, size)]
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        for first in range(0, len(batches), 2):
            x, y = (torch.cat(parts) for parts in zip(*batches[first : first + 2], strict=True))
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
    return net.weight.detach()


@pytest.mark.parametrize("count", [40, 50])
def test_a_stream_that_all_read_whole_is_dealt_out(two, count):
    for weight in two.run(trained_whole, count, 10):
        torch.testing.assert_close(weight, by_hand(count, 10), rtol=1e-5, atol=1e-6)


def trained_on(kind):
    KerasModel(nn.Linear(4, 1), "mse").place(cpu=True)
    rank = rank_of_process()
    batches = [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 50, 5)]
    if kind == "other batches later":
        batches[4] = (X[:5] + rank, Y[:5])
    if kind == "runs dry":
        batches = batches[: 10 - 4 * rank]
    if kind == "some the same":
        batches[0] = (X[:5] + rank // 2, Y[:5])
    try:
        model().fit(Lengthless(batches), epochs=1, verbose=0, cpu=True)
    except DataError as error:
        return str(error)
    return "trained"


@pytest.mark.parametrize("kind", ["other batches later", "runs dry"])
def test_other_batches_where_all_should_be_the_same_are_found(two, kind):
    for told in two.run(trained_on, kind):
        assert "have read different batches of train_data" in told


def test_a_first_batch_that_only_some_processes_share_is_refused(three):
    for told in three.run(trained_on, "some the same"):
        assert "is the same in some processes" in told


def stops(sizes):
    KerasModel(nn.Linear(4, 1), "mse").place(cpu=True)
    data = DataLoader(Shares(sizes, rank_of_process()), 5)
    made = model()
    made.fit(data, data, epochs=2, steps_per_epoch=3, validation_steps=2, verbose=0, cpu=True)
    return made.updates


def test_limits_of_steps_count_rounds(two):
    assert two.run(stops, (35, 15)) == [6, 6]


def cut_within_an_epoch(folder):
    KerasModel(nn.Linear(4, 1), "mse").place(cpu=True)

    def stop(batch, logs):
        if batch == 1:
            raise KeyboardInterrupt

    data = DataLoader(Shares((25, 25), rank_of_process()), 5)
    options = {"ckpt_path": folder, "save_every_n_steps": 1, "verbose": 0, "cpu": True}
    with pytest.raises(KeyboardInterrupt):
        model().fit(data, epochs=1, callbacks=[LambdaCallback(on_train_batch_end=stop)], **options)


def test_shares_of_a_begun_epoch_are_not_split_otherwise(two, tmp_path):
    two.run(cut_within_an_epoch, tmp_path)
    options = {"ckpt_path": tmp_path, "resume": True, "elastic": True, "verbose": 0, "cpu": True}
    with pytest.raises(CheckpointMismatchError, match="resume with 2 processes"):
        model().fit(DataLoader(Shares((50,), 0), 5), epochs=1, **options)
