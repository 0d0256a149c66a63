"""Losses and nets that return their parts: one is trained on, the others are columns."""

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fitorch import KerasModel
from fitorch.losses import L2, term
from tolerances import FLOAT64

torch.manual_seed(0)
X = torch.randn(50, 6).double()
Y = X[:, :3].argmax(1)


def parts(y_pred, y_true):
    return {"ce": cross_entropy(y_pred, y_true), "size": 0.1 * y_pred.square().mean()}


def total_of(y_pred, y_true):
    return sum(parts(y_pred, y_true).values())


class Detector(nn.Linear):
    """Returns its losses in training, and predictions in evaluation."""

    def forward(self, x, y=None):
        y_pred = super().forward(x)
        return parts(y_pred, y) if self.training else y_pred


FORMS = {
    "a mapping": parts,
    "a mapping with the loss": lambda p, t: {"loss": total_of(p, t), **parts(p, t)},
    "the loss and a mapping": lambda p, t: (total_of(p, t), parts(p, t)),
}


def model_of(form):
    torch.manual_seed(1)
    if form == "the net's own":
        net = Detector(6, 3).double()
        loss, forward = None, lambda net, batch: (net(*batch), None)
    else:
        net = nn.Linear(6, 3).double()
        loss, forward = FORMS.get(form, total_of), None
    return KerasModel(net, loss, None, lambda p: torch.optim.SGD(p, 0.1), forward=forward)


def trained(form, **options):
    model = model_of(form)
    frame = model.fit((X, Y), epochs=3, seed=0, verbose=0, **{"batch_size": 16, **options})
    return model, frame.drop(columns="seconds")


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("form", [*FORMS, "the net's own"])
def test_the_sum_is_trained_on_and_each_part_is_a_column(form, window):
    model, frame = trained(form, gradient_accumulation_steps=window)
    expected, table = trained("the sum alone", gradient_accumulation_steps=window)
    torch.testing.assert_close(model.net.weight, expected.net.weight, **FLOAT64)
    assert list(frame) == ["epoch", "train_loss", "train_ce", "train_size", "lr"]
    pd.testing.assert_series_equal(frame["train_loss"], table["train_loss"], **FLOAT64)
    summed = (frame["train_ce"] + frame["train_size"]).rename("train_loss")
    pd.testing.assert_series_equal(summed, frame["train_loss"], **FLOAT64)


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_parts_of_an_evaluation_are_those_of_all_samples(batch_size):
    model = model_of("a mapping")
    scores = model.evaluate((X, Y), batch_size=batch_size, verbose=0)
    expected = parts(model.net(X), Y)
    assert scores == pytest.approx(
        {"val_loss": sum(expected.values()).item()}
        | {f"val_{name}": part.item() for name, part in expected.items()},
        rel=1e-10,
    )


def test_parts_of_a_weighted_term_carry_its_weight_and_keep_clear_of_other_columns():
    net = nn.Linear(6, 3).double()
    loss = 0.5 * term(parts, name="size") + 1e-2 * L2()
    scores = KerasModel(net, loss, {"ce": lambda p, t: 1.0}).evaluate((X, Y), verbose=0)
    expected = parts(net(X), Y)
    assert scores["val_ce"] == 1.0
    assert scores["val_ce_loss"] == pytest.approx(0.5 * expected["ce"].item())
    assert scores["val_size_loss"] == pytest.approx(0.5 * expected["size"].item())


def test_parts_survive_a_resume_within_an_epoch(tmp_path):
    class StopOnce:
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1 and not stopped:
                stopped.append(True)
                raise KeyboardInterrupt

        def set_model(self, model):
            self.model = model

    _, expected = trained("a mapping", shuffle=True)
    stopped = []
    with pytest.raises(KeyboardInterrupt):
        trained("a mapping", ckpt_path=tmp_path, save_every_n_steps=1, callbacks=[StopOnce()])
    _, frame = trained("a mapping", ckpt_path=tmp_path, save_every_n_steps=1, resume=True)
    pd.testing.assert_frame_equal(frame, expected)


def test_a_net_that_has_no_loss_in_evaluation_says_what_to_do():
    model = model_of("the net's own")
    with pytest.raises(TypeError, match=r"does not have a \.loss; pass loss_fn"):
        model.fit((X, Y), (X, Y), epochs=1, verbose=0)


