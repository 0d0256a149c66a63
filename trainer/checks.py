"""Arguments that are no count, no flag, none of the choices: refused with what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_count(name: str, value: Any, *, least: int = 1, optional: bool = False) -> None:
    """Refuse what is no whole number from `least` on.

    Raises:
        TypeError: `value` is no int.
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


def check_workers(value: Any) -> None:
    """Refuse what is no number of worker processes, and not "auto".

    Raises:
        TypeError: `value` is neither an int nor a str.
        ValueError: `value` is below 0, or another str.
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


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        TypeError: It tells the value.
    """
    if not isinstance(value, bool):
        message = f"{name} is {value!r}, a {type(value).__name__}; expected True or False"
        raise TypeError(message)


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse a value that is not one of `allowed`.

    Raises:
        ValueError: It lists them.
    """
    if isinstance(value, bool) or value not in allowed:
        message = f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}"
        raise ValueError(message)
