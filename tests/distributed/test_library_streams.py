"""Readers of other libraries in two processes: shares of any size, figures of all, resume."""

import importlib.util
import io
import tarfile
import warnings

import numpy as np
import pytest
import torch
from distributed.cuts import fit_or_cut
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from fitorch import KerasModel, NotBitExactWarning
from fitorch.callbacks import LambdaCallback

N, SIZE = 42, 4
CUT = 6  # updates, after which the second process has no batch left where shares are uneven
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
X[:, 2] = torch.arange(N)  # the number of the sample, which the net does not use
Y = X[:, :2].sum(1, keepdim=True)


class Net(nn.Module):
    """A linear net that notes the samples that it trains on, in a list for each epoch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(2, 1)
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen[-1] += x[:, 2].long().tolist()
        return self.linear(x[:, :2])


def make_model(rate):
    return KerasModel(Net(), "mse", {"mae": "mae"}, lambda p: torch.optim.SGD(p, rate, 0.5))


def place_of_process():
    make_model(0.0).place(cpu=True)  # joins the group
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


# Readers: made in each process, of which each sees its share, or all.


def rows_by_sample():
    """Return one shard of Hugging Face, of which each process takes every second sample."""
    return _of_hugging_face(1)


def shuffled_rows():
    """Return shuffled shards of Hugging Face, a half of them for each process."""
    return _of_hugging_face(4, shuffles=True)


def _of_hugging_face(shards, shuffles=False):
    from datasets import Dataset
    from datasets.distributed import split_dataset_by_node

    rows = Dataset.from_dict({"x": X[:-1].tolist(), "labels": Y[:-1].tolist()})
    stream = rows.to_iterable_dataset(num_shards=shards).with_format("torch")
    if shuffles:
        stream = stream.shuffle(seed=4, buffer_size=5)
    return split_dataset_by_node(stream, *place_of_process())


def uneven_rows():
    """Return shards of Hugging Face of different sizes."""
    from datasets import IterableDataset
    from datasets.distributed import split_dataset_by_node

    def generate(parts):
        for part in parts:
            for i in part:
                yield {"x": X[i].tolist(), "labels": Y[i].tolist()}

    parts = [range(30), range(30, N - 1)]
    stream = IterableDataset.from_generator(generate, gen_kwargs={"parts": parts})
    return split_dataset_by_node(stream.with_format("torch"), *place_of_process())


def _web(folder):
    import webdataset

    place_of_process()
    paths = [str(folder / f"{part}.tar") for part in range(2)]
    # webdataset leaves files to the garbage collector.
    warnings.filterwarnings("ignore", category=ResourceWarning)
    return webdataset.WebDataset(paths, shardshuffle=False, nodesplitter=webdataset.split_by_node)


def tar_files(folder):
    return _web(folder).decode().to_tuple("x.npy", "y.npy").batched(SIZE)


def tar_files_shuffled_otherwise_in_each_pass(folder):
    return _web(folder).shuffle(9).decode().to_tuple("x.npy", "y.npy").batched(SIZE)


class Samples(Dataset):
    def __len__(self):
        return N - 1

    def __getitem__(self, index):
        return X[index], Y[index]


class Shares(IterableDataset):
    """The first process has two thirds of the samples."""

    def __init__(self, rank):
        self.part = (range(28), range(28, N - 1))[rank]

    def __iter__(self):
        return ((X[i], Y[i]) for i in self.part)


def _stateful_loader(data, **options):
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(data, SIZE, **options)


def stateful_loader():
    place_of_process()
    return _stateful_loader(Samples())


def shuffling_stateful_loader():
    place_of_process()
    return _stateful_loader(Samples(), shuffle=True)


def stateful_loader_of_shares():
    return _stateful_loader(Shares(place_of_process()[0]))


READERS = {
    "datasets": [rows_by_sample, shuffled_rows, uneven_rows],
    "webdataset": [tar_files, tar_files_shuffled_otherwise_in_each_pass],
    "torchdata": [stateful_loader, shuffling_stateful_loader, stateful_loader_of_shares],
}


def separated(model):
    return LambdaCallback(on_epoch_begin=lambda epoch, logs: model.net.seen.append([]))


def options_of(make):
    return {"batch_size": None if "tar" in make.__name__ else SIZE, "verbose": 0}


def measured(make, args):
    """Return the figures of two epochs that change no weight, of evaluate, and the samples."""
    made = make_model(0.0)
    options = {"epochs": 2, "seed": 3, "cpu": True, **options_of(make)}
    frame = made.fit(make(*args), make(*args), callbacks=[separated(made)], **options)
    result = made.evaluate(make(*args), **options_of(make))
    return frame.drop(columns=["seconds", "lr"]).to_dict("list"), result, made.net.seen


def trained(make, args, folder, cut=None, resume=False):
    """Return the weights after 3 epochs, whether the fit warned, and whether it ended."""
    made = make_model(1e-4)
    options = {"ckpt_path": folder, "resume": resume, "save_every_n_steps": CUT - 1, "cpu": True}
    # Few checkpoints: writing them takes more time than the training.
    options |= options_of(make)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotBitExactWarning)
        ended = fit_or_cut(made, make(*args), None, cut, [separated(made)], **options)
    warned = any(issubclass(warning.category, NotBitExactWarning) for warning in caught)
    return made.net.linear.weight.detach(), warned, ended, sum(map(len, made.net.seen))


def all_of(makes, args, folder):
    """Do everything with each reader in one call of the processes."""
    answers = {}
    for make in makes:
        own, name = folder / make.__name__, make.__name__
        answers[name] = {
            "figures": measured(make, args),
            "whole": trained(make, args, own / "whole"),
            "cut": trained(make, args, own / "cut", cut=CUT),
            "resumed": trained(make, args, own / "cut", resume=True),
        }
    return answers


@pytest.fixture
def tar_folder(tmp_path):
    """Write two tar files, of which the first has more samples."""
    for part, samples in enumerate((range(26), range(26, N - 1))):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            for i in samples:
                for name, array in (("x.npy", X[i].numpy()), ("y.npy", Y[i].numpy())):
                    data = io.BytesIO()
                    np.save(data, array)
                    info = tarfile.TarInfo(f"{i:03}.{name}")
                    info.size = data.tell()
                    data.seek(0)
                    tar.addfile(info, data)
    return tmp_path


def assert_figures_of_all(answers):
    """Compare with the closed form: the weights do not change."""
    with torch.no_grad():
        error = Net().eval()(X[:-1]) - Y[:-1]
    loss, mae = error.square().mean().item(), error.abs().mean().item()
    for frame, result, _ in answers:
        for name, value in (("loss", loss), ("mae", mae)):
            assert frame[f"train_{name}"] == pytest.approx([value] * 2, rel=1e-5)
            assert frame[f"val_{name}"] == pytest.approx([value] * 2, rel=1e-5)
            assert result[f"val_{name}"] == pytest.approx(value, rel=1e-5)


def assert_same_bits_or_warned(answers, expects_warning):
    for answer in answers:
        weight, warned, ended, seen = answer["resumed"]
        assert ended
        assert not answer["cut"][2]
        assert seen < answer["whole"][3], "the fit was not resumed"
        assert warned == expects_warning
        if not expects_warning:
            assert torch.equal(weight, answer["whole"][0])
    assert torch.equal(answers[0]["resumed"][0], answers[1]["resumed"][0])


@pytest.mark.parametrize("library", READERS)
def test_each_sample_counts_once_and_a_fit_resumes_with_the_same_bits(
    two, library, tar_folder, tmp_path
):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    makes = READERS[library]
    args = (tar_folder,) if library == "webdataset" else ()
    answers = two.run(all_of, makes, args, tmp_path)
    for make in makes:
        both = [answer[make.__name__] for answer in answers]
        figures = [answer["figures"] for answer in both]
        assert_figures_of_all(figures)
        # A process without a batch repeats its last one, which counts nothing: see the figures.
        for first, second in zip(*(seen for *_, seen in figures), strict=True):
            assert not set(first) & set(second)
            assert {*first, *second} == {*range(N - 1)}
        assert_same_bits_or_warned(both, "otherwise" in make.__name__)
