"""Fits that are cut, and go on, each in a process of its own; run as a script it is their parent.

The parent imports all that is slow once, and forks a child for each fit. It trains nothing itself.
Every choice is an option; a child leaves behind `digest.json`, and a line for each batch that it
trained on: epoch, batch, samples, and digests of weights and random streams.

    python resume_worker.py                  reads a request per line, answers with the child's pid
    python resume_worker.py options.json     one fit in this process
"""

import atexit
import hashlib
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import fitorch.model
from fitorch import KerasModel
from fitorch import callbacks as c
from fitorch.callbacks import Callback

SAMPLES, BATCH = 26, 4  # 7 batches, the last of 2
LINES, DIGEST = "lines.jsonl", "digest.json"
SOAK = os.environ.get("FITORCH_SOAK") == "1"


# What is trained.


def generator(seed):
    return torch.Generator().manual_seed(seed)


def tensors(samples=SAMPLES, seed=11):
    """Features whose first column is the sample's number, and targets."""
    x = torch.randn(samples, 5, generator=generator(seed))
    x[:, 0] = torch.arange(samples)
    y = (x[:, 1:].sum(1, keepdim=True) + 0.3 * x[:, 1:2] > 0).float()
    return x, y


class Net(nn.Module):
    """BatchNorm and dropout; tells who is watching which samples it is trained on."""

    def __init__(self, watch):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh())
        self.head = nn.Linear(8, 1)
        self.watch = watch

    def forward(self, x):
        if self.training:
            self.watch(x[:, 0])
        return self.head(self.body(x[:, 1:]))


class Noisy(Dataset):
    """Adds noise from all three global streams, and on request from a stream of its own."""

    def __init__(self, samples=SAMPLES, own=None, slow=0.0):
        self.x, self.y = tensors(samples)
        self.own = np.random.default_rng(8) if own == "numpy" else None
        self.own = random.Random(8) if own == "random" else self.own
        self.own = generator(8) if own == "torch" else self.own
        self.slow = slow

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if self.slow:
            time.sleep(self.slow)
        return noisy(self.x[i], self.own), self.y[i]


def noisy(x, own=None):
    noise = torch.randn(4) + float(np.random.standard_normal()) + random.gauss(0, 1)
    if isinstance(own, np.random.Generator):
        noise = noise + float(own.standard_normal())
    elif isinstance(own, random.Random):
        noise = noise + own.random()
    elif own is not None:
        noise = noise + torch.randn(4, generator=own)
    return torch.cat([x[:1], x[1:] + 0.1 * noise])


class LazyGlobal(Sampler):
    """Draws from Python's and NumPy's global streams as it goes."""

    def __len__(self):
        return SAMPLES

    def __iter__(self):
        for _ in range(SAMPLES):
            yield (random.randrange(SAMPLES) + np.random.randint(SAMPLES)) % SAMPLES


class Endless(Sampler):
    """Never ends, and draws from a generator of its own."""

    def __init__(self):
        self.draws = np.random.default_rng(6)

    def __iter__(self):
        while True:
            yield int(self.draws.integers(SAMPLES))


class OwnStream(Sampler):
    """Shuffles with a generator of its own."""

    def __init__(self, kind):
        self.draws = random.Random(6) if kind == "random" else np.random.default_rng(6)

    def __len__(self):
        return SAMPLES

    def __iter__(self):
        order = list(range(SAMPLES))
        self.draws.shuffle(order)
        yield from order


class Counting(Sampler):
    """Shuffles by how often it was asked."""

    def __init__(self):
        self.calls = 0

    def __len__(self):
        return SAMPLES

    def __iter__(self):
        self.calls += 1
        return iter(torch.randperm(SAMPLES, generator=generator(self.calls)).tolist())


class Buckets:
    """A batch sampler of a user's own, no Sampler at all."""

    def __init__(self, own=False):
        self.draws = np.random.default_rng(6) if own else None

    def __len__(self):
        return 7

    def __iter__(self):
        order = list(range(SAMPLES))
        (self.draws or random).shuffle(order)
        sizes = [3, 5, 4, 4, 2, 6, 2]
        for size in sizes:
            yield [order.pop() for _ in range(size)]


