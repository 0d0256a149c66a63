"""A loss for each output of a net: what each adds is exact, whatever form the outputs have."""

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from fitorch import DataError, KerasModel
from fitorch.losses import L2, term
from tolerances import FLOAT64

SAMPLES, EPOCHS, ALPHA = 50, 2, 1e-3
GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(SAMPLES, 4, generator=GENERATOR, dtype=torch.float64)
AGE = X[:, :1] * 2 + 1
KIND = torch.randint(3, (SAMPLES,), generator=GENERATOR).where(torch.arange(SAMPLES) % 4 > 0, -100)
AGE_WEIGHT = torch.linspace(0, 2, SAMPLES, dtype=torch.float64)
KIND_WEIGHT = torch.linspace(2, 0.1, SAMPLES, dtype=torch.float64)
CLASS_WEIGHT = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)

Named = namedtuple("Named", ["age", "kind"])


@dataclass
class Record:
    age: Any
    kind: Any


class ModelOutput(OrderedDict):
    """As Hugging Face's: a mapping whose entries are attributes and stand in an order too."""

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else list(self.values())[key]

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]


FORMS = {
    "dict": lambda age, kind: {"age": age, "kind": kind},
    "named tuple": Named,
    "dataclass": Record,
    "model output": lambda age, kind: ModelOutput(age=age, kind=kind),
    "list": lambda age, kind: [age, kind],
    "tuple": lambda age, kind: (age, kind),
    "nested": lambda age, kind: {"heads": [age, {"kind": kind}], "more": age},
}


class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.age, self.kind = nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(6, 3)
        self.form = FORMS[form]
        self.double()

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        return self.form(self.age(hidden), self.kind(hidden))


def losses(form, age=None, kind=None):
    age = age if age is not None else nn.L1Loss()
    kind = kind if kind is not None else 0.3 * term(nn.CrossEntropyLoss(CLASS_WEIGHT))
    if form in ("list", "tuple"):
        return FORMS[form](age, kind)
    if form == "nested":
        return {"heads": [age, {"kind": kind}]}
    return {"age": age, "kind": kind}


def targets(form, age=AGE, kind=KIND):
    if form in ("list", "tuple", "nested"):
        return FORMS[form](age, kind)
    return {"age": age, "kind": kind}


def names(form):
    if form in ("list", "tuple"):
        return ["output_0", "output_1"]
    return ["heads_output_0", "heads_output_1_kind"] if form == "nested" else ["age", "kind"]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def by_hand(net, size, age_weight=None, kind_weight=None, penalty=0.0, epochs=EPOCHS):
    """Train on batches of `size` in order; return each epoch's figures of both losses."""
    optimizer, rows = sgd(net.parameters()), []
    for _ in range(epochs):
        totals = torch.zeros(2, 2, dtype=torch.float64)
        for at in torch.arange(SAMPLES).split(size):
            parts = parts_of(net, at, age_weight, kind_weight)
            penalized = (net.body, net.age, net.kind)
            l2 = 0.5 * penalty * sum(layer.weight.square().sum() for layer in penalized)
            optimizer.zero_grad()
            (sum(value for value, _ in parts) + l2).backward()
            optimizer.step()
            totals += torch.tensor([[v.item() * s, s] for v, s in parts], dtype=torch.float64)
        rows.append((totals[:, 0] / totals[:, 1]).tolist())
    return rows


def parts_of(net, at, age_weight=None, kind_weight=None):
    """Return value and share of both losses for the samples `at`, written out."""
    hidden = torch.tanh(net.body(X[at]))
    errors = (net.age(hidden) - AGE[at]).abs().squeeze(1)
    w = torch.ones(len(at)) if age_weight is None else age_weight[at]
    v = torch.ones(len(at)) if kind_weight is None else kind_weight[at]
    v = (v * CLASS_WEIGHT[KIND[at].clamp_min(0)]) * (KIND[at] >= 0)
    entropies = F.cross_entropy(net.kind(hidden), KIND[at].clamp_min(0), reduction="none")
    age, kind = (errors * w).sum() / w.sum(), 0.3 * (entropies * v).sum() / v.sum()
    return [(age, w.sum().item()), (kind, v.sum().item())]


