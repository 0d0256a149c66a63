"""Bad input: the kind of error, and what its message must name. Nothing is trained before."""

import contextlib
import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import DataError, KerasModel, NonFiniteError, ShapeError
from fitorch.errors import CheckpointWriteError
from fitorch.metrics.mean import DeviceMean
from fits.mistakes import CLASSES, X, Y, detached, mlp, one_hot, squares, text_of, unreduced


def loader(*tensors, **options):
    return DataLoader(TensorDataset(*tensors), **options)


def frozen():
    return mlp().requires_grad_(False)


def on_two_devices():
    net = mlp()
    net[2] = nn.Linear(8, 1, device="meta")
    return net


def with_batch_norm():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


CASES = {
    # what is given: net, loss, data, fit's arguments -> error, words of its message
    "no samples": ({"data": (X[:0], Y[:0])}, DataError, ["training", "0 samples", "batch_size=32"]),
    "no batch after drop_last": (
        {"data": loader(X, Y, batch_size=100, drop_last=True)},
        DataError,
        ["training", "64 samples", "batch_size=100", "drop_last=True"],
    ),
    "no validation samples": ({"val": (X[:0], Y[:0])}, DataError, ["validation", "0 samples"]),
    "no batch in a generator": ({"data": iter(())}, DataError, ["train_data", "empty"]),
    "no batch to validate on": ({"val": iter(())}, DataError, ["val_data", "empty"]),
    "a batch of four": (
        {"data": loader(X, Y, Y, Y)},
        DataError,
        ["(features, targets)", "(features, targets, sample_weight)", "mapping", "length 4"],
    ),
    "a batch of one": ({"data": loader(X)}, DataError, ["length 1", "forward="]),
    "a batch that is a tensor": ({"data": [X, X]}, TypeError, ["list of arrays", "(x, y)"]),
    "a mapping without labels": (
        {"data": {"x": X, "y": Y}},
        DataError,
        ["'labels'", "['x', 'y']", "forward="],
    ),
    "different lengths": ({"data": (X, Y[:10])}, DataError, ["x has 64", "y has 10"]),
    "data of no kind": ({"data": 3}, TypeError, ["train_data", "int", "DataLoader"]),
    "an unknown monitor": (
        {"monitor": "val_los", "val": (X, Y)},
        ValueError,
        ["'val_los'", "did you mean 'val_loss'", "train_loss"],
    ),
    "a monitor without validation": (
        {"monitor": "val_acc", "metrics": {"acc": "acc"}},
        ValueError,
        ["'val_acc'", "train_acc", "pass val_data"],
    ),
    "a monitor of unknown direction": (
        {"monitor": "val_error", "metrics": {"error": squares}, "val": (X, Y), "patience": 2},
        ValueError,
        ["'val_error'", "mode='min'"],
    ),
    "an unknown mode": ({"mode": "mim"}, ValueError, ["'mim'", "'min'", "'max'", "'auto'"]),
    "another net's optimizer": (
        {"optimizer": lambda _: torch.optim.Adam(mlp().parameters())},
        ValueError,
        ["4 of the 4 parameters", "0.weight", "net.parameters()"],
    ),
    "an unknown optimizer": ({"optimizer": "adamm"}, ValueError, ["'adamm'", "'adam'"]),
    "a closure with fp16": (
        {"optimizer": torch.optim.LBFGS, "mixed_precision": "fp16"},
        ValueError,
        ["LBFGS", "several times in a step", "fp16", "'bf16'"],
    ),
    "a frozen net": ({"net": frozen()}, ValueError, ["4 are frozen", "requires_grad"]),
    "a net without parameters": ({"net": nn.ReLU()}, ValueError, ["ReLU", "no parameters"]),
    "a net on two devices": ({"net": on_two_devices()}, ValueError, ["cpu", "meta"]),
    "a loss that is no scalar": (
        {"loss": unreduced},
        ValueError,
        ["unreduced", "(32, 1)", "scalar", "reduction='mean'", "per_sample=True"],
    ),
    "a loss without gradient": ({"loss": detached}, ValueError, ["requires_grad", "no_grad()"]),
    "no loss": ({"loss": None}, TypeError, ["loss_fn", ".loss"]),
    "an unknown loss": ({"loss": "cross_entropi"}, ValueError, ["did you mean 'cross_entropy'"]),
    "a loss' class": ({"loss": nn.MSELoss}, TypeError, ["MSELoss()"]),
    "a loss that is NaN": (
        {"data": (X * float("nan"), Y)},
        NonFiniteError,
        ["BCEWithLogitsLoss", "nan", "epoch 1", "batch 1", "0 updates", "lr", "first samples ["],
    ),
    "a loss that becomes infinite": (
        {"loss": "mse", "optimizer": lambda p: torch.optim.SGD(p, 1e9), "epochs": 50},
        NonFiniteError,
        ["MSELoss", "epoch", "lr 1e+09"],
    ),
    "a last batch of one with BatchNorm": (
        {"net": with_batch_norm(), "batch_size": 63},
        DataError,
        ["1 sample", "BatchNorm", "batch_size", "drop_last"],
    ),
    "no epochs": ({"epochs": 0}, ValueError, ["epochs is 0", ">= 1"]),
    "epochs that are text": ({"epochs": "3"}, TypeError, ["epochs", "'3'", "str"]),
    "a negative batch size": ({"batch_size": -1}, ValueError, ["batch_size is -1"]),
    "no patience": ({"patience": 0}, ValueError, ["patience is 0"]),
    "nothing left to train": (
        {"initial_epoch": 2, "epochs": 2},
        ValueError,
        ["initial_epoch=2", "epochs=2"],
    ),
    "accumulation of nothing": (
        {"gradient_accumulation_steps": 0},
        ValueError,
        ["gradient_accumulation_steps is 0"],
    ),
    "a negative clip": ({"clip_grad_norm": -1.0}, ValueError, ["clip_grad_norm is -1.0"]),
    "a time that is none": ({"max_time": "soon"}, ValueError, ["'soon'", "HH:MM:SS"]),
    "an unknown precision": ({"mixed_precision": "fp9"}, ValueError, ["'fp9'", "'bf16'"]),
    "a split of an iterable": (
        {"data": loader(X, Y), "validation_split": 0.2},
        ValueError,
        ["validation_split=0.2", "DataLoader", "val_data"],
    ),
    "a split outside [0, 1)": ({"validation_split": 1.5}, ValueError, ["1.5", "[0, 1)"]),
    "a split that leaves nothing": ({"validation_split": 0.999}, ValueError, ["0 for training"]),
    "a class weight of no class": (
        {"class_weight": {-1: 2.0}},
        ValueError,
        ["-1", "class numbers"],
    ),
    "shapes the net rejects": (
        {"net": nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 1))},
        ShapeError,
        ["mat1 and mat2", "0 (Linear)", "batch 1", "float32 (32, 4)"],
    ),
    "integers for a linear layer": (
        {"data": (X.long(), Y)},
        RuntimeError,
        ["int64 (32, 4)", "features are torch.int64", "x.float()"],
    ),
    "(N,) against (N, 1)": (
        {"data": (X, Y[:, 0])},
        DataError,
        ["BCEWithLogitsLoss", "(32, 1)", "(32,)", "unsqueeze"],
    ),
    "(N,) against (N, 1) in a loss of one's own": (
        {"data": (X, Y[:, 0]), "loss": squares},
        UserWarning,
        ["(32, 1)", "(32,)", "squares"],
    ),
    "float classes": (
        {"net": mlp(3), "loss": "cross_entropy", "data": (X, CLASSES.float())},
        DataError,
        ["CrossEntropyLoss", "int64", "torch.float32", "y.long()"],
    ),
    "one-hot for NLLLoss": (
        {"net": mlp(3), "loss": "nll", "data": (X, one_hot(torch.float))},
        DataError,
        ["NLLLoss", "one-hot", "argmax"],
    ),
    "one-hot integers for CrossEntropyLoss": (
        {"net": mlp(3), "loss": "cross_entropy", "data": (X, one_hot(torch.int64))},
        DataError,
        ["one-hot", "argmax"],
    ),
    "integer targets for BCE": (
        {"data": (X, Y.long())},
        DataError,
        ["BCEWithLogitsLoss", "float targets", "torch.int64"],
    ),
    "logits for BCELoss": ({"loss": "bce"}, DataError, ["BCELoss", "[0, 1]", "BCEWithLogitsLoss"]),
    "a class the net has not": (
        {"net": mlp(2), "loss": "cross_entropy", "data": (X, CLASSES)},
        DataError,
        ["class 2", "2 classes", "0 to 1"],
    ),
    "a metric that is none": ({"metrics": {"a": 3}}, TypeError, ["'a'", "int", "torchmetrics"]),
    "an unknown metric": ({"metrics": {"a": "accc"}}, ValueError, ["did you mean 'acc'"]),
    "a callback that is none": ({"callbacks": [3]}, TypeError, ["int", "on_epoch_end"]),
    "weights without a reduction": (
        {"data": (X, Y, torch.ones(64)), "loss": squares},
        TypeError,
        ["squares", "sample_weight", "reduction"],
    ),
}