class Stream(IterableDataset):
    """Samples in an order of its own, drawn from a stream of its own, with noise."""

    def __init__(self):
        self.draws = random.Random(6)
        self.x, self.y = tensors()

    def __iter__(self):
        order = list(range(SAMPLES))
        self.draws.shuffle(order)
        for i in order:
            yield noisy(self.x[i]), self.y[i]


class Seeking(Stream):
    """Knows where it is, and needs no replay."""

    def __init__(self):
        super().__init__()
        self.passes = self.place = self.read = 0

    def __iter__(self):
        order = torch.randperm(SAMPLES, generator=generator(self.passes)).tolist()
        while self.place < SAMPLES:
            i = order[self.place]
            self.place += 1
            self.read += 1
            yield noisy(self.x[i]), self.y[i]
        self.passes, self.place = self.passes + 1, 0

    def state_dict(self):
        return {"passes": self.passes, "place": self.place}

    def load_state_dict(self, state):
        self.passes, self.place = state["passes"], state["place"]


class Batches:
    """An iterable of batches of a user's own."""

    def __init__(self):
        self.draws = random.Random(6)
        self.x, self.y = tensors()

    def __iter__(self):
        order = list(range(SAMPLES))
        self.draws.shuffle(order)
        for start in range(0, SAMPLES, BATCH):
            some = order[start : start + BATCH]
            yield self.x[some], self.y[some]


def forever():
    draws = random.Random(6)
    x, y = tensors()
    while True:
        some = [draws.randrange(SAMPLES) for _ in range(BATCH)]
        yield x[some], y[some]


def make_sampler(kind):
    weights = torch.linspace(0.1, 1, SAMPLES)
    return {
        "random": lambda: RandomSampler(range(SAMPLES)),
        "replacement": lambda: RandomSampler(range(SAMPLES), replacement=True),
        "random own": lambda: RandomSampler(range(SAMPLES), generator=generator(4)),
        "weighted": lambda: WeightedRandomSampler(weights, SAMPLES),
        "weighted own": lambda: WeightedRandomSampler(weights, SAMPLES, generator=generator(4)),
        "subset": lambda: SubsetRandomSampler(range(5, 19)),
        "subset own": lambda: SubsetRandomSampler(range(2, SAMPLES), generator=generator(4)),
        "distributed": lambda: DistributedSampler(range(SAMPLES), 1, 0, seed=3),
        "lazy global": LazyGlobal,
        "endless": Endless,
        "own random": lambda: OwnStream("random"),
        "own numpy": lambda: OwnStream("numpy"),
        "counting": Counting,
        "sequential": lambda: None,
    }[kind]()


SAMPLERS = [
    "random", "replacement", "random own", "weighted", "weighted own", "subset", "subset own",
    "distributed", "lazy global", "own random", "own numpy", "counting",
]  # fmt: skip
LOADERS = ["shuffle", "shuffle own", "buckets", "buckets own", "batch sampler", "torch tensors"]


def make_loader(o):
    settings = {"num_workers": o["workers"]}
    if o["workers"] and o["persistent"]:
        settings["persistent_workers"] = True
    dataset = Noisy(o["samples"], o["own_stream"], o["slow"])
    kinds = {
        "shuffle": lambda: {"shuffle": True},
        "shuffle own": lambda: {"shuffle": True, "generator": generator(4)},
        "buckets": lambda: {"batch_sampler": Buckets()},
        "buckets own": lambda: {"batch_sampler": Buckets(own=True)},
        "batch sampler": lambda: {
            "batch_sampler": BatchSampler(RandomSampler(dataset, generator=generator(4)), 5, True)
        },
        "torch tensors": lambda: {"dataset": TensorDataset(*tensors()), "shuffle": True},
        "iterable": lambda: {"dataset": Stream()},
        "seeking": lambda: {"dataset": Seeking()},
        "stateful": lambda: {"shuffle": True},
    }
    chosen = (
        kinds[o["loader"]]() if o["loader"] in kinds else {"sampler": make_sampler(o["loader"])}
    )
    sized = {} if "batch_sampler" in chosen else {"batch_size": BATCH}
    kind = DataLoader
    if o["loader"] == "stateful":
        from torchdata.stateful_dataloader import StatefulDataLoader as kind
    return kind(**{"dataset": dataset, **sized, **chosen, **settings})


