import copy
import gc
import os
import random
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from data.reading import N, Samples, X, Y, fit, start
from fitorch import KerasModel
from fitorch.data.sampling import Order
from fitorch.data.sources import Batching, as_source
from fitorch.randomness import derive_seed, peek_seed


class Augmented(Samples):
    """Draws from all three global generators."""

    def __getitem__(self, index):
        noise = torch.rand(3) + random.random() + float(np.random.normal())
        return X[index] + noise, Y[index]


class Many(Samples):
    """Reads many samples in one go, and remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def __getitem__(self, index):
        pytest.fail("one sample was asked for")

    def __getitems__(self, indices):
        self.asked.append(indices)
        return [(X[index], Y[index]) for index in indices]


class WhoReads(Samples):
    """Gives the process that reads."""

    def __getitem__(self, index):
        return torch.full((3,), float(os.getpid())), Y[index]


class Failing(Samples):
    def __getitem__(self, index):
        if index == 9:
            message = "no such scan"
            raise FileNotFoundError(message)
        return super().__getitem__(index)


# The same batches, whoever reads


def by_hand(seed=5, epochs=2):
    net, means = start(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(epochs):
        total = 0.0
        loader = DataLoader(
            Samples(), batch_sampler=[b.tolist() for b in Order(N, 4, True, seed).batches(epoch)]
        )
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        means.append(total / N)
    return net, means


@pytest.mark.parametrize("num_workers", ["auto", 0, 1, 2])
@pytest.mark.parametrize("data", [Samples, Many])
def test_trains_as_a_loop_by_hand_with_any_number_of_workers(data, num_workers):
    model, frame = fit(data(), num_workers)
    expected, means = by_hand()
    torch.testing.assert_close(model.net.weight, expected.weight)
    assert frame["train_loss"].tolist() == pytest.approx(means, rel=1e-5)


def test_augmentation_is_the_same_with_any_number_of_workers():
    (one, expected), *others = (
        fit(Augmented(), n, val_data=Augmented(), epochs=3) for n in (0, 1, 2)
    )
    for model, frame in others:
        assert frame.equals(expected)
        assert torch.equal(model.net.weight, one.net.weight)


def test_augmentation_differs_from_batch_to_batch_and_from_pass_to_pass():
    source = as_source(Augmented(), "train_data", Batching(4))
    noise = [
        (batch[0] - X[index]).sum().item()
        for number in (0, 1)
        for index, batch in zip(
            Order(N, 4, False, 0).batches(number), source.batches(number), strict=True
        )
    ]
    assert len({round(value, 3) for value in noise}) == 12


def test_a_batch_draws_what_its_seed_says():
    batching = Batching(4, shuffle=True, seed=3)
    batch = list(as_source(Augmented(), "train_data", batching).batches(1))[2]
    index = list(Order(N, 4, True, 3).batches(1))[2].tolist()
    seed = derive_seed(3, "read", "train_data", 1, 2)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    expected = default_collate([Augmented()[i] for i in index])
    assert all(map(torch.equal, batch, expected))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_leaves_the_users_random_streams_alone(num_workers):
    def drawn(read):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        source = as_source(Augmented(), "train_data", Batching(4, num_workers=num_workers))
        values = []
        for _ in source.batches(0) if read else range(6):
            values = [torch.rand(()).item(), random.random(), np.random.rand()]
        source.close()
        return values

    assert drawn(read=True) == drawn(read=False)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_net_with_dropout_sees_the_same_stream_whoever_reads(num_workers):
    net = lambda: nn.Sequential(nn.Dropout(0.5), start())  # noqa: E731
    _, expected = fit(Samples(), 0, net())
    _, frame = fit(Samples(), num_workers, net())
    assert frame.equals(expected)


def test_evaluation_follows_the_global_seed():
    model, _ = fit(Samples())
    scores = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        scores.append(model.evaluate(Augmented(), verbose=0)["val_loss"])
    assert scores[0] == scores[1] != scores[2]


def test_two_evaluations_in_a_row_draw_other_augmentations():
    model, _ = fit(Samples())
    first, second = (model.evaluate(Augmented(), verbose=0)["val_loss"] for _ in range(2))
    assert first != second


def test_peeking_at_a_seed_tells_the_next_draw():
    peeked = peek_seed()
    assert peeked == torch.empty((), dtype=torch.int64).random_().item()


@pytest.mark.parametrize("begin", [0, 1, 5, 6])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_begins_in_the_middle_with_the_batches_of_the_whole(num_workers, begin):
    batching = Batching(4, shuffle=True, seed=2, num_workers=num_workers)
    source = as_source(Augmented(), "train_data", batching)
    whole, rest = list(source.batches(3)), list(source.batches(3, begin))
    source.close()
    assert len(rest) == 6 - begin
    for ours, theirs in zip(rest, whole[begin:], strict=True):
        assert all(map(torch.equal, ours, theirs))


# Many samples at once


def test_asks_for_a_batch_in_one_call():
    data = Many()
    list(as_source(data, "train_data", Batching(4, shuffle=True, seed=3)).batches(0))
    assert data.asked == [b.tolist() for b in Order(N, 4, True, 3).batches(0)]


def test_asks_a_subset_for_a_batch_in_one_call():
    data = Many()
    list(as_source(Subset(data, range(2, 20)), "train_data", Batching(6)).batches(0))
    assert data.asked == [list(range(2, 8)), list(range(8, 14)), list(range(14, 20))]


def test_reads_one_by_one_where_many_at_once_is_switched_off():
    class Off(Samples):
        __getitems__ = None

    x, _ = next(as_source(Off(), "train_data", Batching(4)).batches(0))
    assert torch.equal(x, X[:4])


def test_predicts_and_evaluates_a_dataset_in_its_order(children):
    model, _ = fit(Many())
    for number in (0, 2):
        got = model.predict(Many(), verbose=0, num_workers=number)
        torch.testing.assert_close(got, model.net(X).detach())
        score = model.evaluate(Many(), verbose=0, num_workers=number)["val_loss"]
        assert score == pytest.approx(nn.functional.mse_loss(model.net(X), Y).item(), rel=1e-5)
    assert not children()


# Where workers are started, and where they end


def pids(num_workers, passes=2):
    source = as_source(WhoReads(), "train_data", Batching(4, num_workers=num_workers))
    seen = [{int(b[0][0, 0]) for b in source.batches(number)} for number in range(passes)]
    source.close()
    return seen


def test_reads_in_as_many_processes_as_were_asked_for_and_keeps_them():
    first, second = pids(2)
    assert len(first) == 2
    assert os.getpid() not in first
    assert first == second
    assert pids(0) == [{os.getpid()}] * 2


def test_no_process_is_left_after_fit(children):
    fit(Samples(), 2, val_data=Samples(), epochs=1)
    assert not children()


@pytest.mark.parametrize("place", ["dataset", "callback", "validation"])
def test_no_process_is_left_after_an_error(place, children):
    class Callback:
        def on_epoch_end(self, epoch, logs=None):
            raise FileNotFoundError

    data, val_data = Samples(), Samples()
    if place == "dataset":
        data = Failing()
    elif place == "validation":
        val_data = Failing()
    callbacks = [Callback()] if place == "callback" else []
    with pytest.raises(FileNotFoundError):
        fit(data, 2, val_data=val_data, callbacks=callbacks, shuffle=False)
    assert not children()


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_no_process_is_left_after_an_error_in_an_evaluation(verb, children):
    model, _ = fit(Samples())
    with pytest.raises(FileNotFoundError, match="no such scan") as caught:
        getattr(model, verb)(Failing(), num_workers=2, batch_size=4, verbose=0)
    assert "one of the samples [8, 9, 10, 11]" in caught.value.__notes__[0]
    assert not children()


def test_no_process_is_left_after_ctrl_c_which_reaches_the_workers_too(children):
    class Presses:
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                for pid in (*children(), os.getpid()):
                    os.kill(pid, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(Samples(), 2, callbacks=[Presses()])
    assert not children()


def test_short_epochs_go_on_where_the_workers_are(children):
    shown = []

    class Watches:
        def on_train_batch_begin(self, batch, logs=None):
            shown.append(len(children()))

    _, frame = fit(Samples(), 2, steps_per_epoch=4, epochs=4, callbacks=[Watches()])
    assert set(shown) == {2}
    assert frame.equals(fit(Samples(), 0, steps_per_epoch=4, epochs=4)[1])


def test_a_dataset_that_is_changed_between_epochs_is_seen_by_the_workers(started):
    class Scaled(Samples):
        factor = 1.0

        def __getitem__(self, index):
            return X[index] * self.factor, Y[index]

    frames = []
    for number in (0, 2):
        data = Scaled()

        class Scales:
            def on_epoch_end(self, epoch, logs=None, data=data):
                data.factor = epoch + 2.0

        frames.append(fit(data, number, callbacks=[Scales()], epochs=3)[1])
    assert frames[0].equals(frames[1])
    assert started == [2, 2, 2]


def test_a_killed_worker_is_told_with_pid_and_signal(monkeypatch, children):
    class Dies(Samples):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    named = r"worker process \(pid \d+, SIGKILL.*\) of train_data died \(num_workers=1\)"
    with pytest.raises(Exception, match=named):
        fit(Dies(), 1)
    gc.collect()
    assert not children()


def test_workers_begin_only_for_datasets_that_are_read_by_us(started):
    loader = DataLoader(Samples(), 4)
    for data in ((X, Y), TensorDataset(X, Y), Subset(TensorDataset(X, Y), range(9)), loader):
        fit(data, 2)
    assert not any(started)


# Bad input


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (-1, ValueError),
        ("many", ValueError),
        (True, TypeError),
        (2.0, TypeError),
        (None, TypeError),
    ],
)
def test_refuses_what_is_no_number_of_workers(given, kind):
    expected = rf"num_workers is {given!r}.*expected 'auto', or an int >= 0"
    model = KerasModel(start(), "mse")
    with pytest.raises(kind, match=expected):
        model.fit(Samples(), num_workers=given)
    with pytest.raises(kind, match=expected):
        model.evaluate(Samples(), num_workers=given)
    with pytest.raises(kind, match=expected):
        model.predict(Samples(), num_workers=given)
    with pytest.raises(TypeError, match="use num_workers"):
        model.fit(Samples(), workers=2)


# On a device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_trains_on_the_device_as_on_the_cpu(num_workers):
    net = start()
    _, expected = fit(Augmented(), 0, copy.deepcopy(net), cpu=True)
    _, frame = fit(Augmented(), num_workers, net)
    assert frame["train_loss"].tolist() == pytest.approx(expected["train_loss"].tolist(), rel=1e-4)


class Contexts(Samples):
    """Gives the number of torch's contexts through which each operation goes."""

    def __getitem__(self, index):
        return torch.full((3,), float(torch._C._len_torch_function_stack())), Y[index]


@pytest.mark.parametrize("given", ["dataset", "loader"])
def test_operations_in_workers_go_through_no_context(given):
    # Such a context, as `with torch.device("cpu")`, takes as long as a small operation itself.
    data, seen = Contexts(), []
    if given == "loader":
        data = DataLoader(data, 4, num_workers=2)
    net = start()
    net.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].flatten().tolist()))
    fit(data, 2, net, epochs=1)
    assert len(seen) >= 3 * N
    assert not any(seen)
