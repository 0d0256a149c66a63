"""Scenarios: what is trained on the device has the figures of the CPU."""

import copy

import torch
from torch import nn

from devices.problems import (
    BINARY,
    CLASSES,
    DEVICE,
    LABELS,
    VALUES,
    X,
    check_as_on_the_cpu,
    linear,
    mlp,
    model_of,
    train,
)
from devices.scenarios import Scenarios
from fitorch import KerasModel, callbacks
from fitorch.losses import L1, L2, DiceLoss, FocalLoss, term
from fitorch.losses.registry import LOSSES
from fitorch.metrics import MetricSet, whole_epoch
from fitorch.metrics.registry import METRICS
from fitorch.optim.optimizers import OPTIMIZERS
from fitorch.optim.schedules import WarmupCosine

SCENARIOS = Scenarios()


# Losses


class Several(nn.Module):
    """A net that returns several outputs."""

    def __init__(self, count, outputs=3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, outputs) for _ in range(count))

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


class Normal(nn.Module):
    """A net that returns mean and variance."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        mean, variance = self.layer(x).chunk(2, 1)
        return mean, nn.functional.softplus(variance) + 0.1


class Sequences(nn.Module):
    """A net that returns the log probabilities (T, N, C) of sequences."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6 * 5)

    def forward(self, x):
        return self.layer(x).view(len(x), 6, 5).transpose(0, 1).log_softmax(2)


SIGNS = 2 * BINARY - 1
HARD = (CLASSES[:, None] == torch.arange(3)).float()
RAGGED = (CLASSES[:, None].clamp_max(3) + torch.tensor([[1, 0, 1]]), torch.full((len(X),), 3))
NONE = torch.full_like(CLASSES, -1)


def probabilities():
    return nn.Sequential(linear(), nn.Sigmoid())


LOSS_CASES = {  # the net, and the targets; all others predict values
    "bce": (probabilities, BINARY),
    "bce_with_logits": (linear, BINARY),
    "cosine": (lambda: linear(3), LABELS + 0.1),
    "cosine_embedding": (lambda: Several(2), SIGNS[:, 0]),
    "cross_entropy": (lambda: linear(3), CLASSES),
    "ctc": (Sequences, RAGGED),
    "dice": (probabilities, BINARY),
    "focal": (probabilities, BINARY),
    "gaussian_nll": (Normal, VALUES),
    "hinge_embedding": (linear, SIGNS),
    "kl_div": (lambda: nn.Sequential(linear(3), nn.LogSoftmax(1)), HARD),
    "margin_ranking": (lambda: Several(2, 1), SIGNS),
    "multi_margin": (lambda: linear(3), CLASSES),
    "multilabel_margin": (lambda: linear(3), torch.stack([CLASSES, NONE, NONE], 1)),
    "multilabel_soft_margin": (lambda: linear(3), LABELS),
    "nll": (lambda: nn.Sequential(linear(3), nn.LogSoftmax(1)), CLASSES),
    "poisson_nll": (linear, BINARY),
    "sce": (lambda: linear(3), CLASSES),
    "soft_margin": (linear, SIGNS),
    "triplet_margin": (lambda: Several(3), VALUES),
    "triplet_margin_with_distance": (lambda: Several(3), VALUES),
}
ALIASES = {
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce_with_logits",
}


@SCENARIOS.add_each("loss", {name: name for name in LOSSES})
def _loss(name):
    net, y = LOSS_CASES.get(ALIASES.get(name, name), (linear, VALUES))
    check_as_on_the_cpu(lambda device: train(model_of(device, net, name), (X, y), (X, y)))


def _parts(y_pred, y_true):
    error = (y_pred - y_true) ** 2
    return error.mean(), {"largest": error.max(), "first": error[:, 0].mean()}


