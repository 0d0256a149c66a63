"""Dispatch of events: who overrides which hook is found out once, so the others cost nothing."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from fitorch.errors import annotate

from .base import Callback, Hook
from .four_hooks import FOUR_HOOKS, FourHooks

if TYPE_CHECKING:
    pass


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

_KNOWN = (*HOOKS, *_ALIASES.values(), *FOUR_HOOKS, "on_checkpoint_saved", "on_nonfinite")


def with_keras_hooks(callback: Any) -> Any:
    """Return a callback; one with torchkeras' four hooks as one with Keras'."""
    keras = (*HOOKS, *_ALIASES.values())
    if isinstance(callback, type) or any(hasattr(callback, name) for name in keras):
        return callback
    return FourHooks(callback) if any(hasattr(callback, name) for name in FOUR_HOOKS) else callback


def introduce(callbacks: list[Any], model: object, params: dict[str, Any]) -> None:
    """Tell callbacks whom they serve, as far as they want to know."""
    for callback in callbacks:
        for verb, value in (("set_params", dict(params)), ("set_model", model)):
            receive = getattr(callback, verb, None)
            if receive is not None:
                receive(value)


def emit(hooks: tuple[Hook, ...], *args: Any) -> None:
    """Call every one of `hooks` with `args`; an error says which one raised it."""
    hook = None
    try:
        for hook in hooks:
            hook(*args)
    except Exception as error:
        annotate(error, f"raised by {name_of(hook)}{_count_of(args)}")
        raise


def emit_all(hooks: tuple[Hook, ...], *args: Any) -> None:
    """Call every one of `hooks` with `args`, also after one that raised; raise that at the end."""
    failed: Exception | None = None
    for hook in hooks:
        try:
            emit((hook,), *args)
        except Exception as error:  # noqa: PERF203 - a few hooks, once a fit
            failed = failed or error
    if failed is not None:
        raise failed


def name_of(hook: Any) -> str:
    """Return what to call a hook in a message: `EarlyStopping.on_epoch_end`."""
    owner = getattr(hook, "__self__", None)
    name = getattr(hook, "__name__", type(hook).__name__)
    return f"{type(owner).__name__}.{name}" if owner is not None else name


def _count_of(args: tuple[Any, ...]) -> str:
    return f"({args[0]}, logs), counted from 0" if isinstance(args[0], int) else ""


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
    misspelt = _misspelt(callback)
    if not any(callable(getattr(callback, name, None)) for name in spellings):
        message = f"callbacks holds a {kind} that has none of the hooks {', '.join(HOOKS)}"
        raise TypeError(f"{message}; {misspelt}" if misspelt else message)
    if misspelt:
        warnings.warn(f"{kind}: {misspelt}; nothing calls it", stacklevel=2)
    for name in spellings:
        if _is_overridden(callback, name):
            _check_signature(getattr(callback, name), kind, name)


def _misspelt(callback: Any) -> str:
    """Say of a method whether it was meant to be a hook, "" where there is none such."""
    for name in dir(type(callback)):
        if name.startswith("on_") and name not in _KNOWN:
            close = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.85)
            if close:
                return f"there is no hook {name} (did you mean {close[0]}?)"
    return ""


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
