"""What a summary feeds a net: one batch of features, whatever the user has at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

from fitorch.data.arrays import is_array, is_sparse, to_tensors
from fitorch.data.sources import Batching, as_source
from fitorch.nets.forward import features_of
from fitorch.nets.precision import floating_dtype
from fitorch.randomness import undisturbed_randomness
from fitorch.tree import map_tensors

_SAMPLES = 2  # of a batch of our own: batch norm wants two


def first_features(net: nn.Module, features: Any) -> Any:
    """Return one batch of features, on the net's device and in its precision.

    Args:
        net: The net.
        features: A batch: a tensor, array or DataFrame, a tuple or list of them for several inputs,
            a mapping for named ones; or a DataLoader or Dataset, whose first batch is taken.

    Raises:
        TypeError: It is none of these.
    """
    floating = floating_dtype(net.parameters())
    if isinstance(features, (DataLoader, Dataset)) or _is_hugging_face(features):
        features = _first_batch(features, floating)
    elif not _is_batch(features):
        message = (
            f"features is a {type(features).__name__}; expected a batch: a tensor, array or "
            "DataFrame, a tuple or dict of them, or a DataLoader or Dataset, or input_shape="
        )
        raise TypeError(message)
    return _fitted(net, to_tensors(features, "features", floating, strict=False))


def made_features(net: nn.Module, shape: Any, dtype: Any, batch_size: int) -> Any:
    """Return a batch of features of our own making; it draws from no global generator.

    Args:
        net: The net.
        shape: Of an input, without the batch dimension, as (3, 32, 32); a list of such for several
            inputs, a mapping for named ones.
        dtype: What to fill it with, None for the net's own precision; one for all, or as `shape`.
        batch_size: Samples, -1 for as many as we like.

    Raises:
        TypeError: Shape or type is none.
        ValueError: A size is negative.
    """
    samples = batch_size if batch_size > 0 else _SAMPLES
    dtypes: Any
    if isinstance(shape, Mapping):
        dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(shape, dtype)
        made: Any = {key: _made(net, shape[key], dtypes.get(key), samples) for key in shape}
    elif _is_shape(shape):
        made = _made(net, shape, dtype, samples)
    else:
        dtypes = dtype if isinstance(dtype, (tuple, list)) else [dtype] * len(_several(shape))
        pairs = zip(_several(shape), dtypes, strict=True)
        made = tuple(_made(net, each, kind, samples) for each, kind in pairs)
    return _fitted(net, made)


def _made(net: nn.Module, shape: Any, dtype: Any, samples: int) -> Tensor:
    if not _is_shape(shape):
        raise TypeError(_no_shape(shape))
    if any(size < 0 for size in shape):
        message = f"input_shape={tuple(shape)} has a negative size; leave the batch dimension out"
        raise ValueError(message)
    kind = _as_dtype(dtype) if dtype is not None else _precision(net) or torch.get_default_dtype()
    if not (kind.is_floating_point or kind.is_complex):
        return torch.zeros((samples, *shape), dtype=kind)  # a class, or an index, that exists
    own = torch.Generator().manual_seed(0)
    return torch.rand((samples, *shape), generator=own).to(kind)


def _as_dtype(dtype: Any) -> torch.dtype:
    """Return torch.float32 for torch.float32, torch.FloatTensor, "float32", np.float32."""
    found = dtype if isinstance(dtype, torch.dtype) else getattr(dtype, "dtype", None)
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", "")
    found = found if isinstance(found, torch.dtype) else getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        message = f"input_dtype={dtype!r}; expected a type of torch, such as torch.long"
        raise TypeError(message)
    return found


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, Sequence) and all(isinstance(size, int) for size in shape)


def _several(shape: Any) -> Sequence[Any]:
    if not isinstance(shape, (tuple, list)):
        raise TypeError(_no_shape(shape))
    return shape


def _no_shape(shape: Any) -> str:
    return (
        f"input_shape has {shape!r}; expected sizes without the batch dimension, as (3, 32, 32), "
        "or a list of such for several inputs"
    )


def _is_batch(features: Any) -> bool:
    if isinstance(features, Mapping):
        return bool(features)
    if isinstance(features, (tuple, list)):
        return bool(features) and not isinstance(features[0], (int, float, str))
    return is_array(features) or is_sparse(features)


def _is_hugging_face(features: Any) -> bool:
    """Say whether `features` is a map-style dataset that does not say so."""
    sized = hasattr(features, "__getitem__") and hasattr(features, "__len__")
    return sized and not _is_batch(features) and not isinstance(features, (tuple, list, str))


def _first_batch(data: Any, floating: torch.dtype) -> Any:
    """Return the first batch's features; who draws the order stays as it was."""
    with undisturbed_randomness(), _generators_kept(data):
        source = as_source(data, "features", Batching(floating=floating))
        try:
            return features_of(next(iter(source.batches(0))))
        finally:
            source.close()


@contextmanager
def _generators_kept(data: Any) -> Iterator[None]:
    holders = (data, getattr(data, "sampler", None), getattr(data, "batch_sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    states = [(each, each.get_state()) for each in found if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _fitted(net: nn.Module, features: Any) -> Any:
    """Move features to where the net is, and floats to its precision where it has one."""
    device, precision = _device(net), _precision(net)

    def fit(tensor: Tensor) -> Tensor:
        kind = precision if precision is not None and tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=device, dtype=kind)

    return map_tensors(fit, features)


def _device(net: nn.Module) -> torch.device | None:
    """Return where a net lies; None for one without parameters, or on several devices."""
    devices = {tensor.device for tensor in _tensors(net)}
    return devices.pop() if len(devices) == 1 else None


def _precision(net: nn.Module) -> torch.dtype | None:
    """Return the one type of a net's floating parameters, None where there are none, or several."""
    kinds = {parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else None


def _tensors(net: nn.Module) -> Iterable[Tensor]:
    yield from net.parameters()
    yield from (buffer for buffer in net.buffers() if not is_lazy(buffer))


def features_for(
    net: nn.Module, given: Sequence[Any], shape: Any, dtype: Any, batch_size: int
) -> Any:
    """Return what to call a net with.

    Args:
        net: The net.
        given: Batches, of which there may be one.
        shape: Or the shape of an input.
        dtype: Its type.
        batch_size: Samples, or -1.

    Raises:
        ValueError: There is nothing, or there is more than one thing.
    """
    if len(given) + (shape is not None) != 1:
        what = "both" if given and shape is not None else "several" if given else "neither"
        message = (
            f"summary wants either features or input_shape, but got {what}; pass a batch, as "
            "summary(net, x), or summary(net, input_shape=(3, 32, 32))"
        )
        raise ValueError(message)
    if shape is None:
        return first_features(net, given[0])
    return made_features(net, shape, dtype, batch_size)
