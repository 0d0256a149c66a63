"""Each row of docs/forms.md, beside a loop by hand."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn
from torchmetrics.classification import MulticlassAUROC

from fitorch import KerasModel

PAGE = Path(__file__).parents[2] / "docs" / "forms.md"
GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(12, 3, generator=GENERATOR).double()
B = torch.randn(12, 2, generator=GENERATOR).double()
Y = torch.randint(3, (12,), generator=GENERATOR)
WEIGHT = torch.rand(12, generator=GENERATOR).double()
SOME = Y.where(torch.arange(12) % 4 > 0, -100)
TEXTS = [["a", "bc", "def"][i % 3] for i in range(12)]
RATE = 0.5
CE = F.cross_entropy


class Net(nn.Module):
    """Three scores from up to two inputs; `call` decides how forward takes and returns them."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Linear(3, 3), nn.Linear(2, 3)
        self.double()
        type(self).forward = forward


def net_of(forward):
    return type("Net", (Net,), {})(forward)


def lengths(texts):
    return torch.tensor([[len(text)] * 3 for text in texts], dtype=torch.float64)


def logits_and_aux(net, a):
    return SimpleNamespace(logits=net.a(a), aux=2 * net.a(a))


def with_aux(output, y):
    return CE(output.logits, y) + CE(output.aux, y)


def parts(y_pred, y):
    return {"ce": CE(y_pred, y), "kl": 0.1 * y_pred.square().mean()}


def total(y_pred, y):
    return sum(parts(y_pred, y).values())


def weighted(y_pred, y):
    return (CE(y_pred, y, reduction="none") * WEIGHT).sum() / WEIGHT.sum()


def own(wrap):
    """A net that computes its loss; `wrap` puts loss and logits into the output."""

    def forward(net, a, labels=None):
        logits = net.a(a)
        return wrap(CE(logits, labels), logits)

    return net_of(forward)


plain = net_of(lambda net, x: net.a(x))
two = net_of(lambda net, a, b: net.a(a) + net.b(b))
labelled = {"a": A, "labels": Y}

