"""Keras' callback protocol, and its dispatch at no cost for the hooks that nobody overrides."""

from __future__ import annotations

import inspect
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitorch import KerasModel

Hook = Callable[..., None]
Logs = Mapping[str, float]


class Callback:
    """Something that is told what happens during `fit`, `evaluate` and `predict`.

    Override the hooks you need; those nobody overrides cost nothing. This is the whole loop::

        on_train_begin(logs)
        for epoch in range(...):                          # counts from 0, as in Keras
            on_epoch_begin(epoch, logs)
            for batch in range(...):
                on_train_batch_begin(batch, logs)
                ...                                       # forward, loss, backward, update
                on_train_batch_end(batch, logs)
            on_test_begin(logs)                           # only in epochs that validate
            for batch in range(...):
                on_test_batch_begin(batch, logs)
                on_test_batch_end(batch, logs)
            on_test_end(logs)
            on_epoch_end(epoch, logs)
        on_train_end(logs)                                # also after an error or Ctrl-C

    `evaluate` calls the `on_test_*` hooks, `predict` the `on_predict_*` hooks, of the callbacks
    that are passed to them. Set `self.model.stop_training = True` to stop after the current batch.

    The logs of batch hooks are read-only and lazy: `logs["train_loss"]` is the mean over the epoch
    so far, computed (and read from the device) when you look at it. Those of `on_epoch_end` are a
    dict of floats: `train_loss`, `train_<metric>`, `lr`, `val_loss`, `val_<metric>`. Keras' names
    for training (`loss`, `<metric>`) find the same values.

    Attributes:
        model: The `KerasModel` at work.
        params: `{"epochs": int, "steps": int | None, "validation_steps": int | None,
            "verbose": int | str}`; `epochs` is the number of the last epoch, the steps are the
            batches per epoch and per validation where that is known.
    """

    model: KerasModel
    params: dict[str, Any]

    def set_params(self, params: dict[str, Any]) -> None:
        """Receive what the run is about to do."""
        self.params = params

    def set_model(self, model: KerasModel) -> None:
        """Receive the model at work."""
        self.model = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Run before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Run after the last epoch, whatever ended the training."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Run before an epoch's first batch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Run after an epoch's training and validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a training batch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a training batch."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Run before a validation or an evaluation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Run after a validation or an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a batch that is evaluated."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a batch that is evaluated."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Run before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Run after a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a batch that is predicted."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a batch that is predicted."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who wants to be called at each event: for every hook, the bound methods that override it."""

    on_train_begin: tuple[Hook, ...] = ()
    on_train_end: tuple[Hook, ...] = ()
    on_epoch_begin: tuple[Hook, ...] = ()
    on_epoch_end: tuple[Hook, ...] = ()
    on_train_batch_begin: tuple[Hook, ...] = ()
    on_train_batch_end: tuple[Hook, ...] = ()
    on_test_begin: tuple[Hook, ...] = ()
    on_test_end: tuple[Hook, ...] = ()
    on_test_batch_begin: tuple[Hook, ...] = ()
    on_test_batch_end: tuple[Hook, ...] = ()
    on_predict_begin: tuple[Hook, ...] = ()
    on_predict_end: tuple[Hook, ...] = ()
    on_predict_batch_begin: tuple[Hook, ...] = ()
    on_predict_batch_end: tuple[Hook, ...] = ()

    @classmethod
    def collect(cls, callbacks: Iterable[Any]) -> Hooks:
        """List the overridden hooks of `callbacks`, in their order.

        Any object with one of the hooks will do; Keras' `on_batch_begin` and `on_batch_end` stand
        for `on_train_batch_begin` and `on_train_batch_end`.

        Raises:
            TypeError: An object has none of the hooks, or a hook has the wrong signature.
        """
        callbacks = list(callbacks)
        for callback in callbacks:
            _check(callback)
        return cls(
            **{
                name: tuple(hook for callback in callbacks for hook in _overrides(callback, name))
                for name in HOOKS
            }
        )


HOOKS: tuple[str, ...] = tuple(field.name for field in fields(Hooks))
_ALIASES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}
_COUNTED = {"epoch", "batch"}


def emit(hooks: tuple[Hook, ...], *args: Any) -> None:
    """Call every one of `hooks` with `args`."""
    for hook in hooks:
        hook(*args)


def emit_all(hooks: tuple[Hook, ...], *args: Any) -> None:
    """Call every one of `hooks` with `args`, also after one that raised; raise that at the end."""
    failed: Exception | None = None
    for hook in hooks:
        try:
            hook(*args)
        except Exception as error:  # noqa: PERF203 - a few hooks, once a fit
            failed = failed or error
    if failed is not None:
        raise failed


def _overrides(callback: Any, name: str) -> Iterator[Hook]:
    for spelling in (name, _ALIASES.get(name)):
        if spelling is not None and _is_overridden(callback, spelling):
            yield getattr(callback, spelling)
            return


def _is_overridden(callback: Any, name: str) -> bool:
    """Say whether `name` does anything."""
    if getattr(callback, name, None) is None:
        return False
    if name in getattr(callback, "__dict__", {}):
        return True
    owner = next((cls for cls in type(callback).__mro__ if name in cls.__dict__), None)
    return owner is None or not _is_base(owner)


def _is_base(cls: type) -> bool:
    """Say whether `cls` is the base class, ours or Keras', whose hooks do nothing."""
    keras = cls.__module__.partition(".")[0] in ("keras", "tf_keras", "tensorflow")
    return cls is Callback or (keras and cls.__name__ == "Callback")


