"""A finite loss whose gradient is not finite: the weights survive, and the place is named."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import TerminateOnNaN
from fitorch.errors import NonFiniteError
from fitorch.internals.torch import FiniteCheck
from fitorch.losses import L2, term

X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
Y = X[:, :1]


class Spoiling(nn.Sequential):
    """Spoils the gradient of one weight in a backward pass, as a square root at 0 does it."""

    def __init__(self, at, value=float("nan")):
        torch.manual_seed(0)
        super().__init__(nn.Linear(2, 3), nn.Linear(3, 1))
        self.calls = 0

        def spoil(gradient):
            self.calls += 1
            return gradient * value if self.calls == at else gradient

        self[1].weight.register_hook(spoil)


WAYS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipping by norm": {"clip_grad_norm": 1.0},
    "clipping by value": {"clip_grad_value": 1.0},
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", ["pairs", "forward", "penalties"])
@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_the_weights_are_those_before_the_update(options, way, value):
    # 2 batches an epoch: the 6th backward pass is batch 2 of epoch 3.
    net = Spoiling(6, value)
    loss = term("mse") + 1e-3 * L2() if way == "penalties" else "mse"
    hook = (lambda net, batch: (net(batch[0]), batch[1])) if way == "forward" else None
    model = KerasModel(net, loss, None, torch.optim.SGD(net.parameters(), 0.1), forward=hook)
    with pytest.raises(NonFiniteError) as caught:
        model.fit((X, Y), epochs=3, batch_size=32, verbose=0, seed=0, **options)
    message = str(caught.value)
    assert "epoch 3, training batch 2" in message
    assert "gradients that are not finite: 1.weight" in message
    assert "the batch has not changed the weights" in message
    assert ("one of 2 batches" in message) == ("gradient_accumulation_steps" in options)
    assert all(p.isfinite().all() for p in net.parameters())


def test_the_best_weights_survive(tmp_path):
    net = Spoiling(6)
    model = KerasModel(net, "mse", None, torch.optim.SGD(net.parameters(), 0.1))
    with pytest.raises(NonFiniteError):
        model.fit((X, Y), epochs=3, batch_size=32, verbose=0, ckpt_path=tmp_path)
    assert model.history.best["epoch"] == 2
    saved = load_file(tmp_path / "best.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_terminate_on_nan_ends_training_without_an_error():
    net = Spoiling(3)
    model = KerasModel(net, "mse", None, torch.optim.SGD(net.parameters(), 0.1))
    model.fit((X, Y), epochs=3, batch_size=32, verbose=0, callbacks=[TerminateOnNaN()])
    assert len(model.history) == 1
    assert all(p.isfinite().all() for p in net.parameters())


def test_finite_training_is_bit_for_bit_that_of_a_loop_by_hand():
    nets = [Spoiling(0), Spoiling(0)]
    optimizer = torch.optim.Adam(nets[1].parameters(), 0.1)
    KerasModel(nets[0], "mse", None, torch.optim.Adam(nets[0].parameters(), 0.1)).fit(
        (X, Y), epochs=3, batch_size=64, shuffle=False, verbose=0
    )
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(nets[1](X), Y).backward()
        optimizer.step()
    for trained, expected in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(trained, expected)


TENSORS = {
    "float32": torch.tensor([1.0, -0.0, 1e-42]),
    "float64": torch.ones(2, 3, dtype=torch.float64).t(),
    "bfloat16": torch.ones(2, dtype=torch.bfloat16),
    "complex": torch.ones(2, dtype=torch.complex64),
    "sparse": torch.sparse_coo_tensor([[1, 1]], torch.ones(2), (3,), check_invariants=True),
    "empty": torch.zeros(0, 3),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("kernel", [True, False], ids=["one kernel", "the public way"])
def test_the_check_sees_one_bad_element_and_changes_none(tensor, kernel, monkeypatch):
    if not kernel:
        monkeypatch.delattr(torch, "_amp_foreach_non_finite_check_and_unscale_")
    check, tensor = FiniteCheck(), tensor.clone()
    before = tensor.clone()
    assert check([torch.ones(2), tensor])
    dense = [t.to_dense() if t.is_sparse else t for t in (tensor, before)]
    assert torch.equal(*dense)
    assert torch.equal(dense[0].real.signbit(), dense[1].real.signbit())
    if tensor.numel():
        for bad in (float("nan"), float("inf"), -float("inf")):
            spoiled = tensor * bad
            assert not check([torch.ones(2), spoiled])
    assert check([torch.ones(2), before])  # an earlier call leaves nothing behind
