import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import sklearn.metrics
import torch
import torchmetrics
from torch import nn
from torchmetrics import classification, regression

from fitorch.metrics import AUC, Accuracy, MetricError, MetricSet, whole_epoch
from fitorch.metrics import batching as feeding
from fitorch.metrics.registry import higher_is_better

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=GENERATOR)


CLASSES = normal(150, 4).softmax(1), torch.randint(4, (150,), generator=GENERATOR)
BINARY = normal(150).sigmoid(), torch.randint(2, (150,), generator=GENERATOR)
VALUES = normal(150, 1), normal(150, 1)


def over_batches(metrics, y_pred, y_true, size):
    metric_set = MetricSet(metrics, CPU)
    for pair in zip(y_pred.split(size), y_true.split(size), strict=True):
        metric_set.update(*pair)
    return metric_set.compute()


@pytest.mark.parametrize("size", [1, 7, 149, 150])
@pytest.mark.parametrize(
    ("metric", "data"),
    [
        (classification.MulticlassAccuracy(4, average="macro"), CLASSES),
        (classification.MulticlassF1Score(4), CLASSES),
        (classification.MulticlassAUROC(4), CLASSES),
        (classification.MulticlassConfusionMatrix(4), CLASSES),
        (classification.MulticlassCohenKappa(4), CLASSES),
        (classification.BinaryF1Score(), BINARY),
        (classification.BinaryAUROC(), BINARY),
        (classification.BinaryAveragePrecision(), BINARY),
        (classification.BinaryCalibrationError(), BINARY),
        (torchmetrics.Accuracy(task="multiclass", num_classes=4), CLASSES),
        (Accuracy(), CLASSES),
        (AUC(), BINARY),
        (regression.MeanSquaredError(), VALUES),
        (regression.R2Score(), VALUES),
        (regression.PearsonCorrCoef(), tuple(part.squeeze(1) for part in VALUES)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_joined_batches_give_the_figure_of_each_by_itself(metric, data, size):
    metric.reset()
    for pair in zip(data[0].split(size), data[1].split(size), strict=True):
        metric.update(*pair)
    expected = metric.compute()
    metric.reset()
    values = over_batches({"m": metric}, *data, size)
    assert list(values.values()) == pytest.approx(expected.flatten().tolist(), rel=1e-5)


class Watched(Accuracy):
    """Counts its updates, as one of our own that may be joined."""

    sizes = ()

    def update(self, preds, target):
        type(self).sizes = (*self.sizes, len(preds))
        super().update(preds, target)


Watched.__module__ = "fitorch.metrics.accuracy"


def watching(watched):
    return MetricSet({"acc": watched}, CPU, lambda output: "class_logits")


@pytest.fixture
def watched():
    Watched.sizes = ()
    return Watched()


def test_up_to_64_batches_are_handed_over_at_once_after_the_first(watched):
    metric_set = watching(watched)
    for pair in zip(CLASSES[0].split(1), CLASSES[1].split(1), strict=True):
        metric_set.update(*pair)
    metric_set.compute()
    assert Watched.sizes == (1, 64, 64, 21)


def test_large_batches_are_handed_over_sooner(watched, monkeypatch):
    monkeypatch.setattr(feeding, "_MAX_ELEMENTS", 100)  # 25 samples of 4 numbers
    metric_set = watching(watched)
    for pair in zip(CLASSES[0].split(10), CLASSES[1].split(10), strict=True):
        metric_set.update(*pair)
    metric_set.compute()
    assert Watched.sizes == (10, 30, 30, 30, 30, 20)


def test_nothing_that_is_pending_outlives_a_reset(watched):
    metric_set = watching(watched)
    metric_set.update(*CLASSES)
    metric_set.update(*CLASSES)
    metric_set.reset()
    assert Watched.sizes == (150,)
    assert math.isnan(metric_set.compute()["acc"])
    metric_set.update(torch.eye(4), torch.arange(4))
    assert metric_set.compute() == {"acc": 1.0}


def test_batches_of_different_shapes_are_not_joined(watched):
    metric_set = watching(watched)
    for length in (3, 5):
        metric_set.update(torch.randn(2, 4, length), torch.ones(2, length).long())
    metric_set.compute()
    assert Watched.sizes == (2, 2)


def test_compute_in_mid_epoch_changes_nothing():
    metric_set = MetricSet({"auc": AUC(), "acc": Accuracy()}, CPU)
    for pair in zip(BINARY[0].split(7), BINARY[1].split(7), strict=True):
        metric_set.update(*pair)
        metric_set.compute()
    assert metric_set.compute() == over_batches({"auc": AUC(), "acc": Accuracy()}, *BINARY, 150)


def test_the_originals_are_never_touched():
    original = Accuracy()
    over_batches({"acc": original}, *CLASSES, 10)
    assert original.total == 0


def test_predictions_are_cut_off_from_their_graph():
    seen = []

    def look(y_pred, y_true):
        seen.append(y_pred.requires_grad)
        return y_pred.mean()

    metric_set = MetricSet({"look": look, "acc": Accuracy()}, CPU)
    for _ in range(2):
        metric_set.update(CLASSES[0].clone().requires_grad_(), CLASSES[1])
    assert seen == [False, False]
    assert not metric_set._outputs[0]._pending[0][0].requires_grad


@pytest.mark.parametrize("size", [1, 7, 150])
def test_a_function_is_averaged_by_samples(size):
    def error(y_pred, y_true):
        return (y_pred - y_true).abs().mean()

    values = over_batches({"error": error}, *VALUES, size)
    assert values == {"error": pytest.approx(error(*VALUES).item(), rel=1e-5)}


def test_a_function_may_return_a_number():
    values = over_batches({"half": lambda p, t: 0.5, "one": lambda p, t: True}, *VALUES, 40)
    assert values == {"half": 0.5, "one": 1.0}


def test_dicts_and_vectors_get_a_figure_each():
    collection = torchmetrics.MetricCollection(
        {
            "f1": classification.MulticlassF1Score(4),
            "acc": classification.MulticlassAccuracy(4),
        }
    )
    each = classification.MulticlassRecall(4, average="none")
    values = over_batches({"all": collection, "recall": each}, *CLASSES, 40)
    assert set(values) == {"all_f1", "all_acc", *(f"recall_{i}" for i in range(4))}
    recall = torchmetrics.functional.recall(
        *CLASSES, task="multiclass", num_classes=4, average="none"
    )
    assert [values[f"recall_{i}"] for i in range(4)] == pytest.approx(recall.tolist())


class Count:
    """A metric of the user's own, without torch."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.count = 0

    def update(self, y_pred, y_true):
        self.count += len(y_true)

    def compute(self):
        return self.count


def test_any_object_with_update_compute_and_reset_is_a_metric():
    assert over_batches({"count": Count()}, *VALUES, 40) == {"count": 150.0}


def test_a_module_may_be_a_metric():
    class Largest(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("value", torch.tensor(-math.inf))

        def update(self, y_pred, y_true):
            self.value = torch.maximum(self.value, y_pred.max())

        def compute(self):
            return self.value

        def reset(self):
            self.value = torch.full_like(self.value, -math.inf)

    values = over_batches({"largest": Largest()}, *VALUES, 40)
    assert values == {"largest": VALUES[0].max().item()}


@pytest.mark.parametrize("wrong", [3, None, ["acc"]])
def test_what_is_no_metric_is_refused(wrong):
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=f"metric 'm' is a {kind}; expected a torchmetrics object"):
        MetricSet({"m": wrong}, CPU)


def test_a_class_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"metric 'm' is the class AUC; pass AUC\(\)"):
        MetricSet({"m": AUC}, CPU)


@pytest.mark.parametrize(
    ("metric", "higher"), [("auc", True), ("mae", False), (Count(), None), (lambda p, t: 0, None)]
)
def test_a_metric_may_tell_in_which_direction_it_improves(metric, higher):
    assert higher_is_better(metric) is higher


def test_no_metrics_give_no_figures():
    metric_set = MetricSet({}, CPU)
    metric_set.update(*VALUES)
    assert metric_set.compute() == {}


def test_before_the_first_batch_all_is_nan():
    values = MetricSet({"acc": "acc", "count": Count()}, CPU).compute()
    assert set(values) == {"acc", "count"}
    assert all(math.isnan(value) for value in values.values())


def test_outputs_of_hugging_face_give_their_logits():
    output = SimpleNamespace(logits=CLASSES[0].clone().requires_grad_(), loss=torch.tensor(1.0))
    metric_set = MetricSet({"acc": "acc"}, CPU)
    metric_set.update(output, CLASSES[1])
    expected = over_batches({"acc": "acc"}, *CLASSES, 150)
    assert metric_set.compute() == expected


def test_outputs_of_several_parts_reach_the_metric_as_they_are():
    def first(y_pred, y_true):
        return (y_pred["a"][0] - y_true["t"]).abs().mean()

    metric_set = MetricSet({"first": first}, CPU)
    metric_set.update({"a": (VALUES[0].clone().requires_grad_(), None)}, {"t": VALUES[1]})
    expected = nn.functional.l1_loss(*VALUES).item()
    assert metric_set.compute()["first"] == pytest.approx(expected)


def test_importing_fitorch_imports_nothing_heavy():
    heavy = ["torchmetrics", "pandas", "matplotlib", "accelerate", "transformers", "sklearn"]
    code = f"import sys, fitorch, fitorch.metrics; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_naming_accuracy_does_not_import_torchmetrics():
    code = (
        "import sys, torch, fitorch; x = torch.randn(9, 2); net = torch.nn.Linear(2, 1)\n"
        "model = fitorch.KerasModel(net, 'bce_with_logits', {'acc': 'acc'})\n"
        "model.fit((x, (x[:, :1] > 0).float()), epochs=1, verbose=0)\n"
        "print('torchmetrics' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_failing_metric_is_named_with_what_it_got():
    metric_set = MetricSet({"f1": classification.MulticlassF1Score(4)}, CPU)
    with pytest.raises(
        MetricError, match=r"metric 'f1' failed on predictions float32 \(5, 3\) and"
    ):
        metric_set.update(torch.randn(5, 3), torch.ones(5).long())


def test_a_metric_that_cant_be_computed_is_named():
    class Broken(Count):
        def compute(self):
            return 1 / 0

    with pytest.raises(MetricError, match="metric 'm' cannot be computed: division by zero"):
        over_batches({"m": Broken()}, *VALUES, 40)


def test_modules_that_count_when_they_are_called_are_metrics():
    class Hits(nn.Module):  # as torchkeras' are
        def __init__(self):
            super().__init__()
            self.reset()

        def forward(self, preds, targets):
            self.hits += (preds.argmax(1) == targets).sum().item()
            self.total += len(targets)
            return self.compute()

        def compute(self):
            return self.hits / self.total

        def reset(self):
            self.hits = self.total = 0

    expected = (CLASSES[0].argmax(1) == CLASSES[1]).float().mean().item()
    for size in (1, 7, 150):
        assert over_batches({"m": Hits()}, *CLASSES, size) == {"m": pytest.approx(expected)}


@pytest.mark.parametrize("size", [1, 7, 64, 150])
def test_a_function_of_the_whole_epoch_sees_all_of_it(size):
    def median_error(y_pred, y_true):
        return (y_pred - y_true).abs().median()

    metrics = {
        "ours": whole_epoch(median_error),
        "theirs": whole_epoch(sklearn.metrics.median_absolute_error, higher_is_better=False),
        "both": whole_epoch(lambda p, t: {"mean": p.mean(), "count": len(t)}),
    }
    values = over_batches(metrics, *VALUES, size)
    exact = sklearn.metrics.median_absolute_error(VALUES[1], VALUES[0])
    assert values["theirs"] == pytest.approx(exact)
    assert values["ours"] == pytest.approx(median_error(*VALUES).item())
    assert values["both_count"] == 150
    assert higher_is_better(metrics["theirs"]) is False


def test_metrics_of_one_output_are_named_after_it():
    outputs = {"sex": CLASSES[0], "age": VALUES[0]}
    targets = {"sex": CLASSES[1], "age": VALUES[1]}
    metrics = {"sex": {"acc": "acc"}, "age": {"mae": "mae"}}
    metric_set = MetricSet(metrics, CPU)
    for start in range(0, 150, 40):
        part = slice(start, start + 40)
        metric_set.update(
            {name: output[part] for name, output in outputs.items()},
            {name: target[part] for name, target in targets.items()},
        )
    values = metric_set.compute()
    assert values["sex_acc"] == pytest.approx((CLASSES[0].argmax(1) == CLASSES[1]).float().mean())
    assert values["age_mae"] == pytest.approx(nn.functional.l1_loss(*VALUES).item())


def test_outputs_of_a_list_are_numbered():
    metric_set = MetricSet({1: {"mae": "mae"}}, CPU)
    metric_set.update((CLASSES[0], VALUES[0]), (CLASSES[1], VALUES[1]))
    assert metric_set.compute() == {
        "output_1_mae": pytest.approx(nn.functional.l1_loss(*VALUES).item())
    }


@pytest.mark.parametrize("size", [1, 7, 150])
def test_metrics_that_take_weights_get_them(size):
    weight = torch.rand(150)
    metric_set = MetricSet({"acc": "acc", "count": Count()}, CPU, lambda output: "class_logits")
    for part in zip(*(column.split(size) for column in (*CLASSES, weight)), strict=True):
        metric_set.update(*part)
    values = metric_set.compute()
    hit = (CLASSES[0].argmax(1) == CLASSES[1]).double()
    assert values["acc"] == pytest.approx(((hit * weight).sum() / weight.sum()).item())
    assert values["count"] == 150


def test_a_collection_knows_the_direction_of_each_member():
    collection = torchmetrics.MetricCollection(
        [regression.MeanSquaredError(), regression.R2Score()]
    )
    assert higher_is_better(collection, "MeanSquaredError") is False
    assert higher_is_better(collection, "R2Score") is True


def test_a_metric_without_compute_is_refused():
    class Half:
        def update(self, y_pred, y_true):
            self.seen = True

    with pytest.raises(TypeError, match="'m' is a Half that only has update; expected"):
        MetricSet({"m": Half()}, CPU)
