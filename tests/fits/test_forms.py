"""Each row of docs/forms.md, beside a loop by hand."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def rows_of_the_page():
    lines = PAGE.read_text().splitlines()
    cells = [re.split(r" \| ", line.strip("| "))[0] for line in lines if line.startswith("| ")]
    heads = {"form of a batch", "output", "loss", "metric", "prediction"}
    return [cell for cell in cells if cell not in heads]


def test_the_page_and_the_tests_have_the_same_rows():
    assert rows_of_the_page() == list(ROWS)


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
