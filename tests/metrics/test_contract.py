"""What holds for every metric that we export."""

import copy
import pickle

import pytest
import torch
import torchmetrics

import fitorch.metrics
from fitorch.metrics import AUC, IOU, KS, Accuracy, MetricSet, Precision, Recall

METRICS = [
    AUC(),
    AUC(thresholds=50),
    KS(),
    KS(thresholds=50),
    Accuracy(),
    Precision(),
    Recall(),
    IOU(),
]
EACH = pytest.mark.parametrize("metric", METRICS, ids=repr)
GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.randn(60, generator=GENERATOR)
OTHERS = torch.randn(60, generator=GENERATOR)
BITS = (torch.rand(60, generator=GENERATOR) < 0.4).long()


def value(metric, *columns):
    metric = copy.deepcopy(metric)
    metric.update(*columns)
    return metric.compute()


def test_every_exported_metric_is_in_the_list():
    exported = {getattr(fitorch.metrics, name) for name in fitorch.metrics.__all__}
    ours = {kind for kind in exported if isinstance(kind, type) and kind is not MetricSet}
    assert {type(metric) for metric in METRICS} == {
        kind for kind in ours if issubclass(kind, torchmetrics.Metric)
    }


@EACH
def test_reset_forgets(metric):
    used = copy.deepcopy(metric)
    used.update(OTHERS, BITS)
    used.reset()
    used.update(SCORES, BITS)
    assert used.compute() == value(metric, SCORES, BITS) != value(metric, OTHERS, BITS)


@EACH
def test_the_state_goes_to_a_file_and_back(metric, tmp_path):
    saved, loaded = copy.deepcopy(metric), copy.deepcopy(metric)
    for each in (saved, loaded):
        each.persistent(True)
    saved.update(SCORES[:40], BITS[:40])
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    loaded._update_count = 1
    for each in (saved, loaded):
        each.update(SCORES[40:], BITS[40:])
    assert saved.compute() == loaded.compute() == value(metric, SCORES, BITS)


@EACH
def test_merged_states_are_those_of_all_samples_at_once(metric):
    first, second = copy.deepcopy(metric), copy.deepcopy(metric)
    first.update(SCORES[:25], BITS[:25])
    second.update(SCORES[25:], BITS[25:])
    first.merge_state(second)
    assert first.compute() == value(metric, SCORES, BITS)


@EACH
def test_it_pickles_in_mid_epoch(metric):
    metric = copy.deepcopy(metric)
    metric.update(SCORES[:25], BITS[:25])
    twin = pickle.loads(pickle.dumps(metric))
    for each in (metric, twin):
        each.update(SCORES[25:], BITS[25:])
    assert metric.compute() == twin.compute() == value(metric, SCORES, BITS)


@EACH
def test_its_state_moves_between_devices(metric):
    moved = copy.deepcopy(metric)
    moved.update(SCORES, BITS)
    moved = moved.to("meta")
    states = [getattr(moved, name) for name in moved._defaults]
    tensors = [t for state in states for t in (state if isinstance(state, list) else [state])]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@EACH
def test_it_is_plotted(metric):
    metric = copy.deepcopy(metric)
    metric.update(SCORES, BITS)
    figure, axes = metric.plot()
    assert axes.get_ylim() == pytest.approx((0, 1), abs=0.2)
    figure.clear()


@EACH
def test_it_tells_its_direction_and_its_bounds(metric):
    assert metric.higher_is_better is True
    assert 0 <= value(metric, SCORES, BITS) <= 1


@EACH
def test_updates_do_not_depend_on_the_grad_mode(metric):
    assert value(metric, SCORES.clone().requires_grad_(), BITS) == value(metric, SCORES, BITS)
