"""Checks of arguments: counts, flags and choices, of Python or of NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a number, flag or string of NumPy as that of Python, and other values as they are.

    Example:
        >>> plain(np.int64(3)), plain(np.bool_(True)), plain("auto")
        (3, True, 'auto')
    """
    is_scalar = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim)
    return value.item() if is_scalar else value


def check_count(name: str, value: Any, *, least: int = 1, optional: bool = False) -> Any:
    """Return `value` as an int of Python; raise an error unless it is an int >= `least`.

    Raises:
        TypeError: `value` is not an int.
        ValueError: `value` is below `least`.
    """
    value = plain(value)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"{name} is {value!r}, a {type(value).__name__}; expected an int >= {least}"
        raise TypeError(message)
    if value < least:
        message = f"{name} is {value}; expected an int >= {least}"
        raise ValueError(message)
    return value


def check_workers(value: Any) -> Any:
    """Return a number of worker processes, or "auto"; raise an error if `value` is neither.

    Raises:
        TypeError: `value` is neither an int nor a str.
        ValueError: `value` is negative, or another str.
    """
    value = plain(value)
    if value == "auto":
        return value
    expected = "expected 'auto', or an int >= 0: how many processes read a Dataset"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        message = f"num_workers is {value!r}, a {type(value).__name__}; {expected}"
        raise TypeError(message)
    if isinstance(value, str) or value < 0:
        message = f"num_workers is {value!r}; {expected}"
        raise ValueError(message)
    return value


def check_flag(name: str, value: Any) -> bool:
    """Return `value` as a bool of Python; raise an error unless it is True or False.

    Raises:
        TypeError: `value` is not a bool.
    """
    value = plain(value)
    if not isinstance(value, bool):
        message = f"{name} is {value!r}, a {type(value).__name__}; expected True or False"
        raise TypeError(message)
    return value


def check_verbose(value: Any) -> Any:
    """Return 0, 1, 2 or "auto"; False is 0, and True is 1.

    Raises:
        ValueError: `value` is none of these.
    """
    value = plain(value)
    value = int(value) if isinstance(value, bool) else value
    check_choice("verbose", value, ("auto", 0, 1, 2))
    return value


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise an error unless `value` is one of `allowed`.

    Raises:
        ValueError: `value` is not allowed; the message lists the allowed values.
    """
    if isinstance(value, bool) or value not in allowed:
        message = f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}"
        raise ValueError(message)
