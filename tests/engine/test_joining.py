"""Predictions have a row for each sample, whatever the net returns; compared with one call."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import distributions, nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence
from torch.utils.data import DataLoader

from fitorch import DataError, KerasModel

N = 11  # two batches of 4, one of 3
X = torch.arange(N * 3.0).reshape(N, 3) / 10


class Net(nn.Module):
    """Returns what a function makes of its input."""

    def __init__(self, function, config=None):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.function = function
        if config is not None:
            self.config = config

    def forward(self, x):
        return self.function(x * self.scale if isinstance(x, torch.Tensor) else x)


def predict(function, x=X, *, config=None, **options):
    options = {"batch_size": 4, "verbose": 0, **options}
    return KerasModel(Net(function, config), "mse").predict(x, **options)


@dataclass
class Output:
    scores: torch.Tensor
    texts: list


ROWS = {
    "a tensor": lambda x: x,
    "a row of numbers": lambda x: x.sum(1),
    "a mapping": lambda x: {"a": x, "b": x.sum(1)},
    "a tuple": lambda x: (x, {"b": [x.sum(1), x[:, :1]]}),
    "images": lambda x: x[:, :, None, None].expand(-1, -1, 2, 5),
}


@pytest.mark.parametrize("function", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("batch_size", [1, 4, 5, 11, 32])
def test_rows_are_those_of_one_call(function, batch_size):
    with torch.no_grad():
        expected = Net(function)(X)
    torch.testing.assert_close(predict(function, batch_size=batch_size), expected)


@pytest.mark.parametrize("samples", [1, 9, 11])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_net_may_squeeze_a_batch_of_one(samples, batch_size):
    expected = 2 * X[:samples].sum(1)
    squeezed = predict(lambda x: x.sum(1, True).squeeze(), X[:samples], batch_size=batch_size)
    torch.testing.assert_close(squeezed, expected)
    rows = predict(lambda x: x[:, None].squeeze(), X[:samples], batch_size=batch_size)
    torch.testing.assert_close(rows, 2 * X[:samples])


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_arrays_are_joined_as_tensors_are(batch_size):
    result = predict(lambda x: x.detach().numpy(), batch_size=batch_size)
    np.testing.assert_allclose(result, 2 * X.numpy())


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 11])
def test_a_list_of_mappings_is_a_prediction_for_each_sample(batch_size):
    def boxes(x):
        return [{"boxes": row[:1].expand(1 + i % 3, 4), "label": i} for i, row in enumerate(x)]

    result = predict(boxes, batch_size=batch_size)
    assert len(result) == N
    assert [entry["boxes"][0, 0].item() for entry in result] == pytest.approx(
        (2 * X[:, 0]).tolist()
    )


def test_lists_of_texts_and_of_tensors_of_different_sizes_are_extended():
    texts = predict(lambda x: [f"{row.sum():.1f}" for row in x])
    assert texts == [f"{2 * row.sum():.1f}" for row in X]
    ragged = predict(lambda x: [row[: 1 + i % 3] for i, row in enumerate(x)])
    assert [len(row) for row in ragged] == [1 + i % 4 % 3 for i in range(N)]


def test_outputs_as_many_as_samples_are_outputs_if_each_has_all_samples():
    first, second = predict(lambda x: [x, -x], X[:8], batch_size=2)
    torch.testing.assert_close(first, 2 * X[:8])
    torch.testing.assert_close(second, -2 * X[:8])


def test_dataclasses_and_texts_within_them_are_joined():
    result = predict(lambda x: Output(x, [str(len(row)) for row in x]))
    torch.testing.assert_close(result.scores, 2 * X)
    assert result.texts == ["3"] * N


@pytest.mark.parametrize("batch_size", [2, 4, 11])
def test_sequences_first_are_joined_along_the_samples(batch_size):
    function = lambda x: x.T[:, :, None].expand(3, -1, 2)  # noqa: E731 - (T, N, C)
    result = predict(function, batch_size=batch_size)
    torch.testing.assert_close(result, function(2 * X))


@pytest.mark.parametrize("targets", [False, True])
def test_padded_sequences_first_of_a_loader_are_joined_along_the_samples(targets):
    def collate(samples):
        x = pad_sequence([s[0] for s in samples])
        return (x, torch.stack([s[1] for s in samples])) if targets else x

    data = [(torch.randn(6, 2), torch.tensor(float(i))) for i in range(9)]
    result = predict(lambda x: x, DataLoader(data, 4, collate_fn=collate))
    torch.testing.assert_close(result, 2 * torch.stack([s[0] for s in data], 1))


def test_the_state_of_an_lstm_is_joined_along_its_own_dimension():
    lstm = nn.LSTM(3, 5, num_layers=2, batch_first=True)
    x = torch.randn(N, 7, 3)
    with torch.no_grad():
        expected = lstm(x)
    result = KerasModel(lstm, "mse").predict(x, batch_size=4, verbose=0)
    torch.testing.assert_close(result, expected)


DISTRIBUTIONS = {
    "normal": lambda x: distributions.Normal(x, 1.5),
    "bernoulli": lambda x: distributions.Bernoulli(logits=x),
    "categorical": lambda x: distributions.Categorical(probs=x.softmax(1)),
    "multinomial": lambda x: distributions.Multinomial(5, logits=x),
    "independent": lambda x: distributions.Independent(distributions.Normal(x, 1.0), 1),
    "log-normal": lambda x: distributions.LogNormal(x / 10, 1.0),
    "covariance": lambda x: distributions.MultivariateNormal(x, torch.eye(3)),
    "mixture": lambda x: distributions.MixtureSameFamily(
        distributions.Categorical(logits=x), distributions.Normal(x, 1.0)
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_of_the_batches_become_one(name):
    with torch.no_grad():
        expected = Net(DISTRIBUTIONS[name])(X)
    result = predict(DISTRIBUTIONS[name])
    assert type(result) is type(expected)
    value = expected.sample()
    torch.testing.assert_close(result.log_prob(value), expected.log_prob(value))


def test_what_has_no_rows_is_a_list_with_an_entry_for_each_batch():
    class Cache:
        pass

    result = predict(
        lambda x: {"rows": x, "loss": x.mean(), "cache": Cache(), "none": None, "step": 3}
    )
    torch.testing.assert_close(result["rows"], 2 * X)
    torch.testing.assert_close(
        torch.stack(result["loss"]), torch.stack([2 * part.mean() for part in X.split(4)])
    )
    assert [type(cache) for cache in result["cache"]] == [Cache] * 3
    assert result["none"] is None
    assert result["step"] == [3, 3, 3]


def test_a_distribution_that_cannot_be_built_again_is_not_lost():
    class Odd(distributions.Normal):
        def __init__(self, something):
            super().__init__(something, 1.0)

    result = predict(lambda x: Odd(x))
    assert [part.loc.shape[0] for part in result] == [4, 4, 3]


def test_sequences_of_different_lengths_are_a_list_or_padded():
    ragged = lambda x: x[:, None, : 1 + len(x) % 3]  # noqa: E731 - (N, 1, 2), (N, 1, 1)
    parts = predict(ragged)
    assert [tuple(part.shape) for part in parts] == [(4, 1, 2), (4, 1, 2), (3, 1, 1)]
    padded = predict(ragged, join="pad")
    expected = 2 * X[:, None, :2].clone()
    expected[8:, :, 1] = 0
    torch.testing.assert_close(padded, expected)
    as_array = predict(lambda x: ragged(x).detach().numpy(), join="pad")
    np.testing.assert_allclose(as_array, expected.numpy())


def test_a_list_is_returned_on_request():
    parts = predict(lambda x: x, join="list")
    assert [len(part) for part in parts] == [4, 4, 3]
    torch.testing.assert_close(torch.cat(parts), 2 * X)
    assert [part.item() for part in predict(torch.sum, join="list")] == pytest.approx(
        [2 * part.sum().item() for part in X.split(4)]
    )
    with pytest.raises(ValueError, match="join is 'stack'; expected one of 'auto', 'list', 'pad'"):
        predict(lambda x: x, join="stack")


MISFITS = {
    "a mean": lambda x: x.mean(),
    "a row too few": lambda x: x[1:],
    "rows of elements": lambda x: x.reshape(-1),
    "a text for all": lambda x: ["one", "two"],
    "only the loss": lambda x: {"loss": x.mean()},
    "a prediction too few": lambda x: [{"boxes": row} for row in x[1:]],
}


@pytest.mark.parametrize("function", MISFITS.values(), ids=MISFITS)
@pytest.mark.parametrize("join", ["auto", "pad"])
def test_the_number_of_rows_is_checked(function, join):
    with pytest.raises(DataError, match=r"batch 1 has 4 samples, but .*x\[None\].*join='list'"):
        predict(function, join=join)


@pytest.mark.parametrize("samples", [4, 8, 40])
def test_a_sample_without_batch_dimension_is_refused(samples):
    net = nn.Sequential(nn.Linear(samples, 16), nn.Linear(16, 3))
    with pytest.raises(DataError, match=rf"{samples} samples, but .*float32 \(3,\)"):
        KerasModel(net, "mse").predict(torch.randn(samples), batch_size=64, verbose=0)


def test_keys_that_a_configuration_ignores_are_left_out():
    config = SimpleNamespace(keys_to_ignore_at_inference=["past"])
    result = predict(lambda x: {"logits": x, "past": object()}, config=config)
    assert list(result) == ["logits"]
    torch.testing.assert_close(result["logits"], 2 * X)


def test_outputs_have_no_graph():
    def inside(x):
        with torch.enable_grad():
            return {"a": x * torch.ones(1, requires_grad=True), "b": [x.requires_grad_()]}

    result = predict(inside)
    assert not result["a"].requires_grad
    assert not result["b"][0].requires_grad
    normal = predict(lambda x: distributions.Normal(inside(x)["a"], 1.0))
    assert not normal.loc.requires_grad


def test_graphs_are_counted_not_their_nodes():
    class Graphs:
        """A batch as torch_geometric makes them: 3 nodes for each graph."""

        def __init__(self, x):
            self.x, self.num_graphs, self.num_nodes = x, len(x) // 3, len(x)

        def to(self, *args, **kwargs):
            return self

    batches = [Graphs(torch.ones(12, 2)), Graphs(torch.ones(6, 2))]
    pooled = predict(lambda batch: batch.x.reshape(-1, 3, 2).sum(1), batches)
    assert pooled.shape == (6, 2)
    assert predict(lambda batch: batch.x, batches).shape == (18, 2)
    with pytest.raises(DataError, match="4 samples"):
        predict(lambda batch: batch.x[:5], batches)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_loader_of_texts_is_a_batch_of_texts_at_any_size(size):
    texts = ["a" * i for i in range(N)]
    lengths = lambda batch: torch.tensor([[float(len(text))] for text in batch])  # noqa: E731
    with pytest.warns(UserWarning, match="as one"):
        result = predict(lengths, DataLoader(texts, size))
    assert result.flatten().tolist() == list(range(N))


@pytest.mark.filterwarnings("ignore:.*as one")
def test_packed_sequences_count_their_samples():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(2, 4)

        def forward(self, x):
            return self.rnn(x)[1][0]

    data = [(torch.randn(i + 1, 2), torch.tensor(0.0)) for i in range(6)]

    def collate(samples):
        packed = pack_sequence([s[0] for s in samples], enforce_sorted=False)
        return packed, torch.stack([s[1] for s in samples])

    net = Last()
    result = KerasModel(net, "mse").predict(DataLoader(data, 4, collate_fn=collate), verbose=0)
    with torch.no_grad():
        torch.testing.assert_close(result, net(collate(data)[0]))


def test_one_batch_is_joined_as_several_are():
    result = predict(lambda x: {"rows": x, "loss": x.mean()}, batch_size=N)
    assert len(result["loss"]) == 1


class Buffered(nn.Module):
    """Writes its outputs into the same memory each time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("output", torch.zeros(4))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        self.output[: len(x)] = x
        return {
            "y": self.output[: len(x)],
            "seen": self.seen,
            "array": self.output[: len(x)].numpy(),
        }


