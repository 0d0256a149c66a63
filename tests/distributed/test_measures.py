"""evaluate and predict give what they give in one process, each sample once and in its order."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import SumMetric

from fitorch import DataError, KerasModel
from tolerances import FLOAT64


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


class Net(nn.Module):
    """Gives several outputs, nested."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.layer(x)


class Ones(SumMetric):
    """Counts samples, which a padded one would make too many."""

    def update(self, y_pred, _y_true):
        super().update(torch.ones(len(y_pred)))


def data(kind, samples, batch_size):
    x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(1)).double()
    y = (x.sum(1) > 0).long()
    if kind == "tensors":
        return x, y
    if kind == "dataset":
        return Pairs(x, y)
    if kind == "stream":
        return DataLoader(Stream(x, y), batch_size)
    if kind == "list":
        return [
            (x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, samples, batch_size)
        ]
    return DataLoader(Pairs(x, y), batch_size)


def measured(kind, counts, sizes):
    """Return figures and predictions for each number of samples and batch size."""
    model = KerasModel(Net(), nn.CrossEntropyLoss(), {"acc": "acc", "auc": "auroc", "n": Ones()})
    found = {}
    for samples in counts:
        for size in sizes:
            given = data(kind, samples, size)
            figures = model.evaluate(given, batch_size=size, verbose=0)
            predicted = model.predict(given, batch_size=size, verbose=0)
            found[samples, size] = figures, predicted
    return found


COUNTS, SIZES = (1, 2, 5, 23), (1, 4, 7)
KINDS = ["tensors", "dataset", "loader", "stream", "list"]


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        pytest.param(COUNTS, SIZES, id="some"),
        pytest.param((1, 2, 3, 5, 7, 23), (1, 2, 4, 7), id="many", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_any_data_is_measured_as_by_one_process(several, kind, counts, sizes):
    expected = quietly(kind, counts, sizes)
    for found in several.run(quietly, kind, counts, sizes):
        for case, (figures, predicted) in expected.items():
            own, outputs = found[case]
            assert own == pytest.approx(figures, rel=1e-9, nan_ok=True), case
            assert own["val_n"] == case[0]
            assert torch.allclose(outputs, predicted, **FLOAT64), case


def quietly(*args):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return measured(*args)


def empty():
    model = KerasModel(Net(), nn.CrossEntropyLoss())
    caught = []
    for verb in (model.evaluate, model.predict):
        with pytest.raises(DataError) as caught_here:
            verb([], verbose=0)
        caught.append(str(caught_here.value))
    return caught


def test_data_without_a_batch_is_refused_by_all(several):
    for caught in several.run(empty):
        assert len(caught) == 2
        assert all("empty" in message for message in caught)


class Lengths(nn.Module):
    """Gives as many rows as each batch asks for, in a dict with a list."""

    def forward(self, x):
        rows = x[x[:, 0] > 0]
        return {"rows": rows, "all": [x, x.sum(1)]}


def ragged(gather):
    x = torch.arange(-10.0, 20.0).reshape(-1, 1)
    return KerasModel(Lengths(), None).predict(x, batch_size=4, verbose=0, gather=gather)


def test_ragged_and_nested_outputs_keep_their_order(several):
    x = torch.arange(-10.0, 20.0).reshape(-1, 1)
    for found in several.run(ragged, "all"):
        # These rows are not those of the samples: they stay batch by batch.
        assert torch.equal(torch.cat(found["rows"]), x[x[:, 0] > 0])
        assert torch.equal(found["all"][0], x)
        assert torch.equal(found["all"][1], x[:, 0])


def test_predictions_may_go_to_the_main_process_alone(several):
    first, *others = several.run(ragged, "main")
    assert len(torch.cat(first["rows"])) == 19
    assert len(first["all"][0]) == 30
    assert others == [None] * (several.count - 1)
