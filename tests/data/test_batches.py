"""Batches of any kind reach the net as they are, with one argument for what is one thing."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset

from data.libraries import SAME_BITS, SIZE, N, Seen, X, Y, assert_trains_as, fit, pairs, resumed

SEQUENCES = [X[i : i + 1 + i % 3] for i in range(N - 2)] + [X[:1], X[:2]]
TEXTS = ["a" * (i % 5) for i in range(N)]
IMAGES = [X[i].view(3, 1, 1).expand(3, 4 + i % 3, 5) for i in range(N)]


def batched(parts, size=SIZE, wrap=list):
    """Return batches of the samples' parts and their targets."""
    return [(wrap(parts[i : i + size]), Y[i : i + size]) for i in range(0, N, size)]


class Samples(Dataset):
    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.parts[index], Y[index]


# Sequences of different lengths


class Packed(Seen):
    def forward(self, x):
        assert isinstance(x, PackedSequence)
        return super().forward(pad_packed_sequence(x, batch_first=True)[0].sum(1))


class Nested(Seen):
    def forward(self, x):
        assert x.is_nested
        return super().forward(torch.stack([part.sum(0) for part in x.unbind()]))


def pack(sequences):
    return pack_sequence(sequences, enforce_sorted=False)


def jagged(sequences):
    return torch.nested.nested_tensor(sequences, layout=torch.jagged)


def collate_packed(samples):
    return pack([x for x, _ in samples]), torch.stack([y for _, y in samples])


class Tagged(torch.Tensor):
    """A subclass of Tensor, as torchvision and fastai have."""


class TakesTagged(Seen):
    def forward(self, x):
        assert type(x) is Tagged
        return super().forward(x)


@dataclass
class Record:
    x: torch.Tensor
    name: str = "a record"


class TakesRecords(Seen):
    def forward(self, record):
        assert record.name == "a record"
        return super().forward(record.x)


class TakesTexts(Seen):
    def forward(self, texts):
        assert all(isinstance(text, str) for text in texts)
        return super().forward(torch.tensor([[float(len(text)), 1, 0] for text in texts]))


class TakesImages(Seen):
    def forward(self, images):
        assert isinstance(images, list)
        return super().forward(torch.stack([image.mean((1, 2)) for image in images]))


NESTED = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
WHOLE = pytest.mark.filterwarnings("ignore:.* is called with all . entries of the features as one")
KINDS = {
    "packed": (batched(SEQUENCES, wrap=pack), Packed),
    "nested": (lambda: batched(SEQUENCES, wrap=torch.nested.nested_tensor), Nested),
    "jagged": (lambda: batched(SEQUENCES, wrap=jagged), Nested),
    "a subclass of Tensor": ([(x.as_subclass(Tagged), y) for x, y in pairs()], TakesTagged),
    "dataclasses": ([(Record(x), y) for x, y in pairs()], TakesRecords),
    "texts": (batched(TEXTS), TakesTexts),
    "one text": (batched(TEXTS, 1), TakesTexts),
    "images": (batched(IMAGES), TakesImages),
    "two images": (batched(IMAGES, 2), TakesImages),
    "one image": (batched(IMAGES, 1), TakesImages),
}
PREDICTED = ["packed", "a subclass of Tensor", "dataclasses", "texts", "images", "two images"]


def made(kind):
    data, net = KINDS[kind]
    return data() if callable(data) else data, net


@NESTED
@WHOLE
@pytest.mark.parametrize("kind", KINDS)
def test_batches_reach_the_net_as_they_are(kind):
    data, net = made(kind)
    assert_trains_as([data] * 2, data, net)
    assert_trains_as([data], iter(data), net)


@NESTED
@WHOLE
@pytest.mark.parametrize("kind", KINDS)
def test_batches_resume_exactly(kind, tmp_path):
    data, net = made(kind)
    assert resumed(lambda: data, tmp_path, net=net) == SAME_BITS


@WHOLE
@pytest.mark.parametrize("kind", PREDICTED)
def test_batches_are_evaluated_and_predicted(kind):
    data, net = made(kind)
    model, frame = fit(data, data, net=net())
    predicted = model.predict(data)
    assert predicted.shape == (N, 1)
    expected = nn.functional.mse_loss(predicted, Y).item()
    assert frame["val_loss"].iloc[-1] == pytest.approx(expected, rel=1e-5)


@NESTED
@pytest.mark.parametrize("kind", ["nested", "jagged"])
def test_nested_tensors_are_predicted(kind):
    data, net = made(kind)
    model, _ = fit(data, net=net())
    assert model.predict(data).shape == (N, 1)


