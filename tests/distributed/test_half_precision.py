"""fp16 in several processes trains as in one, with the batches of all of them."""

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.losses import term

# Sums in fp16 in another order: a unit in the last place is 1e-3 of a gradient.
FLOAT16 = {"rtol": 5e-3, "atol": 5e-4}


def trained(loss, world, scheduled):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 4, generator=generator)
    y = torch.randint(0, 3, (90,), generator=generator)
    y[::7] = -100  # targets that do not count make the counts of the processes differ
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    schedule = (lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)) if scheduled else None
    model = KerasModel(
        net, losses()[loss], {"acc": "acc"}, lambda p: torch.optim.SGD(p, lr=0.2), schedule
    )
    options = {"batch_size": 30 // world, "verbose": 0, "shuffle": False, "cpu": True}
    frame = model.fit((x, y), epochs=3, mixed_precision="fp16", scheduler_step="update", **options)
    return net.weight.detach(), frame["train_loss"].tolist(), frame["train_acc"].tolist()


def losses():
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    return {"one term": weighted, "two terms": term(weighted) + 0.5 * term(nn.CrossEntropyLoss())}


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("loss", ["one term", "two terms"])
def test_fp16_trains_as_in_one_process(two, loss, scheduled):
    weight, values, rates = trained(loss, 1, scheduled)
    for others in two.run(trained, loss, 2, scheduled):
        assert torch.allclose(others[0], weight, **FLOAT16)
        assert others[1] == pytest.approx(values, rel=5e-3)
        assert others[2] == pytest.approx(rates, abs=0.02)
