"""find_lr leaves the user's data as it was: the next pass is the one that it would have been."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from data.kinds import Samples
from data.libraries import SIZE, N, X, Y, assert_trains_as, make_model, pairs

pytestmark = pytest.mark.filterwarnings("ignore:find_lr. the loss did not fall")


class Shuffled(IterableDataset):
    """Draws the order of each pass from a generator of its own."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def __iter__(self):
        for index in torch.randperm(N, generator=self.generator).tolist():
            yield X[index], Y[index]


class ByEpoch(IterableDataset):
    """Shuffles by the epoch that a loop sets, as streams of Hugging Face do."""

    def __init__(self):
        self.epoch = 7

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        for index in torch.randperm(N, generator=generator).tolist():
            yield X[index], Y[index]


class Noisy(Samples):
    """Draws noise from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.rand(3, generator=self.generator), y


class NoisyCollate:
    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, samples):
        x, y = torch.utils.data.default_collate(samples)
        return x + torch.rand(3, generator=self.generator), y


class Counting(Sampler):
    """Begins each pass one sample later than the one before."""

    def __init__(self):
        self.passes = 0

    def __len__(self):
        return N

    def __iter__(self):
        first, self.passes = self.passes, self.passes + 1
        return iter([(first + i) % N for i in range(N)])


class ShuffledBatches:
    """An iterable that is no dataset."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def __iter__(self):
        order = torch.randperm(N, generator=self.generator)
        return iter(pairs(X[order], Y[order]))


def counting_loader():
    return DataLoader(Samples(), batch_sampler=BatchSampler(Counting(), SIZE, drop_last=False))


def stream():
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face are not installed")
    rows = datasets.Dataset.from_dict({"x": X.tolist(), "labels": Y.tolist()})
    rows = rows.to_iterable_dataset(num_shards=2).with_format("torch")
    return rows.shuffle(seed=3, buffer_size=8)


READERS = {
    "a stream": Shuffled,
    "a stream that shuffles by the epoch": ByEpoch,
    "a stream of Hugging Face": stream,
    "a loader of a stream": lambda: DataLoader(Shuffled(), SIZE),
    "a loader of a stream of Hugging Face": lambda: DataLoader(stream(), SIZE),
    "batches": ShuffledBatches,
    "a dataset": Noisy,
    "a loader that draws when it collates": lambda: DataLoader(
        Samples(), SIZE, collate_fn=NoisyCollate()
    ),
    "a loader with a sampler that counts": counting_loader,
}


def passed(reader):
    """Return the items of a pass as a list of tensors."""
    items = [reader[i] for i in range(N)] if isinstance(reader, Noisy) else list(reader)
    rows = [item.values() if isinstance(item, dict) else item for item in items]
    return [torch.as_tensor(part) for row in rows for part in row]


@pytest.mark.parametrize("steps", [10, 14])  # the second and the third pass are left in the middle
@pytest.mark.parametrize("name", READERS)
def test_the_next_pass_is_the_one_that_it_would_have_been(name, steps):
    reader, untouched = READERS[name](), READERS[name]()
    frame = make_model(take_x).find_lr(reader, steps=steps, end=1e-3, batch_size=SIZE)
    assert len(frame) == steps
    for _ in range(2):
        for got, expected in zip(passed(reader), passed(untouched), strict=True):
            assert torch.equal(got, expected)


def take_x(net, batch):
    x, y = (batch["x"], batch["labels"]) if isinstance(batch, dict) else batch
    return net(x), y


def stateful_loader():
    loaders = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed"
    )
    return loaders.StatefulDataLoader(Samples(), SIZE)


def node():
    nodes = pytest.importorskip("torchdata.nodes", reason="torchdata is not installed")
    return nodes.Loader(nodes.IterableWrapper(pairs()))


@pytest.mark.parametrize("make", [stateful_loader, node])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_fit_after_it_trains_on_whole_passes(make):
    data = make()
    make_model().find_lr(data, steps=10)
    assert_trains_as([pairs()] * 2, data)
