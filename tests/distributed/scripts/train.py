"""A fit of several processes in which one may fail; each tells what became of it.

    torchrun --nproc_per_node 2 train.py options.json

Options: `folder`, where `outcome-RANK.json` is left; `fit`, what `fit` is given; `loader workers`,
those of a user's DataLoader, in the place of a Dataset; `event`, what happens: `rank`, `place` and
`update` say where, `act` what, `once` that it does not happen again.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import fitorch.distributed.dtensor
from fitorch import KerasModel
from fitorch.callbacks import Callback

SAMPLES = 60


class Event:
    """Something that happens to one process, at a place and an update."""

    def __init__(self, options, folder):
        self.options = options or {"rank": -1}
        rank = int(os.environ.get("RANK", "0"))
        self.due = self.options["rank"] in (rank, "all")
        self.marker = folder / "happened" if self.options.get("once") else None
        self.model = None

    def at(self, place):
        """Let it happen, where it is its time; return whether it is a NaN's."""
        options = self.options
        if not self.due or place != options["place"] or self.model.updates < options["update"]:
            return False
        if self.marker is not None and self.marker.exists():
            return False
        self.due = False
        if self.marker is not None:
            self.marker.touch()
        return self._act(options["act"])

    def _act(self, act):
        if act == "raise":
            message = "the seventeenth sheep"
            raise LookupError(message)
        if act == "nan":
            return True
        if act == "stop":
            self.model.stop_training = True
        elif act == "exit":
            sys.exit(5)
        elif act == "sleep":
            time.sleep(600)
        elif act.startswith("group "):
            os.killpg(0, getattr(signal, act.removeprefix("group ")))
        else:
            os.kill(os.getpid(), getattr(signal, act))
        return False


class Net(nn.Module):
    def __init__(self, event, seed=0, hidden=6):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.Dropout(0.2), nn.Linear(hidden, 3)
        )
        self.event = event

    def forward(self, x):
        wrong = self.event.at("forward" if self.training else "validation")
        y = self.layers(x)
        return y * float("nan") if wrong else y


class Pairs(Dataset):
    def __init__(self, event, samples):
        self.x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(1))
        self.y = self.x[:, :3].argmax(1)
        self.event = event

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.event.at("sample")
        return self.x[i] + 0.1 * torch.randn(4), self.y[i]


class Watch(Callback):
    """Takes its time, and remembers the weights behind each update."""

    def __init__(self, event, pace, told):
        self.event, self.pace, self.told = event, pace, told
        self.digest, self.began = None, False

    def on_train_batch_end(self, batch, logs=None):
        self.digest = digest(self.model.net.named_parameters())
        if not self.began:
            part = self.told.with_suffix(".part")
            part.write_text(str(os.getpid()))
            part.rename(self.told)
            self.began = True
        time.sleep(self.pace)
        self.event.at("batch")

    def on_epoch_end(self, epoch, logs=None):
        self.event.at("epoch")


def digest(named):
    found = hashlib.sha256()
    for name, value in named:
        own = fitorch.distributed.dtensor.local_tensor(value.detach())
        found.update(name.encode() + own.numpy().tobytes())
    return found.hexdigest()


def hide(folder):
    """Have a folder not be there, as on another machine."""
    is_dir = Path.is_dir
    Path.is_dir = lambda path: is_dir(path) and not (folder and str(path).startswith(folder))


def spread(options):
    """Return how a net is spread over processes."""
    if options.get("deepspeed"):
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it compiles for a minute
    return {name: options.get(name) for name in ("fsdp", "deepspeed")}


def main(options):
    folder = Path(options["folder"])
    rank = int(os.environ.get("RANK", "0"))
    own = {**options, **options.get("ranks", {}).get(str(rank), {})}
    hide(own.get("hidden"))
    event = Event(own.get("event"), folder)
    net = Net(event, **own.get("net", {}))
    model = KerasModel(net, nn.CrossEntropyLoss(), {"acc": "acc"}, "adam", **spread(own))
    event.model = model
    watch = Watch(event, own.get("pace", 0.0), folder / f"began-{rank}")
    callbacks = [watch, *(Callback() for _ in range(own.get("more callbacks", 0)))]
    data = Pairs(event, own.get("samples", SAMPLES)), Pairs(event, 20)
    if workers := own.get("loader workers"):
        data = tuple(DataLoader(each, 5, num_workers=workers) for each in data)
    asked = {"epochs": 3, "batch_size": 5, "seed": 3, "verbose": 0, "callbacks": callbacks}
    asked |= {"num_workers": 0} | own.get("fit", {})
    found = {"error": None}
    try:
        model.fit(*data, **asked)
    except BaseException as error:
        found = {"error": type(error).__name__, "message": str(error)}
        raise
    finally:
        found |= {
            "world": int(os.environ.get("WORLD_SIZE", "1")),
            "pid": os.getpid(),
            "time": time.time(),
            "updates": model.updates,
            "epochs": model.progress.epochs,
            "digest": digest(model.net.state_dict().items()),
            "weights": digest(model.net.named_parameters()),
            "behind the last update": watch.digest,
            "history": model.history.frame.drop(columns="seconds", errors="ignore").to_json(),
        }
        part = folder / f"outcome-{rank}.part"
        part.write_text(json.dumps(found))
        part.rename(folder / f"outcome-{rank}.json")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.loads(Path(sys.argv[1]).read_text()))