def assert_same(net, expected):
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)


def fit(model, data, size=7, **options):
    given = {"epochs": EPOCHS, "batch_size": size, "shuffle": False, "verbose": 0, **options}
    return model.fit(data, data, **given)


EVERY = pytest.mark.parametrize("form", FORMS)


@EVERY
@pytest.mark.parametrize("size", [7, 64])
def test_each_output_has_its_loss(form, size):
    net, expected = Net(form), Net(form)
    model = KerasModel(net, losses(form) + ALPHA * L2(), optimizer=sgd)
    frame = fit(model, (X, targets(form)), size)
    rows = by_hand(expected, size, penalty=ALPHA)
    assert_same(net, expected)
    columns = [f"train_{name}" for name in names(form)]
    for row, wanted in zip(frame[columns].to_numpy(), rows, strict=True):
        assert row == pytest.approx(wanted, rel=1e-9)
    everything = [value.item() for value, _ in parts_of(net, torch.arange(SAMPLES))]
    validated = frame[[f"val_{name}" for name in names(form)]].iloc[-1]
    assert validated.tolist() == pytest.approx(everything, rel=1e-9)
    for stage in ("train", "val"):
        total = frame[[f"{stage}_{name}" for name in [*names(form), "l2"]]].sum(axis=1)
        assert frame[f"{stage}_loss"].tolist() == pytest.approx(total.tolist(), rel=1e-12)


@EVERY
def test_outputs_are_predicted_in_their_form(form):
    net = Net(form)
    output = KerasModel(net, losses(form)).predict(X, batch_size=7, verbose=0)
    assert type(output) is type(net(X))
    torch.testing.assert_close(kind_of(output), net.kind(torch.tanh(net.body(X))))


def kind_of(output):
    if isinstance(output, dict):
        return output["heads"][1]["kind"] if "heads" in output else output["kind"]
    return output.kind if hasattr(output, "kind") else output[1]


@EVERY
@pytest.mark.parametrize("size", [7, 10])
def test_accumulating_is_training_on_the_windows_samples_at_once(form, size):
    net, expected = Net(form), Net(form)
    model = KerasModel(net, losses(form) + ALPHA * L2(), optimizer=sgd)
    fit(model, (X, targets(form)), size, gradient_accumulation_steps=3)
    by_hand(expected, 3 * size, penalty=ALPHA)
    assert_same(net, expected)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_one_sample_weight_counts_for_all_outputs(form, window):
    net, expected = Net(form), Net(form)
    model = KerasModel(net, losses(form), optimizer=sgd)
    frame = fit(model, (X, targets(form), AGE_WEIGHT), gradient_accumulation_steps=window)
    rows = by_hand(expected, 7 * window, AGE_WEIGHT, AGE_WEIGHT)
    assert_same(net, expected)
    if window == 1:
        columns = [f"train_{name}" for name in names(form)]
        assert frame[columns].to_numpy() == pytest.approx(np.array(rows), rel=1e-9)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("form", ["dict", "tuple", "list"])
def test_each_output_may_have_sample_weights_of_its_own(form, window):
    net, expected = Net(form), Net(form)
    model = KerasModel(net, losses(form), optimizer=sgd)
    weights = FORMS[form](AGE_WEIGHT, KIND_WEIGHT)
    fit(model, (X, targets(form), weights), gradient_accumulation_steps=window)
    by_hand(expected, 7 * window, AGE_WEIGHT, KIND_WEIGHT)
    assert_same(net, expected)


def collated(y):
    """A loader whose batches are (x, y) with what is None left as it is."""

    def collate(numbers):
        at = torch.tensor(numbers)
        return X[at], {name: None if part is None else part[at] for name, part in y.items()}

    return DataLoader(range(SAMPLES), 7, collate_fn=collate)