LOSSES_OF_OTHER_KINDS = {
    "with weights of classes": (
        lambda: linear(3),
        lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
        CLASSES,
    ),
    "with label smoothing": (
        lambda: linear(3),
        lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
        CLASSES,
    ),
    "with ignored targets": (
        lambda: linear(3),
        nn.CrossEntropyLoss,
        CLASSES.where(X[:, 3] > 0, -100),
    ),
    "with positive weights": (
        linear,
        lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])),
        BINARY,
    ),
    "of a formula": (
        probabilities,
        lambda: FocalLoss() + 0.5 * DiceLoss() + 1e-2 * L2(),
        BINARY,
    ),
    "with two penalties": (linear, lambda: term(nn.MSELoss()) + 1e-2 * L2() + 1e-2 * L1(), VALUES),
    "that is a function": (linear, lambda: lambda p, y: ((p - y) ** 2).mean(), VALUES),
    "per sample": (linear, lambda: term(lambda p, y: (p - y)[:, 0] ** 2, per_sample=True), VALUES),
    "in parts": (linear, lambda: _parts, VALUES),
}


@SCENARIOS.add_each("loss", LOSSES_OF_OTHER_KINDS)
def _loss_of_another_kind(case):
    net, loss, y = case
    check_as_on_the_cpu(lambda device: train(model_of(device, net, loss()), (X, y), (X, y)))


@SCENARIOS.add
def a_loss_that_learns():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, y_pred, y_true):
            return ((y_pred - y_true) ** 2).mean() * (-self.scale).exp() + self.scale

    def figures(device):
        loss = Scaled()
        return train(model_of(device, loss=loss)), loss.scale.detach().cpu()

    check_as_on_the_cpu(figures)


# Metrics

TASKS = {  # the loss, the outputs and the targets of each task
    "binary": ("bce_with_logits", 1, BINARY),
    "multiclass": ("cross_entropy", 6, torch.arange(len(X)) % 6),
    "multilabel": ("bce_with_logits", 3, LABELS),
    "regression": ("mse", 1, VALUES + 3),
}
NOT_DEFINED = {
    ("binary", "balanced_accuracy"),
    ("multilabel", "balanced_accuracy"),
    ("multiclass", "ks"),
    ("multilabel", "ks"),
    ("multilabel", "kappa"),
    ("binary", "top5_acc"),
    ("multilabel", "top5_acc"),
}


def _metric_cases():
    for name, entry in METRICS.items():
        for task in TASKS:
            is_regression = entry.task is not None
            if is_regression == (task == "regression") and (task, name) not in NOT_DEFINED:
                yield f"{name} of a {task} task", (name, task)


@SCENARIOS.add_each("metric", _metric_cases())
def _metric(case):
    name, task = case
    _, outputs, y = TASKS[task]
    scale = None if task == "regression" else "logits"
    y_pred = torch.randn(len(y), outputs, generator=torch.Generator().manual_seed(5))
    y_pred = y_pred + 3 if task == "regression" else y_pred

    def value(device):
        metrics = MetricSet({"m": name}, torch.device(device), lambda output: scale)
        for start in range(0, len(y), 8):
            batch = slice(start, start + 8)
            metrics.update(y_pred[batch].to(device), y[batch].to(device))
        return metrics.compute()

    check_as_on_the_cpu(value)


def _mean_error(y_pred, y_true):
    return (y_pred - y_true).abs().mean()


def _spread(y_pred, y_true):
    return (y_pred - y_true).std()


@SCENARIOS.add_each("fit with metrics of the task", TASKS)
def _metrics_in_a_fit(case):
    from torchmetrics import classification, regression

    loss, outputs, y = case
    metrics = {"function": lambda p, y: p.float().mean() + y.float().mean()}
    if loss == "mse":
        metrics |= {"mae": "mae", "r2": "r2", "object": regression.MeanAbsoluteError()}
        metrics |= {"function": _mean_error, "whole": whole_epoch(_spread)}
    elif y.dim() == 1:
        metrics |= {"acc": "acc", "f1": "f1", "auc": "auc"}
        metrics |= {"object": classification.MulticlassAccuracy(outputs)}
    else:
        metrics |= {"acc": "acc", "f1": "f1", "auc": "auc", "precision": "precision"}
    if loss != "mse" and outputs == 1:
        metrics |= {"object": classification.BinaryAccuracy(), "ks": "ks"}
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, lambda: linear(outputs), loss, copy.deepcopy(metrics)), (X, y), (X, y)
        )
    )


