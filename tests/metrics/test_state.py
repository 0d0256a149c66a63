"""What was counted halfway goes over the disk and on, to the same bits."""

import io
import math
import warnings

import pytest
import torch
import torchmetrics
from torch import nn
from torchmetrics import classification, regression

from fitorch.metrics import AUC, IOU, KS, Accuracy, MetricSet, Precision, Recall, whole_epoch
from fitorch.metrics.mean import DeviceMean, HostMean
from fitorch.metrics.means import Means
from fitorch.metrics.registry import METRICS as NAMED

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
SIZE, BATCHES = 3, 150  # more than twice what is joined at once


def normal(*shape):
    return torch.randn(shape, generator=GENERATOR)


N = SIZE * BATCHES
DATA = {
    "binary": (normal(N), torch.randint(2, (N,), generator=GENERATOR)),
    "classes": (normal(N, 4), torch.randint(4, (N,), generator=GENERATOR)),
    "values": (normal(N), normal(N)),
}


class Counter(nn.Module):
    """A metric as torchkeras has it: parameters that count, and a number beside them."""

    def __init__(self):
        super().__init__()
        self.total = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.batches = 0

    def forward(self, y_pred, y_true):
        self.total += (y_pred - y_true).abs().sum()
        self.batches += 1

    def compute(self):
        return self.total / self.batches

    def reset(self):
        self.total.zero_()
        self.batches = 0


class Plain:
    """A metric of no library."""

    def __init__(self):
        self.square = lambda x: x * x  # a setting, which can't be stored
        self.reset()

    def update(self, y_pred, y_true):
        self.sums.append(self.square(y_pred - y_true).sum())
        self.last = {"mean": y_pred.mean(), "count": len(y_pred)}

    def compute(self):
        return torch.stack(self.sums).sum() + self.last["mean"]

    def reset(self):
        self.sums, self.last = [], {}


def mae(y_pred, y_true):
    return (y_pred - y_true).abs().mean()


def is_defined(name, data):
    """Say whether a named metric takes such data."""
    metric_set = MetricSet({"m": name}, CPU)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric_set.update(DATA[data][0][:SIZE], DATA[data][1][:SIZE])
            metric_set.compute()
    except ValueError:
        return False
    return True


METRICS = {
    **{f"{n}, {data}": (n, data) for n in NAMED for data in DATA if is_defined(n, data)},
    "AUC": (AUC(), "binary"),
    "AUC in bins": (AUC(thresholds=50), "binary"),
    "KS": (KS(), "binary"),
    "Accuracy": (Accuracy(), "classes"),
    "Precision": (Precision(), "classes"),
    "Recall": (Recall(), "classes"),
    "IOU": (IOU(), "classes"),
    "BinaryAUROC": (classification.BinaryAUROC(), "binary"),
    "MulticlassF1Score": (classification.MulticlassF1Score(4), "classes"),
    "MeanSquaredError": (regression.MeanSquaredError(), "values"),
    "R2Score": (regression.R2Score(), "values"),
    "PearsonCorrCoef": (regression.PearsonCorrCoef(), "values"),
    "MinMaxMetric": (torchmetrics.MinMaxMetric(regression.MeanSquaredError()), "values"),
    "MetricCollection": (
        torchmetrics.MetricCollection(
            [classification.MulticlassPrecision(4), classification.MulticlassRecall(4)]
        ),
        "classes",
    ),
    "function": (mae, "values"),
    "whole epoch": (whole_epoch(mae), "values"),
    "torchkeras": (Counter(), "values"),
    "plain": (Plain(), "values"),
}


def stored(state):
    """The state after a way over the disk, loaded safely."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def iterator(metric_set, data, first, last):
    for at in range(first * SIZE, last * SIZE, SIZE):
        metric_set.update(data[0][at : at + SIZE], data[1][at : at + SIZE])


def equal(one, other):
    pairs = [(one[name], other[name]) for name in one]
    return one.keys() == other.keys() and all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs
    )


@pytest.fixture(params=METRICS)
def case(request):
    metric, data = METRICS[request.param]
    return lambda: MetricSet({"m": metric}, CPU), DATA[data]


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchmetrics' own, of memory and of classes
def test_a_metric_goes_on_with_the_same_bits(case):
    make, data = case
    expected = make()
    iterator(expected, data, 0, BATCHES)
    for cut in (1, 40, 65, 130):  # before, between and behind what is handed over at once
        first, second = make(), make()
        iterator(first, data, 0, cut)
        second.load_state_dict(stored(first.state_dict()))
        iterator(second, data, cut, BATCHES)
        assert equal(second.compute(), expected.compute()), cut


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_metric_begins_the_next_epoch_with_the_same_bits(case):
    make, data = case
    expected, first, second = make(), make(), make()
    for metric_set in (expected, first):
        iterator(metric_set, data, 0, BATCHES)
        metric_set.reset()
    second.load_state_dict(stored(first.state_dict()))
    for metric_set in (expected, second):
        iterator(metric_set, data, 0, BATCHES)
    assert equal(second.compute(), expected.compute())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", sorted({*METRICS} - {"MinMaxMetric"}), indirect=True)
def test_looking_at_a_metric_does_not_change_its_bits(case):
    make, data = case
    expected, watched = make(), make()
    iterator(expected, data, 0, BATCHES)
    for at in range(0, BATCHES, 10):
        iterator(watched, data, at, at + 10)
        watched.compute()
    assert equal(watched.compute(), expected.compute())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_seen_halfway_is_what_was_counted(case):
    make, data = case
    for cut in (1, 40, 65):
        half, alone = make(), make()
        iterator(half, data, 0, cut)
        half.compute()
        iterator(alone, data, 0, cut)
        assert equal(half.compute(), alone.compute())


def test_a_named_metric_keeps_the_task_of_its_first_batch():
    first, second = MetricSet({"acc": "f1"}, CPU), MetricSet({"acc": "f1"}, CPU)
    first.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    first.reset()
    second.load_state_dict(stored(first.state_dict()))
    assert second.tasks == first.tasks == {"acc": "multiclass, 3 classes"}


@pytest.mark.parametrize("make", [HostMean, DeviceMean])
@pytest.mark.parametrize("cut", [0, 5, 1023, 1024, 1500])
def test_a_mean_goes_on_with_the_same_bits(make, cut):
    values = torch.rand(2000, generator=torch.Generator().manual_seed(cut))
    expected, first, second = make(), make(), make()
    for number, value in enumerate(values):
        if number == cut:
            second.load_state_dict(stored(first.state_dict()))
        expected.add(value, 1 + number % 3)
        (first if number < cut else second).add(value, 1 + number % 3)
    assert second.compute() == expected.compute()


@pytest.mark.parametrize("make", [HostMean, DeviceMean])
def test_looking_at_a_mean_does_not_change_its_bits(make):
    values = torch.rand(1100, generator=torch.Generator().manual_seed(1))
    expected, watched = make(), make()
    for value in values:
        expected.add(value, 3)
        watched.add(value, 3)
        watched.compute()
    assert watched.sums() == expected.sums()
    wanted = sum(3 * value for value in values.double().tolist())
    assert expected.sums()[0] == pytest.approx(wanted, rel=1e-12)


def test_the_means_of_several_terms_go_on():
    first, second = Means(CPU, [False, True]), Means(CPU, [False, True])
    first.add([(torch.tensor(2.0), 3), (torch.tensor(5.0), 3)])
    second.load_state_dict(stored(first.state_dict()))
    second.add([(torch.tensor(4.0), 1), (torch.tensor(1.0), 1)])
    assert second.compute() == (2.5 + 1.5, [2.5, 1.5])
