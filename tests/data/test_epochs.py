import copy
from itertools import islice

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from fitorch import KerasModel
from fitorch.data.epochs import EpochIterator
from fitorch.data.sources import Batching, as_source
from fitorch.engine.steps.accumulation import micro_batches
from fitorch.errors import DataError


def source(batches):
    return as_source(batches, "train_data", Batching())


def numbers(samples=10, size=2, shuffle=False):
    x = torch.arange(float(samples))
    return as_source((x, x), "train_data", Batching(size, shuffle, seed=1))


def epoch(iterator):
    """Give an epoch to its end, as the loop does."""
    yield from iterator.epoch()
    iterator.end_epoch()


def epochs(iterator, count):
    return [[batch[0].tolist() for batch in epoch(iterator)] for _ in range(count)]


def test_an_epoch_is_a_pass():
    assert epochs(EpochIterator(numbers()), 2) == [[[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]] * 2


def test_each_epoch_has_the_order_of_its_own_pass():
    data = numbers(shuffle=True)
    expected = [[b[0].tolist() for b in data.batches(p)] for p in range(3)]
    assert epochs(EpochIterator(data), 3) == expected
    assert expected[0] != expected[1] != expected[2]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 12])
@pytest.mark.parametrize("shuffle", [False, True])
def test_short_epochs_go_on_where_the_one_before_stopped(steps, shuffle):
    data = numbers(shuffle=shuffle)
    stream = [b[0].tolist() for p in range(20) for b in data.batches(p)]
    found = epochs(EpochIterator(data, steps_per_epoch=steps), 4)
    assert found == [stream[i * steps : (i + 1) * steps] for i in range(4)]


def test_short_epochs_go_on_with_a_generator():
    endless = ([torch.tensor([number])] for number in range(10**9))
    assert epochs(EpochIterator(source(endless), 3), 3) == [
        [[0], [1], [2]],
        [[3], [4], [5]],
        [[6], [7], [8]],
    ]


def test_short_epochs_go_on_with_the_iterator_of_a_loader():
    x = torch.arange(8.0)
    loader = DataLoader(TensorDataset(x), 2, collate_fn=lambda samples: default_collate(samples))
    stream = [batch[0].tolist() for _ in range(3) for batch in loader]
    assert epochs(EpochIterator(source(loader), 3), 3) == [stream[:3], stream[3:6], stream[6:9]]


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("cut", [1, 4, 5, 7, 11])
def test_goes_on_from_pass_and_position_as_if_never_interrupted(steps, cut):
    def stream(iterator):
        while True:
            yield from (batch[0].tolist() for batch in epoch(iterator))

    data = numbers(shuffle=True)
    whole = list(islice(stream(EpochIterator(data, steps)), 20))
    iterator = EpochIterator(data, steps)
    assert list(islice(stream(iterator), cut)) == whole[:cut]
    later = EpochIterator(numbers(shuffle=True), steps, iterator.pass_index, iterator.position)
    later.taken = iterator.taken
    assert list(islice(stream(later), 20 - cut)) == whole[cut:]


def test_tells_the_steps_of_an_epoch_as_far_as_they_are_known():
    assert EpochIterator(numbers()).steps == 5
    assert EpochIterator(numbers(), 3).steps == 3
    assert EpochIterator(source(iter([]))).steps is None


@pytest.mark.parametrize("steps", [None, 2])
def test_says_that_there_is_no_batch_at_all(steps):
    with pytest.raises(DataError, match="train_data is empty: the training data gave no batch"):
        list(EpochIterator(source(iter([])), steps).epoch())


@pytest.mark.parametrize("steps", [None, 2])
def test_names_the_pass_in_which_a_generator_is_exhausted(steps):
    iterator = EpochIterator(source(iter([torch.ones(1), torch.ones(1)])), steps)
    assert len(list(epoch(iterator))) == 2
    with pytest.raises(DataError, match="no batch in pass 2 over it; a generator gives its"):
        list(epoch(iterator))


def test_lets_go_of_the_iterator_when_it_is_closed():
    closed = []

    class Loader:
        def __iter__(self):
            try:
                yield torch.ones(1)
                yield torch.ones(1)
            finally:
                closed.append(True)

    iterator = EpochIterator(source(Loader()), 1)
    list(iterator.epoch())
    assert not closed
    iterator.close()
    assert closed