def _check(callback: Any) -> None:
    """Refuse what is no callback, and hooks that could not be called."""
    kind = type(callback).__name__
    if isinstance(callback, type):
        message = f"callbacks holds the class {callback.__name__}; pass {callback.__name__}(...)"
        raise TypeError(message)
    spellings = (*HOOKS, *_ALIASES.values())
    if not any(callable(getattr(callback, name, None)) for name in spellings):
        message = f"callbacks holds a {kind} that has none of the hooks {', '.join(HOOKS)}"
        raise TypeError(message)
    for name in spellings:
        if _is_overridden(callback, name):
            _check_signature(getattr(callback, name), kind, name)


def _check_signature(hook: Hook, kind: str, name: str) -> None:
    counted = next((word for word in _COUNTED if word in name), None)
    expected = [counted, "logs"] if counted else ["logs"]
    try:
        inspect.signature(hook).bind(*expected)
    except TypeError as error:
        message = f"{kind}.{name} must take ({', '.join(expected)}), but {error}"
        raise TypeError(message) from error
    except ValueError:  # a built-in that tells no signature
        return


class BatchLogs(Mapping[str, float]):
    """The running figures of a stage, read only when somebody looks.

    Args:
        prefix: `"train_"`, `"val_"` or `""`.
        read: Gives all figures of the stage so far, by their full names.
    """

    def __init__(self, prefix: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._prefix = prefix
        self._read = read

    def __getitem__(self, name: str) -> float:
        values = self._read()
        return values[name] if name in values else values[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __bool__(self) -> bool:
        return True

    def copy(self) -> dict[str, float]:
        """Read all figures at once, as a dict."""
        return dict(self._read())

    def items(self) -> ItemsView[str, float]:
        """Read all figures at once."""
        return self._read().items()

    def values(self) -> ValuesView[float]:
        """Read all figures at once."""
        return self._read().values()


class EpochLogs(dict[str, float]):
    """An epoch's figures, in which Keras' names for training (`loss`, `acc`) are found too."""

    def __missing__(self, name: str) -> float:
        if not dict.__contains__(self, f"train_{name}"):
            raise KeyError(name)
        return self[f"train_{name}"]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or super().__contains__(f"train_{name}")

    def get(self, name: str, default: Any = None) -> Any:
        """Return the figure called `name` or `train_<name>`, else `default`."""
        try:
            return self[name]
        except KeyError:
            return default
