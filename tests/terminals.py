"""A terminal emulator, a clock that waits, and the hooks of a fit, for tests of the display."""

import io

import pyte
import pyte.modes
from rich.console import Console

from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.logs import BatchLogs, EpochLogs


class Clock:
    """A clock that only moves when it is told to."""

    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A file whose text is shown by a terminal emulator; `wide` never wraps, so it tells wraps."""

    encoding = "utf-8"
    console: Console

    def __init__(self, width=80):
        super().__init__()
        self.narrow, self.wide = pyte.Screen(width, 60), pyte.Screen(1000, 60)
        for emulator in (self.narrow, self.wide):
            emulator.set_mode(pyte.modes.LNM)  # as terminals do: a new line starts on the left
        self.streams = [pyte.Stream(self.narrow), pyte.Stream(self.wide)]
        self.writes = 0

    def write(self, text):
        self.writes += 1
        for stream in self.streams:
            stream.feed(text)
        return super().write(text)

    @property
    def lines(self):
        shown = [line.rstrip() for line in self.narrow.display]
        assert shown == [line.rstrip() for line in self.wide.display], "a line was wrapped"
        return "\n".join(shown).rstrip().split("\n")

    @property
    def live_line(self):
        return self.lines[-1]


class Figures(dict):
    """What BatchLogs reads; counts how often."""

    reads = 0

    def __call__(self):
        Figures.reads += 1
        return self


def on_terminal(width=80, **arguments):
    file = Terminal(width)
    file.console = Console(file=file, force_terminal=True, width=width, height=60)
    return Progress(console=file.console, **arguments), file


def on_file(**arguments):
    file = Terminal()
    return Progress(console=Console(file=file, force_terminal=False), **arguments), file


def steps(hook, prefix, clock, count, seconds, figures):
    for batch in range(count):
        clock.now += seconds
        hook(batch, BatchLogs(prefix, Figures(figures)))


def epoch(callback, clock, number, logs, *, steps_=10, seconds=0.01, validate=0):
    """Run epoch `number`, from 1, whose last figures are `logs`."""
    trained = {name: value for name, value in logs.items() if name.startswith("train_")}
    validated = {name: value for name, value in logs.items() if name.startswith("val_")}
    callback.on_epoch_begin(number - 1)
    steps(callback.on_train_batch_end, "train_", clock, steps_, seconds, trained)
    if validate:
        callback.on_test_begin()
        steps(callback.on_test_batch_end, "val_", clock, validate, seconds, validated)
        callback.on_test_end()
    callback.on_epoch_end(number - 1, EpochLogs(logs))


def begin(callback, epochs: int | None = 20, steps_: int | None = 10):
    callback.set_params({"epochs": epochs, "steps": steps_, "verbose": 1})
    callback.on_train_begin()


def train(callback, clock, history, **arguments):
    begin(callback, len(history), arguments.get("steps_", 10))
    for number, logs in enumerate(history, 1):
        epoch(callback, clock, number, logs, **arguments)
    callback.on_train_end()


HISTORY = [
    {"train_loss": 0.9, "train_acc": 0.6, "lr": 1e-3, "val_loss": 0.8, "val_acc": 0.65},
    {"train_loss": 0.5, "train_acc": 0.8, "lr": 1e-3, "val_loss": 0.4, "val_acc": 0.91},
    {"train_loss": 0.2314, "train_acc": 0.9121, "lr": 3e-4, "val_loss": 0.5, "val_acc": 0.88},
]


TERMS = {
    "train_loss": 0.31,
    "train_auc": 0.9,
    "train_focal": 0.25,
    "train_l2": 0.04,
    "lr": 1e-3,
    "l2_weight": 0.25,
    "val_loss": 0.3,
    "val_auc": 0.95,
    "val_focal": 0.26,
    "val_l2": 0.04,
}
