import math
import pickle

import pytest
import torch
from sklearn.metrics import accuracy_score

from fitorch.metrics import Accuracy
from fitorch.metrics.hits import HitRate


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("classes", [1, 4])
def test_its_light_twin_gives_the_same_figure(from_logits, classes):
    preds, target = torch.rand(90, classes) - 0.2, torch.randint(0, max(classes, 2), (90,))
    twin = HitRate(threshold=0.0 if from_logits else 0.5)
    metric = Accuracy(from_logits=from_logits)
    assert math.isnan(twin.compute())
    for part in range(0, 90, 40):
        twin.update(preds[part : part + 40], target[part : part + 40])
    metric.update(preds, target)
    assert twin.compute() == pytest.approx(metric.compute().item())
    twin.reset()
    assert math.isnan(twin.compute())


def accuracy(preds, target, **options):
    metric = Accuracy(**options)
    metric.update(preds, target)
    return metric.compute().item()


def test_classes_are_the_largest_output():
    preds, target = torch.randn(50, 4), torch.randint(4, (50,))
    assert accuracy(preds, target) == pytest.approx(accuracy_score(target, preds.argmax(1)))


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_binary_targets_come_in_any_shape_and_type(shape, dtype):
    logits, target = torch.randn(50), torch.rand(50) > 0.5
    expected = accuracy_score(target, logits > 0)
    assert accuracy(logits.reshape(shape), target.to(dtype)) == pytest.approx(expected)
    assert accuracy(logits, target.to(dtype).reshape(shape)) == pytest.approx(expected)


def test_probabilities_are_compared_with_a_half():
    probabilities, target = torch.rand(50), torch.rand(50) > 0.5
    expected = accuracy_score(target, probabilities > 0.5)
    assert accuracy(probabilities, target, from_logits=False) == pytest.approx(expected)


def test_several_labels_count_one_by_one():
    logits, target = torch.randn(20, 3), torch.rand(20, 3) > 0.5
    expected = accuracy_score(target.flatten(), (logits > 0).flatten())
    assert accuracy(logits, target.float()) == pytest.approx(expected)


def test_pixels_count_one_by_one():
    preds, target = torch.randn(4, 5, 3, 3), torch.randint(5, (4, 3, 3))
    expected = accuracy_score(target.flatten(), preds.argmax(1).flatten())
    assert accuracy(preds, target) == pytest.approx(expected)


def test_updates_add_up_and_reset_forgets():
    metric = Accuracy()
    preds, target = torch.randn(50, 4), torch.randint(4, (50,))
    for size in (1, 9, 40):
        metric.update(preds[:size], target[:size])
        preds, target = preds[size:], target[size:]
    assert metric.total == 50
    metric.reset()
    assert metric.total == metric.correct == 0


def test_half_precision_is_fine():
    assert accuracy(torch.tensor([1.0, -1.0], dtype=torch.bfloat16), torch.tensor([1, 1])) == 0.5


def test_more_samples_than_float32_can_count():
    metric = Accuracy()
    metric.update(torch.ones(1), torch.ones(1))
    metric.correct, metric.total = torch.tensor(2**24 + 1), torch.tensor(2**25 + 2)
    assert metric.compute() == 0.5


@pytest.mark.parametrize("shape", [(5, 2), (4,), (5, 1, 2)])
def test_shapes_that_cant_be_compared_are_refused(shape):
    with pytest.raises(ValueError, match=r"accuracy got predictions of shape .*\(5, 3\)"):
        accuracy(torch.randn(shape), torch.ones(5, 3))


def test_it_pickles():
    metric = pickle.loads(pickle.dumps(Accuracy(from_logits=False)))
    assert metric.from_logits is False


def test_higher_is_better():
    assert Accuracy.higher_is_better is True