def make_data(o):
    """Return data, and what `fit` needs to know about it."""
    x, y = tensors(o["samples"])
    ours = {"batch_size": BATCH}
    reading = {**ours, "num_workers": o["workers"]}
    return {
        "memory": lambda: ((x, y), ours),
        "weighted memory": lambda: ((x, y, torch.linspace(0.1, 1, len(x))), ours),
        "dataset": lambda: (Noisy(o["samples"], o["own_stream"], o["slow"]), reading),
        "loader": lambda: (make_loader(o), {}),
        "iterable dataset": lambda: (Stream(), ours),
        "batches": lambda: (Batches(), {}),
        "generator": lambda: (forever(), {}),
    }[o["data"]]()


def make_validation(o):
    x, y = tensors(10, seed=12)
    loader = DataLoader(Noisy(12), 5, num_workers=o["workers"])
    return {
        "none": lambda: None,
        "memory": lambda: (x, y),
        "noisy": lambda: loader,
        "two": lambda: {"clean": (x, y), "noisy": loader},
    }[o["validation"]]()


class Counted(nn.Module):
    """A metric as torchkeras writes it."""

    def __init__(self):
        super().__init__()
        self.right = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self.total = nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def forward(self, preds, targets):
        found = (preds > 0) == (targets > 0.5)
        self.right += found.sum()
        self.total += len(found)
        return found.float().mean()

    def compute(self):
        return self.right / self.total

    def reset(self):
        self.right -= self.right
        self.total -= self.total


def error_of(y_pred, y_true):
    return (y_pred.sigmoid() - y_true).abs().mean()


def squared_of(y_pred, y_true):
    return ((y_pred.sigmoid() - y_true) ** 2).sum().sqrt()


def make_metrics(names):
    import torchmetrics

    from fitorch.metrics import whole_epoch

    kinds = {
        "acc": lambda: "acc",
        "auc": lambda: "auc",
        "f1": lambda: "f1",
        "object": lambda: torchmetrics.classification.BinaryAccuracy(),
        "auroc": lambda: torchmetrics.classification.BinaryAUROC(),
        "collection": lambda: torchmetrics.MetricCollection(
            {
                "p": torchmetrics.classification.BinaryPrecision(),
                "r": torchmetrics.classification.BinaryRecall(),
            }
        ),
        "function": lambda: error_of,
        "whole": lambda: whole_epoch(squared_of),
        "torchkeras": Counted,
    }
    return {name: kinds[name]() for name in names}


METRICS = [
    "acc", "auc", "f1", "object", "auroc", "collection", "function", "whole", "torchkeras",
]  # fmt: skip


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, y_pred, y_true):
        loss = nn.functional.binary_cross_entropy_with_logits(y_pred * self.scale, y_true)
        return loss + 0.01 * self.scale**2


def growing(epoch):
    return 1e-3 * (epoch + 1)


def make_loss(kind):
    from fitorch.losses import L2, term

    return {
        "plain": lambda: "bce_with_logits",
        "parameters": Scaled,
        "scheduled": lambda: term("bce_with_logits", name="bce") + growing * L2(),
        "nan": lambda: Exploding(),
    }[kind]()


class Exploding(nn.Module):
    """Is NaN from a batch on."""

    def __init__(self, batch=9):
        super().__init__()
        self.left = batch

    def forward(self, y_pred, y_true):
        self.left -= 1
        loss = nn.functional.binary_cross_entropy_with_logits(y_pred, y_true)
        return loss * (float("nan") if self.left < 0 else 1.0)


def make_optimizer(kind):
    return {
        "adam": lambda p: torch.optim.Adam(p, 0.02),
        "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
        "adamw": "adamw",
        "hot": lambda p: torch.optim.SGD(p, 1e38),
    }[kind]


def make_schedule(kind):
    from torch.optim import lr_scheduler as s

    return {
        "none": None,
        "update": lambda o: s.OneCycleLR(o, 0.05, total_steps=20_000),
        "epoch": lambda o: s.StepLR(o, 1, 0.7),
        "plateau": lambda o: s.ReduceLROnPlateau(o, patience=0, threshold=0.1),
        "lambda": lambda o: s.LambdaLR(o, lambda epoch: 0.9**epoch),
    }[kind]