def train(given):
    torch.manual_seed(0)
    given = copy.copy(given)
    net = copy.deepcopy(given.pop("net", None)) or mlp()
    optimizer = given.pop("optimizer", None)
    model = KerasModel(
        net,
        given.pop("loss", "bce_with_logits"),
        given.pop("metrics", None),
        optimizer(net.parameters()) if callable(optimizer) else optimizer,
    )
    data, val = given.pop("data", (X, Y)), given.pop("val", None)
    model.fit(data, val, **{"epochs": 2, "verbose": 0, **given})


@pytest.mark.parametrize("name", CASES)
def test_says_what_is_wrong(name):
    given, kind, words = CASES[name]
    with pytest.raises(kind) as caught:
        train(given)
    for word in words:
        assert word in text_of(caught.value)


FOREIGN = {
    "dl_train": "train_data",
    "validation_data": "val_data",
    "accumulate_grad_batches": "gradient_accumulation_steps",
    "max_epochs": "epochs",
    "quiet": "verbose=0",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_tells_our_name_of_another_trainers_argument(name):
    with pytest.raises(TypeError, match=f"{name}.*{FOREIGN[name]}"):
        KerasModel(mlp(), "mse").fit((X, Y), **{name: 1})


def test_lists_the_arguments_for_one_that_nobody_has():
    with pytest.raises(TypeError, match=r"'foo'.*epochs.*clip_grad_norm"):
        KerasModel(mlp(), "mse").fit((X, Y), foo=1)


def test_tells_our_name_in_the_constructor():
    with pytest.raises(TypeError, match=r"'loss'.*loss_fn"):
        KerasModel(mlp(), loss="mse")


def test_refuses_a_class_instead_of_a_net():
    with pytest.raises(TypeError, match=r"class Linear; pass Linear\(\.\.\.\)"):
        KerasModel(nn.Linear, "mse")


def test_a_checkpoint_folder_that_is_a_file_is_refused_before_training(tmp_path):
    path = tmp_path / "runs"
    path.write_text("mine")
    net = mlp()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(CheckpointWriteError, match=r"runs.*a file has that name"):
        KerasModel(net, "bce_with_logits").fit((X, Y), ckpt_path=path, verbose=0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_original_error_and_its_traceback_are_kept():
    net = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 1))
    with pytest.raises(ShapeError) as caught:
        KerasModel(net, "mse").fit((X, Y), verbose=0)
    cause = caught.value.__cause__
    assert isinstance(cause, RuntimeError)
    frames = []
    traceback = cause.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    assert frames[-1].endswith("linear.py")


