"""Dispatch of hooks: overridden hooks are collected once, so that all others cost nothing."""

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
    """For each hook, the bound methods of the callbacks that override it."""

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
        """Return the overridden hooks of `callbacks`, in their order.

        A callback is any object with one of the hooks. Keras' `on_batch_begin` and `on_batch_end`
        are aliases of `on_train_batch_begin` and `on_train_batch_end`.

        Raises:
            TypeError: An object does not have any of the hooks, or a hook has the wrong signature.
        """
        callbacks = list(callbacks)
        for callback in callbacks:
            _check_callback(callback)
        return cls(
            **{
                # Hooks are bound methods, which the loop calls without a look-up of attributes.
                name: tuple(hook for callback in callbacks for hook in _overrides(callback, name))
                for name in HOOKS
            }
        )


HOOKS: tuple[str, ...] = tuple(field.name for field in fields(Hooks))

_ALIASES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}

_COUNTERS = {"epoch", "batch"}

_HOOK_NAMES = (*HOOKS, *_ALIASES.values(), *FOUR_HOOKS, "on_checkpoint_saved", "on_nonfinite")


def with_four_hooks(callbacks: Iterable[Any]) -> list[Any]:
    """Return the callbacks, with an adapter for each that has some of torchkeras' four hooks.

    The adapter follows a callback that has hooks of Keras too, and replaces one that does not.
    """
    adapted: list[Any] = []
    for callback in callbacks:
        four = any(hasattr(callback, name) for name in FOUR_HOOKS)
        adapts = four and not isinstance(callback, (type, FourHooks))
        if not adapts or any(hasattr(callback, name) for name in (*HOOKS, *_ALIASES.values())):
            adapted.append(callback)
        if adapts:
            adapted.append(FourHooks(callback))
    return adapted


def attach(callbacks: list[Any], model: object, params: dict[str, Any]) -> None:
    """Call `set_params` and `set_model` of all callbacks that have these methods."""
    for callback in callbacks:
        # Each callback gets a copy: changes by one must not reach the others.
        for name, value in (("set_params", dict(params)), ("set_model", model)):
            setter = getattr(callback, name, None)
            if setter is not None:
                setter(value)


def emit(hooks: tuple[Hook, ...], *args: Any) -> None:
    """Call all `hooks` with `args`; an error gets a note with the name of the hook."""
    # The `except` block uses the hook, so that one `try` serves all of them.
    hook = None
    try:
        for hook in hooks:
            hook(*args)
    except Exception as error:
        annotate(error, f"raised by {hook_name(hook)}{_position(args)}")
        raise


def emit_all(hooks: tuple[Hook, ...], *args: Any) -> None:
    """Call all `hooks` with `args`, also after errors; raise the first error at the end."""
    first_error: Exception | None = None
    for hook in hooks:
        try:
            emit((hook,), *args)
        except Exception as error:  # noqa: PERF203 - a few hooks, once a fit
            first_error = first_error or error
    if first_error is not None:
        raise first_error


def hook_name(hook: Any) -> str:
    """Return the name of a hook for messages: `EarlyStopping.on_epoch_end`."""
    owner = getattr(hook, "__self__", None)
    name = getattr(hook, "__name__", type(hook).__name__)
    return f"{type(owner).__name__}.{name}" if owner is not None else name


def _position(args: tuple[Any, ...]) -> str:
    return f"({args[0]}, logs), counted from 0" if isinstance(args[0], int) else ""


def _overrides(callback: Any, name: str) -> Iterator[Hook]:
    for spelling in (name, _ALIASES.get(name)):
        if spelling is not None and _is_overridden(callback, spelling):
            yield getattr(callback, spelling)
            return


def _is_overridden(callback: Any, name: str) -> bool:
    """Return whether the callback has its own implementation of the hook `name`."""
    if getattr(callback, name, None) is None:
        return False
    # A function may be set on the instance, as LambdaCallback does.
    if name in getattr(callback, "__dict__", {}):
        return True
    owner = next((cls for cls in type(callback).__mro__ if name in cls.__dict__), None)
    return owner is None or not _is_base(owner)


def _is_base(cls: type) -> bool:
    """Return whether `cls` is the base class of fitorch or Keras, whose hooks do nothing."""
    keras = cls.__module__.partition(".")[0] in ("keras", "tf_keras", "tensorflow")
    return cls is Callback or (keras and cls.__name__ == "Callback")


def _check_callback(callback: Any) -> None:
    """Check that an object is a callback, and that its hooks have the right signatures."""
    type_name = type(callback).__name__
    if isinstance(callback, type):
        message = f"callbacks holds the class {callback.__name__}; pass {callback.__name__}(...)"
        raise TypeError(message)
    spellings = (*HOOKS, *_ALIASES.values())
    misspelling = _misspelled_hook(callback)
    if not any(callable(getattr(callback, name, None)) for name in spellings):
        message = f"callbacks holds a {type_name} that has none of the hooks {', '.join(HOOKS)}"
        raise TypeError(f"{message}; {misspelling}" if misspelling else message)
    if misspelling:
        warnings.warn(f"{type_name}: {misspelling}; it is never called", stacklevel=2)
    for name in spellings:
        if _is_overridden(callback, name):
            _check_hook_signature(getattr(callback, name), type_name, name)


def _misspelled_hook(callback: Any) -> str:
    """Return a message about a method that looks like a misspelled hook, "" if there is none."""
    for name in dir(type(callback)):
        if name.startswith("on_") and name not in _HOOK_NAMES:
            # A close name that is no hook is probably a typing error; others are the user's
            # methods.
            close = difflib.get_close_matches(name, _HOOK_NAMES, n=1, cutoff=0.85)
            if close:
                return f"there is no hook {name} (did you mean {close[0]}?)"
    return ""


def _check_hook_signature(hook: Hook, type_name: str, name: str) -> None:
    counter = next((word for word in _COUNTERS if word in name), None)
    expected = [counter, "logs"] if counter else ["logs"]
    try:
        inspect.signature(hook).bind(*expected)
    except TypeError as error:
        message = f"{type_name}.{name} must take ({', '.join(expected)}), but {error}"
        raise TypeError(message) from error
    except ValueError:  # a built-in without a signature
        return