# Who cuts, and who watches.


def callback_kinds():
    return {
        "ema": lambda: c.EMA(0.9),
        "ema every": lambda: c.EMA(0.8, warmup=False, every=3),
        "swa": lambda: c.SWA(start=1, lr=0.01, anneal_epochs=3, data=tensors()),
        "rate": lambda: c.LearningRateScheduler(lambda epoch, lr: lr * 0.9),
        "plateau": lambda: c.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.05, cooldown=1),
        "freeze": lambda: c.Freeze("body", until=2),
        "unfreeze": lambda: c.GradualUnfreeze({0: "head", 1: "body.0", 2: "body"}),
        "checkpoint": lambda: c.ModelCheckpoint(
            "best-{epoch}.safetensors", save_top_k=2, monitor="val_loss"
        ),
        "checkpoint steps": lambda: c.ModelCheckpoint(
            "s-{epoch}-{batch}.safetensors", every_n_steps=5
        ),
        "epoch checkpoint": lambda: c.EpochCheckpoint("weights", save_freq=1, max_ckpt=2),
        "csv": lambda: c.CSVLogger("log.csv"),
        "csv append": lambda: c.CSVLogger("log.csv", append=True),
        "json": lambda: c.JSONLinesLogger("log.jsonl"),
        "goal": lambda: c.StopAt(1e-9),
        "early": lambda: c.EarlyStopping(
            patience=2, min_delta=0.05, restore_best_weights=True, start_from_epoch=1
        ),
        "best": lambda: c.BestWeights(),
        "nan": lambda: c.TerminateOnNaN(),
        "norm": lambda: c.GradientNorm(),
        "time": lambda: c.MaxTime(1e-9),
        "lambda": lambda: c.LambdaCallback(on_epoch_begin=lambda epoch, logs: None),
        "bad state": BadState,
        "own state": OwnState,
        "list": lambda: c.CallbackList([c.EMA(0.9), c.GradientNorm()]),
    }


class OwnState:
    """A user's callback with a state that decides what happens: it nudges a weight."""

    def __init__(self):
        self.count, self.total = 0, torch.zeros(())

    def set_model(self, model):
        self.model = model

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        with torch.no_grad():
            self.model.net.head.bias.add_(1e-3 * (self.count % 5))
            self.total += self.model.net.head.bias.sum()

    def state_dict(self):
        return {"count": self.count, "total": self.total}

    def load_state_dict(self, state):
        self.count, self.total = state["count"], state["total"].clone()


class BadState(OwnState):
    """Its state can't be stored."""

    def state_dict(self):
        return {"deep": {"handle": object()}}


