"""Numbers that are still on a device: all of them are read at once."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, jaccard_score, precision_score, roc_auc_score
from torch.utils._python_dispatch import TorchDispatchMode

from fitorch import KerasModel
from fitorch.losses import L1, L2, term
from fitorch.metrics import AUC, IOU, KS, Accuracy, MetricSet, Precision, unread
from fitorch.metrics.counts import BalancedAccuracy
from fitorch.metrics.mean import DeviceMean
from fitorch.metrics.unread import Unread, known, together

CPU = torch.device("cpu")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim")


class NoReads(TorchDispatchMode):
    """Refuses what would make the host wait for an accelerator."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(i is not None and i.dtype is torch.bool for i in args[1])
        assert not by_mask
        assert name not in READS
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch):
    """The numbers of tensors that each read has taken."""
    counts, rows = [], unread._rows

    def counted(tensors):
        if len(tensors):
            counts.append(len(tensors))
        return rows(tensors)

    monkeypatch.setattr(unread, "_rows", counted)
    return counts


def test_the_elements_of_each_tensor_are_returned():
    tensors = [
        torch.tensor(2),
        torch.tensor([[0.1, math.inf], [3.0, 4.0]], dtype=torch.float64),
        torch.tensor(True),
        torch.zeros(0),
        torch.tensor([0.5], dtype=torch.float16, requires_grad=True),
        torch.tensor(2**40 + 1),
    ]
    rows = Unread(tensors, list).read()
    assert rows == [[2.0], [0.1, math.inf, 3.0, 4.0], [1.0], [], [0.5], [2.0**40 + 1]]


def test_results_are_read_together_and_keep_their_order(reads):
    pair = Unread([torch.tensor(3.0), torch.tensor(4.0)], lambda rows: rows[0][0] + rows[1][0])
    one = Unread([torch.tensor([1.0, 2.0])], lambda rows: rows[0])
    results = together([pair, known("known"), one.then(sum), together([pair, one])])
    assert results.read() == [7.0, "known", 3.0, [7.0, [1.0, 2.0]]]
    assert reads == [6]


SCORES = torch.randn(300, generator=torch.Generator().manual_seed(0)).mul(3).round() / 3
LABELS = (torch.rand(300, generator=torch.Generator().manual_seed(1)) < 0.4).long()
WEIGHTS = torch.rand(300, generator=torch.Generator().manual_seed(2)) + 0.1
CLASSES = torch.randn(300, 4, generator=torch.Generator().manual_seed(3))
CLASS_NUMBERS = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(4))


def largest_gap(positive, weight):
    """The largest distance between the distributions of scores, one threshold after the other."""
    scores, labels, weights = SCORES.numpy(), positive.numpy() > 0, weight.double().numpy()
    gaps = [
        abs(
            np.average(scores[labels] <= at, weights=weights[labels])
            - np.average(scores[~labels] <= at, weights=weights[~labels])
        )
        for at in np.unique(scores)
    ]
    return max(gaps)


ONES = torch.ones(300)
FIGURES = {
    "AUC": (AUC(), SCORES, LABELS, None, roc_auc_score(LABELS, SCORES)),
    "AUC, weights": (
        AUC(),
        SCORES,
        LABELS,
        WEIGHTS,
        roc_auc_score(LABELS, SCORES, sample_weight=WEIGHTS),
    ),
    "KS": (KS(), SCORES, LABELS, None, largest_gap(LABELS, ONES)),
    "KS, weights": (KS(), SCORES, LABELS, WEIGHTS, largest_gap(LABELS, WEIGHTS)),
    "Accuracy": (Accuracy(), SCORES, LABELS, None, ((SCORES > 0) == (LABELS > 0)).double().mean()),
    "Precision": (Precision(), SCORES, LABELS, None, precision_score(LABELS, SCORES > 0)),
    "Precision of classes": (
        Precision(4),
        CLASSES,
        CLASS_NUMBERS,
        None,
        precision_score(CLASS_NUMBERS, CLASSES.argmax(1), average="macro", zero_division=0),
    ),
    "IOU of classes": (
        IOU(4),
        CLASSES,
        CLASS_NUMBERS,
        WEIGHTS,
        jaccard_score(
            CLASS_NUMBERS,
            CLASSES.argmax(1),
            average="macro",
            sample_weight=WEIGHTS,
            zero_division=0,
        ),
    ),
    "balanced accuracy": (
        BalancedAccuracy(4),
        CLASSES[CLASSES.argmax(1) < 3],
        CLASS_NUMBERS[CLASSES.argmax(1) < 3],
        None,
        balanced_accuracy_score(
            CLASS_NUMBERS[CLASSES.argmax(1) < 3], CLASSES.argmax(1)[CLASSES.argmax(1) < 3]
        ),
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_metrics_of_ours_compute_without_a_read(name):
    metric, preds, target, weight, expected = FIGURES[name]
    metric.update(preds, target, weight)
    with NoReads():
        value = metric.compute()
    assert value.item() == pytest.approx(float(expected), rel=1e-6)
    metric.reset()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("metric", [AUC(), KS(), AUC(20), KS(20), Precision(), IOU(3)], ids=repr)
def test_a_metric_without_samples_is_nan_without_a_read(metric):
    metric.update(torch.zeros(0, 3 if "IOU" in repr(metric) else 1), torch.zeros(0).long())
    with NoReads():
        value = metric.compute()
    assert math.isnan(value)


@pytest.mark.parametrize("metric", [AUC(), KS(), AUC(20), KS(20)], ids=repr)
def test_a_score_that_is_nan_makes_the_value_nan_without_a_read(metric):
    scores = SCORES.clone()
    scores[7] = math.nan
    metric.update(scores, LABELS)
    with NoReads():
        value = metric.compute()
    assert math.isnan(value)
    metric.reset()


def test_a_set_of_metrics_is_read_once(reads):
    metrics = MetricSet(
        {"acc": "acc", "auc": "auc", "bias": lambda p, t: (p - t).mean(), "p": Precision()}, CPU
    )
    preds, target = SCORES.sigmoid().unsqueeze(1), LABELS.float().unsqueeze(1)
    metrics.update(preds, target)
    values = metrics.compute()
    assert len(reads) <= 1
    assert values["acc"] == ((SCORES > 0) == (LABELS > 0)).double().mean()
    assert values["auc"] == pytest.approx(roc_auc_score(LABELS, SCORES), rel=1e-6)
    assert values["bias"] == pytest.approx((preds - target).double().mean().item(), rel=1e-5)
    assert values["p"] == pytest.approx(precision_score(LABELS, SCORES > 0), rel=1e-6)


def test_a_stage_is_read_once_with_its_terms_parts_penalties_and_metrics(reads, monkeypatch):
    monkeypatch.setattr("fitorch.metrics.means.mean_on", lambda _, **options: DeviceMean(**options))
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))

    def with_parts(y_pred, y_true):
        error = (y_pred - y_true).square().mean()
        return {"loss": error, "half": error / 2}

    loss = term(with_parts) + 0.1 * L1() + 0.1 * L2()
    data, counts = (x, (x[:, :1] > 0).float()), []
    for epochs in (1, 3):
        model = KerasModel(torch.nn.Linear(3, 1), loss, {"acc": "acc", "auc": "auc"}, "sgd")
        model.fit(data, data, epochs=epochs, verbose=0)
        counts.append(len(reads))
        reads.clear()
    assert counts[1] - counts[0] == 2 * 2  # of two stages in two epochs
