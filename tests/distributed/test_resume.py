"""A fit of several processes goes on with the same bits; and with another number of processes."""

import pytest
import torch
from distributed.cuts import fit_or_cut, going_on_elsewhere
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from fitorch import KerasModel, list_checkpoints
from fitorch.callbacks import EarlyStopping

SAMPLES = 90


class Net(nn.Module):
    """Notes the number of each sample, which is its last feature, and draws random numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3)
        )
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x[:, 4].long().tolist())
        return self.layers(x[:, :4])


def data():
    x = torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(1))
    y = x[:, :3].argmax(1)
    x[:, 4] = torch.arange(SAMPLES)
    return x, y


def fit(folder, cut=None, batch_size=6, **options):
    """Train 3 epochs; return what became of it, and the samples that were trained on."""
    net = Net()
    model = KerasModel(net, nn.CrossEntropyLoss(), {"acc": "acc", "auc": "auroc"}, "adam")
    x, y = data()
    options |= {"ckpt_path": folder, "batch_size": batch_size}
    validated, patient = (x[:31], y[:31]), [EarlyStopping(patience=9)]
    ended = fit_or_cut(model, (x, y), validated, cut, patient, **options)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    table = repr(model.history.frame.drop(columns="seconds", errors="ignore").to_dict("list"))
    return weights, table, net.seen, ended


@pytest.mark.parametrize(
    "after",
    [pytest.param(1, marks=pytest.mark.slow), 2, 5, pytest.param(8, marks=pytest.mark.slow)],
)
def test_a_fit_of_several_goes_on_with_the_same_bits(several, tmp_path, after):
    options = {"gradient_accumulation_steps": 1 + after % 2}
    whole = several.run(fit, tmp_path / "whole", **options)
    cut = several.run(fit, tmp_path / "cut", cut=after, **options)
    assert not any(each[3] for each in cut)
    resumed = several.run(fit, tmp_path / "cut", resume=True, **options)
    for one, other in zip(resumed, whole, strict=True):
        assert one[1] == other[1]
        assert all(torch.equal(one[0][name], other[0][name]) for name in other[0])


@pytest.mark.parametrize("sizes", [(6, 6), (6, 4), (5, 7)], ids=str)
def test_an_epoch_goes_on_with_other_processes_and_each_sample_comes_once(
    two, three, tmp_path, sizes
):
    folder = tmp_path / "run"
    first = two.run(fit, folder, cut=3, epochs=1, batch_size=sizes[0])
    assert list_checkpoints(folder).iloc[0]["batch"] == 2
    began = 2 * 2 * sizes[0]  # samples up to the checkpoint of update 2
    second = three.run(going_on_elsewhere, fit, folder, cut=5, epochs=1, batch_size=sizes[1])
    third = going_on_elsewhere(fit, folder, epochs=1, batch_size=sizes[0])
    # The first batch of several processes is a warm-up, which trains nothing.
    before = [n for each in first for batch in each[2][1:3] for n in batch]
    assert len(before) == began
    middle = [n for each in second for batch in each[2][1:3] for n in batch]
    assert len(middle) == 2 * 3 * sizes[1]
    rest = [n for batch in third[2] for n in batch]
    assert sorted(before + middle + rest) == list(range(SAMPLES))
    assert third[3]


def test_the_figures_of_an_epoch_count_all_its_processes(two, tmp_path):
    two.run(fit, tmp_path / "run", cut=3, epochs=1)
    table = going_on_elsewhere(fit, tmp_path / "run", epochs=1)[1]
    counted = eval(table)["train_acc"][0] * SAMPLES
    assert counted == pytest.approx(round(counted), abs=1e-4)


def test_other_processes_are_refused_unless_that_is_wanted(two, tmp_path):
    from fitorch import CheckpointMismatchError

    two.run(fit, tmp_path / "run", cut=3)
    with pytest.raises(CheckpointMismatchError, match="processes: saved 2, given 1"):
        fit(tmp_path / "run", resume=True)


class Numbered(Dataset):
    """Samples that are read one by one."""

    def __len__(self):
        return FEW

    def __getitem__(self, index):
        return X[index], X[index, :1]


class Backwards(Sampler):
    """Draws nothing."""

    def __len__(self):
        return FEW

    def __iter__(self):
        return iter(range(FEW - 1, -1, -1))


FEW = 9  # of which the second of two processes has none in the last round of batches of 4
X = torch.linspace(-1, 1, 2 * FEW).reshape(FEW, 2)
INDEXED = {
    "arrays": lambda: (X, X[:, :1]),
    "pairs": lambda: [(x, x[:1]) for x in X],
    "dataset": Numbered,
    "loader of tensors": lambda: DataLoader(TensorDataset(X, X[:, :1]), 4, shuffle=True),
    "loader": lambda: DataLoader(Numbered(), 4, shuffle=True),
    "loader with a sampler": lambda: DataLoader(Numbered(), 4, sampler=Backwards()),
}


class Few(nn.Module):
    """Notes what it sees, and draws random numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.seen = []

    def forward(self, x):
        self.seen.append(x.tolist())
        return self.layers(x)


def own_step(model, batch):
    x, y = batch
    loss = nn.functional.mse_loss(model.net(x), y)
    model.backward(loss)
    model.update()
    return {"loss": loss}


def fit_few(folder, data, own, cut=None, **options):
    step = {"step": own_step} if own else {}
    model = KerasModel(Few(), None if own else "mse", optimizer="sgd", **step)
    options |= {"ckpt_path": folder, "batch_size": 4, "save_every_n_steps": 1, "epochs": 2}
    fit_or_cut(model, data, None, cut, **options)
    return model.net.layers.state_dict(), model.net.seen[-3:]


def few_resumed(folder, own):
    """Return what each kind of data gives, whole and resumed before the last round of an epoch."""
    answers = {}
    for name, make in INDEXED.items():
        at = folder / name
        whole = fit_few(at / "whole", make(), own)
        fit_few(at / "cut", make(), own, cut=2)
        answers[name] = whole, fit_few(at / "cut", make(), own, resume=True)
    return answers


@pytest.mark.parametrize("own", [False, True], ids=["loss", "step"])
def test_a_fit_resumes_before_a_round_with_fewer_samples_than_processes(two, tmp_path, own):
    for answers in two.run(few_resumed, tmp_path, own):
        for (weights, seen), (resumed_weights, resumed_seen) in answers.values():
            assert resumed_seen == seen  # also the batch that stands in for none
            for name, value in weights.items():
                assert torch.equal(resumed_weights[name], value)
