import pytest
import torch
from sklearn.metrics import jaccard_score, precision_score, recall_score

from fitorch.metrics import IOU, Precision, Recall

KINDS = [(Precision, precision_score), (Recall, recall_score), (IOU, jaccard_score)]
EACH = pytest.mark.parametrize(("kind", "reference"), KINDS, ids=lambda kind: kind.__name__)
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(120, generator=GENERATOR)
BITS = (torch.rand(120, generator=GENERATOR) < 0.4).float()
SCORES = torch.randn(120, 5, generator=GENERATOR)
NUMBERS = torch.randint(4, (120,), generator=GENERATOR)  # class 4 is never true
WEIGHT = torch.rand(120, generator=GENERATOR)


def value(metric, *columns, size=1000):
    for part in zip(*(column.split(size) for column in columns), strict=True):
        metric.update(*part)
    return metric.compute().item()


@EACH
@pytest.mark.parametrize("size", [1, 7, 120])
def test_binary_figures_are_those_of_scikit_learn(kind, reference, size):
    expected = pytest.approx(reference(BITS, LOGITS > 0), rel=1e-6)
    assert value(kind(), LOGITS, BITS, size=size) == expected
    assert value(kind(), LOGITS.unsqueeze(1), BITS, size=size) == expected
    assert value(kind(), LOGITS, BITS.long().unsqueeze(1), size=size) == expected
    assert value(kind(from_logits=False), LOGITS.sigmoid(), BITS, size=size) == expected


@EACH
@pytest.mark.parametrize("size", [1, 7, 120])
def test_figures_of_classes_are_averaged_as_in_scikit_learn(kind, reference, size):
    expected = reference(NUMBERS, SCORES.argmax(1), average="macro", zero_division=0)
    assert value(kind(), SCORES, NUMBERS, size=size) == pytest.approx(expected, rel=1e-6)
    assert value(kind(5), SCORES, NUMBERS, size=size) == pytest.approx(expected, rel=1e-6)


@EACH
def test_samples_are_weighted_as_in_scikit_learn(kind, reference):
    binary = reference(BITS, LOGITS > 0, sample_weight=WEIGHT)
    classes = reference(
        NUMBERS, SCORES.argmax(1), average="macro", sample_weight=WEIGHT, zero_division=0
    )
    assert value(kind(), LOGITS, BITS, WEIGHT, size=7) == pytest.approx(binary, rel=1e-6)
    assert value(kind(), SCORES, NUMBERS, WEIGHT, size=7) == pytest.approx(classes, rel=1e-6)


@EACH
def test_pixels_count_one_by_one(kind, reference):
    preds, target = torch.randn(6, 3, 4, 4), torch.randint(3, (6, 4, 4))
    expected = reference(target.flatten(), preds.argmax(1).flatten(), average="macro")
    assert value(kind(), preds, target) == pytest.approx(expected, rel=1e-6)
    masks = torch.randn(6, 1, 4, 4), torch.randint(2, (6, 1, 4, 4)).float()
    expected = reference(masks[1].flatten(), masks[0].flatten() > 0)
    assert value(kind(), *masks) == pytest.approx(expected, rel=1e-6)


@EACH
def test_nothing_predicted_is_zero_and_no_samples_are_nan(kind, reference):
    assert value(kind(), torch.full((4,), -1.0), torch.ones(4)) == 0
    assert torch.tensor(value(kind(), torch.ones(0), torch.ones(0))).isnan()
    assert kind().__class__ is kind


@EACH
def test_what_cant_be_compared_is_refused(kind, reference):
    with pytest.raises(ValueError, match=r"do not match; expected \(N, C\) and \(N,\)"):
        kind().update(torch.randn(4, 3), torch.ones(5))
    with pytest.raises(ValueError, match="got class 7, but predictions have 3 classes"):
        kind().update(torch.randn(2, 3), torch.tensor([1, 7]))
