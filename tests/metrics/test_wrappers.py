"""Wrappers, subclasses and compositions of torchmetrics: logits or probabilities, decided once."""

import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, MulticlassAUROC
from torchmetrics.wrappers import (
    BinaryTargetTransformer,
    ClasswiseWrapper,
    LambdaInputTransformer,
    MetricTracker,
    MinMaxMetric,
    MultioutputWrapper,
)

from fitorch.metrics import MetricSet

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(3)
LOGITS = torch.rand(120, generator=GENERATOR) * 1.2 - 0.1  # most of them look like probabilities
BITS = (LOGITS + torch.randn(120, generator=GENERATOR) / 4 > 0.5).long()
SIZES = pytest.mark.parametrize("size", [1, 3, 120])
SCALES = pytest.mark.parametrize("scale", ["logits", None])
ACCURACY = sk.accuracy_score(BITS, LOGITS > 0)


class Inherited(BinaryAccuracy):
    """Has the update of torchmetrics."""


class Doubled(BinaryAccuracy):
    """Has a compute of its own."""

    def compute(self):
        return 2 * super().compute()


class Own(BinaryAccuracy):
    """Has an update of its own, which gets the net's output unchanged."""

    def update(self, preds, target):
        super().update(preds.sigmoid(), target)


def over_batches(metric, data, size, scale=None):
    metric_set = MetricSet({"m": metric}, CPU, lambda _: scale)
    for pair in zip(*(column.split(size) for column in data), strict=True):
        metric_set.update(*pair)
    return metric_set.compute()


@SIZES
@SCALES
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Inherited(), {"m": ACCURACY}),
        (Doubled(), {"m": 2 * ACCURACY}),
        (Own(), {"m": ACCURACY}),
        (MinMaxMetric(BinaryAccuracy()), dict.fromkeys(("m_raw", "m_min", "m_max"), ACCURACY)),
        (100 * BinaryAccuracy(), {"m": 100 * ACCURACY}),
        (BinaryAccuracy() - BinaryAccuracy(threshold=0.9), None),
        (BinaryTargetTransformer(BinaryAccuracy()), {"m": ACCURACY}),
        (torchmetrics.MetricCollection({"a": MinMaxMetric(BinaryAccuracy())}), None),
        (torchmetrics.MetricCollection([BinaryAccuracy(), torchmetrics.MeanSquaredError()]), None),
        (
            LambdaInputTransformer(BinaryAccuracy(), lambda p: p.sigmoid()),
            {"m": ACCURACY},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_figures_do_not_depend_on_batches(metric, expected, size, scale):
    values = over_batches(metric, (LOGITS, BITS), size, scale)
    whole = over_batches(metric, (LOGITS, BITS), 120, scale)
    assert values == pytest.approx(whole if expected is None else expected)


def test_metrics_beside_those_of_probabilities_get_the_output_as_it_is():
    metrics = [BinaryAccuracy(), torchmetrics.MeanSquaredError()]
    for size in (1, 120):
        assert over_batches(
            torchmetrics.MetricCollection(metrics), (LOGITS, BITS), size, "logits"
        ) == {
            "m_BinaryAccuracy": pytest.approx(ACCURACY),
            "m_MeanSquaredError": pytest.approx(sk.mean_squared_error(BITS, LOGITS), rel=1e-5),
        }


@SIZES
@SCALES
def test_columns_of_several_outputs(size, scale):
    data = LOGITS.reshape(60, 2), BITS.reshape(60, 2)
    values = over_batches(MultioutputWrapper(BinaryF1Score(), 2), data, min(size, 60), scale)
    expected = [sk.f1_score(y, p > 0) for p, y in zip(data[0].T, data[1].T, strict=True)]
    assert values == pytest.approx({"m_0": expected[0], "m_1": expected[1]})


@SIZES
@SCALES
def test_values_per_class(size, scale):
    logits = torch.rand(120, 3, generator=torch.Generator().manual_seed(0))
    numbers = torch.randint(3, (120,), generator=torch.Generator().manual_seed(1))
    scale = scale and "class_logits"
    metric = ClasswiseWrapper(MulticlassAUROC(3, average=None), prefix="m_")
    expected = [
        sk.roc_auc_score(numbers == c, column)
        for c, column in enumerate(logits.double().softmax(1).T)
    ]
    values = over_batches(metric, (logits, numbers), size, scale)
    if scale is None:  # all in [0, 1], so they are read as probabilities
        expected = [sk.roc_auc_score(numbers == c, column) for c, column in enumerate(logits.T)]
    assert values == pytest.approx({f"m_{c}": value for c, value in enumerate(expected)}, rel=1e-5)


def test_the_originals_are_not_changed():
    metric = MinMaxMetric(BinaryAccuracy())
    over_batches(metric, (LOGITS, BITS), 3, "logits")
    assert metric._base_metric._update_count == 0


def test_a_tracker_is_refused():
    with pytest.raises(TypeError, match="'m' is a MetricTracker; pass the metric inside of it"):
        MetricSet({"m": MetricTracker(BinaryAccuracy())}, CPU)
