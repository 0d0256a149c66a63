"""What a fit says in words: where it trains, what metrics mean, why it stopped, what is faster."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from torch.nn.parameter import is_lazy

from fitorch.callbacks.base import Callback, Logs
from fitorch.callbacks.best_weights import BestWeights
from fitorch.callbacks.display.number_format import duration
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.early_stopping import EarlyStopping
from fitorch.optim.optimizers import can_fuse
from fitorch.resume.saving import Saving

if TYPE_CHECKING:
    from fitorch.callbacks.trained_model import TrainedModel


_LONG = 5.0  # seconds of training, before anybody is bothered with what would be faster


class Announcer(Callback):
    """Says a line before and a line after training, and what metrics given by name mean.

    It stands before the progress display, so that the latter lies above the table.

    Args:
        progress: Writes the lines.
        witnesses: Those who may know why it stopped, as `stopping_reason`.
        notes: What else there is to say before training, once it begins.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(self, progress: Progress, witnesses: list[Any], notes: Sequence[str] = ()) -> None:
        self._progress = progress
        self._notes = notes
        self._witnesses = witnesses

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Say what is trained where."""
        net = self.model.net
        trained: list[Any] = [p for p in net.parameters() if p.requires_grad]
        count = sum(0 if is_lazy(p) else p.numel() for p in trained)  # lazy ones have no size yet
        self._began = len(self.model.history)
        self._stated = False
        self._started = perf_counter()
        for note in self._notes:
            self._progress.say(note)
        self._brief_display()
        if self.model.progress.epochs >= self.params["epochs"] or self.model.stop_training:
            return
        self._progress.say(
            f"training {type(net).__name__}, {count:,} parameters, on {self.model.placement}"
        )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Say once, above the table, which tasks the first batch showed; give hints if it lasts."""
        if perf_counter() - self._started >= _LONG:
            for hint in new_hints(self.model):
                self._progress.say(f"hint: {hint}")
        if self._stated:
            return
        self._stated = True
        by_task: dict[str, list[str]] = {}
        for name, task in self.model.metric_tasks.items():
            by_task.setdefault(task, []).append(name)
        for task, names in by_task.items():
            self._progress.say(f"{', '.join(names)}: {task}")
        compiled = self.model.compilation
        if compiled is not None and compiled.seconds:
            self._progress.say(f"compiled the training step in {compiled.seconds:.1f} s")
            compiled.seconds = 0.0

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Say how long it took or why it stopped, where it is saved, and what was best."""
        best = self._best() if len(self.model.history) > self._began else ""
        for line in filter(None, (self._reason(), self._saved(), best)):
            self._progress.say(line)

    def _saved(self) -> str:
        """Tell how to go on, where training stopped for a reason that has nothing to do with it."""
        saving = next((each for each in self._witnesses if isinstance(each, Saving)), None)
        if saving is None or saving.newest is None or not saving.run.pauses:
            return ""
        return f"saved in {saving.newest}; fit(..., resume=True) goes on there"

    def _reason(self) -> str:
        reasons = (getattr(callback, "stopping_reason", "") for callback in self._witnesses)
        reason = next(filter(None, reasons), "")
        epochs, took = self.model.progress.epochs, duration(perf_counter() - self._started)
        if not reason and (epochs >= self.params["epochs"] or not self.model.stop_training):
            count = len(self.model.history) - self._began
            return f"trained {count} epoch{'s' * (count > 1)} in {took}" if count else ""
        return f"stopped after epoch {epochs}{f': {reason}' if reason else ''} ({took})"

    def _best(self) -> str:
        history = self.model.history
        kept = next((c for c in self._witnesses if isinstance(c, BestWeights)), None)
        if kept is not None:
            return self._restored(kept)
        best = history.best
        if not best:
            return ""
        return f"best epoch {best['epoch']:.0f}: {history.monitor} {best[history.monitor]:.4g}"

    def _brief_display(self) -> None:
        """Tell the display what was best before, where a fit is gone on with, and whom to ask."""
        kept = next((c for c in self._witnesses if isinstance(c, BestWeights)), None)
        self._progress.best = None if kept is None else kept.watched.best
        stopping = (each for each in self._witnesses if isinstance(each, EarlyStopping))
        self._progress.stopping = next(stopping, None)

    @staticmethod
    def _restored(kept: BestWeights) -> str:
        """Tell the best epoch of this fit, whose weights the net has now."""
        best = kept.watched
        if best.best is None or best.best_epoch is None:
            return ""
        where = "" if kept.folder is None else f", saved in {kept.folder / 'best.safetensors'}"
        return (
            f"best epoch {best.best_epoch + 1}: {best.name} {best.best:.4g}, "
            f"weights restored{where}"
        )


_IMAGES = (nn.Conv2d, nn.ConvTranspose2d)

_given: set[str] = set()


def new_hints(model: TrainedModel) -> list[str]:
    """Return what was not said before in this process."""
    found = [hint for hint in (_about_optimizer(model), _about_layout(model)) if hint]
    fresh = [hint for hint in found if hint not in _given]
    _given.update(fresh)
    return fresh


def _about_optimizer(model: TrainedModel) -> str:
    optimizer: Any = model.optimizer
    chosen = ("fused", "foreach", "capturable", "differentiable")
    if any(group.get(name) for group in optimizer.param_groups for name in chosen):
        return ""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if model.compilation is not None or not can_fuse(type(optimizer), model.net, parameters):
        return ""
    return f"{type(optimizer).__name__}(..., fused=True) takes less time for an update"


def _about_layout(model: TrainedModel) -> str:
    if model.channels_last or not any(isinstance(m, _IMAGES) for m in model.net.modules()):
        return ""
    return "KerasModel(..., channels_last=True) is often faster for a net with convolutions"
