"""The face: three verbs, the net seen through the model, and what is said around a fit."""

import copy
import io
import re
import signal
import sys
import time
from contextlib import redirect_stdout

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fitorch import DataError, KerasModel, ShapeError
from fitorch.callbacks import Callback
from tolerances import FORWARD

X = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def linear(outputs=1):
    torch.manual_seed(0)
    return nn.Linear(3, outputs)


def by_hand(net, x=X):
    net.eval()
    with torch.no_grad():
        return net(x)


class Pair(nn.Module):
    """Two inputs by position, several outputs in a structure of one's choice."""

    def __init__(self, structure):
        super().__init__()
        self.left, self.right = nn.Linear(3, 1), nn.Linear(3, 2)
        self.structure = structure

    def forward(self, a, b):
        return self.structure(self.left(a), self.right(b))


@pytest.mark.parametrize(
    "data",
    [
        X,
        X.numpy(),
        pd.DataFrame(X.numpy()),
        (X, Y),
        (X,),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=5),
        DataLoader(TensorDataset(X), batch_size=5),
        [X[:10], X[10:]],
        ((X[i : i + 4], Y[i : i + 4]) for i in range(0, 23, 4)),
    ],
    ids=[
        "tensor",
        "array",
        "frame",
        "x and y",
        "x",
        "dataset",
        "loader",
        "of x",
        "list",
        "generator",
    ],
)
def test_predict_gives_the_nets_output_for_every_sample_in_order(data):
    net = linear()
    if isinstance(data, list):
        data = [(part, None) for part in data]
    predicted = KerasModel(net, "mse").predict(data, batch_size=4, verbose=0)
    assert torch.allclose(predicted, by_hand(net), **FORWARD)


@pytest.mark.parametrize(
    "structure",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: {"a": a, "b": b},
        lambda a, b: {"a": a, "more": (b, a)},
    ],
)
def test_predict_keeps_the_structure_of_the_output(structure):
    net = Pair(structure)
    predicted = KerasModel(net, "mse").predict(((X, X),), batch_size=4, verbose=0)
    with torch.no_grad():
        expected = net(X, X)
    torch.testing.assert_close(predicted, expected)


def test_predict_takes_a_dict_of_named_inputs():
    net = Pair(lambda a, b: a + b)
    predicted = KerasModel(net, "mse").predict({"b": X, "a": 2 * X}, batch_size=4, verbose=0)
    with torch.no_grad():
        torch.testing.assert_close(predicted, net(2 * X, X))


def test_predict_takes_so_many_batches():
    assert KerasModel(linear(), "mse").predict(X, batch_size=4, steps=2, verbose=0).shape == (8, 1)


def test_predict_uses_the_hook_for_batches_of_ones_own():
    def forward(net, batch):
        return net(batch["inputs"]), None

    class Named(Dataset):
        def __len__(self):
            return 23

        def __getitem__(self, index):
            return {"inputs": X[index]}

    net = linear()
    predicted = KerasModel(net, "mse", forward=forward).predict(Named(), verbose=0)
    assert torch.allclose(predicted, by_hand(net), **FORWARD)


def test_predict_says_that_there_is_nothing_to_predict():
    with pytest.raises(DataError, match="data is empty"):
        KerasModel(linear()).predict(iter(()), verbose=0)


def test_predict_warns_of_a_loader_that_shuffles():
    loader = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True)
    with pytest.warns(UserWarning, match="shuffle=False"):
        KerasModel(linear()).predict(loader, verbose=0)


def test_predict_tells_the_shapes_that_the_net_rejects():
    with pytest.raises(ShapeError, match=r"prediction batch 1.*float32 \(23, 2\)"):
        KerasModel(linear()).predict(X[:, :2], verbose=0)


def test_evaluate_takes_so_many_batches():
    net = linear()
    scores = KerasModel(net, "mse").evaluate((X, Y), batch_size=4, steps=2, verbose=0)
    expected = nn.functional.mse_loss(by_hand(net, X[:8]), Y[:8])
    assert scores == {"val_loss": pytest.approx(expected.item(), rel=1e-5)}


@pytest.mark.parametrize("argument", ["batch_size", "steps"])
@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_counts_of_nothing_are_refused(verb, argument):
    with pytest.raises(ValueError, match=f"{argument} is 0; expected an int >= 1"):
        getattr(KerasModel(linear(), "mse"), verb)((X, Y), **{argument: 0})


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_names_of_other_trainers_are_refused_by_every_verb(verb):
    with pytest.raises(TypeError, match=r"'quiet'.*verbose=0"):
        getattr(KerasModel(linear(), "mse"), verb)((X, Y), quiet=True)