@pytest.mark.parametrize("kind", ["memory", "loader", "generator", "left out"])
def test_an_output_without_a_loss_needs_no_targets(kind):
    y = {"age": AGE} if kind == "left out" else {"age": AGE, "kind": None}
    data = (X, y) if kind in ("memory", "left out") else collated(y)
    net, expected = Net("dict"), Net("dict")
    model = KerasModel(net, {"age": nn.L1Loss(), "kind": None}, optimizer=sgd)
    batches = (batch for _ in range(EPOCHS) for batch in data) if kind == "generator" else data
    options = {"steps_per_epoch": 8} if kind == "generator" else {"batch_size": 7}
    model.fit(batches, data, epochs=EPOCHS, shuffle=False, verbose=0, **options)
    optimizer = sgd(expected.parameters())
    for _ in range(EPOCHS):
        for at in torch.arange(SAMPLES).split(7):
            optimizer.zero_grad()
            F.l1_loss(expected(X[at])["age"], AGE[at]).backward()
            optimizer.step()
    assert_same(net, expected)
    assert list(model.history.frame) == ["epoch", "train_loss", "lr", "val_loss", "seconds"]


def test_targets_may_lie_in_pandas_and_numpy():
    frame = fit(
        KerasModel(Net("dict"), losses("dict"), optimizer=sgd),
        (X.numpy(), {"age": AGE.numpy(), "kind": KIND.numpy().astype("int32")}),
    )
    wanted = by_hand(Net("dict"), 7)
    assert frame[["train_age", "train_kind"]].to_numpy() == pytest.approx(np.array(wanted))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("window", [1, 3])
def test_a_batch_that_is_a_mapping_holds_them_as_labels(window, weighted):
    class Takes(Net):
        def forward(self, x, labels):
            return super().forward(x)

    net, expected = Takes("dict"), Net("dict")
    data = {"x": X, "labels": targets("dict")}
    weights = {"age": AGE_WEIGHT, "kind": KIND_WEIGHT} if weighted else {}
    model = KerasModel(net, losses("dict"), optimizer=sgd)
    fit(
        model,
        data | ({"sample_weight": weights} if weighted else {}),
        gradient_accumulation_steps=window,
    )
    by_hand(expected, 7 * window, weights.get("age"), weights.get("kind"))
    assert_same(net, expected)


def test_batches_of_a_form_of_ones_own_count_by_their_samples():
    """What the losses count is known only after the forward, so windows count samples."""

    def forward(net, batch):
        x, age = batch
        return net(x), {"age": age}

    net, expected = Net("dict"), Net("dict")
    model = KerasModel(net, {"age": "l1"} + ALPHA * L2(), optimizer=sgd, forward=forward)
    fit(model, (X, AGE), gradient_accumulation_steps=3)
    optimizer = sgd(expected.parameters())
    for _ in range(EPOCHS):
        for at in torch.arange(SAMPLES).split(21):
            layers = (expected.body, expected.age, expected.kind)
            l2 = 0.5 * ALPHA * sum(layer.weight.square().sum() for layer in layers)
            optimizer.zero_grad()
            (F.l1_loss(expected(X[at])["age"], AGE[at]) + l2).backward()
            optimizer.step()
    assert_same(net, expected)


