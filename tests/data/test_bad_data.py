"""Bad data is refused in words, and errors of a dataset or a worker name the batch."""

import gc
import os
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from data.kinds import SIZE, N, Samples, Stream, W, X, Y, as_numpy, batches, fit
from fitorch import KerasModel
from fitorch.errors import DataError

EMPTY = {
    "tensors": lambda: (X[:0], Y[:0]),
    "arrays": lambda: (np.empty((0, 3)), np.empty((0, 1))),
    "dataset": lambda: Samples((X[:0], Y[:0])),
    "TensorDataset": lambda: TensorDataset(X[:0], Y[:0]),
    "list": list,
    "dict": lambda: {"x": X[:0], "labels": Y[:0]},
}


@pytest.mark.parametrize("role", ["train_data", "val_data"])
@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY)
def test_refuses_empty_data_naming_role_length_and_batch_size(make, role):
    data = {"train_data": (X, Y), "val_data": (X, Y), role: make()}
    kind = {"train_data": "training", "val_data": "validation"}[role]
    expected = f"{role} is empty: the {kind} data has 0 samples.*batch_size=4 and drop_last=False"
    with pytest.raises(DataError, match=expected):
        fit(data["train_data"], val_data=data["val_data"])


@pytest.mark.parametrize("over", [TensorDataset(X[:3], Y[:3]), Samples((X[:3], Y[:3]))])
def test_refuses_a_loader_whose_one_batch_is_dropped(over):
    loader = DataLoader(over, 8, drop_last=True)
    with pytest.raises(DataError, match=r"data has 3 samples.*batch_size=8 and drop_last=True"):
        fit(loader)
    with pytest.raises(DataError, match=r"the validation data has 3 samples.*drop_last=True"):
        fit((X, Y), val_data=loader)


@pytest.mark.parametrize("data", [Stream(count=0), iter([]), DataLoader(Stream(count=0), 2)])
def test_refuses_data_that_turns_out_to_be_empty(data):
    with pytest.raises(DataError, match="train_data is empty: the training data has no batches"):
        fit(data)


def test_refuses_validation_data_that_turns_out_to_be_empty():
    with pytest.raises(DataError, match="val_data is empty: the validation data gave no batch"):
        fit((X, Y), val_data=Stream(count=0))


def test_names_no_role_where_data_is_only_predicted():
    with pytest.raises(DataError, match=r"^data is empty: it has 0 samples"):
        KerasModel(nn.Linear(3, 1)).predict(X[:0])


@pytest.mark.parametrize(
    ("data", "got"),
    [
        ((X,), "a list of length 1"),
        ([(X,)], "a tuple of length 1"),
        ([(X, Y, W, Y)], "a tuple of length 4"),
        ([(X.numpy(),)], "a tuple of length 1"),
        ([(X.numpy(),) * 4], "a tuple of length 4"),
        (DataLoader(X, 4), "a Tensor: float32"),
        (TensorDataset(X), "a list of length 1"),
        (DataLoader(TensorDataset(X, Y, W, W), 4), "a list of length 4"),
    ],
    ids=[
        "(x,)",
        "1-tuples",
        "4-tuples",
        "NumPy",
        "4-NumPy",
        "tensors",
        "TensorDataset",
        "loader",
    ],
)
def test_names_the_three_forms_where_a_batch_has_none_of_them(data, got):
    forms = r"\(features, targets\), \(features, targets, sample_weight\), or a mapping"
    with pytest.raises(DataError, match=f"a batch must be {forms}, but got {got}") as caught:
        fit(data)
    assert "epoch 1, training batch 1" in str(caught.value.__notes__)


