"""An error of a reader keeps its type, and names the argument, the batch and the worker."""

import gc
from itertools import cycle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from data.kinds import Samples, Stream
from data.libraries import SIZE, N, X, Y, make_model, pairs
from fitorch.errors import DataError

FAILING = 9  # the number of the sample that cannot be read: in the third batch


PATH = "b.scan"


class ScanError(Exception):
    """An error whose constructor takes other arguments than a message."""

    def __init__(self, path, line):
        super().__init__(f"{path}: line {line}")
        self.path = path


def check(index, failing=FAILING):
    if index == failing:
        message = "no such scan"
        raise FileNotFoundError(message)


class Faulty(Samples):
    def __getitem__(self, index):
        check(index)
        return super().__getitem__(index)


class FaultyStream(Stream):
    """A stream of which each worker reads every second sample."""

    def __init__(self, failing=FAILING):
        super().__init__()
        self.failing = failing

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, N, step):
            check(index, self.failing)
            yield X[index], Y[index]


class FaultyBatches:
    def __iter__(self):
        for number, batch in enumerate(pairs()):
            check(number, 2)
            yield batch


class FaultyArray:
    """An array on disk of which a block is damaged."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        for index in np.atleast_1d(np.arange(N)[rows]):
            check(index)
        return self.array[rows]


class Numbered(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return X[index], Y[index], index


def faulty_collate(samples):
    for *_, index in samples:
        check(index)
    return default_collate([sample[:2] for sample in samples])


@pytest.fixture
def disk(tmp_path):
    """Features in a file of h5py."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X.numpy()
        yield file["x"]


def py_dataset():
    keras = pytest.importorskip("keras", reason="Keras is not installed")

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(pairs())

        def __getitem__(self, number):
            check(number, 2)
            return tuple(part.numpy() for part in pairs()[number])

    return Batches()


def rows():
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face are not installed")
    columns = {"index": list(range(N)), "x": X.tolist(), "labels": Y.tolist()}
    return datasets.Dataset.from_dict(columns)


def transformed():
    def transform(batch):
        for index in batch["index"]:
            check(index)
        return {name: torch.tensor(batch[name]) for name in ("x", "labels")}

    return rows().with_transform(transform)


def streamed():
    def transform(row):
        check(row["index"])
        return row

    stream = rows().to_iterable_dataset(num_shards=2)
    return stream.map(transform, remove_columns=["index"]).with_format("torch")


def node():
    nodes = pytest.importorskip("torchdata.nodes", reason="torchdata is not installed")

    def read(index):
        check(index)
        return X[index], Y[index]

    read_samples = nodes.Mapper(nodes.SamplerWrapper(list(range(N))), read)
    return nodes.Loader(nodes.Mapper(nodes.Batcher(read_samples, SIZE), default_collate))


def loader(data, workers, **options):
    return DataLoader(data, SIZE, num_workers=workers, **options)


# What reads, given a number of workers and an array on disk; None if it cannot have workers.
READERS = {
    "a dataset": lambda workers, disk: Faulty(),
    "a loader": lambda workers, disk: loader(Faulty(), workers),
    "a loader of a stream": lambda workers, disk: loader(FaultyStream(), workers),
    "collate_fn": lambda workers, disk: loader(Numbered(), workers, collate_fn=faulty_collate),
    "a PyDataset": lambda workers, disk: py_dataset(),
    "an array on disk": lambda workers, disk: (FaultyArray(disk[:] if workers else disk), Y),
    "Hugging Face": lambda workers, disk: transformed(),
    "a loader of Hugging Face": lambda workers, disk: loader(transformed(), workers),
    "a loader of a stream of Hugging Face": lambda workers, disk: loader(streamed(), workers),
}
ALONE = {
    "a stream": lambda workers, disk: FaultyStream(),
    "batches": lambda workers, disk: FaultyBatches(),
    "a node": lambda workers, disk: node(),
    "a stream of Hugging Face": lambda workers, disk: streamed(),
}

# Where it is read, and what the error says then.
STAGES = {
    "training": "epoch 1, training batch {} of train_data",
    "validation": "epoch 1, batch {} of val_data",
    "evaluate": "batch {} of val_data",
    "predict": "batch {} of data",
}


