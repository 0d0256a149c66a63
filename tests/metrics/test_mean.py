import math

import pytest
import torch

from fitorch.metrics import means as module
from fitorch.metrics.mean import DeviceMean, HostMean, mean_on
from fitorch.metrics.means import Means

KINDS = pytest.mark.parametrize("kind", [HostMean, DeviceMean])


def shares(kind, counts):
    return counts if kind == "ints" else [torch.tensor(count) for count in counts]


@KINDS
@pytest.mark.parametrize("form", ["ints", "tensors"])
@pytest.mark.parametrize("steps", [1, 10, 3000])
def test_it_is_the_weighted_mean_in_64_bits(kind, form, steps):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(steps, generator=generator, dtype=torch.float64)
    counts = torch.randint(1, 50, (steps,), generator=generator).tolist()
    mean = kind()
    for value, share in zip(values, shares(form, counts), strict=True):
        mean.add(value, share)
    weights = torch.tensor(counts, dtype=torch.float64)
    expected = math.fsum((values * weights).tolist()) / sum(counts)
    assert mean.compute() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@KINDS
def test_small_values_do_not_get_lost_in_a_long_epoch(kind):
    mean = kind()
    mean.add(torch.tensor(1e8), 1)
    for _ in range(2000):
        mean.add(torch.tensor(1.0), 1)
    assert mean.compute() == pytest.approx((1e8 + 2000) / 2001, rel=1e-12)


@KINDS
def test_sums_are_added_up(kind):
    mean = kind(summed=True)
    for value, share in ((6.0, 3), (1.0, 1)):
        mean.add(torch.tensor(value), share)
    assert mean.compute() == 7 / 4


@KINDS
def test_shares_of_both_kinds_mix(kind):
    mean = kind()
    mean.add(torch.tensor(2.0), 3)
    mean.add(torch.tensor(6.0), torch.tensor(0.5))
    assert mean.compute() == pytest.approx(9 / 3.5)


@KINDS
def test_it_may_be_read_in_mid_epoch(kind):
    mean = kind()
    for number in range(1, 6):
        mean.add(torch.tensor(float(number)), 1)
        assert mean.compute() == (number + 1) / 2


@KINDS
def test_a_value_without_a_share_counts_nothing(kind):
    mean = kind()
    for value, share in (
        (2.0, torch.tensor(2)),
        (math.nan, torch.tensor(0)),
        (5.0, torch.tensor(1)),
    ):
        mean.add(torch.tensor(value), share)
    assert mean.compute() == 3.0


@KINDS
def test_nan_makes_the_mean_nan(kind):
    mean = kind()
    mean.add(torch.tensor(math.nan), 2)
    mean.add(torch.tensor(1.0), 2)
    assert math.isnan(mean.compute())


@KINDS
def test_nothing_gives_nan_and_reset_forgets(kind):
    mean = kind()
    assert mean.empty
    assert math.isnan(mean.compute())
    mean.add(torch.tensor(3.0), 2)
    assert not mean.empty
    mean.compute()
    assert not mean.empty
    mean.reset()
    assert mean.empty
    assert math.isnan(mean.compute())


def test_on_the_host_a_value_is_returned_and_on_a_device_it_is_not_read():
    assert HostMean().add(torch.tensor(2.5), 1) == 2.5
    assert DeviceMean().add(torch.tensor(2.5), 1) == 0.0


def test_a_device_keeps_few_values_pending():
    mean = DeviceMean()
    for _ in range(2500):
        mean.add(torch.tensor(1.0, requires_grad=True), 1)
    assert len(mean._values) == 2500 - 2 * 1024
    assert not mean._values[0].requires_grad
    assert mean.compute() == 1.0


@pytest.mark.parametrize(("device", "kind"), [("cpu", HostMean), ("cuda", DeviceMean)])
def test_the_device_decides(device, kind):
    assert type(mean_on(torch.device(device))) is kind


@KINDS
def test_values_without_a_share_leave_it_empty(kind):
    mean = kind()
    mean.add(torch.tensor(3.0), torch.tensor(0.0))
    assert mean.empty
    assert math.isnan(mean.compute())
    mean.add(torch.tensor(3.0), torch.tensor(0.5))
    assert not mean.empty


@pytest.fixture
def means(request, monkeypatch):
    monkeypatch.setattr(module, "mean_on", lambda _, **options: request.param(**options))
    return Means(torch.device("cpu"), [False, True])


EACH = pytest.mark.parametrize("means", [HostMean, DeviceMean], indirect=True)


def parts(*pairs):
    return [(torch.tensor(value), share) for value, share in pairs]


@EACH
def test_each_term_has_a_mean_by_its_own_shares(means):
    assert means.empty
    means.add(parts((1.0, 1), (6.0, torch.tensor(3))))
    means.add(parts((4.0, 2), (2.0, torch.tensor(1))))
    assert means.compute() == (5.0, [3.0, 2.0])
    means.reset()
    assert means.empty
    assert math.isnan(means.compute()[0])


@EACH
def test_a_term_that_counted_nothing_is_no_part_of_the_total(means):
    means.add(parts((1.5, 4), (0.0, torch.tensor(0))))
    assert not means.empty
    total, each = means.compute()
    assert total == each[0] == 1.5
    assert math.isnan(each[1])
    means.add(parts((math.nan, 4), (0.0, torch.tensor(0))))
    assert math.isnan(means.compute()[0])


@pytest.mark.parametrize("steps", [5, 1100])
@pytest.mark.parametrize("read", [False, True])
def test_a_device_remembers_which_term_was_wrong_first(steps, read, monkeypatch):
    monkeypatch.setattr(module, "mean_on", lambda _, **options: DeviceMean(**options))
    means = Means(torch.device("cpu"), [False] * 3)
    for step in range(steps):
        wrong = math.nan if step > steps // 2 else 1.0
        means.add(parts((1.0, 2), (wrong, 2), (wrong if step > steps - 2 else 1.0, 2)))
        if read:
            means.compute()
    assert means.culprits() == [False, True, False]
    means.reset()
    assert means.culprits() == [True] * 3


