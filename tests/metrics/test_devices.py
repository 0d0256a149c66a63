"""Metrics follow the device of the predictions: here "meta", whose tensors have no data."""

import pytest
import torch
import torchmetrics
from torchmetrics.classification import BinaryF1Score

from fitorch.metrics import AUC, Accuracy, MetricSet, Precision, get
from fitorch.metrics.factory import make_metric
from fitorch.metrics.probabilities import Probabilities
from fitorch.metrics.registry import METRICS
from fitorch.metrics.soft import SoftTargets
from fitorch.metrics.state import move_state, state_of
from fitorch.tree import leaves

CPU, META = torch.device("cpu"), torch.device("meta")
PRED, TRUE = (
    torch.tensor([[2.0], [-1.0], [0.5], [-3.0]]),
    torch.tensor([[1.0], [0.0], [0.0], [0.0]]),
)
CLASSES, NUMBERS = torch.randn(12, 7), torch.arange(12) % 7
ONLY_CLASSES = ("balanced_accuracy", "top5_acc")
ONLY_BINARY = ("ks",)


def batches(name):
    return (CLASSES, NUMBERS) if name in ONLY_CLASSES else (PRED, TRUE)


def devices_of(state):
    return {tensor.device.type for tensor in leaves(state)}


def states_of_modules(metric):
    """Return the device of each metric of torchmetrics in a named one."""
    inner = [variant.metric for variant in metric._variants]
    inner += [part for each in inner for part in (getattr(each, "metric", None),)]
    inner += [part for each in inner for part in (getattr(each, "_as_is", None),)]
    return {each.device.type for each in inner if isinstance(each, torchmetrics.Metric)}


@pytest.mark.parametrize("scale", [None, "logits"])
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_by_name_is_restored_on_the_device_in_use(name, scale):
    first = make_metric(name, name, CPU, scale)
    first.update(*batches(name))
    state = state_of(first)
    second = make_metric(name, name, META, scale)
    second.load_state_dict(move_state(state, META))
    assert second.task == first.task
    assert devices_of(state_of(second)) == {"meta"}
    assert states_of_modules(second) <= {"meta"}


@pytest.mark.parametrize("name", ["acc", "auc", "f1", "iou", "mae"])
def test_a_device_that_does_not_exist_here_does_not_matter(name):
    """Version 0.1 wrote the device into the state, and built the metric there."""
    first, second = MetricSet({name: name}, CPU), MetricSet({name: name}, CPU)
    first.update(PRED, TRUE)
    state = first.state_dict()
    state["fed"][0]["metrics"][name]["device"] = "cuda:7"
    second.load_state_dict(state)
    assert second.compute() == first.compute()
    alone = get(name)
    alone.load_state_dict(state["fed"][0]["metrics"][name])
    assert float(alone.compute()) == first.compute()[name]


@pytest.mark.parametrize("scale", [None, "logits"])
def test_both_copies_of_a_metric_of_probabilities_move(scale):
    metric = Probabilities(BinaryF1Score(), scale)
    metric.update(PRED, TRUE.long())
    metric = metric.to(META)
    assert devices_of(state_of(metric)["metric"]) == {"meta"}
    assert scale or devices_of(state_of(metric)["as_is"]) == {"meta"}


@pytest.mark.parametrize(
    "metric",
    [
        Accuracy(),
        Precision(),
        AUC(),
        BinaryF1Score(),
        torchmetrics.MetricCollection([BinaryF1Score(), torchmetrics.MeanSquaredError()]),
        torchmetrics.wrappers.MinMaxMetric(BinaryF1Score()),
        torchmetrics.MeanSquaredError(),
    ],
    ids=lambda metric: type(metric).__name__,
)
@pytest.mark.parametrize("scale", [None, "logits"])
def test_an_object_is_made_on_the_device(metric, scale):
    made = make_metric("m", metric, META, scale)
    assert devices_of(state_of(made)) <= {"meta"}
    inner = made.labels if isinstance(made, SoftTargets) else made
    inner = inner.metric if isinstance(inner, Probabilities) else inner
    modules = [each for each in inner.modules() if isinstance(each, torchmetrics.Metric)]
    assert {module.device.type for module in modules} <= {"meta"}


class Listing:
    """A metric of a user's that keeps predictions in the host's memory, as for scikit-learn."""

    def __init__(self):
        self.kept = []

    def update(self, y_pred, y_true):
        self.kept.append(torch.zeros(len(y_pred), device="cpu"))

    def compute(self):
        return float(torch.cat(self.kept).sum())

    def reset(self):
        self.kept = []


def test_what_a_metric_keeps_in_the_hosts_memory_stays_there():
    metrics = {"list": Listing(), "fn": lambda p, t: (p - t).mean()}
    first, second = (MetricSet(metrics, META) for _ in range(2))
    first.update(PRED.to(META), TRUE.to(META))
    state = first.state_dict()
    assert state["host"] == [["list"]]
    # A checkpoint is read into the host's memory.
    second.load_state_dict(move_to_host(state))
    second.update(PRED.to(META), TRUE.to(META))
    kept = second._outputs[0].metrics["list"]
    assert kept.compute() == 0.0  # the parts of both lie on the same device
    assert len(kept.kept) == 2
    assert devices_of(second.state_dict()["fed"][0]["metrics"]["fn"]) == {"meta"}


def move_to_host(tree):
    if isinstance(tree, torch.Tensor):
        return torch.zeros(tree.shape, dtype=tree.dtype)
    if isinstance(tree, dict):
        return {key: move_to_host(value) for key, value in tree.items()}
    return type(tree)(map(move_to_host, tree)) if isinstance(tree, (list, tuple)) else tree


def test_a_function_may_return_numbers_and_tensors_of_the_host():
    metric = make_metric("f", lambda p, t: {"a": 2.0, "b": torch.tensor(3), "c": p.sum()}, META)
    metric.update(PRED.to(META), TRUE.to(META))
    values = [value for mean in metric._means.values() for value in mean._values]
    assert {value.device.type for value in values} == {"meta"}