def test_a_shape_error_deep_in_the_net_names_the_path_of_the_module():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 1))

        def forward(self, x):
            return self.inner(x)

    with pytest.raises(ShapeError, match=r"0\.inner\.1 \(Linear\)"):
        KerasModel(nn.Sequential(Block()), "mse").fit((X, Y), verbose=0)


def test_a_class_out_of_range_in_the_last_batch_is_found_before_the_first_update():
    classes = torch.zeros(64, dtype=torch.int64)
    classes[-1] = 7
    net = mlp(3)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(DataError, match="class 7"):
        KerasModel(net, "cross_entropy").fit((X, classes), shuffle=False, verbose=0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_weights_are_untouched_by_the_step_whose_loss_is_not_finite():
    x = X.clone()
    x[40] = float("inf")
    net = mlp()
    twin = copy.deepcopy(net)
    with pytest.raises(NonFiniteError, match="batch 2"):
        KerasModel(net, "mse", optimizer="sgd").fit((x, Y), shuffle=False, verbose=0)
    # by hand: the first batch alone
    optimizer = torch.optim.SGD(twin.parameters(), fused=True)
    nn.functional.mse_loss(twin(x[:32]), Y[:32]).backward()
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_gradient_norm_that_is_nan_is_told_where_gradients_are_clipped():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    def loss(y_pred, y_true):
        return squares(Square.apply(y_pred), y_true)

    with pytest.raises(NonFiniteError, match=r"its gradient is not.*batch 1"):
        KerasModel(mlp(), loss).fit((X, Y), clip_grad_norm=1.0, verbose=0)


def test_batch_norm_takes_a_last_batch_of_one_image():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 1))
    images = torch.randn(5, 1, 4, 4)
    frame = KerasModel(net, "mse").fit(
        (images, torch.randn(5, 1)), batch_size=4, epochs=1, verbose=0
    )
    assert len(frame) == 1