@SCENARIOS.add
def a_collection_of_torchmetrics():
    from torchmetrics import MetricCollection, classification

    def figures(device):
        metrics = {
            "m": MetricCollection([classification.BinaryF1Score(), classification.BinaryRecall()])
        }
        return train(model_of(device, loss="bce_with_logits", metrics=metrics), (X, BINARY))

    check_as_on_the_cpu(figures)


# Optimizers and schedules


# SparseAdam needs sparse gradients, which the simulation does not have.
@SCENARIOS.add_each("optimizer", {name: name for name in OPTIMIZERS if name != "sparseadam"})
def _optimizer(name):
    # With its default rate of 1 and no line search, L-BFGS diverges on batches of the other net.
    net = linear if name == "lbfgs" else mlp
    check_as_on_the_cpu(lambda device: train(model_of(device, net, optimizer=name)))


@SCENARIOS.add
def lbfgs_with_a_line_search_clipping_and_accumulation():
    def lbfgs(parameters):
        return torch.optim.LBFGS(parameters, lr=0.1, line_search_fn="strong_wolfe")

    for options in ({}, {"clip_grad_norm": 1.0}, {"gradient_accumulation_steps": 2}):
        check_as_on_the_cpu(
            lambda device, options=options: train(
                model_of(device, mlp, optimizer=lbfgs), val_data=(X, VALUES), **options
            )
        )


@SCENARIOS.add
def an_optimizer_that_was_made_before():
    def figures(device):
        torch.manual_seed(0)
        net = mlp()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, amsgrad=True)
        return train(KerasModel(net, "mse", optimizer=optimizer, device=device))

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def parameters_and_tied_weights_stay_the_same_objects():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    net[1].weight = net[0].weight
    before = dict(net.named_parameters())
    model = KerasModel(net, "mse", device=DEVICE)
    train(model)
    assert {name: id(each) for name, each in net.named_parameters()} == {
        name: id(each) for name, each in before.items()
    }
    assert net[1].weight is net[0].weight
    assert net[0].weight.device == torch.device(DEVICE)
    train(model, cpu=True)
    assert net[1].weight is net[0].weight is before["0.weight"]
    assert net[0].weight.device.type == "cpu"
    optimized = {id(p) for group in model.optimizer.param_groups for p in group["params"]}
    assert optimized == set(map(id, net.parameters()))


SCHEDULES = {
    "per epoch": (lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), "epoch"),
    "per update": (lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9), "update"),
    "that warms up": (WarmupCosine(updates=12, warmup=3), "update"),
    "of plateaus": (lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0), "auto"),
}


@SCENARIOS.add_each("schedule", SCHEDULES)
def _schedule(case):
    schedule, step = case
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, lr_scheduler=schedule),
            val_data=(X, VALUES),
            scheduler_step=step,
        )
    )


# Callbacks and options of fit

c = callbacks
CALLBACKS = {
    "EMA": lambda: [c.EMA(0.9)],
    "SWA": lambda: [c.SWA(data=(X, VALUES))],
    "BestWeights": lambda: [c.BestWeights()],
    "EarlyStopping": lambda: [c.EarlyStopping(patience=1)],
    "EarlyStopping with the best weights": lambda: [
        c.EarlyStopping(patience=1, restore_best_weights=True)
    ],
    "Freeze": lambda: [c.Freeze("0.*", until=1)],
    "GradualUnfreeze": lambda: [c.GradualUnfreeze({0: "4.*", 1: "*"})],
    "GradientNorm": lambda: [c.GradientNorm()],
    "TerminateOnNaN": lambda: [c.TerminateOnNaN()],
    "ReduceLROnPlateau": lambda: [c.ReduceLROnPlateau(patience=0)],
    "LearningRateScheduler": lambda: [c.LearningRateScheduler(lambda epoch, lr: lr / 2)],
    "CSVLogger": lambda: [c.CSVLogger("log.csv")],
    "JSONLinesLogger": lambda: [c.JSONLinesLogger("log.jsonl")],
    "StopAt": lambda: [c.StopAt(10.0)],
    "BackupAndRestore": lambda: [c.BackupAndRestore("backup")],
    "a callback that reads": lambda: [
        c.LambdaCallback(on_train_batch_end=lambda batch, logs: float(logs["loss"]))
    ],
}


