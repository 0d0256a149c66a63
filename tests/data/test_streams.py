"""Streams, lists of samples, generators, queues, and readers that are their own iterator."""

import queue

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from data.libraries import (
    SAME_BITS,
    SIZE,
    Seen,
    X,
    Y,
    assert_trains_as,
    fit,
    make_model,
    pairs,
    resumed,
)
from fitorch.callbacks import SWA

SAMPLES = list(zip(X, Y, strict=True))


class Named(Seen):
    def forward(self, x):
        return super().forward(x)


# Lists of samples

LISTS = {
    "tensors": SAMPLES,
    "lists of tensors": [list(sample) for sample in SAMPLES],
    "arrays": [(x.numpy(), y.numpy()) for x, y in SAMPLES],
    "lists of numbers": [(x.tolist(), y.tolist()) for x, y in SAMPLES],
}
ROWS = {
    "tensors": [{"x": x, "labels": y} for x, y in SAMPLES],
    "lists of numbers": [{"x": x.tolist(), "labels": y.tolist()} for x, y in SAMPLES],
}


@pytest.mark.parametrize("data", LISTS.values(), ids=LISTS)
def test_a_list_of_pairs_is_batched(data):
    assert_trains_as([pairs()] * 2, data)


@pytest.mark.parametrize("data", ROWS.values(), ids=ROWS)
def test_a_list_of_rows_is_batched(data):
    assert_trains_as([pairs()] * 2, data, Named)


def test_rows_whose_labels_are_numbers_are_batched():
    model, _ = fit([{"x": x.tolist(), "labels": 1.0} for x in X], net=Flat(), epochs=1)
    assert model.net.shapes == [tuple(x.shape) for x, _ in pairs()]


class Flat(Named):
    def forward(self, x):
        return super().forward(x).squeeze(1)


@pytest.mark.parametrize("data", LISTS.values(), ids=LISTS)
def test_a_list_of_pairs_resumes_exactly(data, tmp_path):
    assert resumed(lambda: data, tmp_path, shuffle=True) == SAME_BITS


BATCHES = {
    "pairs": pairs(),
    "batches of one": pairs(size=1),
    "sequences (T, N, C)": [(torch.zeros(7, 2, 3), torch.zeros(2))] * 3,
    "bags": [(torch.arange(5 + i), torch.zeros(2)) for i in range(3)],
    "rows": [{"x": x, "labels": y} for x, y in pairs()],
    "rows with a name": [{"name": "a", "x": x, "labels": y} for x, y in pairs()],
    "bags with offsets": [{"x": torch.arange(5), "at": X[:2], "labels": Y[:2]}] * 3,
}


@pytest.mark.parametrize("data", BATCHES.values(), ids=BATCHES)
def test_a_list_of_batches_is_not_batched_again(data):
    from fitorch.data.sources import Batching, as_source

    assert as_source(data, "train_data", Batching(SIZE)).steps == len(data)


# IterableDatasets