@WHOLE
def test_a_single_image_in_a_list_is_predicted():
    data, net = made("one image")
    model, _ = fit(data, net=net())
    assert model.predict(data).shape == (N, 1)


LOADERS = {
    "packed by collate_fn": (
        "packed",
        lambda: DataLoader(Samples(SEQUENCES), SIZE, collate_fn=collate_packed),
    ),
    "texts of a loader": ("texts", lambda: DataLoader(Samples(TEXTS), SIZE)),
    "texts of a Dataset": ("texts", lambda: Samples(TEXTS)),
    "texts of a list": ("texts", lambda: list(zip(TEXTS, Y, strict=True))),
    "a subclass of a Dataset": (
        "a subclass of Tensor",
        lambda: Samples([x.as_subclass(Tagged) for x in X]),
    ),
}


@WHOLE
@pytest.mark.parametrize(("kind", "make"), LOADERS.values(), ids=LOADERS)
def test_samples_become_batches_of_their_kind(kind, make):
    data, net = made(kind)
    assert_trains_as([data] * 2, make(), net)


@WHOLE
@pytest.mark.parametrize("size", [1, 2, 4])
def test_images_are_one_argument_also_of_a_net_that_takes_more(size):
    class Detects(TakesImages):
        def forward(self, images, targets=None):
            assert targets is None
            return super().forward(images)

    data = batched(IMAGES, size)
    assert_trains_as([data] * 2, data, Detects)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@NESTED
def test_an_error_describes_nested_tensors(layout):
    nested = torch.nested.nested_tensor(SEQUENCES[:4], layout=layout)
    with pytest.raises(ValueError, match="batch must be") as error:
        fit([(nested,)])
    assert "nested (4, ...)" in str(error.value)


def of_records(net, batch):
    return net(batch.x), batch.y


def test_a_batch_that_is_a_dataclass_needs_forward():
    @dataclass
    class Batch:
        x: torch.Tensor
        y: torch.Tensor

    data = [Batch(x, y) for x, y in pairs()]
    assert_trains_as([data] * 2, data, None, of_records, of_records)
    with pytest.raises(ValueError, match="for other forms pass forward="):
        fit(data)


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Buffered:
    """A collate function that writes each batch into the same memory."""

    def __init__(self):
        self.x, self.y = torch.empty(SIZE, 3), torch.empty(SIZE, 1)

    def __call__(self, samples):
        x, y = (torch.stack(part) for part in zip(*samples, strict=True))
        self.x[: len(x)], self.y[: len(y)] = x, y
        return Pair(self.x[: len(x)], self.y[: len(y)])


def by_name(net, batch):
    return net(batch.x), batch.y


@pytest.mark.parametrize("steps", [1, 3])
def test_a_collate_function_may_use_its_memory_again(steps):
    samples = list(zip(X, Y, strict=True))
    settings = {"forward": by_name, "gradient_accumulation_steps": steps}
    found = fit(DataLoader(samples, SIZE, collate_fn=Buffered()), **settings)[1]
    fresh = lambda part: Pair(*(torch.stack(each) for each in zip(*part, strict=True)))  # noqa: E731
    assert found.equals(fit(DataLoader(samples, SIZE, collate_fn=fresh), **settings)[1])


def test_arrays_in_a_later_batch_become_tensors():
    batches = [(X[:4], Y[:4]), (X[4:8].double().numpy(), Y[4:8].numpy())]
    loader = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
    expected = fit([(X[:4], Y[:4]), (X[4:8], Y[4:8])], batch_size=None)[1]
    assert fit(loader)[1].equals(expected)


def test_images_of_which_one_has_as_many_rows_as_there_are_targets_are_one_argument():
    images = [torch.rand(2, 4), torch.rand(5, 4)]

    class Means(Seen):
        def forward(self, images):
            return super().forward(torch.stack([image.mean(0)[:3] for image in images]))

    data = [(images, Y[:2])]
    with pytest.warns(UserWarning, match="called with all 2 entries of the features as one"):
        assert_trains_as([data], data, Means)


def test_a_list_that_may_be_an_input_or_an_image_is_said_to_be_an_input():
    data = [([X[i : i + 1]], Y[i : i + 1]) for i in range(3)]
    with pytest.warns(UserWarning, match=r"each entry.*is taken for an argument.*pass forward="):
        assert_trains_as([[(x, y) for [x], y in data]], data)
