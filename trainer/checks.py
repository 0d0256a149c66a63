"""Checks of arguments: counts, flags and choices."""

from __future__ import annotations

from collections.abc import Sequence


def check_count(name: str, value: object, *, least: int = 1, optional: bool = False) -> None:
    """Raise an error unless `value` is an int >= `least`.

    Raises:
        TypeError: `value` is not an int.
        ValueError: `value` is below `least`.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"{name} is {value!r}, a {type(value).__name__}; expected an int >= {least}"
        raise TypeError(message)
    if value < least:
        message = f"{name} is {value}; expected an int >= {least}"
        raise ValueError(message)


def check_workers(value: object) -> None:
    """Raise an error unless `value` is a number of worker processes, or "auto".

    Raises:
        TypeError: `value` is neither an int nor a str.
        ValueError: `value` is negative, or another str.
    """
    if value == "auto":
        return
    expected = "expected 'auto', or an int >= 0: how many processes read a Dataset"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        message = f"num_workers is {value!r}, a {type(value).__name__}; {expected}"
        raise TypeError(message)
    if isinstance(value, str) or value < 0:
        message = f"num_workers is {value!r}; {expected}"
        raise ValueError(message)


def check_flag(name: str, value: object) -> None:
    """Raise an error unless `value` is True or False.

    Raises:
        TypeError: `value` is not a bool.
    """
    if not isinstance(value, bool):
        message = f"{name} is {value!r}, a {type(value).__name__}; expected True or False"
        raise TypeError(message)


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise an error unless `value` is one of `allowed`.

    Raises:
        ValueError: `value` is not allowed; the message lists the allowed values.
    """
    if isinstance(value, bool) or value not in allowed:
        message = f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}"
        raise ValueError(message)
