"""What hooks get as logs: a batch's are read when looked at, an epoch's know Keras' names."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from typing import Any, TypeVar

_Value = TypeVar("_Value")


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


class KerasNames(dict[str, _Value]):
    """A dict by figures, in which Keras' names for training (`loss`, `acc`) are found too."""

    def __missing__(self, name: str) -> _Value:
        if not dict.__contains__(self, f"train_{name}"):
            raise KeyError(name)
        return self[f"train_{name}"]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or super().__contains__(f"train_{name}")

    def get(self, name: str, default: Any = None) -> Any:
        """Return what there is under `name` or `train_<name>`, else `default`."""
        try:
            return self[name]
        except KeyError:
            return default


class EpochLogs(KerasNames[float]):
    """An epoch's figures."""
