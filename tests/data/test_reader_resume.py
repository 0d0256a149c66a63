"""Fits on readers with their own state, cut and resumed, against an uninterrupted run."""

import warnings
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from data.kinds import Samples
from data.libraries import SIZE, Cut, CutAfter, N, Seen, X, Y, assert_trains_as, fit, pairs
from fitorch import NotBitExactWarning
from fitorch.callbacks import Callback

SAMPLES = list(zip(X, Y, strict=True))
STEPS = 6  # in an epoch


class CutInValidation(Callback):
    def on_test_batch_end(self, batch, logs=None):
        raise Cut


class TakesX(Seen):
    def forward(self, x):
        return super().forward(x)


class Drops(Seen):
    """Draws random numbers between two batches."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.3, self.training))


def assert_resumes(make, folder, cuts, net=Seen, **arguments):
    """Cut a fit in several places, and compare what is resumed with an uninterrupted run.

    A cut is a number of updates, "validation" of the first epoch, or "epoch", after it.
    """

    def run(seed, **more):
        torch.manual_seed(seed)
        np.random.seed(seed)
        settings = {"val_data": (X, Y), "epochs": 3, **arguments, **more}
        return fit(make(), net=net(), **settings)

    whole, frame = run(1, ckpt_path=folder / "whole")
    for cut in cuts:
        taken = cut if isinstance(cut, int) else STEPS
        settings = {"ckpt_path": folder / f"{cut}", "save_every_n_steps": taken}
        callback = CutInValidation() if cut == "validation" else CutAfter(taken)
        with suppress(Cut):
            run(2, **settings, **({"epochs": 1} if cut == "epoch" else {"callbacks": [callback]}))
        model, after = run(3, resume=True, **settings)
        assert len(model.net.shapes) == 3 * STEPS - taken, cut
        assert frame.equals(after), cut
        for ours, theirs in zip(model.net.parameters(), whole.net.parameters(), strict=True):
            assert torch.equal(ours, theirs), cut


# torchdata's nodes


def nodes(sampler, prefetches=False):
    nodes = pytest.importorskip("torchdata.nodes", reason="torchdata is not installed")
    node = nodes.Batcher(nodes.MapStyleWrapper(Samples(), sampler), SIZE, drop_last=False)
    node = nodes.Mapper(node, default_collate)
    return nodes.Loader(nodes.Prefetcher(node, 2) if prefetches else node)


def seeded():
    return torch.Generator().manual_seed(4)


NODES = {
    "in order": (lambda: nodes(SequentialSampler(X)), [STEPS, "validation"]),
    "shuffled": (lambda: nodes(RandomSampler(X)), ["epoch", 9]),
    "shuffled by a generator": (
        lambda: nodes(RandomSampler(X, generator=seeded())),
        ["epoch", "validation"],
    ),
    "prefetched": (
        lambda: nodes(RandomSampler(X, generator=seeded()), prefetches=True),
        [STEPS, 9],
    ),
}


@pytest.mark.parametrize(("make", "cuts"), NODES.values(), ids=NODES)
def test_nodes_resume_anywhere(make, cuts, tmp_path):
    assert_resumes(make, tmp_path, cuts)


def test_nodes_over_a_stream_with_a_shuffle_buffer_are_read_again(tmp_path):
    nodes = pytest.importorskip("torchdata.nodes", reason="torchdata is not installed")

    def make():
        node = nodes.Batcher(nodes.IterableWrapper(shuffled_stream()), SIZE, drop_last=False)
        return nodes.Loader(nodes.Mapper(node, default_collate))

    assert_resumes(make, tmp_path, [9], TakesX)


# Streams of Hugging Face with a shuffle buffer


def stream():
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face are not installed")
    rows = datasets.Dataset.from_dict({"x": X.tolist(), "labels": Y.tolist()})
    return rows.to_iterable_dataset(num_shards=2).with_format("torch")


def shuffled_stream():
    return stream().shuffle(seed=5, buffer_size=7)


@pytest.mark.parametrize("name", ["interleave_datasets", "concatenate_datasets"])
def test_joined_streams_with_a_shuffle_buffer_resume_anywhere(name, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face are not installed")

    def make():
        return getattr(datasets, name)([shuffled_stream(), stream()]).take(N)

    assert_resumes(make, tmp_path, [9], TakesX)


# torchdata's StatefulDataLoader


def stateful(data, workers=0, **more):
    loaders = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed"
    )
    with warnings.catch_warnings():  # of torch, about what torchdata calls
        warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
        return loaders.StatefulDataLoader(data, SIZE, num_workers=workers, **more)


def mixed(samples):
    x, y = default_collate(samples)
    order, share = torch.randperm(len(x)), float(np.random.beta(1, 1))
    return share * x + (1 - share) * x[order], share * y + (1 - share) * y[order]


SLOW = pytest.param(2, marks=pytest.mark.slow)


@pytest.mark.parametrize("workers", [0, SLOW])
def test_a_stateful_loader_with_a_generator_resumes_anywhere(workers, tmp_path):
    def make():
        return stateful(Samples(), workers, shuffle=True, generator=seeded())

    assert_trains_as([list(data) for data in [make()] for _ in range(3)], make())
    assert_resumes(make, tmp_path, [9])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_mixes_the_same_with_any_workers(workers, tmp_path):
    data = {count: stateful(Samples(), count, collate_fn=mixed) for count in (0, workers)}
    assert len({fit(loader)[1]["train_loss"].iloc[-1] for loader in data.values()}) == 1
    assert_resumes(lambda: stateful(Samples(), workers, collate_fn=mixed), tmp_path, [9])


@pytest.mark.parametrize("workers", [0, SLOW])
def test_a_stateful_loader_over_a_stream_with_a_shuffle_buffer_is_read_again(workers, tmp_path):
    assert_resumes(lambda: stateful(shuffled_stream(), workers), tmp_path, [3], TakesX)


def test_a_stateful_loader_that_was_given_a_state_begins_there():
    data = stateful(Samples())
    next(iter(data))
    other = stateful(Samples())
    other.load_state_dict(data.state_dict())
    assert_trains_as([pairs()[1:], pairs()], other)


# Streams of a user's own


class Positioned(IterableDataset):
    """Holds its position as state, which is 0 again when it has ended."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < N:
            self.at += 1
            yield SAMPLES[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Ahead(Positioned):
    """Yields batches, and is at its beginning again when it yields the last one."""

    def __iter__(self):
        for at in range(self.at, STEPS):
            self.at = (at + 1) % STEPS
            yield pairs()[at]


class Counting(IterableDataset):
    """Counts its own epochs, which decide its order."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        for index in np.random.RandomState(self.epoch).permutation(N):
            yield SAMPLES[index]


class Noisy(IterableDataset):
    def __iter__(self):
        for x, y in SAMPLES:
            yield x + 0.1 * torch.randn(3), y


OWN = {
    "a position": (Positioned, [STEPS, 9]),
    "a loader over a position": (lambda: DataLoader(Positioned(), SIZE), [STEPS, "validation"]),
    "a position that is 0 with the last batch": (lambda: DataLoader(Ahead(), None), [STEPS, 9]),
    "counted epochs": (Counting, ["epoch", 9]),
    "a loader over counted epochs": (lambda: DataLoader(Counting(), SIZE), ["validation"]),
}


@pytest.mark.parametrize(("make", "cuts"), OWN.values(), ids=OWN)
def test_a_stream_with_state_resumes_anywhere(make, cuts, tmp_path):
    assert_resumes(make, tmp_path, cuts)


NOISY = {
    "a stream": Noisy,
    "a loader over a stream": lambda: DataLoader(Noisy(), SIZE),
    "a loader that mixes": lambda: DataLoader(Noisy(), SIZE, collate_fn=mixed),
}


@pytest.mark.parametrize("make", NOISY.values(), ids=NOISY)
def test_noise_between_that_of_the_net_resumes_exactly_without_a_warning(make, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotBitExactWarning)
        assert_resumes(make, tmp_path, [9], Drops)


# Datasets of batches that shuffle themselves


def make_shuffling(keras, kind, place):
    class Shuffling(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.order = np.arange(N)
            self.frame = pd.DataFrame(self.order)
            self.generator = np.random.default_rng(4)

        def __len__(self):
            return STEPS

        def __getitem__(self, index):
            rows = slice(index * SIZE, (index + 1) * SIZE)
            order = self.frame[0].to_numpy() if place == "a table" else self.order
            return X.numpy()[order[rows]], Y.numpy()[order[rows]]

        def on_epoch_end(self):
            generator = np.random if kind == "global" else self.generator
            if place == "in place":
                generator.shuffle(self.order)
            elif place == "another array":
                self.order = generator.permutation(N)
            else:
                self.frame = self.frame.iloc[generator.permutation(N)]

    return Shuffling()


@pytest.fixture
def shuffling(keras):
    return partial(make_shuffling, keras)


@pytest.mark.parametrize(
    ("kind", "place", "cuts"),
    [
        ("own", "in place", [9, "epoch"]),
        ("own", "another array", [STEPS]),
        ("global", "in place", ["validation"]),
        ("global", "another array", [9]),
    ],
)
def test_a_py_dataset_that_shuffles_itself_resumes_anywhere(shuffling, kind, place, cuts, tmp_path):
    assert_resumes(lambda: shuffling(kind, place), tmp_path, cuts)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["in place", "a table"])
def test_what_a_py_dataset_shuffles_reaches_workers(shuffling, place, workers):
    hand, passes = shuffling("own", place), []
    for _ in range(3):
        passes.append([tuple(map(torch.tensor, hand[i])) for i in range(STEPS)])
        hand.on_epoch_end()
    assert not torch.equal(passes[1][0][0], passes[2][0][0])
    assert_trains_as(passes, shuffling("own", place), num_workers=workers)


def test_an_order_that_a_checkpoint_does_not_hold_is_named(shuffling, tmp_path):
    def run(**more):
        data = shuffling("own", "a table")
        return fit(data, ckpt_path=tmp_path, **more)

    run(epochs=1)
    with pytest.warns(NotBitExactWarning, match="frame of a Shuffling changed from epoch to epoch"):
        run(epochs=2, resume=True)


# Data that a callback edits in place


class Chosen(Dataset):
    def __init__(self):
        self.chosen = list(range(SIZE))

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return SAMPLES[self.chosen[index]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_list_that_a_callback_edits_in_place_reaches_workers(workers):
    data = Chosen()

    class Edits(Callback):
        def on_epoch_end(self, epoch, logs=None):
            data.chosen[:] = range(SIZE * (epoch + 1), SIZE * (epoch + 2))

    passes = [[pair] for pair in pairs()[:3]]
    assert_trains_as(passes, data, num_workers=workers, callbacks=[Edits()])