def test_validation_may_have_a_loss_of_its_own():
    torch.manual_seed(1)
    net = Detector(6, 3).double()
    model = KerasModel(
        net,
        None,
        None,
        lambda p: torch.optim.SGD(p, 0.0),
        val_loss_fn=nn.CrossEntropyLoss(),
        forward=lambda net, batch: (net(*batch), batch[1]),
    )
    frame = model.fit((X, Y), (X, Y), epochs=1, batch_size=16, verbose=0, monitor="val_loss")
    net.eval()
    expected = cross_entropy(net(X), Y).item()
    assert frame["val_loss"][0] == pytest.approx(expected, rel=1e-10)
    assert model.evaluate((X, Y), verbose=0)["val_loss"] == pytest.approx(expected, rel=1e-10)
    assert [name for name in frame if name.startswith("val_")] == ["val_loss"]


def test_a_formula_of_validation_has_columns_of_its_own():
    net = nn.Linear(6, 3).double()
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    val_loss = term(nn.CrossEntropyLoss(), name="ce") + 0.1 * L2()
    model = KerasModel(net, smooth, None, "sgd", val_loss_fn=val_loss)
    frame = model.fit((X, Y), (X, Y), epochs=2, verbose=0, monitor="val_ce")
    assert {"train_loss", "val_loss", "val_ce", "val_l2"} <= set(frame)
    assert "train_ce" not in frame
    with torch.no_grad():
        assert frame["val_l2"].iloc[-1] == pytest.approx(0.1 * L2()(net).item(), rel=1e-9)


class Auxiliary(nn.Module):
    """Returns an object with logits and more in training, logits alone in evaluation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.head, self.aux = nn.Linear(6, 3), nn.Linear(6, 3)
        self.double()

    def forward(self, x):
        if not self.training:
            return self.head(x)
        return type("Output", (), {"logits": self.head(x), "aux": self.aux(x)})()


def both(output, y):
    if isinstance(output, torch.Tensor):
        return cross_entropy(output, y)
    return cross_entropy(output.logits, y) + 0.4 * cross_entropy(output.aux, y)


@pytest.mark.parametrize("way", ["pairs", "forward"])
def test_a_users_loss_gets_what_the_net_returned(way):
    net, by_hand = Auxiliary(), Auxiliary()
    hook = (lambda net, batch: (net(batch[0]), batch[1])) if way == "forward" else None
    model = KerasModel(net, both, None, lambda p: torch.optim.SGD(p, 0.1), forward=hook)
    frame = model.fit((X, Y), (X, Y), epochs=1, batch_size=50, shuffle=False, verbose=0)
    both(by_hand(X), Y).backward()
    assert by_hand.aux.weight.grad is not None
    expected = by_hand.aux.weight - 0.1 * by_hand.aux.weight.grad
    torch.testing.assert_close(net.aux.weight, expected, **FLOAT64)
    net.eval()
    assert frame["val_loss"][0] == pytest.approx(cross_entropy(net(X), Y).item(), rel=1e-10)


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(), cross_entropy])
def test_a_loss_of_torch_gets_the_logits_of_an_object(loss):
    net = Auxiliary()
    KerasModel(net, loss, None, "sgd").fit((X, Y), (X, Y), epochs=1, verbose=0)
    assert net.aux.weight.grad is None


def test_one_target_belongs_to_every_output():
    class Two(Auxiliary):
        def forward(self, x):
            return {"out": self.head(x), "aux": self.aux(x)}

    net, by_hand = Two(), Two()
    loss = {"out": nn.CrossEntropyLoss(), "aux": 0.4 * term(nn.CrossEntropyLoss())}
    model = KerasModel(net, loss, {"out": {"acc": "acc"}}, torch.optim.SGD(net.parameters(), 0.1))
    frame = model.fit((X, Y), (X, Y), epochs=1, batch_size=50, shuffle=False, verbose=0)
    out = by_hand(X)
    (cross_entropy(out["out"], Y) + 0.4 * cross_entropy(out["aux"], Y)).backward()
    assert by_hand.aux.weight.grad is not None
    expected = by_hand.aux.weight - 0.1 * by_hand.aux.weight.grad
    torch.testing.assert_close(net.aux.weight, expected, **FLOAT64)
    accuracy = (net(X)["out"].argmax(1) == Y).double().mean().item()
    assert frame["val_out_acc"][0] == pytest.approx(accuracy)


def test_a_loss_in_the_order_of_keras_is_called_that_way_round():
    def pinball(y_true, y_pred):
        error = y_true - y_pred
        return torch.maximum(0.9 * error, -0.1 * error).mean()

    net, x, y = nn.Linear(6, 1).double(), X, X[:, :1]
    scores = KerasModel(net, pinball).evaluate((x, y), batch_size=7, verbose=0)
    assert scores["val_loss"] == pytest.approx(pinball(y, net(x)).item(), rel=1e-10)