@pytest.mark.parametrize(("verb", "stage"), [("evaluate", "test"), ("predict", "predict")])
def test_callbacks_of_a_verb_are_told_of_every_batch(verb, stage):
    seen = []

    class Look(Callback):
        pass

    for hook in (f"on_{stage}_begin", f"on_{stage}_end"):
        setattr(Look, hook, lambda self, logs=None, hook=hook: seen.append(hook))
    for hook in (f"on_{stage}_batch_begin", f"on_{stage}_batch_end"):
        setattr(Look, hook, lambda self, batch, logs=None, hook=hook: seen.append((hook, batch)))
    getattr(KerasModel(linear(), "mse"), verb)((X, Y), batch_size=12, callbacks=[Look()], verbose=0)
    assert seen == [
        f"on_{stage}_begin",
        (f"on_{stage}_batch_begin", 0),
        (f"on_{stage}_batch_end", 0),
        (f"on_{stage}_batch_begin", 1),
        (f"on_{stage}_batch_end", 1),
        f"on_{stage}_end",
    ]


def test_the_net_is_seen_through_the_model():
    net = linear()
    model = KerasModel(net, "mse")
    assert torch.equal(model(X), net(X))
    assert torch.equal(model.forward(X), net(X))
    assert [id(p) for p in model.parameters()] == [id(p) for p in net.parameters()]
    assert dict(model.named_parameters()).keys() == {"weight", "bias"}
    assert model.accelerator.device == next(net.parameters()).device


def test_weights_come_back_from_a_file(tmp_path):
    net = linear()
    model = KerasModel(net, "mse")
    before = copy.deepcopy(net.state_dict())
    model.save_ckpt(tmp_path / "weights.safetensors")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    model.load_ckpt(tmp_path / "weights.safetensors")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def said(**arguments):
    shown = io.StringIO()
    torch.manual_seed(0)
    model = KerasModel(linear(), "mse", optimizer="sgd")
    with redirect_stdout(shown):
        model.fit((X, Y), (X, Y), seed=0, **arguments)
    return shown.getvalue().splitlines()


def test_a_fit_says_what_it_trains_where_and_a_line_per_epoch():
    lines = said(epochs=2)
    assert lines[0] == "training Linear, 4 parameters, on cpu"
    assert lines[1].startswith("epoch 1/2  train_loss ")
    assert lines[2].startswith("epoch 2/2  train_loss ")
    assert re.fullmatch(r"trained 2 epochs in [\d.]+ s", lines[3])
    assert lines[4].startswith("best epoch 2: val_loss ")
    assert len(lines) == 5