@pytest.mark.parametrize("form", ["dict", "dataclass", "nested"])
def test_outputs_of_any_form_train_in_bf16(form):
    net = Net(form).float()
    y = targets(form, AGE.float())
    frame = KerasModel(net, losses(form, kind=nn.CrossEntropyLoss()), optimizer=sgd).fit(
        (X.float(), y), (X.float(), y), epochs=2, mixed_precision="bf16", seed=1, verbose=0
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = torch.tanh(net.body(X.float()))
        age = net.age(hidden).float()
    expected = F.l1_loss(age, AGE.float()).item()  # in full precision from the output on
    assert frame[f"val_{names(form)[0]}"].iloc[-1] == pytest.approx(expected, rel=1e-6)


def test_a_loss_may_compare_several_terms_of_one_output():
    net = Net("dict")
    objective = {"age": term("l1") + 0.5 * term("mse"), "kind": nn.CrossEntropyLoss()}
    scores = KerasModel(net, objective).evaluate((X, targets("dict")), batch_size=7, verbose=0)
    age, kind = net(X)["age"], net(X)["kind"]
    wanted = {
        "val_age_l1": F.l1_loss(age, AGE),
        "val_age_mse": 0.5 * F.mse_loss(age, AGE),
        "val_kind": F.cross_entropy(kind, KIND),
    }
    assert scores == pytest.approx(
        {"val_loss": sum(wanted.values()).item(), **{n: v.item() for n, v in wanted.items()}}
    )


def test_metrics_get_all_outputs():
    def oldest(y_pred, y_true):
        return (y_pred["age"] - y_true["age"]).abs().mean()

    model = KerasModel(Net("dict"), losses("dict"), {"mae": oldest})
    scores = model.evaluate((X, targets("dict")), batch_size=7, verbose=0)
    assert list(scores) == ["val_loss", "val_mae", "val_age", "val_kind"]
    assert scores["val_mae"] == pytest.approx(scores["val_age"])


@pytest.mark.parametrize("form", ["dict", "dataclass", "tuple"])
def test_metrics_do_without_the_targets_of_an_output(form):
    def wrong(y_pred, y_true):
        kind = y_true[1] if form == "tuple" else y_true["kind"]
        return (kind_of(y_pred).argmax(1) != kind).double().mean()

    objective = (None, "cross_entropy") if form == "tuple" else {"kind": "cross_entropy"}
    model = KerasModel(Net(form), objective, {"wrong": wrong})
    frame = fit(model, (X, targets(form, age=None)), epochs=1)
    expected = (kind_of(model.net(X)).argmax(1) != KIND).double().mean().item()
    assert frame["val_wrong"][0] == pytest.approx(expected)


MISFITS = {
    "an output that is missing": (
        {"age": "l1", "weight": "mse"},
        {"age": AGE, "weight": AGE},
        ["'weight'", "the net's output has the keys ['age', 'kind']"],
    ),
    "targets that are missing": (
        {"age": "l1", "kind": "cross_entropy"},
        {"age": AGE},
        ["'kind'", "the targets", "['age']"],
    ),
    "targets that are None": (
        {"age": "l1", "kind": "cross_entropy"},
        {"age": AGE, "kind": None},
        ["output 'kind' has a loss, but its targets are None", "remove the loss"],
    ),
    "targets of another output": (
        {"age": "l1", "kind": "cross_entropy"},
        AGE,
        ["CrossEntropyLoss", "(32, 1)", "class numbers"],
    ),
    "places instead of names": (["l1"], [AGE], ["output 0", "['age', 'kind']"]),
    "shapes of one output": (
        {"age": "l1", "kind": "cross_entropy"},
        {"age": AGE[:, 0], "kind": KIND},
        ["L1Loss", "(32, 1)", "(32,)", "unsqueeze"],
    ),
    "classes of one output": (
        {"age": "l1", "kind": "cross_entropy"},
        {"age": AGE, "kind": KIND.clamp_min(0).index_fill(0, torch.tensor([49]), 3)},
        ["class 3", "3 classes"],
    ),
    "types of one output": (
        {"age": "l1", "kind": "cross_entropy"},
        {"age": AGE, "kind": KIND.double()},
        ["CrossEntropyLoss", "int64", "y.long()"],
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_said_before_the_first_update(name):
    objective, y, words = MISFITS[name]
    net = Net("dict")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(DataError) as caught:
        fit(KerasModel(net, objective), (X, y), 32)
    for word in words:
        assert word in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_weights_of_one_output_alone_are_refused():
    with pytest.raises(DataError, match=r"'kind'.*sample_weight.*\['age'\]"):
        fit(KerasModel(Net("dict"), losses("dict")), (X, targets("dict"), {"age": AGE_WEIGHT}))


def test_class_weights_of_several_targets_are_refused():
    with pytest.raises(DataError, match="class_weight needs targets that are one class"):
        fit(KerasModel(Net("dict"), losses("dict")), (X, targets("dict")), class_weight={0: 2.0})