# The row, its net, loss_fn and data, and the loss by hand of the net's layers.
ROWS = {
    "`(x, y)`": (plain, CE, (A, Y), lambda net: CE(net.a(A), Y)),
    "`(x, y, sample_weight)`": (
        plain,
        "cross_entropy",
        (A, Y, WEIGHT),
        lambda net: weighted(net.a(A), Y),
    ),
    "`((a, b), y)`": (two, CE, ((A, B), Y), lambda net: CE(net.a(A) + net.b(B), Y)),
    '`({"a": a, "b": b}, y)`': (
        two,
        CE,
        ({"b": B, "a": A}, Y),
        lambda net: CE(net.a(A) + net.b(B), Y),
    ),
    "`((a, b), y)` for a net with `forward(x)`": (
        net_of(lambda net, x: net.a(x[0]) + net.b(x[1])),
        CE,
        ((A, B), Y),
        lambda net: CE(net.a(A) + net.b(B), Y),
    ),
    '`({"a": a, "b": b}, y)` for a net with `forward(x)`': (
        net_of(lambda net, x: net.a(x["a"]) + net.b(x["b"])),
        CE,
        ({"a": A, "b": B}, Y),
        lambda net: CE(net.a(A) + net.b(B), Y),
    ),
    '`(["text", ...], y)`': (
        net_of(lambda net, texts: net.a(lengths(texts))),
        CE,
        [(TEXTS, Y)],
        lambda net: CE(net.a(lengths(TEXTS)), Y),
    ),
    '`{"a": a, "labels": y}`': (
        net_of(lambda net, a: net.a(a)),
        CE,
        labelled,
        lambda net: CE(net.a(A), Y),
    ),
    '`{"a": a, "unused": u, "labels": y}`': (
        net_of(lambda net, a: net.a(a)),
        CE,
        {**labelled, "unused": B},
        lambda net: CE(net.a(A), Y),
    ),
    "any other, with `forward=`": (
        plain,
        CE,
        [{"first": A, "second": (B, Y)}],
        lambda net: CE(net.a(A), Y),
    ),
    "a tensor": (plain, CE, (A, Y), lambda net: CE(net.a(A), Y)),
    "an object with `.logits`, and a loss of torch": (
        net_of(logits_and_aux),
        "cross_entropy",
        (A, Y),
        lambda net: CE(net.a(A), Y),
    ),
    "an object with `.logits`, and a function of yours": (
        net_of(logits_and_aux),
        with_aux,
        (A, Y),
        lambda net: CE(net.a(A), Y) + CE(2 * net.a(A), Y),
    ),
    '`{"out": ..., "aux": ...}` and one target': (
        net_of(lambda net, a: {"out": net.a(a), "aux": 2 * net.a(a)}),
        {"out": "cross_entropy", "aux": "cross_entropy"},
        (A, Y),
        lambda net: CE(net.a(A), Y) + CE(2 * net.a(A), Y),
    ),
    '`{"age": ..., "sex": ...}` and as many targets': (
        net_of(lambda net, a, b: {"age": net.a(a)[:, :1], "sex": net.b(b)}),
        {"age": "mse", "sex": "cross_entropy"},
        ((A, B), {"age": A[:, :1], "sex": Y}),
        lambda net: F.mse_loss(net.a(A)[:, :1], A[:, :1]) + CE(net.b(B), Y),
    ),
    "an object with `.loss`, `loss_fn=None`": (
        own(lambda loss, logits: SimpleNamespace(loss=loss, logits=logits)),
        None,
        labelled,
        lambda net: CE(net.a(A), Y),
    ),
    '`{"loss": ..., "logits": ...}`, `loss_fn=None`': (
        own(lambda loss, logits: {"loss": loss, "logits": logits, "twice": 2 * loss}),
        None,
        labelled,
        lambda net: CE(net.a(A), Y),
    ),
    "`(loss, logits)`, `loss_fn=None`": (
        own(lambda loss, logits: (loss, logits)),
        None,
        labelled,
        lambda net: CE(net.a(A), Y),
    ),
    '`{"box": ..., "class": ...}` of losses, `loss_fn=None`': (
        own(lambda loss, logits: {"box": logits.square().mean(), "class": loss}),
        None,
        labelled,
        lambda net: CE(net.a(A), Y) + net.a(A).square().mean(),
    ),
    "a module of torch.nn, its function, or its name": (
        plain,
        nn.CrossEntropyLoss(),
        (A, Y),
        lambda net: CE(net.a(A), Y),
    ),
    "a function `(y_pred, y_true)`": (
        plain,
        lambda y_pred, y_true: CE(y_pred, y_true),
        (A, Y),
        lambda net: CE(net.a(A), Y),
    ),
    "a function `(y_true, y_pred)`": (
        plain,
        lambda y_true, y_pred: CE(y_pred, y_true),
        (A, Y),
        lambda net: CE(net.a(A), Y),
    ),
    'a function that returns `{"ce": ..., "kl": ...}`': (
        plain,
        parts,
        (A, Y),
        lambda net: total(net.a(A), Y),
    ),
    'a function that returns `(loss, {"kl": ...})`': (
        plain,
        lambda y_pred, y_true: (total(y_pred, y_true), parts(y_pred, y_true)),
        (A, Y),
        lambda net: total(net.a(A), Y),
    ),
    "targets that are ignored": (
        plain,
        "cross_entropy",
        (A, SOME),
        lambda net: CE(net.a(A), SOME),
    ),
    "a net's own mean over tokens": (
        own(lambda loss, logits: SimpleNamespace(loss=loss, logits=logits)),
        None,
        {"a": A, "labels": SOME},
        lambda net: CE(net.a(A), SOME),
    ),
    "`val_loss_fn=`": (plain, CE, (A, Y), lambda net: CE(net.a(A), Y)),
}
COLUMNS = {
    'a function that returns `{"ce": ..., "kl": ...}`': {"train_ce", "train_kl"},
    'a function that returns `(loss, {"kl": ...})`': {"train_ce", "train_kl"},
    '`{"loss": ..., "logits": ...}`, `loss_fn=None`': {"train_twice"},
    '`{"box": ..., "class": ...}` of losses, `loss_fn=None`': {"train_box", "train_class"},
}


