"""Console messages of a fit: device, metric tasks, stop reason, best epoch, hints."""

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
from fitorch.resume.checkpoint_saver import CheckpointSaver

if TYPE_CHECKING:
    from fitorch.callbacks.trained_model import TrainedModel


_HINTS_AFTER = 5.0  # seconds of training; shorter fits print no hints

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)

_printed_hints: set[str] = set()


class Announcer(Callback):
    """Prints the messages before and after training, and the tasks of metrics.

    It comes before the progress display, so that the tasks are printed above the table.

    Args:
        progress: Prints the messages.
        sources: The callbacks and the signal handler, whose `stopping_reason` is printed.
        notes: Further messages to print when training begins.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(self, progress: Progress, sources: list[Any], notes: Sequence[str] = ()) -> None:
        self._progress = progress
        self._notes = notes
        self._sources = sources

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Print the net, the number of parameters, and the device."""
        net = self.model.net
        trained: list[Any] = [p for p in net.parameters() if p.requires_grad]
        count = sum(0 if is_lazy(p) else p.numel() for p in trained)  # lazy ones have no size yet
        self._first_epoch = len(self.model.history)
        self._tasks_printed = False
        self._started = perf_counter()
        for note in self._notes:
            self._progress.say(note)
        self._prepare_display()
        if self.model.progress.epochs >= self.params["epochs"] or self.model.stop_training:
            return
        self._progress.say(
            f"training {type(net).__name__}, {count:,} parameters, on {self.model.placement}"
        )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Print the tasks of metrics once, above the table, and hints if training takes long."""
        # Hints appear in fits that take long enough for their advice to pay.
        if perf_counter() - self._started >= _HINTS_AFTER:
            for hint in new_hints(self.model):
                self._progress.say(f"hint: {hint}")
        # Tasks are known only after the first batch of both stages, that is, after an epoch.
        if self._tasks_printed:
            return
        self._tasks_printed = True
        by_task: dict[str, list[str]] = {}
        for name, task in self.model.metric_tasks.items():
            by_task.setdefault(task, []).append(name)
        for task, names in by_task.items():
            self._progress.say(f"{', '.join(names)}: {task}")
        compiled = self.model.compilation
        if compiled is not None and compiled.seconds:
            self._progress.say(f"compiled the training step in {compiled.seconds:.1f} s")
            # The time is printed once: the next fit with the same region compiles nothing.
            compiled.seconds = 0.0

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Print the duration or the stop reason, the checkpoint, and the best epoch."""
        best = self._best() if len(self.model.history) > self._first_epoch else ""
        for line in filter(None, (self._reason(), self._saved(), best)):
            self._progress.say(line)

    def _saved(self) -> str:
        """Return how to resume if training stopped for an outside reason, such as lack of time."""
        saver = next(
            (source for source in self._sources if isinstance(source, CheckpointSaver)), None
        )
        if saver is None or saver.newest is None or not saver.run.pauses:
            return ""
        return f"saved in {saver.newest}; fit(..., resume=True) resumes there"

    def _reason(self) -> str:
        reasons = (getattr(source, "stopping_reason", "") for source in self._sources)
        reason = next(filter(None, reasons), "")
        epochs, seconds = self.model.progress.epochs, perf_counter() - self._started
        # A stop without a reason still counts as one if epochs are missing.
        if not reason and (epochs >= self.params["epochs"] or not self.model.stop_training):
            count = len(self.model.history) - self._first_epoch
            return (
                f"trained {count} epoch{'s' * (count > 1)} in {duration(seconds)}" if count else ""
            )
        return (
            f"stopped after epoch {epochs}{f': {reason}' if reason else ''} ({duration(seconds)})"
        )

    def _best(self) -> str:
        history = self.model.history
        best_weights = next((c for c in self._sources if isinstance(c, BestWeights)), None)
        if best_weights is not None:
            return self._restored(best_weights)
        best = history.best
        if not best:
            return ""
        return f"best epoch {best['epoch']:.0f}: {history.monitor} {best[history.monitor]:.4g}"

    def _prepare_display(self) -> None:
        """Set the best value so far on the display, for a resumed fit, and the early stopping."""
        best_weights = next((c for c in self._sources if isinstance(c, BestWeights)), None)
        self._progress.best = None if best_weights is None else best_weights.watched.best
        stopping = (source for source in self._sources if isinstance(source, EarlyStopping))
        self._progress.stopping = next(stopping, None)

    @staticmethod
    def _restored(best_weights: BestWeights) -> str:
        """Return the message about the best epoch of this fit, whose weights were restored."""
        best, folder = best_weights.watched, best_weights.folder
        if best.best is None or best.best_epoch is None:
            return ""
        where = "" if folder is None else f", saved in {folder / 'best.safetensors'}"
        return (
            f"best epoch {best.best_epoch + 1}: {best.name} {best.best:.4g}, "
            f"weights restored{where}"
        )


def new_hints(model: TrainedModel) -> list[str]:
    """Return the hints that were not printed before in this process."""
    hints = [hint for hint in (_optimizer_hint(model), _layout_hint(model)) if hint]
    new = [hint for hint in hints if hint not in _printed_hints]
    _printed_hints.update(new)
    return new


def _optimizer_hint(model: TrainedModel) -> str:
    optimizer: Any = model.optimizer
    chosen = ("fused", "foreach", "capturable", "differentiable")
    if any(group.get(name) for group in optimizer.param_groups for name in chosen):
        return ""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if model.compilation is not None or not can_fuse(type(optimizer), model.net, parameters):
        return ""
    return f"{type(optimizer).__name__}(..., fused=True) makes updates faster"


def _layout_hint(model: TrainedModel) -> str:
    if model.channels_last or not any(isinstance(m, _CONVOLUTIONS) for m in model.net.modules()):
        return ""
    return "KerasModel(..., channels_last=True) is often faster for a net with convolutions"
