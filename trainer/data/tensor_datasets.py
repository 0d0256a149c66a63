"""The tensors behind datasets of torch: a `TensorDataset`, or `Subset`s of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from fitorch.devices.accelerators import HOST


def tensors_behind(dataset: object) -> tuple[tuple[Tensor, ...], Tensor | None] | None:
    """Return a dataset's tensors and the indices of its `Subset`s, None for other datasets."""
    if type(dataset) is TensorDataset:
        return (dataset.tensors, None) if _are_plain(dataset.tensors) else None
    if type(dataset) is not Subset:
        return None
    contents, indices = tensors_behind(dataset.dataset), _subset_indices(dataset)
    if contents is None or indices is None:
        return None
    tensors, inner = contents
    # The dataset is a subset of a subset: both look-ups become one.
    return tensors, indices if inner is None else inner[indices]


def _are_plain(tensors: tuple[Tensor, ...]) -> bool:
    """Return whether all of `tensors` are plain dense tensors on one device."""
    return len({tensor.device for tensor in tensors}) == 1 and all(
        type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_nested
        for tensor in tensors
    )


def _subset_indices(subset: Subset[Any]) -> Tensor | None:
    """Return the indices of a `Subset`, None if its type may have its own meaning of indexing."""
    values: Any = subset.indices
    if type(values) not in (list, tuple, range, np.ndarray, Tensor):
        return None  # a pandas Series, for example, looks up labels
    try:
        indices = torch.tensor(
            values.tolist() if hasattr(values, "tolist") else values, device=HOST
        )
    except (TypeError, ValueError, RuntimeError):
        return None
    if indices.dim() != 1 or indices.dtype != torch.int64:
        return None
    # Negative numbers count from the end, as in Python; index_select does not know them.
    return torch.where(indices < 0, indices + len(subset.dataset), indices)  # type: ignore[arg-type]