def test_asks_an_iterator_no_more_once_it_has_ended():
    class Restarting:
        """Begins anew when it is asked after its end, as DALI's do."""

        number = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.number += 1
            if self.number % 4 == 0:
                raise StopIteration
            return [torch.tensor([self.number])]

    assert epochs(EpochIterator(source(Restarting())), 2) == [[[1], [2], [3]], [[5], [6], [7]]]


@pytest.mark.parametrize("count", [1, 3, 6, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_closes_a_window_after_its_last_batch(count, size):
    found = list(micro_batches(iter(range(1, count + 1)), size, lambda batch: [1]))
    assert [batch for batch, _, _ in found] == list(range(1, count + 1))
    closing = [batch for batch, _, closes in found if closes]
    assert closing == sorted({*range(size, count + 1, size), count})


def test_divides_by_how_often_a_batch_goes_into_its_window():
    counts = [4, 2, 2, 3, 1]
    found = [divisor for _, (divisor,), _ in micro_batches(iter(counts), 3, lambda batch: [batch])]
    assert found == [8 / 4, 8 / 2, 8 / 2, 4 / 3, 4 / 1]


def test_makes_no_window_of_nothing():
    assert list(micro_batches(iter([]), 3, len)) == []


def test_reads_no_further_than_a_window():
    read = []

    def batches():
        for number in range(10):
            read.append(number)
            yield number

    next(micro_batches(batches(), 4, lambda batch: [1]))
    assert read == [0, 1, 2, 3]


@pytest.mark.parametrize("weighted", [False, True])
def test_adds_up_the_gradients_of_one_batch_with_all_the_samples_of_a_window(weighted):
    torch.manual_seed(0)
    x, y = torch.randn(11, 3, dtype=torch.float64), torch.randn(11, 1, dtype=torch.float64)
    w = torch.rand(11, dtype=torch.float64) if weighted else torch.ones(11, dtype=torch.float64)
    net = nn.Linear(3, 1).double()

    def loss(places):
        squares = (net(x[places]) - y[places]).square().squeeze(1)
        return (squares * w[places]).sum() / w[places].sum()

    batches = torch.arange(11).split(2)
    grads = []
    for places, (divisor,), closes in micro_batches(iter(batches), 4, lambda b: [w[b].sum()]):
        (loss(places) / divisor).backward()
        if closes:
            grads.append(net.weight.grad.clone())
            net.zero_grad()
    for window, grad in zip((torch.arange(8), torch.arange(8, 11)), grads, strict=True):
        (expected,) = torch.autograd.grad(loss(window), net.weight)
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("form", ["pairs", "weights", "class_weight"])
def test_fit_with_accumulation_equals_fit_with_large_batches(form):
    torch.manual_seed(0)
    x, y = torch.randn(22, 3, dtype=torch.float64), torch.arange(22) % 3
    data = (x, y, torch.rand(22, dtype=torch.float64)) if form == "weights" else (x, y)
    class_weight = {0: 0.5, 2: 4.0} if form == "class_weight" else None
    start = nn.Linear(3, 3).double()
    nets = []
    for size, accumulation in ((8, 1), (2, 4)):
        net = copy.deepcopy(start)
        model = KerasModel(net, nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(net.parameters()))
        frame = model.fit(
            data,
            epochs=2,
            batch_size=size,
            seed=3,
            class_weight=class_weight,
            gradient_accumulation_steps=accumulation,
            verbose=0,
        )
        nets.append((net, frame))
    (one, a), (other, b) = nets
    torch.testing.assert_close(one.weight, other.weight)
    torch.testing.assert_close(a["train_loss"].tolist(), b["train_loss"].tolist())


def test_hands_on_why_a_batch_cant_be_counted_in_its_turn():
    def count(batch):
        if batch == 4:
            raise wrong
        return [batch]

    wrong = ValueError("no samples")
    found = list(micro_batches(iter([1, 3, 2, 4, 5]), 2, count))
    assert found[:4] == [(1, [4.0], False), (3, [4 / 3], True), (2, [1], False), (4, wrong, False)]
