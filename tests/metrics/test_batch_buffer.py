"""Small tensors lie side by side, as copies; what can't is given back as it is."""

import pytest
import torch

from fitorch.metrics import MetricSet
from fitorch.metrics.batch_buffer import BatchBuffer


def test_small_tensors_lie_side_by_side_as_copies():
    tray = BatchBuffer(3, 100)
    given = [torch.randn(4, 2) for _ in range(5)]
    kept = [tray.keep(each) for each in given]
    assert all(torch.equal(a, b) for a, b in zip(kept, given, strict=True))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(kept, given, strict=True))
    first, second, *_ = sorted(each.data_ptr() for each in kept[:3])
    assert second - first == 4 * 2 * 4
    assert kept[3].untyped_storage().data_ptr() != kept[2].untyped_storage().data_ptr()


def test_what_was_kept_stays_when_it_begins_anew():
    tray = BatchBuffer(2, 100)
    kept = tray.keep(torch.ones(3))
    tray.clear()
    assert tray.keep(torch.zeros(3)).tolist() == [0, 0, 0]
    assert kept.tolist() == [1, 1, 1]


class Own(torch.Tensor):
    """A tensor of somebody's own."""


@pytest.mark.parametrize(
    "part",
    [
        {"a": torch.ones(2)},
        torch.ones(101),
        torch.ones(2).to_sparse(),
        torch.ones(2, requires_grad=True),
        torch.ones(2).as_subclass(Own),
        torch.ones(3),
        torch.ones(2, dtype=torch.float64),
    ],
    ids=["tree", "large", "sparse", "of a graph", "of a class", "longer", "of another type"],
)
def test_what_cannot_lie_there_is_given_back(part):
    tray = BatchBuffer(4, 100)
    tray.keep(torch.zeros(2))
    assert tray.keep(part) is part


def test_metrics_hold_on_to_no_batch():
    metrics = MetricSet({"acc": "acc"}, torch.device("cpu"))
    y_pred, y_true = torch.randn(8, 3), torch.randint(0, 3, (8,))
    hits = 0
    for _ in range(5):
        metrics.update(y_pred, y_true)
        hits += int((y_pred.argmax(1) == y_true).sum())
        y_pred.normal_()  # as memory that somebody else has taken
        y_true.random_(3)
    assert metrics.compute() == {"acc": pytest.approx(hits / 40)}
