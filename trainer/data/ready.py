"""Data that consists of batches already: a Dataset of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from .dataset import DatasetSource
from .plain_attributes import ChangedAttributes, is_plain
from .rank_split import PassLength
from .rng_state import GENERATORS


class BatchDatasetSource(DatasetSource):
    """A Dataset whose items are batches, which may be shuffled as a whole.

    Its hook `on_epoch_end`, which Keras calls, is called after each pass. What the hook changes is
    part of the state of a fit, and reaches workers, which start again.
    """

    def __init__(self, dataset: Any, *args: Any, **settings: Any) -> None:
        super().__init__(dataset, *args, **settings)
        self._hook = _epoch_hook(dataset)
        if self._hook is not None:
            self._changes = ChangedAttributes(dataset, looks=False)

    @property
    def _collates(self) -> bool:
        # The dataset may use the memory of a batch again; workers send copies.
        return bool(self.worker_count)

    def refresh(self) -> None:
        """Ask the dataset for its length again: the number of batches."""
        super().refresh()
        self.pass_length = PassLength(self.order.samples, self.order.world)
        # How many samples there are is not known.
        self.samples = self.smallest_batch = None

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Yield the batches of a pass from batch `start` on."""
        yield from super().batches(pass_index, start, behind)
        if self._hook is None or self._changes is None:
            return
        before = _objects_in(self.loader)
        self._hook()
        self._changes.look()
        after = _objects_in(self.loader)
        self._changes.lost |= {name for name in after if after[name] is not before.get(name)}
        # Workers have copies of the dataset as it was.
        self.close()


def _epoch_hook(dataset: Any) -> Callable[..., object] | None:
    """Return the `on_epoch_end` of a dataset, None for that of Keras, which does nothing."""
    hook: Any = getattr(dataset, "on_epoch_end", None)
    module = getattr(getattr(hook, "__func__", hook), "__module__", None) or ""
    of_keras = module.partition(".")[0] in ("keras", "tensorflow", "tf_keras")
    return hook if callable(hook) and not of_keras else None


def _objects_in(dataset: object) -> dict[str, Any]:
    """Return the attributes of a dataset that a checkpoint cannot hold, such as tables."""
    attributes = getattr(dataset, "__dict__", {})
    return {
        name: value
        for name, value in attributes.items()
        if not is_plain(value) and not isinstance(value, GENERATORS)
    }


class Ready:
    """Takes the only item of a list for a batch."""

    def __call__(self, items: list[Any]) -> Any:
        """Return the batch."""
        return items[0]


def batch_dataset_source(
    dataset: Any, order: Any, name: str, floating: torch.dtype, workers: int | str
) -> BatchDatasetSource:
    """Return a source for a Dataset of batches; `order` has the number of them."""
    order = replace(order, batch_size=1)
    return BatchDatasetSource(dataset, order, name, floating, workers, Ready())