def read(stage, data, workers=0):
    """Read the data in a stage, with a net that takes what any of the readers calls x."""
    model = make_model(lambda net, batch: _forward(net, batch))
    options = {"batch_size": SIZE, "verbose": 0, "num_workers": workers}
    if stage == "training":
        model.fit(data, epochs=1, shuffle=False, **options)
    elif stage == "validation":
        model.fit((X, Y), data, epochs=1, **options)
    elif stage == "evaluate":
        model.evaluate(data, **options)
    else:
        model.predict(data, **options)


def _forward(net, batch):
    x, y = (batch["x"], batch["labels"]) if isinstance(batch, dict) else batch
    return net(x), y


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """Leave what was there before to itself: it takes a second to collect."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """End workers soon: torch waits five seconds for those whose loader an error left behind."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    yield
    gc.collect()


def note_of(kind, stage, data, workers=0):
    with pytest.raises(kind) as caught:
        read(stage, data, workers)
    [note] = caught.value.__notes__
    return note, caught.value


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", [*READERS, *ALONE])
def test_an_error_keeps_its_type_and_names_argument_and_batch(name, stage, disk):
    data = {**READERS, **ALONE}[name](0, disk)
    note, error = note_of(FileNotFoundError, stage, data)
    assert f"while reading {STAGES[stage].format(3)}" in note
    assert "worker" not in note
    assert str(error).startswith("no such scan")


# Each reader in one stage, and one of them in all: the stages share what names the worker.
IN_WORKERS = {
    *zip(READERS, cycle(STAGES), strict=False),
    *(("a loader", stage) for stage in STAGES),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), sorted(IN_WORKERS))
def test_an_error_in_a_worker_names_the_worker_too(name, stage, disk):
    note, error = note_of(FileNotFoundError, stage, READERS[name](2, disk), 2)
    # Of map-style data, the first worker reads the batches 1 and 3. In a stream, the workers take
    # turns: those of Hugging Face have a half of the samples each, the others every second sample.
    batch, worker = {"a loader of a stream": (4, 1)}.get(name, (3, 0))
    batch = 5 if name == "a loader of a stream of Hugging Face" else batch
    assert f"while reading {STAGES[stage].format(batch)} in worker {worker}" in note
    assert "no such scan" in str(error)


class OddlyFaulty(Samples):
    def __getitem__(self, index):
        if index == FAILING:
            raise ScanError(PATH, 3)
        return super().__getitem__(index)


class OddlyFaultyStream(Stream):
    def __iter__(self):
        yield from ((X[i], Y[i]) for i in range(FAILING))
        raise ScanError(PATH, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OddlyFaulty, OddlyFaultyStream])
def test_an_error_that_torch_cannot_construct_is_the_cause_of_the_one_it_raises(kind):
    note, error = note_of(RuntimeError, "training", loader(kind(), 1))
    assert "training batch 3 of train_data in worker 0" in note
    assert "b.scan: line 3" in str(error)
    assert type(error.__cause__) is ScanError


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_in_the_first_batch_of_a_stream_is_named(stage):
    note, _ = note_of(FileNotFoundError, stage, FaultyStream(0))
    assert note == f"while reading {STAGES[stage].format(1)}"


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_before_the_first_batch_is_named(stage):
    class Closed(IterableDataset):
        def __iter__(self):
            message = "no such scan"
            raise FileNotFoundError(message)

    for data in (Closed(), DataLoader(Closed(), SIZE)):
        note, _ = note_of(FileNotFoundError, stage, data)
        assert note == f"while reading {STAGES[stage].format(1)}"


def test_an_error_in_the_batch_that_is_tried_before_training_is_named():
    class FirstMissing(Samples):
        def __getitem__(self, index):
            check(index, 0)
            return super().__getitem__(index)

    note, _ = note_of(FileNotFoundError, "validation", FirstMissing())
    assert note.startswith("while reading batch 1 of val_data, one of the samples [0, 1, 2, 3]")


class Exhausted(Samples):
    """A dataset with fewer samples than its length says, which it reads by an iterator."""

    def __getitem__(self, index):
        return next(iter([super().__getitem__(index)][: FAILING - index]))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make", [lambda _: Exhausted(), lambda workers: loader(Exhausted(), workers)]
)
def test_a_dataset_that_ends_too_soon_does_not_end_the_epoch(make, workers):
    note, error = note_of(DataError, "training", make(workers), workers)
    assert "training batch 3 of train_data" in note
    assert "raised StopIteration in the middle of the data" in str(error)