@SCENARIOS.add_each("callback", CALLBACKS)
def _callback(make):
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, mlp), val_data=(X, VALUES), epochs=3, callbacks=make()
        )
    )


OPTIONS = {
    "clip_grad_norm": {"clip_grad_norm": 0.1},
    "clip_grad_value": {"clip_grad_value": 0.01},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "steps_per_epoch": {"steps_per_epoch": 3},
    "validation_steps": {"validation_steps": 2},
    "validation_freq": {"validation_freq": 2},
    "validation_split": {"validation_split": 0.3, "val_data": None},
    "without shuffling": {"shuffle": False},
    "without metrics of training": {"train_metrics": False},
    "max_time": {"max_time": 60},
    "deterministic": {"deterministic": True},
    "patience": {"patience": 1},
    "sync_batchnorm": {"sync_batchnorm": True},
    "a line per epoch": {"verbose": 2},
    "a live line": {"verbose": 1},
}


@SCENARIOS.add_each("option", OPTIONS)
def _option(options):
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, mlp, metrics={"mae": "mae"}), **{"val_data": (X, VALUES), **options}
        )
    )


CLASS_WEIGHTS = {
    "as a mapping": {0: 1.0, 1: 2.0, 2: 0.5},
    "as a list": [1.0, 2.0, 0.5],
    "as a tensor": torch.tensor([1.0, 2.0, 0.5]),
}


@SCENARIOS.add_each("class_weight", CLASS_WEIGHTS)
def _class_weight(weights):
    for y in (CLASSES, HARD):  # numbers, and probabilities
        check_as_on_the_cpu(
            lambda device, y=y: train(
                model_of(device, lambda: linear(3), "cross_entropy"), (X, y), class_weight=weights
            )
        )


@SCENARIOS.add
def class_weight_of_a_binary_task():
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, loss="bce_with_logits"), (X, BINARY), class_weight={0: 1.0, 1: 3.0}
        )
    )


@SCENARIOS.add
def sample_weights():
    weights = torch.rand(len(X), generator=torch.Generator().manual_seed(0))
    data = (X, BINARY, weights)
    metrics = {"acc": "acc", "auc": "auc"}
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, loss="bce_with_logits", metrics=metrics), data, val_data=data
        )
    )


@SCENARIOS.add
def accumulation_with_ignored_targets():
    y = CLASSES.where(X[:, 3] > 0.3, -100)
    y[:16] = -100  # batches without a target
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, lambda: linear(3), "cross_entropy", {"acc": "acc"}),
            (X, y),
            gradient_accumulation_steps=3,
            shuffle=False,
        )
    )


@SCENARIOS.add
def weights_between_terms_that_count_apart():
    loss = term(nn.CrossEntropyLoss()) + term(nn.MultiMarginLoss())
    y = CLASSES
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, lambda: linear(3), copy.deepcopy(loss)),
            (X, y),
            gradient_accumulation_steps=2,
        )
    )


# Precision


@SCENARIOS.add
def bf16():
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, mlp, metrics={"mae": "mae"}),
            val_data=(X, VALUES),
            mixed_precision="bf16",
        ),
        rtol=2e-2,  # other operators are cast; a unit in the last place is 8e-3
    )


@SCENARIOS.add
def fp16():
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, mlp, metrics={"mae": "mae"}),
            val_data=(X, VALUES),
            mixed_precision="fp16",
            clip_grad_norm=1.0,
        ),
        rtol=2e-3,
    )


@SCENARIOS.add
def fp16_with_a_schedule_and_accumulation():
    check_as_on_the_cpu(
        lambda device: train(
            model_of(
                device,
                mlp,
                optimizer="sgd",
                lr_scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
            ),
            scheduler_step="update",
            gradient_accumulation_steps=2,
            mixed_precision="fp16",
        ),
        rtol=2e-3,
    )