def accuracy(y_pred, y):
    return (y_pred.argmax(1) == y).double().mean().item()


def auc_of_classes(y_pred, y):
    scores = y_pred.detach().softmax(1)
    return roc_auc_score(y, scores, multi_class="ovr")


class Result:
    """A metric of the user's, with a mapping of numbers."""

    def __init__(self):
        self.reset()

    def update(self, y_pred, y_true):
        self.right += int((y_pred.argmax(1) == y_true).sum())
        self.total += len(y_true)

    def compute(self):
        return {"quality": self.right / self.total, "counts": (self.right, self.total)}

    def reset(self):
        self.right = self.total = 0


def mean_error(y_pred, y_true):
    return (y_pred.sum(1) - y_true).mean()


def reversed_error(y_true, y_pred):
    return (y_true - y_pred.sum(1)).mean()


TOKENS = torch.randn(12, 3, 3, generator=GENERATOR).double()  # as many tokens as classes
TAGS = torch.randint(3, (12, 3), generator=GENERATOR)


class Tagger(nn.Linear):
    """A token classifier with a loss of its own."""

    def forward(self, a, labels=None):
        logits = super().forward(a)
        loss = CE(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def tagger():
    torch.manual_seed(1)
    return Tagger(3, 3).double()


ONE_HOT = F.one_hot(Y, 3).double()


def soft_cross_entropy(y_pred, y_true):
    return -(y_true * y_pred.log_softmax(1)).sum(1).mean()


# The row, its net, loss_fn, metric and data, and the values by hand.
METRICS = {
    "a name": (plain, CE, "auc", (A, Y), lambda net: {"m": auc_of_classes(net(A), Y)}),
    "an object of torchmetrics, in a wrapper or a formula too": (
        plain,
        CE,
        100 * MulticlassAUROC(3),
        (A, Y),
        lambda net: {"m": 100 * auc_of_classes(net(A), Y)},
    ),
    "a function `(y_pred, y_true)`": (
        plain,
        CE,
        mean_error,
        (A, Y),
        lambda net: {"m": mean_error(net(A), Y).item()},
    ),
    "a function `(y_true, y_pred)`, as of scikit-learn": (
        plain,
        CE,
        reversed_error,
        (A, Y),
        lambda net: {"m": -mean_error(net(A), Y).item()},
    ),
    "an object that returns a mapping, a tuple or a vector": (
        plain,
        CE,
        Result(),
        (A, Y),
        lambda net: {
            "m_quality": accuracy(net(A), Y),
            "m_counts_0": 12 * accuracy(net(A), Y),
            "m_counts_1": 12,
        },
    ),
    "targets that the loss ignores": (
        plain,
        CE,
        "acc",
        (A, SOME),
        lambda net: {"m": accuracy(net(A)[SOME >= 0], SOME[SOME >= 0])},
    ),
    "logits `(N, T, C)` of a net with its own loss": (
        tagger(),
        None,
        "acc",
        {"a": TOKENS, "labels": TAGS},
        lambda net: {"m": accuracy(net(TOKENS, TAGS).logits.flatten(0, 1), TAGS.flatten())},
    ),
    "one-hot or soft targets `(N, C)`": (
        plain,
        soft_cross_entropy,
        "acc",
        (A, ONE_HOT),
        lambda net: {"m": accuracy(net(A), Y)},
    ),
}


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, a):
        return self.function(a)


def some_texts(a):
    return [f"{row[0]:.3f}" for row in a]