class Unsized(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Sized(Unsized):
    def __len__(self):
        return len(self.items)


@pytest.mark.parametrize("kind", [Unsized, Sized])
@pytest.mark.parametrize("items", LISTS.values(), ids=LISTS)
def test_a_stream_of_samples_is_batched(kind, items, tmp_path):
    assert_trains_as([pairs()] * 2, kind(items))
    assert resumed(lambda: kind(items), tmp_path) == SAME_BITS


@pytest.mark.parametrize("kind", [Unsized, Sized])
def test_a_stream_of_batches_is_not_batched_again(kind, tmp_path):
    assert_trains_as([pairs()] * 2, kind(pairs()), batch_size=None)
    assert resumed(lambda: kind(pairs()), tmp_path, batch_size=None) == SAME_BITS


@pytest.mark.parametrize("kind", [Unsized, Sized])
def test_a_stream_of_batches_is_recognized_with_a_warning(kind):
    batches = pairs(size=8)
    with pytest.warns(UserWarning, match="are taken for batches"):
        assert_trains_as([batches] * 2, kind(batches))


# Readers that are used up


def filled(passes):
    batches = queue.Queue()
    for batch in pairs() * passes:
        batches.put(batch)
    batches.put(None)
    return iter(batches.get, None)


def test_a_generator_and_a_queue_train_once():
    assert_trains_as([pairs()], (batch for batch in pairs()))
    assert_trains_as([pairs() * 2], filled(2))


def test_a_queue_is_cut_into_epochs():
    assert_trains_as([pairs()] * 2, filled(2), steps_per_epoch=6)


# Readers that are their own iterator, and start again if they are asked for it


class Reader:
    def __init__(self, items):
        self.items, self.place, self.asked, self.read = items, 0, 0, 0

    def __iter__(self):
        self.asked, self.place = self.asked + 1, 0
        return self

    def __next__(self):
        if self.place == len(self.items):
            raise StopIteration
        self.place, self.read = self.place + 1, self.read + 1
        return self.items[self.place - 1]


class SizedReader(Reader):
    def __len__(self):
        return len(self.items)


class ReaderDataset(Reader, IterableDataset):
    pass


class Normed(Seen):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return super().forward(self.norm(x))


READERS = {
    "a reader": lambda: Reader(pairs()),
    "a reader with a length": lambda: SizedReader(pairs()),
    "a dataset of samples": lambda: ReaderDataset(SAMPLES),
    "a loader over samples": lambda: DataLoader(ReaderDataset(SAMPLES), SIZE),
    "a loader over batches": lambda: DataLoader(ReaderDataset(pairs()), None),
}


def times(data):
    """Return how often a reader was asked for its iterator, and how many passes it read."""
    reader = getattr(data, "dataset", data)
    return reader.asked, reader.read / len(reader.items)


@pytest.mark.parametrize("make", READERS.values(), ids=READERS)
def test_a_reader_is_asked_once_in_each_pass_of_a_fit(make, tmp_path):
    data, val_data = make(), make()
    assert_trains_as([pairs()] * 2, data)
    fit(pairs(), val_data)
    assert times(data) == times(val_data) == (2, 2)
    assert resumed(make, tmp_path) == SAME_BITS


@pytest.mark.parametrize("make", READERS.values(), ids=READERS)
def test_a_reader_is_asked_once_in_evaluate_and_predict(make):
    data, model = make(), make_model()
    expected = model.net.eval()(X).detach()
    loss = model.evaluate(data, batch_size=SIZE, verbose=0)["val_loss"]
    assert loss == pytest.approx(nn.functional.mse_loss(expected, Y).item(), rel=1e-5)
    assert times(data) == (1, 1)
    torch.testing.assert_close(model.predict(data, batch_size=SIZE, verbose=0), expected)
    assert times(data) == (2, 2)


@pytest.mark.parametrize("make", READERS.values(), ids=READERS)
def test_a_reader_is_asked_once_for_the_statistics_of_swa(make):
    data = make()
    fit(pairs(), epochs=3, net=Normed(), callbacks=[SWA(1, data=data, batch_size=SIZE)])
    assert times(data) == (1, 1)


@pytest.mark.filterwarnings("ignore:find_lr. the loss did not fall")
@pytest.mark.parametrize("name", [name for name in READERS if name != "a reader"])
def test_find_lr_reads_a_reader_once_in_a_pass(name):
    data = READERS[name]()
    frame = make_model().find_lr(data, batch_size=SIZE, steps=12)
    assert len(frame) == 12
    assert times(data)[0] == 2


def test_find_lr_refuses_a_reader_that_may_be_used_up_before_it_asks():
    data = Reader(pairs())
    with pytest.raises(TypeError, match="would use up"):
        make_model().find_lr(data)
    assert times(data) == (0, 0)


@pytest.mark.parametrize("name", ["a dataset of samples", "a loader over samples"])
def test_summary_reads_the_first_batch_alone(name):
    data = READERS[name]()
    assert "Linear" in str(make_model().summary(data, verbose=0))
    asked, passes = times(data)
    assert asked == 1
    assert passes < 1.1


@pytest.mark.parametrize("name", ["a reader", "a reader with a length"])
def test_summary_refuses_a_reader_before_it_asks(name):
    data = READERS[name]()
    with pytest.raises(TypeError, match="or a DataLoader or Dataset"):
        make_model().summary(data, verbose=0)
    assert times(data) == (0, 0)
