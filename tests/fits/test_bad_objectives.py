"""Bad objectives: the kind of error, and what its message must name. Nothing is trained before."""

import copy

import pytest
import torch
from torch import nn

from fitorch import DataError, KerasModel, ShapeError
from fitorch.losses import L1, L2, FocalLoss, Penalty, term
from fits.mistakes import CLASSES, X, Y, detached, mlp, one_hot, squares, text_of, unreduced


class Twofold(nn.Module):
    """A net of two outputs."""

    def __init__(self, outputs=1):
        super().__init__()
        self.net = mlp(outputs)

    def forward(self, x):
        return {"first": self.net(x), "second": self.net(x).sum(1)}


class Wide(Penalty):
    """A penalty that is no number."""

    def value(self, weights):
        return weights[0].sum(0)


def biases_alone():
    net = mlp()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("bias" in name)
    return net


def nothing(y_pred, y_true):
    return 1.0


MISFITS = {
    # loss, outputs of the net, targets -> words of the message
    "logits": ("bce", 1, Y, ["BCELoss", "[0, 1]", "BCEWithLogitsLoss"]),
    "logits for focal": (FocalLoss(), 1, Y, ["FocalLoss", "[0, 1]", "from_logits=True"]),
    "float classes": ("cross_entropy", 3, CLASSES.float(), ["CrossEntropyLoss", "y.long()"]),
    "a column": ("mse", 1, Y[:, 0], ["MSELoss", "(32, 1)", "(32,)", "unsqueeze"]),
    "one-hot": ("nll", 3, one_hot(torch.float), ["NLLLoss", "one-hot", "argmax"]),
    "an unknown class": ("cross_entropy", 2, CLASSES, ["class 2", "2 classes", "0 to 1"]),
    "classes for focal": (
        FocalLoss(from_logits=True),
        2,
        CLASSES,
        ["FocalLoss", "class 2", "2 classes"],
    ),
    "integers for focal": (FocalLoss(from_logits=True), 1, Y.long(), ["FocalLoss", "y.float()"]),
    "weights for other classes": (
        FocalLoss(alpha=[0.2, 0.8], from_logits=True),
        3,
        CLASSES,
        ["2 weights in alpha", "3 classes"],
    ),
}
OBJECTIVES = {
    # what is given: net, loss, data, fit's arguments -> error, words of its message
    "a penalty that finds nothing": (
        {"loss": lambda: "bce_with_logits" + L2(include="encoder.*")},
        ValueError,
        ["L2(include='encoder.*') finds no parameter", "0.weight, 0.bias", "include='*'"],
    ),
    "a penalty on biases": (
        {"loss": lambda: term("bce_with_logits") + 1e-3 * L1(), "net": biases_alone()},
        ValueError,
        ["L1() finds no parameter", "trainable", "biases and normalization are left out"],
    ),
    "an unknown loss in a formula": (
        {"loss": lambda: "bce_with_logit" + L2()},
        ValueError,
        ["'bce_with_logit'", "did you mean 'bce_with_logits'", "cross_entropy"],
    ),
    "an unknown loss of an output": (
        {"loss": lambda: {"first": "mze"}},
        ValueError,
        ["'mze'", "did you mean 'mse'"],
    ),
    "a weight that is NaN": (
        {"loss": lambda: term("mse") + float("nan") * L2()},
        ValueError,
        ["weight of L2() is nan", "finite"],
    ),
    "a weight that is a word": (
        {"loss": lambda: "0.3" * term("mse")},
        TypeError,
        ["weight of MSELoss() is a str", "number, or a function"],
    ),
    "a similarity": (
        {"loss": lambda: nn.CosineSimilarity() + L2()},
        TypeError,
        ["CosineSimilarity increases", "fitorch.losses.CosineLoss()", "1 - similarity"],
    ),
    "a similarity of an output": (
        {"loss": lambda: {"first": nn.CosineSimilarity()}},
        TypeError,
        ["fitorch.losses.CosineLoss()"],
    ),
    "no loss at all": ({"loss": lambda: {"first": None}}, ValueError, ["without a loss"]),
    "penalties alone": (
        {"loss": lambda: L1() + L2()},
        TypeError,
        ["only penalties", "float32 (32, 1)", "does not have a .loss", "pass loss_fn"],
    ),
    "sample weights for a function": (
        {"loss": lambda: squares + L2(), "data": (X, Y, torch.ones(64))},
        TypeError,
        ["sample_weight", "squares does not provide", "term(loss_fn, per_sample=True)"],
    ),
    "class weights for a function": (
        {"loss": lambda: term("mse") + term(squares), "class_weight": {1: 2.0}},
        TypeError,
        ["class_weight", "squares does not provide", "term(loss_fn, per_sample=True)"],
    ),
    "a term that is no scalar": (
        {"loss": lambda: term("mse") + 0.5 * term(unreduced) + L2()},
        ValueError,
        ["unreduced returned float32 (32, 1)", "scalar", "per_sample=True"],
    ),
    "a term that is a number": (
        {"loss": lambda: term("mse") + term(nothing)},
        ValueError,
        ["nothing returned float", "scalar tensor"],
    ),
    "a penalty that is no scalar": (
        {"loss": lambda: term("mse") + Wide()},
        ValueError,
        ["wide returned float32 (4,)", "scalar"],
    ),
    "a loss per sample that is a scalar": (
        {"loss": lambda: term(squares, per_sample=True) + L2()},
        ShapeError,
        ["squares returned losses of shape ()", "one loss per sample"],
    ),
    "terms without a gradient": (
        {"loss": lambda: term(detached) + L2()},
        ValueError,
        ["detached + l2", "requires_grad=False", ".detach()"],
    ),
    "one loss for two outputs": (
        {"loss": lambda: "mse", "net": Twofold()},
        AttributeError,
        ["the loss got a dict", "loss_fn={'name': loss}"],
    ),
    "a function for two outputs": (
        {"loss": lambda: squares, "net": Twofold()},
        TypeError,
        ["the loss got a dict", "loss_fn={'name': loss}"],
    ),
    "two losses for one output": (
        {"loss": lambda: ["mse", "mse"], "data": (X, [Y, Y])},
        DataError,
        ["output 0", "the net's output has one Tensor"],
    ),
    "weights by output for one loss": (
        {"loss": lambda: term("mse") + L2(), "data": (X, Y, {"first": torch.ones(64)})},
        DataError,
        ["sample_weight is {'first': float32 (32,)}", "one tensor"],
    ),
    "two weights per sample": (
        {"loss": lambda: term("mse") + L2(), "data": (X, Y, torch.ones(64, 2))},
        DataError,
        ["sample_weight has shape (32, 2)", "(N,) or (N, 1)"],
    ),
}
for misfit, (loss, outputs, y, words) in MISFITS.items():
    OBJECTIVES[f"{misfit} in a formula"] = (
        {"net": mlp(outputs), "loss": lambda loss=loss: L2() + 0.5 * term(loss), "data": (X, y)},
        DataError,
        words,
    )
    OBJECTIVES[f"{misfit} in an output"] = (
        {
            "net": Twofold(outputs),
            "loss": lambda loss=loss: {"second": "mse", "first": loss},
            "data": (X, {"first": y, "second": X[:, 0]}),
        },
        DataError,
        words,
    )


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_says_what_is_wrong_with_an_objective_before_the_first_update(name, window):
    given, kind, words = OBJECTIVES[name]
    net = copy.deepcopy(given.get("net") or mlp())
    before = copy.deepcopy(net.state_dict())
    options = {key: value for key, value in given.items() if key not in ("net", "loss", "data")}
    with pytest.raises(kind) as caught:
        KerasModel(net, given["loss"]()).fit(
            given.get("data", (X, Y)), verbose=0, gradient_accumulation_steps=window, **options
        )
    for word in words:
        assert word in text_of(caught.value)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