RAGGED = [(torch.ones(2, 3),), (torch.ones(2, 5),)]
# The row, the net's function, the data, and whether a result is right.
PREDICTIONS = {
    "a tensor, a mapping or a tuple of tensors": (
        lambda a: {"twice": 2 * a, "pair": (a, -a)},
        A,
        lambda got: torch.equal(got["twice"], 2 * A) and torch.equal(got["pair"][1], -A),
    ),
    "a list with an entry for each sample": (
        lambda a: [{"boxes": row.repeat(1 + int(row[0] > 0), 1)} for row in a],
        A,
        lambda got: [len(p["boxes"]) for p in got] == [1 + int(row[0] > 0) for row in A],
    ),
    "arrays, lists of texts, distributions": (
        lambda a: (a.numpy(), some_texts(a), torch.distributions.Normal(a, 1.0)),
        A,
        lambda got: (
            (got[0] == A.numpy()).all() and got[1] == some_texts(A) and torch.equal(got[2].mean, A)
        ),
    ),
    "a scalar beside tensors": (
        lambda a: {"rows": a, "mean": a.mean()},
        A,
        lambda got: torch.equal(got["rows"], A) and len(got["mean"]) == 3,
    ),
    "sequences whose lengths differ between batches": (
        lambda a: 2 * a,
        RAGGED,
        lambda got: [part.shape for part in got] == [(2, 3), (2, 5)],
    ),
}


@pytest.mark.parametrize("batch_size", [12, 5, 1])
@pytest.mark.parametrize("row", METRICS)
@pytest.mark.filterwarnings("ignore:.*is called with .y_true, y_pred")
@pytest.mark.filterwarnings("ignore:.*targets first")
def test_a_metric_is_that_of_all_samples(row, batch_size):
    net, loss_fn, metric, data, by_hand = METRICS[row]
    model = KerasModel(net, loss_fn, {"m": metric})
    scores = model.evaluate(data, batch_size=batch_size, verbose=0)
    expected = {f"val_{name}": value for name, value in by_hand(net).items()}
    # torchmetrics computes in float32.
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("row", PREDICTIONS)
def test_a_prediction_has_a_row_for_each_sample(row):
    function, data, is_right = PREDICTIONS[row]
    model = KerasModel(Returns(function), "mse")
    assert is_right(model.predict(data, batch_size=5, verbose=0))


def test_sequences_are_padded_on_request():
    model = KerasModel(Returns(lambda a: 2 * a), "mse")
    padded = model.predict(RAGGED, join="pad", verbose=0)
    assert padded.tolist() == [[2, 2, 2, 0, 0]] * 2 + [[2] * 5] * 2


def rows_of_the_page():
    lines = PAGE.read_text().splitlines()
    cells = [re.split(r" \| ", line.strip("| "))[0] for line in lines if line.startswith("| ")]
    heads = {"form of a batch", "output", "loss", "metric", "output of the net"}
    return [cell for cell in cells if cell not in heads]


def test_the_page_and_the_tests_have_the_same_rows():
    assert rows_of_the_page() == [*ROWS, *METRICS, *PREDICTIONS]


@pytest.mark.parametrize("batch_size", [12, 5])
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.filterwarnings("ignore:Net.forward does not take")
def test_a_row_is_trained_and_evaluated_as_by_hand(row, batch_size):
    net, loss_fn, data, by_hand = ROWS[row]
    fresh, expected = type(net)(type(net).forward), type(net)(type(net).forward)
    options = {}
    if "forward=" in row:
        options["forward"] = lambda net, batch: (net(batch["first"]), batch["second"][1])
    if row == "`val_loss_fn=`":
        options["val_loss_fn"] = lambda y_pred, y_true: 2 * CE(y_pred, y_true)
    model = KerasModel(fresh, loss_fn, None, torch.optim.SGD(fresh.parameters(), RATE), **options)
    loss = by_hand(expected)
    if "sample_weight" not in row:
        factor = 2 if row == "`val_loss_fn=`" else 1
        scores = model.evaluate(data, batch_size=batch_size, verbose=0)
        assert scores["val_loss"] == pytest.approx(factor * loss.item(), rel=1e-10)
    frame = model.fit(
        data,
        epochs=1,
        batch_size=batch_size,
        gradient_accumulation_steps=-(-12 // batch_size),
        shuffle=False,
        verbose=0,
    )
    loss.backward()
    assert frame["train_loss"][0] == pytest.approx(loss.item(), rel=1e-10)
    assert COLUMNS.get(row, set()) <= set(frame)
    for (name, trained), start in zip(fresh.named_parameters(), expected.parameters(), strict=True):
        moved = start if start.grad is None else start - RATE * start.grad
        torch.testing.assert_close(trained, moved, rtol=1e-10, atol=1e-12, msg=name)
