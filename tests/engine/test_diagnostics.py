"""Hints look at all of a batch, at the loss, and at each way in which torch writes a type."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fitorch import KerasModel, NonFiniteError
from fitorch.engine.diagnostics import explain

X = torch.rand(8, 3)
Y = torch.rand(8, 1)
IMAGES = torch.rand(8, 3, 8, 8)
CLASSES = torch.arange(8) % 2


def conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))


def message(error):
    return " ".join([str(error), *getattr(error, "__notes__", [])])


def failure(net, loss_fn, data, verb="fit", **options):
    """Return the message of an error in the first epoch."""
    model = KerasModel(net, loss_fn)
    options |= {"epochs": 1} if verb == "fit" else {}
    with pytest.raises((RuntimeError, TypeError, ValueError, AttributeError)) as caught:
        getattr(model, verb)(data, verbose=0, **options)
    return message(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.float16])
@pytest.mark.parametrize("net", ["linear", "conv"])
@pytest.mark.parametrize("verb", ["fit", "evaluate"])
def test_features_of_another_type_than_the_net(dtype, net, verb):
    module, x = (conv(), IMAGES) if net == "conv" else (nn.Linear(3, 2), X)
    text = failure(module, "cross_entropy", (x.to(dtype), CLASSES), verb)
    assert f"the features are {dtype}: pass x.float(), or x.astype('float32')" in text


def test_the_net_decides_which_type_is_meant():
    text = failure(nn.Linear(3, 1).double(), "mse", (X, Y.double()))
    assert "the features are torch.float32: pass x.double(), or x.astype('float64')" in text


class Two(nn.Bilinear):
    def __init__(self):
        super().__init__(3, 3, 1)


SECOND = {
    "a tuple": ((X, X.double()), Y),
    "a mapping": {"input1": X, "input2": X.double(), "labels": Y},
}


@pytest.mark.parametrize("data", SECOND.values(), ids=SECOND)
def test_a_second_input_counts_too(data):
    assert "the features are torch.float64: pass x.float()" in failure(Two(), "mse", data)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_weights_of_a_loss(dtype):
    loss_fn = nn.CrossEntropyLoss(weight=torch.ones(2, dtype=dtype))
    text = failure(nn.Linear(3, 2), loss_fn, (X, CLASSES))
    assert f"weight of CrossEntropyLoss is {dtype}: pass weight.float()" in text


def test_an_embedding_takes_indices():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(9, 1))
    assert "pass x.long(), or x.astype('int64')" in failure(net, "mse", (X, Y))


def test_complex_features_of_a_real_net():
    data = (X.numpy().astype(np.complex128), Y.numpy())
    assert "the features are complex: use layers of dtype" in failure(nn.Linear(3, 1), "mse", data)


@pytest.mark.parametrize("verb", ["fit", "evaluate"])
@pytest.mark.parametrize("kind", ["iterable", "loader"])
def test_a_batch_that_is_none(verb, kind):
    samples = list(zip(X, Y, strict=True))
    loader = DataLoader(samples, 4, collate_fn=lambda batch: None)
    data, options = ([(X, Y), None], {"batch_size": None}) if kind == "iterable" else (loader, {})
    text = failure(nn.Linear(3, 1), "mse", data, verb, **options)
    assert "is None; expected (features, targets): collate_fn" in text


def test_a_part_of_a_batch_that_is_none():
    text = failure(nn.Linear(3, 1), nn.MSELoss(), [(X, None)])
    assert "a part of the batch is None" in text


RAGGED = {
    "tensors": [(torch.rand(1 + i % 2), Y[i]) for i in range(8)],
    "lists": [([1.0] * (1 + i % 2), Y[i]) for i in range(8)],
}


@pytest.mark.parametrize("samples", RAGGED.values(), ids=RAGGED)
@pytest.mark.parametrize("verb", ["fit", "evaluate"])
def test_samples_of_different_lengths(samples, verb):
    text = failure(nn.Linear(3, 1), "mse", DataLoader(samples, 4), verb)
    assert "the samples differ in shape: pass DataLoader(collate_fn=...)" in text


def test_ragged_rows_in_memory():
    rows = np.array([[1, 2], [3]], dtype=object)
    assert "pad rows of different lengths" in failure(nn.Linear(2, 1), "mse", (rows, np.ones(2)))
    assert "numpy.array" in failure(nn.Linear(2, 1), "mse", ([[1, 2], [3]], np.ones(2)))


@pytest.mark.filterwarnings("ignore:.*as one")
def test_a_batch_of_lists():
    text = failure(nn.Linear(2, 1), "mse", [([[1, 2], [3]], Y[:2])])
    assert "the features hold lists: make tensors of them" in text


def test_complex_arrays_train_as_complex_tensors_do():
    class Magnitude(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(3, 1, dtype=torch.complex64)

        def forward(self, x):
            return self.linear(x).abs()

    x = (X + 1j * X.flip(0)).numpy()
    results = []
    for data in (torch.from_numpy(x), x, x.astype(np.complex128)):
        net = Magnitude()
        KerasModel(net, "mse", None, "sgd").fit((data, Y), epochs=2, seed=0, verbose=0)
        results.append(net.linear.weight.detach())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_step_without_circumstances_explains_a_loss_that_is_not_finite():
    class Step:
        def user_batch(self, batch):
            return batch

    with pytest.raises(NonFiniteError, match="inf in validation batch 1; the batch"):
        explain(NonFiniteError("loss is inf"), nn.Linear(1, 1), Step(), X, "validation batch 1")
