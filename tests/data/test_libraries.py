"""Datasets of Hugging Face, as map() leaves them, formatted and streamed."""

import pytest
import torch
from torch.utils.data import DataLoader

from data.libraries import (
    SAME_BITS,
    SIZE,
    WARNED,
    N,
    Seen,
    X,
    Y,
    assert_trains_as,
    fit,
    pairs,
    resumed,
)
from fitorch.errors import DataError

datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face are not installed")

datasets.disable_progress_bars()


class Named(Seen):
    """Takes a column by name."""

    def forward(self, x):
        return super().forward(torch.as_tensor(x))


def rows(**more):
    columns = {"x": X.tolist(), "labels": Y.tolist(), **more}
    return datasets.Dataset.from_dict(columns)


def mapped():
    return rows(text=[f"text {i}" for i in range(N)]).map(lambda row: {"length": len(row["text"])})


def stream(shuffled=False):
    data = rows().to_iterable_dataset(num_shards=2)
    return data.shuffle(seed=5, buffer_size=7) if shuffled else data


def of_stream(data, epoch=0, size=SIZE):
    """Return the batches of samples that a loop by hand makes of the rows of a stream."""
    data.set_epoch(epoch)
    listed = list(data)
    x = torch.tensor([[float(value) for value in row["x"]] for row in listed])
    y = torch.tensor([[float(value) for value in row["labels"]] for row in listed])
    return pairs(x, y, size)


IN_MEMORY = {
    "lists": rows,
    "torch": lambda: rows().with_format("torch"),
    "numpy": lambda: rows().with_format("numpy"),
    "torch, set in place": lambda: formatted("torch"),
    "a split": lambda: datasets.DatasetDict({"train": rows()})["train"],
    "selected": lambda: rows().select(range(N)),
    "through a loader": lambda: DataLoader(rows().with_format("torch"), SIZE),
    "through a loader with workers": lambda: DataLoader(
        rows().with_format("torch"), SIZE, num_workers=2
    ),
}


def formatted(name):
    data = rows()
    data.set_format(name)
    return data


@pytest.mark.parametrize("make", IN_MEMORY.values(), ids=IN_MEMORY)
def test_rows_train_as_by_hand(make):
    assert_trains_as([pairs()] * 2, make(), Named)


@pytest.mark.parametrize("make", IN_MEMORY.values(), ids=IN_MEMORY)
def test_rows_resume_exactly(make, tmp_path):
    assert resumed(make, tmp_path, shuffle=True) == SAME_BITS


@pytest.mark.parametrize("workers", [0, 2])
def test_columns_that_the_net_does_not_take_are_left_out(workers):
    with pytest.warns(UserWarning, match="does not take text, length, which the batch contains"):
        assert_trains_as([pairs()] * 2, mapped(), Named, num_workers=workers)


@pytest.mark.parametrize("name", [None, "torch", "numpy"])
def test_columns_with_none_that_the_net_does_not_take_are_left_out(name):
    data = rows(note=[None if i % 3 else i for i in range(N)]).with_format(name)
    with pytest.warns(UserWarning, match="does not take note"):
        assert_trains_as([pairs()] * 2, data, Named)


KEPT = {
    "texts": [f"text {i}" for i in range(N)],
    "lists of texts": [["word"] * (i % 3) for i in range(N)],
    "mappings of lists": [{"start": [1] * (i % 2), "text": ["a"] * (i % 2)} for i in range(N)],
    "numbers and None": [None if i % 3 else i for i in range(N)],
    "lists with None": [[i, None] if i % 3 else [i, i] for i in range(N)],
}


class Lists(Named):
    """Notes what it gets of a column."""

    def forward(self, x, more):
        self.shapes.append(more)
        return super().forward(x)


@pytest.mark.parametrize("column", KEPT.values(), ids=KEPT)
def test_columns_that_cannot_be_stacked_reach_the_net_as_lists(column):
    model, _ = fit(rows(more=column), net=Lists(), epochs=1)
    assert model.net.shapes[::2] == [column[i : i + SIZE] for i in range(0, N, SIZE)]


