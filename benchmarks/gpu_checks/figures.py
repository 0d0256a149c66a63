"""Figures on the device, beside those of the CPU."""

from __future__ import annotations

import contextlib
import io
import tempfile

import torch
import torchmetrics.classification as tm
from torch import nn

from fitorch import losses
from fitorch.callbacks import GradientNorm
from fitorch.metrics import AUC

from .common import Finding, apart, check, device, features, fit, mlp, model, weights

EITHER: tuple[dict[str, bool], ...] = ({}, {"cpu": True})  # on the device, and on the CPU


class Uncertain(nn.Module):
    """Squared errors, weighted by a precision that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, y_pred: torch.Tensor, y_true: torch.Tensor) -> torch.Tensor:
        error = (y_pred - y_true).square().mean()
        return error * torch.exp(-self.log_scale) + self.log_scale


@check()
def figures_as_on_the_cpu() -> Finding:
    penalized = nn.BCEWithLogitsLoss() + 1e-2 * losses.L2() + 1e-4 * losses.L1()
    cases = {
        "bce": (lambda: model(metrics={"acc": "acc", "auc": "auc"}), 0),
        "ce": (lambda: model(mlp(3), "cross_entropy", {"acc": "acc"}), 3),
        "penalties": (lambda: model(loss=penalized), 0),
        "focal": (lambda: model(loss=losses.FocalLoss(from_logits=True)), 0),
        "learned": (lambda: model(loss=losses.term(Uncertain()) + 1e-3 * losses.L2()), 0),
    }
    options = ({}, {"gradient_accumulation_steps": 3, "clip_grad_norm": 0.5})
    found = []
    for name, (make, classes) in cases.items():
        data, val = features(classes=classes), features(100, classes, 5)
        for extra in options:
            there, here = (fit(make(), data, val, **extra, **where) for where in EITHER)
            found.append((apart(there, here), name))
    listed = ", ".join(f"{name} {difference:.0e}" for difference, name in found)
    return Finding(max(found)[0] < 5e-3, f"differences: {listed}")


@check()
def metrics_by_name() -> Finding:
    names = ["acc", "auc", "f1", "precision", "recall", "iou", "kappa", "mcc", "specificity"]
    of_classes = ["auc", "f1", "balanced_accuracy", "top5_acc"]
    wrong = []
    for name in [*names, "ap", "ks"]:
        there, here = (
            fit(model(metrics={name: name}), features(), features(100), epochs=1, **where)
            for where in EITHER
        )
        wrong += [name] if apart(there, here) > 1e-2 else []
    for name in of_classes:
        there, here = (
            fit(model(mlp(6), "cross_entropy", {name: name}), features(classes=6), **where)
            for where in EITHER
        )
        wrong += [f"{name} of classes"] if apart(there, here) > 1e-2 else []
    return Finding(not wrong, f"differ: {', '.join(wrong)}" if wrong else "all as on the CPU")


@check()
def metric_objects() -> Finding:
    metrics = {"f1": tm.BinaryF1Score(), "auroc": tm.BinaryAUROC(), "bins": AUC(thresholds=50)}
    there, here = (
        fit(model(metrics=metrics), features(), features(100), **where) for where in EITHER
    )
    return Finding(apart(there, here) < 1e-2, f"{apart(there, here):.0e} apart")


@check()
def mixed_precision() -> Finding:
    reference = fit(model(), features())["train_loss"][-1]
    found = {}
    for kind in ("bf16", "fp16"):
        frame = fit(model(), features(), mixed_precision=kind, callbacks=[GradientNorm()])
        found[kind] = frame["train_loss"][-1] - reference, frame["grad_norm"][-1]
    right = all(abs(loss) < 0.05 and 0 < norm < 100 for loss, norm in found.values())
    listed = (f"{kind}: loss {loss:+.1e}, norm {norm:.3f}" for kind, (loss, norm) in found.items())
    return Finding(right, ", ".join(listed))


@check()
def channels_last() -> Finding:
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def trained(channels_last: bool) -> tuple[nn.Module, list[float]]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1))
        made = model(net, "mse", channels_last=channels_last)
        return net, fit(made, (images, images.mean((1, 2, 3))[:, None]))["train_loss"]

    (_, plain), (net, last) = trained(False), trained(True)
    kept = net[0].weight.is_contiguous(memory_format=torch.channels_last)
    difference = max(abs(a - b) for a, b in zip(plain, last, strict=True))
    return Finding(
        kept and difference < 1e-2, f"weights stay channels-last; {difference:.0e} apart"
    )


@check()
def deterministic_fits_have_the_same_bits() -> Finding:
    images = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1))
        made = model(net, "mse")
        fit(made, (images, images.mean((1, 2, 3))[:, None]), deterministic=True)
        found.append(weights(made))
    difference = (found[0] - found[1]).abs().max()
    return Finding(torch.equal(*found), f"weights {difference:.0e} apart")


@check()
def files_load_without_the_device() -> Finding:
    made = model(mlp(norm=False))
    fit(made, features(), epochs=1)
    x = features(8)[0]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = made.export(f"{folder}/net.pt2", x)
        exported = torch.export.load(path).module()(x)
        made.save_ckpt(f"{folder}/net.pt")
        kinds = {value.device.type for value in torch.load(f"{folder}/net.pt").values()}
        made.summary(x)
    difference = (exported - made.predict(x, verbose=0)).abs().max().item()
    right = (
        difference < 1e-4
        and kinds == {"cpu"}
        and next(made.parameters()).is_cpu == (device() == "cpu")
    )
    return Finding(right, f"export {difference:.0e} apart; net.pt has tensors of {kinds}")
