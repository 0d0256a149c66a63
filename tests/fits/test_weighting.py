"""One update by one batch, and by several, is that of all samples at once, however they come."""

import pytest
import torch

from fitorch import KerasModel
from fits.weighting import COUNTS, SAMPLES, WAYS, by_hand, possible, trained

CASES = [(way, counts) for way in WAYS for counts in COUNTS if possible(way, counts)]
CLOSE = {"rtol": 1e-10, "atol": 1e-13}  # the same float64 sums in another order


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize(("way", "counts"), CASES)
def test_a_batch_weighs_what_counts_in_it(way, counts, window):
    weights, loss, _ = trained(way, counts, window)
    expected, expected_loss = by_hand(counts)
    torch.testing.assert_close(weights, expected, **CLOSE)
    # The weights change with the last batch of the window, so that its losses are those before.
    assert loss == pytest.approx(expected_loss, rel=1e-10)


@pytest.mark.parametrize(
    ("way", "counts"),
    [case for case in CASES if case[1] not in ("sample weights", "class weights")],
)
def test_an_evaluation_in_batches_is_that_of_all_samples(way, counts):
    *_, before = trained(way, counts, 1)
    assert before == pytest.approx(by_hand(counts)[1], rel=1e-10)


class TwoTerms(torch.nn.Linear):
    def forward(self, batch):
        y = super().forward(batch)
        return {"a": y, "b": y}


def test_terms_that_count_differently_are_accumulated_with_forward():
    torch.manual_seed(0)
    x = torch.randn(SAMPLES, 3).double()
    a, b = torch.randint(2, (2, SAMPLES))
    a[:9] = -100
    b[14:] = -100
    nets = [TwoTerms(3, 2).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, window in zip(nets, (1, 3), strict=True):
        model = KerasModel(
            net,
            {"a": "cross_entropy", "b": "cross_entropy"},
            None,
            torch.optim.SGD(net.parameters(), 0.1),
            forward=lambda net, batch: (net(batch[0]), {"a": batch[1], "b": batch[2]}),
        )
        model.fit(
            [(x[at], a[at], b[at]) for at in torch.arange(SAMPLES).split(SAMPLES // window)],
            epochs=1,
            batch_size=None,
            gradient_accumulation_steps=window,
            verbose=0,
        )
    torch.testing.assert_close(nets[0].weight, nets[1].weight, **CLOSE)


def test_a_batch_without_tensors_counts_what_forward_returns():
    torch.manual_seed(0)
    x, y = torch.randn(9, 4).double(), torch.randn(9, 1).double()
    nets = [torch.nn.Linear(4, 1).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())

    def forward(net, batch):
        return net(x[batch["rows"]]), y[batch["rows"]]

    for net, rows in zip(nets, ([slice(0, 9)], [slice(0, 7), slice(7, 9)]), strict=True):
        model = KerasModel(
            net, "mse", None, torch.optim.SGD(net.parameters(), 0.1), forward=forward
        )
        model.fit(
            [{"rows": part} for part in rows],
            epochs=1,
            gradient_accumulation_steps=2,
            verbose=0,
        )
    torch.testing.assert_close(nets[0].weight, nets[1].weight, **CLOSE)
