import pickle

import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from fitorch.metrics import AUC, KS


def auc(preds, target, size=1000):
    metric = AUC()
    for part in zip(preds.split(size), target.split(size), strict=True):
        metric.update(*part)
    return metric.compute().item()


def problem(samples=200, levels=None):
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(samples, generator=generator) < 0.3).float()
    scores = torch.randn(samples, generator=generator) + target
    return (scores * levels).round() / levels if levels else scores, target


@pytest.mark.parametrize("levels", [None, 1, 3], ids=["no ties", "many ties", "ties"])
@pytest.mark.parametrize("size", [1, 7, 200])
def test_it_is_that_of_scikit_learn(levels, size):
    scores, target = problem(levels=levels)
    assert auc(scores, target, size) == pytest.approx(roc_auc_score(target, scores), rel=1e-6)


def test_logits_and_probabilities_give_the_same():
    scores, target = problem(levels=4)
    assert auc(scores, target) == auc(scores.double().sigmoid(), target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_columns_and_rows_give_the_same(dtype):
    scores, target = problem()
    expected = auc(scores, target)
    assert auc(scores.unsqueeze(1), target.to(dtype)) == expected
    assert auc(scores, target.to(dtype).unsqueeze(1)) == expected
    assert auc(scores.unsqueeze(1), target.to(dtype).unsqueeze(1)) == expected


def test_one_score_for_all_is_a_half():
    assert auc(torch.zeros(10), torch.arange(10) % 2) == 0.5


def test_a_perfect_order_is_one_and_the_reverse_zero():
    scores, target = torch.arange(10.0), torch.arange(10) > 5
    assert auc(scores, target) == 1
    assert auc(-scores, target) == 0


@pytest.mark.parametrize("target", [torch.zeros(5), torch.ones(5)])
def test_one_class_gives_nan(target):
    assert torch.tensor(auc(torch.randn(5), target)).isnan()


def test_a_score_that_is_nan_gives_nan():
    scores, target = problem()
    scores[3] = torch.nan
    assert torch.tensor(auc(scores, target)).isnan()


def test_nothing_gives_nan():
    metric = AUC()
    metric.update(torch.ones(0), torch.ones(0))
    assert metric.compute().isnan()


def test_a_million_pairs_of_close_scores_are_told_apart():
    scores = torch.linspace(0, 1e-6, 2000, dtype=torch.float64)
    target = torch.arange(2000) % 2
    assert auc(scores, target) == pytest.approx(roc_auc_score(target, scores), rel=1e-6)


def test_half_precision_is_fine():
    scores, target = problem()
    scores = scores.bfloat16()
    expected = roc_auc_score(target, scores.float())
    assert auc(scores, target) == pytest.approx(expected, rel=1e-6)


def test_reset_forgets():
    metric = AUC()
    metric.update(*problem())
    metric.reset()
    scores, target = problem(levels=2)
    metric.update(-scores, target)
    assert metric.compute().item() == pytest.approx(roc_auc_score(target, -scores))


@pytest.mark.parametrize("shape", [(5, 2), (4,)])
def test_shapes_that_do_not_match_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected one score per target, \(N,\) or \(N, 1\)"):
        AUC().update(torch.randn(shape), torch.ones(5))


def test_it_pickles():
    metric = AUC()
    metric.update(*problem())
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.compute()


def ks(scores, target):
    return ks_2samp(scores[target > 0.5], scores[target <= 0.5]).statistic


@pytest.mark.parametrize("levels", [None, 1, 3], ids=["no ties", "many ties", "ties"])
@pytest.mark.parametrize("size", [1, 7, 200])
def test_the_kolmogorov_smirnov_statistic_is_that_of_scipy(levels, size):
    scores, target = problem(levels=levels)
    metric = KS()
    for part in zip(scores.split(size), target.split(size), strict=True):
        metric.update(*part)
    assert metric.compute().item() == pytest.approx(ks(scores, target), rel=1e-6)


def test_two_samples_apart_have_a_statistic_of_one_and_alike_of_zero():
    apart, alike = KS(), KS()
    apart.update(torch.tensor([0.1, 0.2, 0.8]), torch.tensor([0, 0, 1]))
    alike.update(torch.tensor([0.1, 0.1, 0.8, 0.8]), torch.tensor([0, 1, 0, 1]))
    assert (apart.compute(), alike.compute()) == (1.0, 0.0)


@pytest.mark.parametrize(("kind", "reference"), [(AUC, None), (KS, ks)], ids=["AUC", "KS"])
def test_bins_come_close_and_need_constant_memory(kind, reference):
    scores, target = problem(samples=5000)
    metric = kind(thresholds=2000)
    for part in zip(scores.split(100), target.split(100), strict=True):
        metric.update(*part)
    exact = reference(scores, target) if reference else roc_auc_score(target, scores)
    assert metric.compute().item() == pytest.approx(exact, abs=2e-3)
    assert metric.positive_bins.numel() == 2000
    probabilities = kind(thresholds=2000, from_logits=False)
    probabilities.update(scores.sigmoid(), target)
    # In the other's last bits a sigmoid may fall into the next bin.
    assert probabilities.compute().item() == pytest.approx(metric.compute().item(), abs=1e-3)


@pytest.mark.parametrize("thresholds", [None, 500])
def test_samples_are_weighted_as_in_scikit_learn(thresholds):
    scores, target = problem(samples=3000, levels=20)
    weight = torch.rand(3000, generator=torch.Generator().manual_seed(1))
    metric = AUC(thresholds=thresholds)
    for part in zip(scores.split(70), target.split(70), weight.split(70), strict=True):
        metric.update(*part)
    expected = roc_auc_score(target, scores, sample_weight=weight)
    assert metric.compute().item() == pytest.approx(
        expected, abs=1e-6 if thresholds is None else 2e-3
    )


@pytest.mark.parametrize("kind", [AUC, KS])
@pytest.mark.parametrize("thresholds", [None, 10])
def test_what_has_no_order_gives_nan(kind, thresholds):
    one_class, unordered, empty = (kind(thresholds=thresholds) for _ in range(3))
    one_class.update(torch.randn(5), torch.ones(5))
    unordered.update(torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([0, 1, 1]))
    empty.update(torch.ones(0), torch.ones(0))
    assert one_class.compute().isnan()
    assert unordered.compute().isnan()
    assert empty.compute().isnan()


def test_less_than_two_bins_are_refused():
    with pytest.raises(ValueError, match="thresholds must be None or at least 2, got 1"):
        AUC(thresholds=1)