def test_numbers_of_different_lengths_are_refused_with_the_name_of_their_column():
    data = rows(more=[[1] * (1 + i % 3) for i in range(N)])
    with pytest.raises(RuntimeError, match=r"equal size.*column 'more'; remove it") as error:
        fit(data, net=Named())
    assert "collate_fn" in error.value.__notes__[0]


STREAMS = {
    "directly": (lambda data: data, 0),
    "through a loader": (lambda data: DataLoader(data.with_format("torch"), SIZE), 0),
}


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("wrap", "workers"), STREAMS.values(), ids=STREAMS)
def test_streams_train_as_by_hand(wrap, workers, shuffled):
    passes = [of_stream(stream(shuffled), epoch) for epoch in range(2)]
    assert_trains_as(passes, wrap(stream(shuffled)), Named)


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_streams_with_workers_train_as_by_hand(shuffled):
    def loader():
        return DataLoader(stream(shuffled).with_format("torch"), SIZE, num_workers=2)

    passes = []
    for epoch in range(2):
        hand = loader()
        hand.dataset.set_epoch(epoch)
        passes.append([(batch["x"], batch["labels"]) for batch in hand])
    assert_trains_as(passes, loader(), Named)


def read_by(workers, shuffled):
    data = stream(shuffled).with_format("torch")
    return data if workers is None else DataLoader(data, SIZE, num_workers=workers)


@pytest.mark.parametrize("workers", [None, 0, pytest.param(2, marks=pytest.mark.slow)])
def test_streams_resume_exactly(workers, tmp_path):
    assert resumed(lambda: read_by(workers, False), tmp_path) == SAME_BITS


DERIVED = {
    "mapped": lambda data: data.map(lambda row: row),
    "filtered": lambda data: data.filter(lambda row: float(row["labels"][0]) > -1),
    "interleaved": lambda data: datasets.interleave_datasets([data, data]),
}


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # of datasets
@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_derived_streams_train_as_by_hand_and_resume_exactly(derive, tmp_path):
    def make():
        return derive(stream().with_format("torch"))

    assert_trains_as([of_stream(make())] * 2, make(), Named)
    assert resumed(make, tmp_path) == SAME_BITS


def test_a_stream_of_batches_trains_as_by_hand_and_resumes_exactly(tmp_path):
    def make():
        return stream().with_format("torch").batch(SIZE)

    assert_trains_as([pairs()] * 2, make(), Named, batch_size=None)
    assert resumed(make, tmp_path, batch_size=None) == SAME_BITS


@pytest.mark.parametrize(
    "workers",
    [
        None,
        0,
        pytest.param(2, marks=pytest.mark.slow),
    ],
)
def test_shuffled_streams_resume_exactly_or_warn(workers, tmp_path):
    assert resumed(lambda: read_by(workers, True), tmp_path) in (SAME_BITS, WARNED)


# Formats, and batches


TEXT = [f"text {i}" for i in range(N)]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.filterwarnings("ignore:Named.forward does not take")
def test_columns_of_texts_are_read_alike_in_all_formats(streamed):
    data = rows(text=TEXT, words=[[text, "b"][: 1 + i % 2] for i, text in enumerate(TEXT)])
    for name in (None, "torch", "numpy"):
        kind = data.to_iterable_dataset() if streamed else data
        assert_trains_as([pairs()] * 2, kind.with_format(name), Named)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ["arrow", "polars"])
def test_formats_of_tables_are_refused(name, streamed):
    data = rows().to_iterable_dataset() if streamed else rows()
    with pytest.raises(DataError, match=r"format.* of tables.*with_format\('torch'\)"):
        fit(data.with_format(name), net=Named())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", [None, "torch", "numpy"])
def test_batches_of_the_library_are_batches_with_batch_size_none(streamed, name):
    data = (rows().to_iterable_dataset() if streamed else rows()).with_format(name).batch(SIZE)
    assert_trains_as([pairs()] * 2, data, Named, batch_size=None)


def test_batches_of_the_library_are_told_from_samples_by_a_warning():
    with pytest.warns(UserWarning, match="are taken for samples"):
        fit(rows().batch(11), net=Named())
    with pytest.warns(UserWarning, match="are taken for batches"):
        assert_trains_as([pairs(size=11)] * 2, rows().to_iterable_dataset().batch(11), Named)