class Watcher(Callback):
    """Writes a line for each batch, and ends the process where it was told to."""

    def __init__(self, o):
        self.o = o
        self.lines = os.open(LINES, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.acknowledged = os.open("acknowledged", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.epoch = 0
        self.here = []
        self.cut = o["cut"] or {}
        self.begun = False

    def saw(self, samples):
        if self.here:  # else it is no training, but a pass for the statistics of batch norm
            self.write("samples", *[int(i) for i in samples])

    def write(self, *what):
        os.write(self.lines, (json.dumps([*self.here, *what]) + "\n").encode())

    def due(self, **where):
        return bool(self.cut) and all(where.get(k) == v for k, v in self.cut.items())

    def ends(self, place, **where):
        if self.due(place=place, **where):
            act(self.o["act"], self)

    def on_train_begin(self, logs=None):
        self.ends("train_begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.ends("epoch_begin", epoch=epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if not self.begun:
            self.begun = True
            Path("ready").touch()
        step = self.model.updates
        self.ends("batch_begin", step=step)
        self.ends("batch_begin", epoch=self.epoch, batch=batch)
        self.here = [self.epoch, batch]
        state = self.model.net.state_dict(), self.model.optimizer.state_dict()
        self.write("state", digest_of(state)[:16], digest_of(streams())[:16])

    def on_train_batch_end(self, batch, logs=None):
        self.here = []
        self.ends("batch_end", step=self.model.updates)
        if self.o["pace"]:
            time.sleep(self.o["pace"])

    def on_test_begin(self, logs=None):
        self.ends("test_begin", epoch=self.epoch)

    def on_test_batch_end(self, batch, logs=None):
        self.ends("test_batch_end", epoch=self.epoch, batch=batch)

    def on_test_end(self, logs=None):
        os.write(self.lines, (json.dumps(["validated", self.epoch]) + "\n").encode())
        self.ends("test_end", epoch=self.epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.ends("epoch_end", epoch=epoch)

    def on_train_end(self, logs=None):
        self.ends("train_end")

    def on_checkpoint_saved(self, path):
        os.write(self.acknowledged, f"{Path(path).name}\n".encode())


def act(what, watcher):
    watcher.cut = {}
    if what == "exit":
        os._exit(9)
    if what == "raise":
        message = "raised on purpose"
        raise ZeroDivisionError(message)
    if what == "stop":
        watcher.model.stop_training = True
        return
    if what == "sleep":
        time.sleep(60)
        return
    os.kill(os.getpid(), getattr(signal, what))


# What is compared.


def digest_of(value):
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()


def _feed(found, value):
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(
            value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        )
    elif isinstance(value, np.ndarray):
        found.update(f"array{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, dict):
        found.update(f"dict{len(value)}".encode())
        for key in sorted(value, key=repr):
            _feed(found, repr(key))
            _feed(found, value[key])
    elif isinstance(value, (list, tuple)):
        found.update(f"list{len(value)}".encode())
        for item in value:
            _feed(found, item)
    elif isinstance(value, float):
        found.update(b"float" + struct.pack("<d", value))
    else:
        found.update(f"{type(value).__name__}{value!r}".encode())


def streams():
    _, keys, *rest = np.random.get_state()
    version, words, spare = random.getstate()
    return [version, np.array(words), repr(spare), keys, *rest, torch.get_rng_state()]


def digest_model(model, parts):
    columns = model.history.columns
    return {
        "parts": {name: digest_of(state) for name, state in parts.items()},
        "history": {
            name: [float(value).hex() for value in values]
            for name, values in columns.items()
            if name != "seconds"
        },
        "rates": [float(group["lr"]).hex() for group in model.optimizer.param_groups],
        "updates": model.updates,
        "epochs": model.progress.epochs,
        "training": model.net.training,
        "best": {k: v for k, v in model.history.best.items() if k != "seconds"},
    }


def parts_of(run):
    parts = run.state.state_dict()
    parts["history"] = {k: v for k, v in parts["history"].items() if k != "seconds"}
    parts["history"]["columns"] = {
        k: v for k, v in parts["history"]["columns"].items() if k != "seconds"
    }
    del parts["sums"]  # whoever trained no step has none; in the middle of epochs they are in lines
    return parts


DEFAULTS = {
    "data": "dataset",
    "loader": "shuffle",
    "samples": SAMPLES,
    "workers": 0,
    "persistent": False,
    "own_stream": None,
    "slow": 0.0,
    "pace": 0.0,
    "validation": "memory",
    "metrics": ["acc"],
    "loss": "plain",
    "optimizer": "adam",
    "schedule": "none",
    "callbacks": [],
    "cut": None,
    "act": "exit",
    "seed": 1,
    "frozen": False,
    "fit": {},
    "group": False,
    "environment": {},
}


def train(options):
    """Fit as the options say; return what is compared."""
    o = {**DEFAULTS, **options}
    assert not set(o) - set(DEFAULTS), set(o) - set(DEFAULTS)
    os.environ.update(o["environment"])
    torch.manual_seed(o["seed"])
    watcher = Watcher(o)
    model, kept = make_model(o, watcher), watched_fit()
    data, settings = make_data(o)
    callbacks = [*(callback_kinds()[name]() for name in o["callbacks"]), watcher]
    arguments = {"epochs": 3, "verbose": 0, "callbacks": callbacks, "ckpt_path": "run"}
    arguments |= {**settings, **o["fit"]}
    if "class_weight" in arguments:  # JSON has no other keys
        arguments["class_weight"] = {int(k): v for k, v in arguments["class_weight"].items()}
    outcome = {"handlers": handlers(), "error": None, "code": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(data, make_validation(o), **arguments)
        except BaseException as error:
            code = getattr(error, "code", None)
            outcome |= {"error": type(error).__name__, "message": told(error), "code": code}
    outcome["warnings"] = [[each.category.__name__, str(each.message)] for each in caught]
    outcome["handlers after"] = handlers()
    outcome["children"] = len(psutil.Process().children(recursive=True))
    outcome["reads"] = getattr(getattr(data, "dataset", None), "read", 0)
    outcome["random"] = digest_of(kept.get("streams"))
    outcome["net"] = digest_of(model.net.state_dict())
    return outcome | digest_model(model, kept.get("parts", {}))


def watched_fit():
    """Keep the states that a fit ends with, before it puts the global generators back."""
    kept, original = {}, fitorch.model.fit

    def watched(run):
        original(run)
        kept["streams"] = streams()
        kept["parts"] = parts_of(run)

    fitorch.model.fit = watched
    return kept


def told(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def make_model(o, watcher):
    net = Net(watcher.saw)
    net.body[0].weight.requires_grad_(not o["frozen"])
    loss, metrics = make_loss(o["loss"]), make_metrics(o["metrics"])
    optimizer, schedule = make_optimizer(o["optimizer"]), make_schedule(o["schedule"])
    return KerasModel(net, loss, metrics, optimizer, schedule)


def handlers():
    return [
        signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    ]


def main(options, folder):
    """Run as the child."""
    os.chdir(folder)
    outcome = train(options)
    Path(DIGEST + ".tmp").write_text(json.dumps(outcome))
    Path(DIGEST + ".tmp").rename(DIGEST)
    return outcome.get("code") or (1 if outcome["error"] else 0)


def serve():
    """Fork a child for each line of standard input; answer with its number."""
    for slow in ("accelerate", "pandas", "safetensors.torch", "torch._dynamo", "torchmetrics"):
        importlib.import_module(slow)  # what children would have to import, each for itself
    torch.set_num_threads(1)
    os.fsync = lambda file: None  # what a process wrote outlives it; no computer goes down here
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that ended are gone
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            serve_one(json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def serve_one(request):
    """Be the child."""
    folder, code = Path(request["folder"]), 70
    try:
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(target, number)
        if request["options"].get("group"):
            os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = main(request["options"], folder)
    except BaseException:
        traceback.print_exc()
    finally:
        (folder / "code").write_text(str(code))
        os._exit(code)


# What tests call.


class Child:
    """A fit in a process of its own.

    Args:
        pid: The process.
        folder: Where it works.
    """

    def __init__(self, pid, folder):
        self.pid, self.folder = pid, folder

    def wait(self, timeout=60.0):
        """Wait until it has ended; return what it found, None where it was cut."""
        until = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"hangs in {self.folder}: {self.log()}")
            time.sleep(0.004)
        path = self.folder / DIGEST
        return json.loads(path.read_text()) if path.exists() else None

    def alive(self):
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def log(self):
        path = self.folder / "log"
        return path.read_text()[-3000:] if path.exists() else ""

    def until(self, name, timeout=30.0):
        """Wait until it made a file."""
        end = time.monotonic() + timeout
        while not (self.folder / name).exists():
            assert self.alive(), self.log()
            assert time.monotonic() < end, "not ready"
            time.sleep(0.002)


_server = []


def start(folder, **options):
    """Begin a fit in `folder`."""
    if not _server or _server[0].poll() is not None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        _server[:] = [process]
        atexit.register(process.kill)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (DIGEST, "ready", "code"):
        (folder / name).unlink(missing_ok=True)
    server = _server[0]
    server.stdin.write(json.dumps({"options": options, "folder": str(folder)}) + "\n")
    server.stdin.flush()
    return Child(int(server.stdout.readline()), folder)


def fit(folder, **options):
    """Fit in a process of its own; return what it found, None where it was cut."""
    child = start(folder, **options)
    found = child.wait()
    cut = options.get("cut") is not None and options.get("act", "exit") == "exit"
    assert cut or found is not None, child.log()
    return found


def finished(folder, **options):
    """Fit without an error."""
    found = fit(folder, **options)
    assert found["error"] is None, found["message"]
    return found


def resumed(folder, *cuts, first=None, then=None, **options):
    """Fit in `folder`, cut at each of `cuts` and gone on with each time; return the end's findings.

    Args:
        folder: Where.
        *cuts: Where to end the process.
        first: Other options before the first cut.
        then: Other options afterwards.
        **options: As for `train`.
    """
    settings = options.pop("fit", {})
    found: Any = None
    for number, cut in enumerate([*cuts, None]):
        own = (first if number == 0 else then) or {}
        if cut is None:  # to the end without more saves than needed: it has no influence
            settings = {k: v for k, v in settings.items() if k != "save_every_n_steps"}
        arguments = {**settings, **own.get("fit", {}), "resume": number > 0}
        seed = options.get("seed", 1) if number == 0 else 1000 + number
        own = {**options, "seed": seed, **own, "fit": arguments, "cut": cut}
        found = fit(folder, **own)
        if cut is not None:
            assert found is None, f"{cut} was not reached: {found}"
    assert found["error"] is None, found["message"]
    return found


def grid(*axes, quick):
    """Return all combinations; those of which `quick` says no are marked as slow."""
    import pytest

    return [
        pytest.param(*case, marks=() if quick(*case) else pytest.mark.slow)
        for case in itertools.product(*axes)
    ]


_wholes = {}


def whole(**options):
    """Return what the uninterrupted fit found, and its folder; it is run once."""
    settings = {k: v for k, v in options.get("fit", {}).items() if k not in SAVING}
    key = json.dumps({**options, "fit": settings}, sort_keys=True)
    if key not in _wholes:
        folder = Path(tempfile.mkdtemp(prefix="fitorch-whole-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _wholes[key] = finished(folder, **{**options, "fit": settings}), folder
    return _wholes[key]


SAVING = ("save_every_n_steps", "async_save", "keep", "save_every_minutes")


def goes_on_exactly(tmp_path, *cuts, first=None, then=None, without=(), **options):
    """Compare a fit that is cut with one that is not; return both findings and the folder."""
    folder = tmp_path / "cut"
    found = resumed(folder, *cuts, first=first, then=then, **options)
    expected, whole_folder = whole(**options)
    assert_same(found, expected, folder, whole_folder, without)
    return found, expected, folder


def at_epoch(epoch):
    """Cut between the checkpoint of an epoch and the next one, which is `epoch`, from 0."""
    return {"place": "epoch_begin", "epoch": epoch}


def at_step(step):
    """Cut after the checkpoint of an update."""
    return {"place": "batch_begin", "step": step}


def lines(folder):
    """Return for each batch that was trained on what was written about it, each time."""
    told = {}
    for line in (Path(folder) / LINES).read_text().splitlines():
        first, second, *rest = json.loads(line)
        told.setdefault((first, second), []).append(rest)
    return told


def trained(folder):
    """Return for each batch its samples and digests; repetitions must say the same."""
    found = {}
    for where, told in lines(folder).items():
        if where[0] == "validated":
            continue
        for kind in ("state", "samples"):
            kinds = [rest[1:] for rest in told if rest[0] == kind]
            assert all(each == kinds[0] for each in kinds), (where, kinds)
            if kinds:
                found.setdefault(where, {})[kind] = kinds[0]
    return found


def times(folder):
    """Return how often each batch was trained on, where that is not once."""
    counts = {
        where: sum(rest[0] == "samples" for rest in told)
        for where, told in lines(folder).items()
        if where[0] != "validated"
    }
    return {where: count for where, count in counts.items() if count != 1}


COMPARED = ["history", "rates", "updates", "epochs", "random", "net", "parts", "best"]


def assert_same(found, whole, folder, whole_folder, without=()):
    """Compare all that there is with the uninterrupted run, bit for bit."""
    steps, expected = trained(folder), trained(whole_folder)
    apart = next((w for w in sorted(expected) if steps.get(w) != expected[w]), None)
    assert apart is None, f"batch {apart}: {steps.get(apart)} for {expected[apart]}"
    assert list(steps) == list(expected)
    for name in COMPARED:
        mine, theirs = found[name], whole[name]
        if isinstance(mine, dict):
            mine, theirs = (
                {k: v for k, v in d.items() if k not in without} for d in (mine, theirs)
            )
            apart = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
            assert not apart, f"{name} differ in {apart}"
        if name not in without:
            assert mine == theirs, name


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(json.loads(Path(sys.argv[1]).read_text()), "."))
    serve()
