"""One update of several processes is that of all samples at once, however they come."""

import functools

import pytest
import torch

from fits.weighting import COUNTS, WAYS, by_hand, possible, trained

CASES = [(way, counts) for way in WAYS for counts in COUNTS if possible(way, counts)]


def all_trained(trained, count):
    return {
        (way, counts, window): trained(way, counts, window, count)
        for way, counts in CASES
        for window in (1, 3)
    }


@functools.cache
def outcomes_of(cluster):
    # All at once, because starting a function costs more than its fits.
    return cluster.run(all_trained, trained, cluster.count)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize(("way", "counts"), CASES)
def test_two_processes_weigh_what_counts_in_their_batches(two, way, counts, window):
    expected, expected_loss = by_hand(counts)
    for outcome in outcomes_of(two):
        weights, loss, before = outcome[way, counts, window]
        torch.testing.assert_close(weights, expected, rtol=1e-10, atol=1e-13)
        assert loss == pytest.approx(expected_loss, rel=1e-10)
        if counts not in ("sample weights", "class weights"):
            assert before == pytest.approx(expected_loss, rel=1e-10)
