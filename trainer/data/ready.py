"""Data that consists of batches already: how it is recognized, and a Dataset of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import is_array
from .collate import is_numbers
from .dataset import DatasetSource
from .plain_attributes import ChangedAttributes, is_plain
from .rank_split import PassLength
from .rng_state import GENERATORS

_COMPARED = 8  # samples of a list whose shapes are compared

_FEWEST = 5  # samples; an image of four channels has four rows


def is_batch_dataset(data: object) -> bool:
    """Return whether data is a PyDataset or a Sequence of Keras, whose items are batches."""
    return any(
        kind.__name__ in ("PyDataset", "Sequence")
        and kind.__module__.partition(".")[0] in ("keras", "tensorflow", "tf_keras")
        for kind in type(data).__mro__
    )


def looks_like_batch(item: object) -> bool:
    """Return whether an item of a stream has the form of a batch rather than of a sample.

    All its arrays have the same length along dimension 0, as features (N, ...) and targets (N,)
    have. A sample of a sequence with a target for each step has that form, too.
    """
    if isinstance(item, Mapping):
        parts = list(item.values())
    elif isinstance(item, (tuple, list)) and len(item) in (2, 3):
        parts = list(item)
    else:
        return False
    arrays = [part for part in _parts(parts) if part is not None]
    if not arrays or not all(is_array(array) and len(array.shape) for array in arrays):
        return False
    sizes = {int(array.shape[0]) for array in arrays}
    return len(sizes) == 1 and min(sizes) >= _FEWEST and len(arrays[0].shape) > 1


def looks_like_samples(data: list[Any]) -> bool:
    """Return whether a list holds samples: pairs, or rows with "labels".

    The target of a sample is a number, its features are a text, or all are arrays whose lengths
    differ from that of the target, and are the same in all samples. In a batch, they are equal.
    """
    features, target = _split(data[0] if data else None)
    if not features:
        return False
    is_text = isinstance(features[0], str) and not isinstance(data[0], Mapping)
    if is_text or _shape(target) == ():
        return True
    shapes, length = [_shape(part) for part in features], _shape(target)
    # Sequences (T, N, C) have targets for N samples.
    if not length or any(not shape or length[0] in shape[:2] for shape in shapes):
        return False
    others = [_split(item) for item in data[1:_COMPARED]]
    alike = [[*map(_shape, x), _shape(y)] == [*shapes, length] for x, y in others]
    return bool(alike) and all(alike)


def _split(item: Any) -> tuple[list[Any], Any]:
    """Return the features and the target of an item; the features are empty if it has none."""
    if isinstance(item, Mapping) and "labels" in item:
        return [value for key, value in item.items() if key != "labels"], item["labels"]
    if isinstance(item, (tuple, list)) and len(item) in (2, 3):
        return [item[0]], item[1]
    return [], None


def _shape(value: object) -> tuple[int, ...] | None:
    """Return the shape of an array, a number or a list of numbers, None for other objects."""
    if isinstance(value, (bool, int, float, np.generic)):
        return ()
    if isinstance(value, (Tensor, np.ndarray)):
        return None if getattr(value, "is_nested", False) else tuple(value.shape)
    return (len(value),) if isinstance(value, list) and is_numbers(value) else None


def _parts(parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        if isinstance(part, Mapping):
            yield from _parts(part.values())
        elif isinstance(part, (tuple, list)):
            yield from _parts(part)
        else:
            yield part


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


def _epoch_hook(dataset: Any) -> Callable[[], None] | None:
    """Return the `on_epoch_end` of a dataset, None for that of Keras, which does nothing."""
    hook = getattr(dataset, "on_epoch_end", None)
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
