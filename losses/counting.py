"""How many samples or targets a batch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fitorch.nets.forward import IGNORED_TARGET, features_of
from fitorch.tree import sample_count

from .net_loss import TargetCount


def has_ignored(y_true: Tensor) -> bool:
    """Return whether some targets are -100; this waits for a device."""
    return TargetCount.applies(y_true) and bool((y_true == IGNORED_TARGET).any())


def targets_in(y_true: Tensor) -> int | Tensor:
    """Return the number of targets that are not -100, on the CPU as a number of Python."""
    counted = (y_true != IGNORED_TARGET).count_nonzero()
    return int(counted) if counted.is_cpu else counted


def samples_in(tree: Any, batch: Any = None, *, targets: bool = True) -> int:
    """Return the number of samples in a batch.

    Args:
        tree: The targets, or the net's output: nested tensors of shape (N, ...), or a list with a
            mapping for each sample, as of boxes and labels.
        batch: The whole batch. Its features decide if the targets are several tensors, or none.
        targets: Whether `tree` is the targets.

    Raises:
        TypeError: The first leaf that is not None is not a tensor with a batch dimension.
    """
    if targets and isinstance(tree, Tensor) and tree.dim():  # by far the most frequent case
        return tree.shape[0]
    if targets and isinstance(tree, list) and tree and isinstance(tree[0], Mapping):
        return len(tree)
    samples = _samples_of(batch)
    if samples:
        return samples
    leaf: Any = tree
    while not isinstance(leaf, Tensor) and isinstance(leaf, (Mapping, list, tuple)):
        values = leaf.values() if isinstance(leaf, Mapping) else leaf
        leaf = next((value for value in values if value is not None), None)
    shape = getattr(leaf, "shape", ())
    if not shape:
        message = (
            f"cannot determine the number of samples of a batch: its targets are a "
            f"{type(tree).__name__} with a {type(leaf).__name__} inside; expected tensors of shape "
            "(N, ...)"
        )
        raise TypeError(message)
    return int(shape[0])


def _samples_of(batch: Any) -> int:
    """Return the number of samples that the features of a batch show, 0 if they show none."""
    graphs = getattr(batch, "num_graphs", None)  # a batch of torch_geometric counts its nodes
    if isinstance(graphs, int):
        return graphs
    features = features_of(batch)
    if isinstance(features, (list, tuple)) and features:
        lengths = {sample_count(part, default=0) for part in features}
        # Entries of different lengths are samples, as images of different sizes are.
        return lengths.pop() if len(lengths) == 1 and lengths != {0} else len(features)
    return sample_count(features, default=0)
