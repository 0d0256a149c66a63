"""Streams and pipelines of webdataset and torchdata."""

import gc
import io
import tarfile
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from data.kinds import Samples
from data.libraries import SAME_BITS, SIZE, WARNED, N, Seen, X, Y, assert_trains_as, pairs, resumed

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

# webdataset: tar files of samples


@pytest.fixture
def shards(tmp_path):
    """Write the samples to two tar files."""
    paths = []
    for part in range(2):
        paths.append(str(tmp_path / f"shard-{part}.tar"))
        with tarfile.open(paths[-1], "w") as tar:
            for i in range(part * 11, part * 11 + 11):
                for name, array in (("x.npy", X[i].numpy()), ("y.npy", Y[i].numpy())):
                    data = io.BytesIO()
                    np.save(data, array)
                    info = tarfile.TarInfo(f"{i:03}.{name}")
                    info.size = data.tell()
                    data.seek(0)
                    tar.addfile(info, data)
    yield paths
    with warnings.catch_warnings():  # webdataset leaves files to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def web(shards, **more):
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    data = wds.WebDataset(shards, shardshuffle=False, **more)
    return data.decode().to_tuple("x.npy", "y.npy")


def web_loader(shards, workers):
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    data = web(shards).batched(SIZE)
    return wds.WebLoader(data, batch_size=None, num_workers=workers)


WEB = {
    "samples": web,
    "batches": lambda shards: web(shards).batched(SIZE),
    "batches of tensors": lambda shards: web(shards).batched(SIZE, partial=True),
    "a loader of samples": lambda shards: DataLoader(web(shards), SIZE),
    "WebLoader": lambda shards: web_loader(shards, 0),
    "a loader of batches": lambda shards: DataLoader(web(shards).batched(SIZE), None),
}


def web_in_order(make, shards):
    """Return the batches of two passes as the reader itself yields them."""
    return [[tuple(map(torch.as_tensor, batch)) for batch in make(shards)] for _ in range(2)]


@pytest.mark.parametrize("make", WEB.values(), ids=WEB)
def test_tar_files_train_as_by_hand(make, shards):
    settings = {} if make is web else {"batch_size": None}
    assert_trains_as([pairs()] * 2, make(shards), **settings)


@pytest.mark.parametrize("make", WEB.values(), ids=WEB)
def test_tar_files_resume_exactly(make, shards, tmp_path):
    settings = {} if make is web else {"batch_size": None}
    assert resumed(lambda: make(shards), tmp_path, **settings) == SAME_BITS


