"""Logs of hooks: lazy ones for batches, and dicts with Keras' names for epochs."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from typing import Any, TypeVar

_Value = TypeVar("_Value")


class BatchLogs(Mapping[str, float]):
    """The running values of a stage, which synchronize with the device only when they are read.

    Args:
        prefix: `"train_"`, `"val_"` or `""`.
        read: Returns all values of the stage so far, by column name.
    """

    def __init__(self, prefix: str, read: Callable[[], Mapping[str, float]]) -> None:
        self.prefix = prefix
        self._read = read

    def __getitem__(self, name: str) -> float:
        # The values are read once: two reads would wait for the device twice.
        values = self._read()
        return values[name] if name in values else values[self.prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __bool__(self) -> bool:
        # `logs or {}` in a callback must not read the values from the device.
        return True

    def copy(self) -> dict[str, float]:
        """Return all values as a dict."""
        return dict(self._read())

    def items(self) -> ItemsView[str, float]:
        """Return all names and values, with a single read."""
        return self._read().items()

    def values(self) -> ValuesView[float]:
        """Return all values, with a single read."""
        return self._read().values()


class KerasNames(dict[str, _Value]):
    """A dict of columns, in which Keras' names for a stage (`loss`, `acc`) work too.

    Args:
        values: The values by column.
        prefix: The prefix of the columns of the stage.
    """

    def __init__(self, values: Mapping[str, _Value] | None = None, prefix: str = "train_") -> None:
        super().__init__(values or {})
        self._prefix = prefix

    def __missing__(self, name: str) -> _Value:
        if not dict.__contains__(self, f"{self._prefix}{name}"):
            raise KeyError(name)
        return self[f"{self._prefix}{name}"]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or super().__contains__(f"{self._prefix}{name}")

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name` or `<prefix><name>`, or `default` if neither exists."""
        try:
            return self[name]
        except KeyError:
            return default


class EpochLogs(KerasNames[float]):
    """The values of an epoch, by column."""
