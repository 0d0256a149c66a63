"""Losses of users on several processes: what they are a mean over is found out in each of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch import KerasModel, RankError

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 5, 4, generator=GENERATOR).double()
TAGS = torch.randint(3, (24, 5), generator=GENERATOR)
TAGS[torch.arange(5) >= torch.randint(1, 6, (24, 1), generator=GENERATOR)] = -100


def tokens(y_pred, y_true):
    return F.cross_entropy(y_pred.flatten(0, 1), y_true.flatten())


def per_sequence(y_pred, y_true):
    losses = F.cross_entropy(y_pred.transpose(1, 2), y_true, reduction="none")
    return (losses.sum(1) / (y_true >= 0).sum(1).clamp_min(1)).mean()


LOSSES = {"tokens": tokens, "sequences": per_sequence}


def trained(name, world, window=1):
    torch.manual_seed(1)
    net = nn.Linear(4, 3).double()
    model = KerasModel(net, LOSSES[name], None, torch.optim.SGD(net.parameters(), 0.3))
    before = model.evaluate((X, TAGS), batch_size=5, verbose=0)["val_loss"]
    frame = model.fit(
        (X, TAGS),
        epochs=1,
        batch_size=24 // world // window,
        gradient_accumulation_steps=window,
        shuffle=False,
        verbose=0,
    )
    return net.weight.detach().clone(), frame["train_loss"][0], before


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_users_loss_is_trained_on_as_in_one_batch(two, name, window):
    torch.manual_seed(1)
    net = nn.Linear(4, 3).double()
    whole = LOSSES[name](net(X), TAGS)
    whole.backward()
    assert net.weight.grad is not None
    expected = net.weight.detach() - 0.3 * net.weight.grad
    for weights, loss, before in two.run(trained, name, 2, window):
        torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-12)
        assert loss == pytest.approx(whole.item(), rel=1e-9)
        assert before == pytest.approx(whole.item(), rel=1e-9)


def disagreeing():
    tags = TAGS.clone()
    tags[:6] = 1  # one process has no padding in its first batch, so that it cannot tell
    net = nn.Linear(4, 3).double()
    model = KerasModel(net, per_sequence, None, torch.optim.SGD(net.parameters(), 0.3))
    with pytest.raises(RankError) as caught:
        model.fit((X, tags), epochs=1, batch_size=6, shuffle=False, verbose=0)
    return str(caught.value)


def test_processes_whose_first_batches_disagree_are_refused(two):
    for message in two.run(disagreeing):
        assert "is a mean over differs between the first batches of the processes" in message