def test_outputs_that_share_memory_are_copied():
    x = torch.arange(10.0)
    got = KerasModel(Buffered(), "mse").predict(x, batch_size=4, verbose=0)
    assert torch.equal(got["y"], x)
    assert [float(seen) for seen in got["seen"]] == [4, 8, 10]
    assert got["array"].tolist() == x.tolist()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
@pytest.mark.parametrize("second", ["state", "loss", "mapping", "list"])
def test_a_tuple_as_long_as_the_batch_is_a_tuple_of_outputs(second, batch_size):
    lstm = nn.LSTM(3, 5, batch_first=True)

    def forward(x):
        y, state = lstm(x)
        others = {"state": state, "loss": y.mean(), "mapping": {"loss": y.mean()}, "list": [y, -y]}
        return y, others[second]

    class Net(nn.Module):
        def forward(self, x):
            return forward(x)

    x = torch.randn(6, 4, 3)
    got = KerasModel(Net(), "mse").predict(x, batch_size=batch_size, verbose=0)
    assert isinstance(got, tuple)
    assert len(got) == 2
    torch.testing.assert_close(got[0], lstm(x)[0].detach())


def test_a_list_of_texts_is_a_set_of_samples():
    class Lengths(nn.Module):
        def forward(self, texts):
            return torch.tensor([[float(len(text))] for text in texts])

    with pytest.warns(UserWarning, match="does not take the parts"):
        got = KerasModel(Lengths(), "mse").predict(["a", "bb", "ccc"], batch_size=2, verbose=0)
    assert got.tolist() == [[1.0], [2.0], [3.0]]
