"""Metrics in fit and evaluate: targets that the loss ignores, axes of classes, soft targets."""

import contextlib
import io
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from sklearn import metrics as sk
from torch import nn
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy
from torchmetrics.wrappers import MinMaxMetric

from fitorch import KerasModel
from fitorch.callbacks import EarlyStopping
from fitorch.metrics import Accuracy

N, T, C = 30, 4, 4
GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(N, T, 3, generator=GENERATOR)
TAGS = torch.randint(C, (N, T), generator=GENERATOR)
TAGS = TAGS.where(torch.rand(N, T, generator=GENERATOR) > 0.4, -100)
TAGS[:3] = -100
SIZES = pytest.mark.parametrize("size", [1, 3, N])


def net(outputs=C):
    torch.manual_seed(0)
    return nn.Linear(3, outputs)


class Flat(nn.Module):
    """Returns the classes along dimension 1, as torch's losses want them."""

    def __init__(self):
        super().__init__()
        self.linear = net()

    def forward(self, x):
        return self.linear(x).movedim(-1, 1)


class Tagger(nn.Module):
    """Computes its own loss of (N, T, C), as nets of Hugging Face do."""

    def __init__(self, form):
        super().__init__()
        self.linear, self.form = net(), form

    def forward(self, x, labels=None):
        logits = self.linear(x)
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        if self.form == "namespace":
            return SimpleNamespace(loss=loss, logits=logits)
        return {"loss": loss, "logits": logits} if self.form == "mapping" else (loss, logits)


def of_tokens(y_pred, y_true):
    return functional.cross_entropy(y_pred.flatten(0, 1), y_true.flatten())


def of_moved_tokens(y_pred, y_true):
    return functional.nll_loss(y_pred.movedim(-1, 1).log_softmax(1), y_true)


def of_torch(y_pred, y_true):
    return functional.cross_entropy(y_pred, y_true)


def logits(x=X):
    with torch.no_grad():
        return net()(x)


def accuracy(y_pred, y_true, weight=None):
    left = y_true != -100
    weight = None if weight is None else weight.unsqueeze(1).expand(left.shape)[left]
    return sk.accuracy_score(y_true[left], y_pred.argmax(-1)[left], sample_weight=weight)


METRICS = {
    "name": "acc",
    "ours": Accuracy(),
    "torchmetrics": MulticlassAccuracy(C, average="micro"),
    "wrapper": MinMaxMetric(MulticlassAccuracy(C, average="micro")),
    "collection": MetricCollection([MulticlassAccuracy(C, average="micro")]),
}
EACH = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def evaluate(model, data, **options):
    values = model.evaluate(data, verbose=0, **options)
    (value,) = {value for name, value in values.items() if not name.endswith("loss")}
    return value


@SIZES
@EACH
@pytest.mark.parametrize(
    ("module", "loss_fn"),
    [
        (Flat(), nn.CrossEntropyLoss()),
        (Flat(), functional.cross_entropy),
        (Flat(), partial(functional.cross_entropy, label_smoothing=0.1)),
        (Flat(), of_torch),
        (nn.Sequential(Flat(), nn.LogSoftmax(1)), nn.NLLLoss()),
        (net(), of_tokens),
        (net(), of_moved_tokens),
        (net(), lambda p, t: of_tokens(p, t)),
    ],
    ids=["module", "function", "partial", "own", "nll", "tokens", "moved", "lambda"],
)
def test_ignored_tokens_do_not_count(module, loss_fn, metric, size):
    model = KerasModel(module, loss_fn, {"m": metric})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = evaluate(model, (X, TAGS), batch_size=size)
    assert value == pytest.approx(accuracy(logits(), TAGS))


@SIZES
@EACH
@pytest.mark.parametrize("form", ["namespace", "mapping", "tuple"])
def test_a_loss_of_the_nets_own_has_its_classes_last(form, metric, size):
    y = TAGS.clone()
    y[:, 0] = y[:, 0].clamp(min=0)  # the loss of a batch without targets is NaN
    model = KerasModel(Tagger(form), None, {"m": metric})
    value = evaluate(model, {"x": X, "labels": y}, batch_size=size)
    assert value == pytest.approx(accuracy(logits(), y))


@SIZES
@pytest.mark.parametrize("index", [255, 0])
@EACH
def test_an_index_of_the_losses_own(metric, index, size):
    y = TAGS.where(TAGS != -100, index)
    model = KerasModel(Flat(), nn.CrossEntropyLoss(ignore_index=index), {"m": metric})
    value = evaluate(model, (X, y), batch_size=size)
    assert value == pytest.approx(accuracy(logits(), y.where(y != index, -100)))


@SIZES
@pytest.mark.parametrize("metric", ["acc", Accuracy()], ids=["acc", "Accuracy"])
def test_weights_of_samples_with_ignored_tokens(metric, size):
    weight = torch.rand(N, generator=torch.Generator().manual_seed(0))
    model = KerasModel(Flat(), nn.CrossEntropyLoss(), {"m": metric})
    value = evaluate(model, (X, TAGS, weight), batch_size=size)
    assert value == pytest.approx(accuracy(logits(), TAGS, weight))


