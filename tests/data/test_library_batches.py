"""Batches of Keras, torch_geometric and tensordict."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from data.libraries import SAME_BITS, SIZE, N, Seen, X, Y, assert_trains_as, fit, pairs, resumed

# Keras


@pytest.fixture
def py_dataset(keras):
    return partial(make_py_dataset, keras)


def make_py_dataset(keras, changes=False, **more):
    class Batches(keras.utils.PyDataset):
        """Batches of NumPy, whose targets grow at the end of each epoch if it changes."""

        def __init__(self):
            super().__init__(**more)
            self.ended = 0

        def __len__(self):
            return -(-N // SIZE)

        def __getitem__(self, index):
            part = slice(index * SIZE, (index + 1) * SIZE)
            y = Y[part].double().numpy() + (self.ended if changes else 0)
            return X[part].double().numpy(), y

        def on_epoch_end(self):
            self.ended += 1

    return Batches()


WORKERS = [{}, {"workers": 2}]


@pytest.mark.parametrize("more", WORKERS, ids=["alone", "workers=2"])
def test_a_py_dataset_trains_as_by_hand(py_dataset, more):
    data = py_dataset(**more)
    assert_trains_as([pairs()] * 2, data)
    assert data.ended == 2


def test_a_py_dataset_may_change_at_the_end_of_an_epoch(py_dataset):
    assert_trains_as([pairs(), pairs(y=Y + 1), pairs(y=Y + 2)], py_dataset(changes=True))


def test_a_py_dataset_is_shuffled_as_whole_batches(py_dataset):
    model, _ = fit(py_dataset(), shuffle=True, epochs=1)
    assert sorted(model.net.shapes) == [(2, 3), *[(4, 3)] * 5]


def test_a_py_dataset_validates_evaluates_and_predicts(py_dataset):
    model, frame = fit(pairs(), py_dataset(workers=2), batch_size=None)
    expected = nn.functional.mse_loss(model.predict(X), Y).item()
    assert frame["val_loss"].iloc[-1] == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(py_dataset(), verbose=0)["val_loss"] == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(model.predict(py_dataset(workers=2)), model.predict(X))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_py_dataset_resumes_exactly(py_dataset, shuffle, tmp_path):
    assert resumed(py_dataset, tmp_path, shuffle=shuffle) == SAME_BITS


# torch_geometric


def graphs():
    """Return graphs with 2 to 4 nodes and a target for each."""
    geometric = pytest.importorskip("torch_geometric.data", reason="no torch_geometric")
    generator = torch.Generator().manual_seed(2)
    made = []
    for i in range(N):
        nodes = 2 + i % 3
        edges = torch.tensor([[0, 1], [1, 0]])
        x = torch.randn(nodes, 3, generator=generator)
        made.append(geometric.Data(x=x, edge_index=edges, y=Y[i : i + 1]))
    return made


def graph_loader(**more):
    loaders = pytest.importorskip("torch_geometric.loader", reason="no torch_geometric")
    return loaders.DataLoader(graphs(), SIZE, **more)


class Graphs(Seen):
    """Takes a batch of graphs."""

    def forward(self, batch):
        from torch_geometric.nn import global_mean_pool

        return super().forward(global_mean_pool(batch.x, batch.batch))


def of_graphs(net, batch):
    return net(batch), batch.y


GEOMETRIC = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"
)


@GEOMETRIC
@pytest.mark.parametrize("workers", [0, 2])
def test_graphs_train_as_by_hand_with_forward(workers):
    loader = graph_loader(num_workers=workers)
    assert_trains_as([list(loader)] * 2, loader, Graphs, of_graphs, of_graphs)


@GEOMETRIC
def test_graphs_train_as_by_hand_without_forward():
    assert_trains_as([list(graph_loader())] * 2, graph_loader(), Graphs, of_graphs)


@GEOMETRIC
def test_graphs_are_accumulated_without_forward():
    model, _ = fit(graph_loader(), net=Graphs(), gradient_accumulation_steps=2)
    expected, _ = fit(
        graph_loader(), net=Graphs(), forward=of_graphs, gradient_accumulation_steps=2
    )
    torch.testing.assert_close(model.net.linear.weight, expected.net.linear.weight)


@GEOMETRIC
def test_graphs_resume_exactly(tmp_path):
    def make():
        torch.manual_seed(4)
        return graph_loader(shuffle=True)

    assert resumed(make, tmp_path, forward=of_graphs, net=Graphs) == SAME_BITS


@GEOMETRIC
def test_graphs_are_evaluated_and_predicted():
    model, _ = fit(graph_loader(), graph_loader(), net=Graphs(), forward=of_graphs)
    predicted = model.predict(graph_loader())
    assert predicted.shape == (N, 1)
    expected = nn.functional.mse_loss(predicted, Y).item()
    assert model.evaluate(graph_loader(), verbose=0)["val_loss"] == pytest.approx(
        expected, rel=1e-5
    )


# tensordict


def tensor_dicts():
    tensordict = pytest.importorskip("tensordict", reason="tensordict is not installed")
    whole = tensordict.TensorDict({"x": X, "labels": Y}, batch_size=[N])
    return list(whole.split(SIZE))


class Named(Seen):
    def forward(self, x):
        return super().forward(x)


def of_dicts(net, batch):
    return net(batch["x"]), batch["labels"]


@pytest.mark.parametrize("forward", [None, of_dicts])
def test_tensor_dicts_train_as_by_hand(forward):
    assert_trains_as([tensor_dicts()] * 2, tensor_dicts(), Named, of_dicts, forward)


def test_a_tensor_dict_of_all_samples_trains_as_by_hand():
    tensordict = pytest.importorskip("tensordict", reason="tensordict is not installed")
    data = tensordict.TensorDict({"x": X, "labels": Y}, batch_size=[N])
    loader = DataLoader(data, SIZE, collate_fn=lambda batch: batch)
    assert_trains_as([pairs()] * 2, loader, Named)
    assert_trains_as([pairs()] * 2, data, Named)


def test_tensor_dicts_resume_exactly(tmp_path):
    assert resumed(tensor_dicts, tmp_path, net=Named) == SAME_BITS


def graph_dataset():
    """Return a dataset of torch_geometric in memory."""
    geometric = pytest.importorskip("torch_geometric.data", reason="no torch_geometric")

    class InMemory(geometric.InMemoryDataset):
        def __init__(self):
            super().__init__(None)
            self.data, self.slices = self.collate(graphs())

    return InMemory()


@GEOMETRIC
@pytest.mark.parametrize("make", [graphs, graph_dataset], ids=["list", "InMemoryDataset"])
def test_graphs_alone_are_samples(make):
    assert_trains_as([list(graph_loader())] * 2, make(), Graphs, of_graphs)
    model, _ = fit(make(), shuffle=True, net=Graphs())
    torch.testing.assert_close(model.predict(make()), model.predict(graph_loader()))


@GEOMETRIC
def test_a_list_or_a_stream_of_batches_of_graphs_is_not_batched_again():
    batches = list(graph_loader())
    assert_trains_as([batches] * 2, batches, Graphs, of_graphs)

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(batches)

    assert_trains_as([batches] * 2, Stream(), Graphs, of_graphs)