def test_on_the_host_the_sum_of_a_batchs_terms_is_returned():
    means = Means(torch.device("cpu"), [False, False])
    assert means.add(parts((1.5, 1), (2.0, 7))) == 3.5


def test_every_term_must_be_given():
    with pytest.raises(ValueError, match="shorter"):
        Means(torch.device("cpu"), [False, False]).add(parts((1.5, 1)))


@pytest.mark.parametrize("form", ["ints", "tensors"])
@pytest.mark.parametrize("last", [math.nan, math.inf, 1.0])
def test_a_batch_without_targets_is_not_the_first_that_is_not_finite(form, last):
    mean = DeviceMean()
    for value, count in zip((1.0, math.nan, last), shares(form, [2, 0, 3]), strict=True):
        mean.add(torch.tensor(value), count)
    assert mean.first_nonfinite() == (math.inf if last == 1.0 else 2)
    # Values that are sums count whatever their normalizers are.
    summed = DeviceMean(summed=True)
    summed.add(torch.tensor(math.nan), 0)
    assert summed.first_nonfinite() == 0


def saved(state):
    """Return a state as it comes out of a checkpoint: new tensors in the host's memory."""
    return {
        name: [saved({"": part})[""] for part in value]
        if isinstance(value, list)
        else value.clone()
        if isinstance(value, torch.Tensor)
        else value
        for name, value in state.items()
    }


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("form", ["ints", "tensors"])
@pytest.mark.parametrize("cut", [0, 1, 700, 1024, 2100])
@pytest.mark.parametrize("kinds", [(HostMean, DeviceMean), (DeviceMean, HostMean)])
def test_a_mean_continues_on_another_kind_of_device(kinds, cut, form, summed):
    generator = torch.Generator().manual_seed(cut)
    values = torch.randn(2400, generator=generator)
    counts = torch.randint(0, 9, (2400,), generator=generator).tolist()
    pairs = list(zip(values, shares(form, counts), strict=True))
    first, second = (kind(summed=summed) for kind in kinds)
    for value, share in pairs[:cut]:
        first.add(value, share)
    second.load_state_dict(saved(first.state_dict()))
    assert second.sums() == pytest.approx(first.sums(), rel=1e-12, abs=1e-12)
    for value, share in pairs[cut:]:
        second.add(value, share)
    weights = [1] * 2400 if summed else counts
    total = math.fsum(v * w for v, w in zip(values.double().tolist(), weights, strict=True))
    assert second.sums() == pytest.approx((total, sum(counts)), rel=1e-12, abs=1e-12)


def test_a_device_mean_that_continues_one_of_the_host_keeps_few_values_pending():
    mean = DeviceMean()
    mean.load_state_dict({"total": 6.0, "count": 4.0})  # as version 0.1 wrote it
    assert mean.compute() == 1.5
    assert mean.first_nonfinite() == math.inf
    for _ in range(2000):
        mean.add(torch.tensor(1.5), 1)
    assert mean.compute() == 1.5
    mean.add(torch.tensor(math.nan), 1)
    assert mean.first_nonfinite() == 2000


def test_a_state_of_version_0_1_from_a_device_continues_on_both_kinds():
    state = {
        "folded": 1024,
        "state": torch.tensor([2048.0, 1024.0, math.inf], dtype=torch.float64),
        "values": [torch.tensor(5.0), torch.tensor(math.nan)],
        "shares": [2, torch.tensor(0)],
    }
    for mean in (HostMean(), DeviceMean()):
        mean.load_state_dict(state)
        assert mean.sums() == (2058.0, 1026.0)


def test_the_tensors_of_a_state_go_to_the_device_of_the_mean():
    mean = DeviceMean(torch.device("meta"))
    mean.load_state_dict(
        {
            "folded": 3,
            "state": torch.zeros(3, dtype=torch.float64),
            "values": [torch.tensor(1.0)] * 2,
            "shares": [torch.tensor(1), 2],
        }
    )
    tensors = [mean._state, *mean._values, mean._normalizers[0]]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    mean.load_state_dict({"total": 6.0, "count": 4.0})
    assert mean._state.device.type == "meta"


@KINDS
def test_a_condensed_mean_has_the_same_sums_in_few_numbers(kind):
    mean = kind()
    for number in range(1500):
        mean.add(torch.tensor(float(number)), 1 + number % 3)
    condensed = mean.condensed()
    assert condensed.sums() == mean.sums()
    assert not getattr(condensed, "_values", [])


def test_means_of_terms_and_parts_continue_on_another_kind_of_device(monkeypatch):
    on_host = Means(torch.device("cpu"), [False, True])
    monkeypatch.setattr(module, "mean_on", lambda _, **options: DeviceMean(**options))
    on_device = Means(torch.device("cpu"), [False, True])
    for means in (on_host, on_device):
        means.add(parts((1.0, 1), (6.0, 3)))
        means.add_part("half", torch.tensor(0.5), 2, summed=False)
    states = [means.state_dict() for means in (on_host, on_device)]
    on_device.load_state_dict(states[0])
    monkeypatch.setattr(module, "mean_on", lambda _, **options: HostMean(**options))
    on_host.load_state_dict(states[1])
    for means in (on_host, on_device):
        means.add(parts((4.0, 2), (2.0, 1)))
        means.add_part("half", torch.tensor(2.0), 1, summed=False)
        assert means.unread().read() == (5.0, [3.0, 2.0], {"half": 1.0})