@SIZES
def test_training_counts_the_same(size):
    still = partial(torch.optim.SGD, lr=0.0)
    model = KerasModel(Flat(), nn.CrossEntropyLoss(), {"acc": "acc"}, still)
    y = TAGS.clone()
    y[:, 0] = y[:, 0].clamp(min=0)
    frame = model.fit((X, y), epochs=1, batch_size=size, verbose=0)
    assert frame["train_acc"].item() == pytest.approx(accuracy(logits(), y))


def test_outputs_have_ignored_targets_of_their_own():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = net()

        def forward(self, x):
            scores = self.linear(x).movedim(-1, 1)
            return {"a": scores, "b": scores}

    losses = {"a": nn.CrossEntropyLoss(), "b": nn.CrossEntropyLoss(ignore_index=0)}
    model = KerasModel(Two(), losses, {"a": {"acc": "acc"}, "b": {"acc": "acc"}})
    y = TAGS.clamp(min=0)
    found = model.evaluate((X, {"a": TAGS, "b": y}), batch_size=7, verbose=0)
    assert found["val_a_acc"] == pytest.approx(accuracy(logits(), TAGS))
    assert found["val_b_acc"] == pytest.approx(accuracy(logits(), y.where(y != 0, -100)))


@SIZES
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_of_a_function_are_classes_and_that_is_printed(size, smoothing):
    def soft_cross_entropy(p, t):
        return -(t * p.log_softmax(1)).sum(1).mean()

    x, numbers = X[:, 0], torch.randint(C, (N,), generator=torch.Generator().manual_seed(0))
    y = functional.one_hot(numbers, C) * (1 - smoothing) + smoothing / C
    still = partial(torch.optim.SGD, lr=0.0)
    model = KerasModel(net(), soft_cross_entropy, {"acc": "acc"}, still)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        frame = model.fit((x, y), (x, y), epochs=1, batch_size=size, verbose=2)
    expected = sk.accuracy_score(numbers, logits(x).argmax(1))
    assert frame[["train_acc", "val_acc"]].iloc[0].tolist() == pytest.approx([expected] * 2)
    assert "acc: multiclass, 4 classes (each row of the targets sums to 1)" in printed.getvalue()


def test_labels_of_a_known_loss_are_labels():
    x, y = X[:, 0], functional.one_hot(TAGS[:, 0].clamp(min=0), C).float()
    model = KerasModel(net(), "bce_with_logits", {"acc": "acc"})
    expected = float(((logits(x) > 0) == y.bool()).double().mean())
    assert evaluate(model, (x, y)) == pytest.approx(expected)


def test_a_last_batch_of_one_that_is_squeezed():
    class Squeezed(nn.Linear):
        def forward(self, x):
            return super().forward(x).squeeze()

    x, y = X[:25, 0], X[:25, 0, 0]
    module = Squeezed(3, 1)
    model = KerasModel(module, "mse", {"mae": "mae"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, for the loss of one sample
        model.fit((x, y), epochs=1, batch_size=8, verbose=0)
        found = model.evaluate((x, y), batch_size=8, verbose=0)
    with torch.no_grad():
        assert found["val_mae"] == pytest.approx(float((module(x) - y).abs().mean()), rel=1e-5)


class Quality:
    """Has the values of a detector: its own name among them."""

    higher_is_better = True

    def update(self, y_pred, y_true):
        pass

    def compute(self):
        return {"map": torch.tensor(0.5), "map_50": 0.75, "classes": torch.tensor([0, 1])}

    def reset(self):
        pass


@pytest.mark.parametrize("monitor", ["val_map", "val_map_50"])
def test_the_name_of_the_users_is_monitored(monitor):
    model = KerasModel(net(1), "mse", {"map": Quality()})
    data = X[:, 0], X[:, 0, :1]
    stop = EarlyStopping(monitor=monitor)
    frame = model.fit(data, data, epochs=1, monitor=monitor, callbacks=[stop], verbose=0)
    assert {"val_map", "val_map_50"} < {*frame.columns}
    assert not {"val_map_map", "val_map_map_50", "val_map_classes_0"} & {*frame.columns}


@pytest.mark.parametrize("callback", [False, True])
@pytest.mark.parametrize(
    ("metric", "monitor", "message"),
    [
        ("mae", "val_m_50", "monitors 'val_m_50'"),
        (Accuracy(), "val_m_0", "monitors 'val_m_0'"),
        (MetricCollection([BinaryAccuracy()]), "val_m", r"\['val_m_BinaryAccuracy'\]"),
    ],
)
def test_what_can_never_exist_is_refused_before_training(metric, monitor, message, callback):
    model = KerasModel(net(1), "mse", {"m": metric})
    data = X[:, 0], X[:, 0, :1]
    options = {"callbacks": [EarlyStopping(monitor=monitor)]} if callback else {"monitor": monitor}
    with pytest.raises(ValueError, match=message):
        model.fit(data, data, epochs=1, verbose=0, **options)
