import math

import pytest
import torch

from fitorch.metrics import mean as module
from fitorch.metrics.mean import DeviceMean, HostMean, Means, mean_on

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