def test_a_fit_says_why_it_stopped_and_where_the_weights_are(tmp_path):
    class Worse(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                with torch.no_grad():
                    self.model.net.weight.add_(100.0)
                self.model.optimizer.param_groups[0]["lr"] = 0.0

    lines = said(epochs=9, patience=2, ckpt_path=tmp_path, callbacks=[Worse()])
    told = r"stopped after epoch 3: val_loss did not improve for 2 epochs \([\d.]+ s\)"
    assert re.fullmatch(told, lines[-2])
    assert lines[-1].startswith("best epoch 1: val_loss ")
    assert lines[-1].endswith(f"weights restored, saved in {tmp_path / 'best.safetensors'}")


def test_a_fit_that_was_told_to_stop_says_after_which_epoch():
    class Stop(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    lines = said(epochs=5, callbacks=[Stop()])
    assert re.fullmatch(r"stopped after epoch 1 \([\d.]+ s\)", lines[-2])


def test_a_fit_with_verbose_0_says_nothing():
    assert said(epochs=2, verbose=0) == []


def test_evaluate_in_a_callback_shows_no_line_of_its_own():
    class Evaluate(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.evaluate((X, Y))

    assert len(said(epochs=2, callbacks=[Evaluate()])) == 5


def test_a_picture_is_written_beside_the_checkpoint_or_where_a_path_says(tmp_path):
    said(epochs=1, ckpt_path=tmp_path / "run", plot=True, verbose=0)
    said(epochs=1, plot=tmp_path / "pictures" / "loss.svg", verbose=0)
    assert (tmp_path / "run" / "history.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "pictures" / "loss.svg").read_bytes()


def test_a_picture_that_cannot_be_written_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.warns(UserWarning, match="cannot save the plot"):
        said(epochs=1, plot=tmp_path / "file" / "history.png", verbose=0)


def test_nothing_is_written_where_no_path_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said(epochs=2, patience=1)
    assert not list(tmp_path.iterdir())


def test_an_optimizer_over_frozen_parts_alone_is_refused():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    model = KerasModel(net, "mse", optimizer=torch.optim.SGD(net[0].parameters(), 0.1))
    with pytest.raises(ValueError, match="none of the 2 parameters of SGD"):
        model.fit((X, Y), verbose=0)


def test_a_hook_that_fails_does_not_keep_the_others_from_the_end_of_training():
    ended = []

    class Bad(Callback):
        def on_train_end(self, logs=None):
            message = "bad end"
            raise RuntimeError(message)

    class Good(Callback):
        def on_train_end(self, logs=None):
            ended.append(True)

    with pytest.raises(RuntimeError, match="bad end"):
        said(epochs=1, callbacks=[Bad(), Good()], verbose=0)
    assert ended == [True]


def test_the_end_of_training_is_told_also_when_its_beginning_failed():
    ended = []

    class Bad(Callback):
        def on_train_begin(self, logs=None):
            message = "bad beginning"
            raise RuntimeError(message)

        def on_train_end(self, logs=None):
            ended.append(True)

    with pytest.raises(RuntimeError, match="bad beginning"):
        said(epochs=1, callbacks=[Bad()], verbose=0)
    assert ended == [True]


def test_a_net_that_a_callback_leaves_in_eval_mode_trains_on_in_train_mode():
    modes = []

    class Forgetful(Callback):
        def on_train_batch_end(self, batch, logs=None):
            modes.append(self.model.net.training)

        def on_epoch_end(self, epoch, logs=None):
            self.model.net.eval()

    said(epochs=3, callbacks=[Forgetful()], verbose=0)
    assert modes == [True, True, True]


def test_a_part_that_a_callback_freezes_stays_frozen():
    modes = []

    class Freeze(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.net[0].eval()

        def on_epoch_begin(self, epoch, logs=None):
            modes.append(self.model.net[0].training)

    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    KerasModel(net, "mse").fit((X, Y), (X, Y), epochs=3, callbacks=[Freeze()], verbose=0)
    assert modes == [True, False, False]


def test_two_fits_with_one_seed_see_different_orders():
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, x):
            if self.training:
                seen.append(x[0].item())
            return self.linear(x)

    x = torch.arange(50.0).unsqueeze(1)
    model = KerasModel(Watch(), "mse", optimizer=lambda p: torch.optim.SGD(p, 1e-6))
    for _ in range(2):
        model.fit((x, x), epochs=1, batch_size=10, seed=3, verbose=0)
    assert seen[:5] != seen[5:]


def test_a_fit_says_that_it_was_interrupted():
    class Interrupt(Callback):
        def on_train_batch_end(self, batch, logs=None):
            if len(self.model.history) == 1:
                signal.raise_signal(signal.SIGINT)

    shown = io.StringIO()
    with redirect_stdout(shown), pytest.raises(KeyboardInterrupt):
        KerasModel(linear(), "mse").fit((X, Y), epochs=5, callbacks=[Interrupt()])
    assert "\nstopped after epoch 1: interrupted (" in shown.getvalue()


def test_a_fit_that_failed_claims_no_reason_of_its_own():
    class Fail(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise LookupError

    shown = io.StringIO()
    with redirect_stdout(shown), pytest.raises(LookupError):
        KerasModel(linear(), "mse").fit((X, Y), epochs=5, callbacks=[Fail()])
    assert "stopped" not in shown.getvalue()


def test_what_a_callback_prints_stands_after_the_lines_of_earlier_epochs():
    class Print(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            sys.stdout.write(f"begin {epoch + 1}\n")

        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.01)

    lines = said(epochs=2, callbacks=[Print()])
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "begin 1",
        "epoch 1/2",
        "begin 2",
        "epoch 2/2",
    ]


def test_a_second_fit_says_which_of_its_own_epochs_was_restored():
    model = KerasModel(linear(), "mse", optimizer=lambda p: torch.optim.SGD(p, 0.0))
    model.fit((X, Y), epochs=2, patience=2, verbose=0)
    with torch.no_grad():
        model.net.weight.add_(100.0)  # the first fit stays the best of all
    shown = io.StringIO()
    with redirect_stdout(shown):
        model.fit((X, Y), epochs=1, patience=2)
    assert shown.getvalue().splitlines()[-1].startswith("best epoch 3: train_loss ")


def test_lazy_layers_get_their_size_from_the_first_batch():
    net = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 1))
    model = KerasModel(net, "mse", optimizer=lambda p: torch.optim.Adam(p, 1e-2))
    with redirect_stdout(io.StringIO()):
        frame = model.fit((X, Y), epochs=20, seed=0)
    assert net[0].weight.shape == (4, 3)
    assert frame["train_loss"].iloc[-1] < frame["train_loss"].iloc[0]
