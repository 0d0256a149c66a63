"""Results of metrics: mappings, tuples, lists, vectors and numbers; and what is none of them."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from fitorch.metrics import MetricError, MetricSet

CPU = torch.device("cpu")


class Result:
    def __init__(self, value):
        self.value = value

    def update(self, y_pred, y_true):
        pass

    def compute(self):
        return self.value

    def reset(self):
        pass


def values_of(metrics):
    metric_set = MetricSet(metrics, CPU)
    metric_set.update(torch.zeros(4), torch.zeros(4))
    return metric_set.compute()


NUMBERS = [
    (0.5, {"map": 0.5}),
    (True, {"map": 1.0}),
    (np.float32(0.5), {"map": 0.5}),
    (np.int64(3), {"map": 3.0}),
    (np.array(0.5), {"map": 0.5}),
    (np.array([0.5]), {"map": 0.5}),
    (Fraction(1, 2), {"map": 0.5}),
    (torch.tensor([[0.5]]), {"map": 0.5}),
    (torch.tensor([1, 2]), {"map_0": 1.0, "map_1": 2.0}),
    (np.array([[1.0, 2.0], [3.0, 4.0]]), {f"map_{i}": i + 1.0 for i in range(4)}),
    ((torch.tensor(0.5), 0.25), {"map_0": 0.5, "map_1": 0.25}),
    ([torch.tensor(0.5)], {"map": 0.5}),
    ((0.5, [1.0, 2.0]), {"map_0": 0.5, "map_1_0": 1.0, "map_1_1": 2.0}),
    ({"a": 0.5, "b": {"c": np.float64(1)}}, {"map_a": 0.5, "map_b_c": 1.0}),
    (
        {"map": torch.tensor(0.5), "map_50": 1.0, "mar": 0.25},
        {"map": 0.5, "map_50": 1.0, "map_mar": 0.25},
    ),
    (
        {"ap": torch.tensor([0.5, 1.0]), "classes": torch.tensor([3, 7])},
        {"map_ap_0": 0.5, "map_ap_1": 1.0},
    ),
    ({"ap": 0.5, "classes": torch.tensor(3)}, {"map_ap": 0.5}),
    ({1: 0.5}, {"map_1": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("result", "columns"), NUMBERS, ids=lambda value: str(value)[:30])
def test_every_number_has_a_column(result, columns):
    assert values_of({"map": Result(result)}) == columns


@pytest.mark.parametrize(("result", "columns"), NUMBERS, ids=lambda value: str(value)[:30])
def test_functions_return_the_same(result, columns):
    assert values_of({"map": lambda y_pred, y_true: result}) == columns


@pytest.mark.parametrize(
    "result",
    [None, "good", {"a": None}, (0.5, None), [], torch.tensor([]), 1j, torch.tensor(1j), object()],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("kind", ["object", "function"])
def test_what_is_not_a_number_is_refused_by_the_metrics_name(result, kind):
    metric = Result(result) if kind == "object" else lambda y_pred, y_true: result
    with pytest.raises(MetricError, match=r"metric 'quality' .*it returned a .* for 'quality"):
        values_of({"quality": metric})


def test_two_values_of_one_name_are_refused():
    with pytest.raises(MetricError, match="two values are named 'map_a'; rename one"):
        values_of({"map": Result({"a": 1.0, "map_a": 2.0})})
    with pytest.raises(MetricError, match="metric 'map_50' has a value 'map_50', as another"):
        values_of({"map": Result({"map_50": 1.0}), "map_50": Result(2.0)})


def test_parts_of_a_function_are_means_over_samples():
    metric_set = MetricSet({"m": lambda p, y: {"low": p.min(), "high": p.max()}}, CPU)
    p = torch.arange(9.0)
    for batch in p.split(6):
        metric_set.update(batch, batch)
    assert metric_set.compute() == {"m_low": 6 * 0 / 9 + 3 * 6 / 9, "m_high": (6 * 5 + 3 * 8) / 9}
    state = metric_set.state_dict()
    other = MetricSet({"m": lambda p, y: {"low": p.min(), "high": p.max()}}, CPU)
    other.load_state_dict(state)
    assert other.compute() == metric_set.compute()
    metric_set.reset()
    assert math.isnan(metric_set.compute()["m"])
