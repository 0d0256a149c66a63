"""Samples or batches: what the items of data are, by the shapes of their parts."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from .arrays import is_array, is_numbers, is_sparse
from .lazy import is_lazy

Shape = tuple[int, ...]

_COMPARED = 8  # items of a list whose shapes are compared

_MOST_CHANNELS = 4  # of an image (C, H, W)


def is_batch_dataset(data: object) -> bool:
    """Return whether data is a PyDataset or a Sequence of Keras, whose items are batches."""
    return any(
        kind.__name__ in ("PyDataset", "Sequence")
        and kind.__module__.partition(".")[0] in ("keras", "tensorflow", "tf_keras")
        for kind in type(data).__mro__
    )


def is_graph(item: object) -> bool:
    """Return whether an item is a single graph of torch_geometric, not a batch of graphs."""
    return _is_geometric(item) and not hasattr(item, "to_data_list")


def is_graph_batch(item: object) -> bool:
    """Return whether an item is a batch of graphs of torch_geometric."""
    return _is_geometric(item) and hasattr(item, "to_data_list")


def _is_geometric(item: object) -> bool:
    return any(
        kind.__name__ in ("Data", "HeteroData")
        and kind.__module__.partition(".")[0] == "torch_geometric"
        for kind in type(item).__mro__
    )


def may_be_batch(item: object) -> bool:
    """Return whether an item has the form of a batch: several parts, all of the same length.

    Features (N, ...) and targets (N,) have that form, and so do a sequence with a target for each
    step, an image with an image as its target, and the input of an autoencoder.
    """
    shapes = _shapes(item)
    return len(shapes) > 1 and _common_length(shapes) > 1


def looks_like_batch(item: object) -> bool:
    """Return whether an item of a stream is taken for a batch: all its parts have the same length.

    It is not if all its parts have one dimension, as tokens with labels have, or if it has an
    image, whose first dimension has up to four channels.
    """
    shapes = _shapes(item)
    if not _common_length(shapes):
        return False
    dims = [len(shape) for shape in shapes if shape]
    has_image = shapes[0] is not None and shapes[0][0] <= _MOST_CHANNELS and 3 in dims
    return max(dims) > 1 and not has_image


def are_samples_like_batches(batch: Any) -> bool:
    """Return whether each sample of a collated batch has itself the form of a batch."""
    shapes = [None if shape is None else shape[1:] for shape in _shapes(batch)]
    return len(shapes) > 1 and _common_length(shapes) > 1


def warn_of_samples(name: str) -> None:
    """Warn that items which have the form of batches are taken for samples.

    Args:
        name: The name of the data, such as "train_data".
    """
    warnings.warn(
        f"the items of {name} are taken for samples, although all parts of the first one have the "
        "same length, as in a batch; if they are batches, pass batch_size=None, and if they are "
        "samples, a DataLoader(dataset, batch_size) does without this warning",
        stacklevel=3,
    )


def warn_of_list(data: Any, name: str) -> None:
    """Warn that the items of a list, which have the form of both, are taken for batches.

    Batches of equal size, of which only the last one is smaller, are not warned of.

    Args:
        data: The list.
        name: The name of the data, such as "train_data".
    """
    if len(data) < 2 or not may_be_batch(data[0]):
        return
    lengths = [_common_length(_shapes(item)) for item in data]
    if len(set(lengths[:-1])) == 1 and 0 < lengths[-1] < lengths[0]:
        return
    warnings.warn(
        f"{name} is a list whose {len(lengths)} items are taken for batches, so that batch_size "
        "and shuffle have no effect; if they are samples, pass a DataLoader(data, batch_size), and "
        "if they are batches, batch_size=None does without this warning",
        stacklevel=2,
    )


def looks_like_samples(data: Any) -> bool:
    """Return whether a list holds samples: pairs, rows with "labels", or graphs.

    The target of a sample is a number, its features are a text, or all are arrays whose lengths
    differ from that of the target, and are the same in all samples. In a batch, they are equal.

    Args:
        data: A list, or a deque.
    """
    first = data[0] if data else None
    if is_graph(first):
        return True
    features, target = _split(first)
    if not features:
        return False
    is_text = isinstance(features[0], str) and not isinstance(first, Mapping)
    if is_text or _shape(target) == ():
        return True
    shapes, length = [_shape(part) for part in features], _shape(target)
    # Sequences (T, N, C) have targets for N samples.
    if not length or any(not shape or length[0] in shape[:2] for shape in shapes):
        return False
    others = [_split(item) for item in islice(data, 1, _COMPARED)]
    alike = [[*map(_shape, x), _shape(y)] == [*shapes, length] for x, y in others]
    return bool(alike) and all(alike)


def is_list(data: object) -> bool:
    """Return whether data is a list, or a deque, which may hold batches or samples."""
    return isinstance(data, (list, deque))


def is_sequence_of_samples(data: object) -> bool:
    """Return whether `data` is a map-style dataset but not a Dataset, as those of Hugging Face."""
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if isinstance(data, list) and data and all(isinstance(item, str) for item in data):
        return True  # texts, which are not batches of characters
    other = is_list(data) or isinstance(data, (Mapping, tuple, str, bytes))
    return sized and not (other or is_array(data) or is_lazy(data) or is_sparse(data))


def _split(item: Any) -> tuple[list[Any], Any]:
    """Return the features and the target of an item; the features are empty if it has none."""
    if isinstance(item, Mapping) and "labels" in item:
        return [value for key, value in item.items() if key != "labels"], item["labels"]
    if isinstance(item, (tuple, list)) and len(item) in (2, 3):
        return [item[0]], item[1]
    return [], None


def _shapes(item: Any) -> list[Shape | None]:
    """Return the shapes of all parts of an item; the list is empty if it has no known form."""
    if isinstance(item, Mapping):
        parts = list(item.values())
    elif isinstance(item, (tuple, list)) and len(item) in (2, 3):
        parts = list(item)
    else:
        return []
    return [_shape(part) for part in _flat(parts) if part is not None]


def _flat(parts: Iterable[Any]) -> Iterator[Any]:
    """Yield the parts of nested mappings and sequences; lists of numbers and texts are parts."""
    for part in parts:
        if isinstance(part, Mapping):
            yield from _flat(part.values())
        elif isinstance(part, (tuple, list)) and _shape(part) is None:
            yield from _flat(part)
        else:
            yield part


def _shape(value: Any) -> Shape | None:
    """Return the shape of an array, a number, a text or a list of them, None for others."""
    if isinstance(value, (bool, int, float, str, bytes, np.generic)):
        return ()
    if getattr(value, "is_nested", False):
        return None
    if isinstance(value, Tensor) or is_array(value):
        return tuple(map(int, value.shape))
    if isinstance(value, list) and value and isinstance(value[0], str):
        return (len(value),)
    if not isinstance(value, list) or not is_numbers(value):
        return None
    inner = _shape(value[0])
    return None if inner is None else (len(value), *inner)


def _common_length(shapes: list[Shape | None]) -> int:
    """Return the length with which all shapes begin, 0 if there is none above 1."""
    lengths = {shape[0] if shape else 0 for shape in shapes}
    return max(lengths) if len(lengths) == 1 and max(lengths) > 1 else 0