WEB_WORKERS = {
    "WebLoader": lambda shards: web_loader(shards, 2),
    "a loader of batches": lambda shards: DataLoader(
        web(shards).batched(SIZE), None, num_workers=2
    ),
    "a loader of samples": lambda shards: DataLoader(web(shards), SIZE, num_workers=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", WEB_WORKERS.values(), ids=WEB_WORKERS)
def test_tar_files_read_by_workers_train_as_by_hand(make, shards):
    assert_trains_as(web_in_order(make, shards), make(shards), batch_size=None)


@pytest.mark.slow
@pytest.mark.parametrize("make", WEB_WORKERS.values(), ids=WEB_WORKERS)
def test_tar_files_read_by_workers_resume_exactly(make, shards, tmp_path):
    assert resumed(lambda: make(shards), tmp_path, batch_size=None) == SAME_BITS


def test_tar_files_shuffled_by_a_seed_resume_exactly_or_warn(shards, tmp_path):
    def make():
        return web(shards).shuffle(7, seed=5)

    assert resumed(make, tmp_path) in (SAME_BITS, WARNED)


def test_tar_files_shuffled_without_a_seed_resume_with_a_warning(shards, tmp_path):
    def make():
        return web(shards).shuffle(7)

    assert resumed(make, tmp_path) == WARNED


# torchdata


def stateful(workers, data=None, **more):
    loaders = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed"
    )
    data = Samples((X, Y)) if data is None else data
    with warnings.catch_warnings():  # of torch, about what torchdata calls
        warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
        return loaders.StatefulDataLoader(data, SIZE, num_workers=workers, **more)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_trains_as_by_hand(workers):
    assert_trains_as([pairs()] * 2, stateful(workers))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stateful_loader_resumes_exactly(workers, shuffle, tmp_path):
    def make():
        torch.manual_seed(2)
        return stateful(workers, shuffle=shuffle)

    assert resumed(make, tmp_path) == SAME_BITS


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stateful_loader_over_a_stream_of_hugging_face_resumes_exactly(workers, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face are not installed")

    def make():
        rows = datasets.Dataset.from_dict({"x": X.tolist(), "labels": Y.tolist()})
        data = rows.to_iterable_dataset(num_shards=2).with_format("torch")
        return stateful(workers, data)

    assert resumed(make, tmp_path, net=TakesX) == SAME_BITS


class TakesX(Seen):
    def forward(self, x):
        return super().forward(x)


def as_sample(index):
    return X[index], Y[index]


def nodes(name, shuffled=False):
    nodes = pytest.importorskip("torchdata.nodes", reason="torchdata is not installed")
    generator = torch.Generator().manual_seed(4)
    sampler = RandomSampler(range(N), generator=generator) if shuffled else range(N)
    if name == "mapped":
        node = nodes.Mapper(nodes.SamplerWrapper(list(sampler)), as_sample)
        node = nodes.Batcher(node, SIZE, drop_last=False)
        node = nodes.Mapper(node, torch.utils.data.default_collate)
    elif name == "threads":
        node = nodes.Batcher(
            nodes.ParallelMapper(
                nodes.SamplerWrapper(sampler if shuffled else SequentialSampler(range(N))),
                as_sample,
                num_workers=2,
            ),
            SIZE,
            drop_last=False,
        )
        node = nodes.Mapper(node, torch.utils.data.default_collate)
    elif name == "a map-style source":
        data = Samples((X, Y))
        node = nodes.MapStyleWrapper(data, sampler if shuffled else SequentialSampler(data))
        node = nodes.Batcher(node, SIZE, drop_last=False)
        node = nodes.Mapper(node, torch.utils.data.default_collate)
    else:
        node = nodes.IterableWrapper(pairs())
        node = nodes.Prefetcher(node, 2)
    return nodes.Loader(node)


NODES = ["mapped", "threads", "a map-style source", "prefetched"]


@pytest.mark.parametrize("name", NODES)
def test_nodes_train_as_by_hand(name):
    assert_trains_as([pairs()] * 2, nodes(name))


@pytest.mark.parametrize("name", ["threads", "a map-style source"])
def test_shuffled_nodes_train_as_by_hand(name):
    hand = nodes(name, shuffled=True)
    passes = [list(hand) for _ in range(2)]
    assert not torch.equal(passes[0][0][0], passes[1][0][0])
    assert_trains_as(passes, nodes(name, shuffled=True))


@pytest.mark.parametrize("name", NODES)
def test_nodes_resume_exactly(name, tmp_path):
    assert resumed(lambda: nodes(name), tmp_path) == SAME_BITS


@pytest.mark.parametrize("name", ["threads", "a map-style source"])
def test_shuffled_nodes_resume_exactly(name, tmp_path):
    assert resumed(lambda: nodes(name, shuffled=True), tmp_path) == SAME_BITS


def test_data_pipes_train_as_by_hand(tmp_path):
    pipes = pytest.importorskip(
        "torch.utils.data.datapipes.iter", reason="this torch has no DataPipes"
    )

    def make():
        samples = pipes.IterableWrapper(list(zip(X, Y, strict=True)))
        return samples.batch(SIZE).collate()

    assert_trains_as([pairs()] * 2, make(), batch_size=None)
    assert resumed(make, tmp_path, batch_size=None) == SAME_BITS