@pytest.mark.parametrize("x", [X, X.numpy()])
@pytest.mark.parametrize("y", [None, Y, Y.numpy()])
def test_says_that_features_and_targets_are_one_argument(x, y):
    model = KerasModel(nn.Linear(X.shape[1], 1), "mse")
    with pytest.raises(DataError, match=r"an array alone, without targets.*fit\(\(x, y\)\)"):
        model.fit(x, y, epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.fit(x=X, y=Y), r"fit\(\) has no argument 'x'; use train_data=\(x, y\)"),
        (lambda m: m.evaluate(X, Y), r"evaluate\(\): too many.*evaluate\(\(x, y\)\)"),
        (lambda m: m.evaluate(x=X, y=Y), r"evaluate\(\) has no.*'x'; use val_data=\(x, y\)"),
        (lambda m: m.predict(X, 32), r"predict\(\): too many positional arguments"),
        (lambda m: m.predict(x=X), r"predict\(\) has no argument 'x'; use data=\(x, y\)"),
        (lambda m: m.fit(), r"fit\(\): missing a required argument: 'train_data'"),
    ],
)
def test_calls_of_keras_are_told_ours(call, message):
    with pytest.raises(TypeError, match=message):
        call(KerasModel(nn.Linear(X.shape[1], 1), "mse"))


def test_features_alone_train_with_a_hook():
    autoencoder = KerasModel(
        nn.Linear(X.shape[1], X.shape[1]), "mse", forward=lambda net, b: (net(b[0]), b[0])
    )
    assert len(autoencoder.fit(X, X, epochs=1, verbose=0)) == 1


@pytest.mark.parametrize("convert", [torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc])
@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
def test_refuses_tensors_of_layouts_without_rows(convert):
    match = r"x is a tensor of layout sparse_cs., .*x.to_sparse_coo\(\) or x.to_dense\(\)"
    for data in ((convert(X), Y), {"x": convert(X), "labels": Y}):
        with pytest.raises(DataError, match=match):
            fit(data)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
def test_refuses_nested_tensors_as_features_of_all_samples(layout):
    nested = torch.nested.nested_tensor(list(X), layout=layout)
    with pytest.raises(DataError, match=r"x is a nested tensor.*pass a list of batches"):
        fit((nested, Y))


def endless():
    while True:
        yield from batches()


def test_an_iterator_that_validates_in_parts_is_warned_of():
    with pytest.warns(UserWarning, match="val_data is an iterator: unless its __iter__ restarts"):
        _, frame = fit(batches(), val_data=endless(), validation_steps=2, steps_per_epoch=1)
    assert len(frame) == 2
    fit((X, Y), val_data=list(batches()), validation_steps=2)
    fit((X, Y), val_data=endless(), validation_steps=2, epochs=1)


def test_a_generator_that_has_been_read_before_is_evaluated_from_there_on():
    model, generator = KerasModel(nn.Linear(3, 1), "mse"), endless()
    expected = [nn.functional.mse_loss(model.net(x), y).item() for x, y in batches()]
    loss = model.evaluate(generator, steps=1, verbose=0)["val_loss"]
    assert loss == pytest.approx(expected[0])
    with pytest.warns(UserWarning, match="read before: evaluate continues with its next batch"):
        loss = model.evaluate(generator, steps=1, verbose=0)["val_loss"]
    assert loss == pytest.approx(expected[1])


def test_refuses_a_tuple_of_four():
    with pytest.raises(DataError, match=r"train_data is a tuple of 4; expected \(x, y\) or"):
        fit((X, Y, W, W))


@pytest.mark.parametrize(
    "data", [(X, Y[:5]), (X.numpy(), Y.numpy()[:5]), (X, Y, W[:5]), {"x": X, "labels": Y[:5]}]
)
def test_refuses_parts_of_different_lengths(data):
    with pytest.raises(DataError, match=r"different lengths: x has 22.* has 5 samples"):
        fit(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([X, Y], r"list of arrays; pass a tuple \(x, y\)"),
        (5, "train_data is a int; expected a DataLoader"),
        ("text", "train_data is a str; expected"),
        (None, "train_data is a NoneType; expected"),
        ({"x": X, "labels": ["a"] * N}, "train_data is a dict; expected"),
        ((X, None), "train_data's y is a NoneType; pass a tensor"),
        ((X, [0, 1] * 11), r"train_data's y\[0\] is a int; pass a tensor"),
        (Dataset(), "train_data is a Dataset without a length; define __len__"),
    ],
)
def test_refuses_what_no_batch_can_be_made_of(data, message):
    with pytest.raises(TypeError, match=message):
        fit(data)