def test_batch_norm_that_is_frozen_takes_a_last_batch_of_one():
    net = with_batch_norm()
    net[1].eval()
    frame = KerasModel(net, "mse").fit((X[:5], Y[:5]), batch_size=4, epochs=1, verbose=0)
    assert len(frame) == 1


def test_a_frozen_net_can_be_evaluated_and_predicts():
    model = KerasModel(frozen(), "bce_with_logits")
    assert set(model.evaluate((X, Y), verbose=0)) == {"val_loss"}
    assert model.predict(X, verbose=0).shape == (64, 1)


def test_a_failed_fit_keeps_the_history_of_its_epochs():
    batches = [[(X, Y)], [(X, Y)], [(X[:, :3], Y)]]

    class Worse:
        def __iter__(self):
            return iter(batches.pop(0))

    model = KerasModel(mlp(), "mse")
    with contextlib.suppress(ShapeError), warnings.catch_warnings():
        model.fit(Worse(), epochs=3, verbose=0)
    assert list(model.history.frame["epoch"]) == [1, 2]


def test_a_net_on_the_meta_device_is_refused():
    with pytest.raises(ValueError, match="meta device"):
        KerasModel(nn.Linear(4, 1, device="meta"), "mse", optimizer="sgd").fit((X, Y), verbose=0)


def test_an_accelerator_tells_a_loss_that_is_nan_at_the_end_of_the_epoch(monkeypatch):
    monkeypatch.setattr("fitorch.metrics.means.mean_on", lambda _, **options: DeviceMean(**options))
    monkeypatch.setattr("fitorch.optim.update._in_host_memory", lambda parameter: False)
    x = X.clone()
    x[3] = float("nan")
    model = KerasModel(mlp(), "mse")
    with pytest.raises(NonFiniteError, match=r"nan in epoch 1, training batch [12] \(after 2"):
        model.fit((x, Y), epochs=2, patience=1, verbose=0)
    assert len(model.history) == 0