def test_names_the_batch_whose_array_holds_no_numbers():
    data = [*as_numpy()[:2], (X[:4].numpy(), np.array(list("abcd")))]
    with pytest.raises(DataError, match="a batch of train_data's y has dtype <U1") as caught:
        fit(data, batch_size=None)
    assert "while reading epoch 1, training batch 3 of train_data" in caught.value.__notes__


def test_names_the_pass_in_which_a_generator_has_ended():
    with pytest.raises(DataError, match="has no batches in pass 2; a generator yields"):
        fit(batches())


def test_says_that_a_generator_can_not_validate_twice():
    with pytest.raises(DataError, match=r"val_data is empty.*a generator yields its batches"):
        fit((X, Y), val_data=batches())


class Faulty(Samples):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def __getitem__(self, index):
        if index == 9:
            self.fault()
        return super().__getitem__(index)


def missing():
    message = "no such scan"
    raise FileNotFoundError(message)


@pytest.fixture
def impatient(monkeypatch):
    """End workers soon: torch waits five seconds for those whose loader an error left behind."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    yield
    gc.collect()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_dataset_keeps_its_type_and_names_the_batch(workers):
    loader = DataLoader(Faulty(missing), SIZE, num_workers=workers)
    with pytest.raises(FileNotFoundError, match="no such scan") as caught:
        fit(loader)
    worker = " in worker 0" if workers else ""
    note = f"while reading epoch 1, training batch 3 of train_data{worker}"
    assert caught.value.__notes__ == [note]


def test_an_error_in_validation_data_names_the_batch_too():
    with pytest.raises(FileNotFoundError, match="no such scan") as caught:
        fit((X, Y), val_data=Faulty(missing))
    [note] = caught.value.__notes__
    assert note == ("while reading epoch 1, batch 3 of val_data, one of the samples [8, 9, 10, 11]")


def test_an_error_in_a_dataset_names_the_samples_of_its_batch_in_any_order():
    class OneMissing(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, index):
            if index == 17:
                raise LookupError
            return torch.ones(3), torch.ones(1)

    with pytest.raises(LookupError) as caught:
        KerasModel(nn.Linear(3, 1), "mse").fit(OneMissing(), batch_size=8, epochs=1, verbose=0)
    samples = re.search(r"one of the samples \[(.*)\]", caught.value.__notes__[0])[1]
    assert "17" in samples.split(", ")
    assert len(samples.split(", ")) == 8


def die():
    os.kill(os.getpid(), 9)


# torch tries whether it can still open files when a connection breaks, and closes none of them.
unclosed = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning",
)


@unclosed
@pytest.mark.usefixtures("impatient")
def test_a_worker_that_was_killed_is_told_by_pid_signal_and_number_of_workers():
    loader = DataLoader(Faulty(die), SIZE, num_workers=1)
    named = r"worker process \(pid \d+, SIGKILL\) of train_data died \(num_workers=1\)"
    with pytest.raises(DataError, match=rf"{named}.*/dev/shm") as caught:
        fit(loader)
    assert caught.value.__cause__ is not None
    assert len(caught.value.__notes__) == 1


@pytest.mark.parametrize("pids", ["pid 12", "pid(s) 12", "pid(s) 12, 34"])
def test_knows_torchs_own_words_for_a_dead_worker(pids):
    def fault():
        message = f"DataLoader worker ({pids}) exited unexpectedly"
        raise RuntimeError(message)

    with pytest.raises(DataError, match=re.escape(f"a worker process ({pids}) of train_data")):
        fit(Faulty(fault))


@unclosed
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", [ConnectionResetError, EOFError])
def test_a_lost_connection_is_no_dead_worker_while_all_of_them_live(kind):
    def fault():
        raise kind

    with pytest.raises(kind):
        fit(DataLoader(Faulty(fault), SIZE, num_workers=1))


def test_other_runtime_errors_of_a_loader_stay_what_they_are():
    def fault():
        message = "the camera is off"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=r"^the camera is off") as caught:
        fit(Faulty(fault))
    assert not isinstance(caught.value, DataError)
