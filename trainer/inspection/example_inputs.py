"""Example inputs: one batch of features for a summary, from data or from a shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

from fitorch.data.arrays import is_array, is_sparse, to_tensors
from fitorch.data.recognition import is_list, looks_like_samples, may_be_batch
from fitorch.data.rng_state import undisturbed_order
from fitorch.data.sources import Batching, as_source
from fitorch.devices.accelerators import HOST
from fitorch.nets.forward import features_of
from fitorch.nets.precision import floating_dtype
from fitorch.randomness import undisturbed_randomness
from fitorch.tree import map_tensors

_DEFAULT_SAMPLES = 2  # of a generated batch; batch norm needs two


def features_from_data(net: nn.Module, features: Any) -> Any:
    """Return one batch of features, on the net's device and in its precision.

    Args:
        net: The net.
        features: A batch: a tensor, array or DataFrame, a tuple or list of them for several inputs,
            a mapping for named ones; or a DataLoader or Dataset, whose first batch is used.

    Raises:
        TypeError: `features` is none of these.
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
    return _match_net(net, to_tensors(features, "features", floating, strict=False))


def generated_features(net: nn.Module, shape: Any, dtype: Any, batch_size: int) -> Any:
    """Return a generated batch of features; the global random generators do not change.

    Args:
        net: The net.
        shape: The shape of an input without the batch dimension, such as (3, 32, 32); a list of
            shapes for several inputs, a mapping for named ones.
        dtype: The dtype, None for the net's precision; one for all inputs, or in the form of
            `shape`.
        batch_size: The number of samples, -1 for the default.

    Raises:
        TypeError: `shape` is not a shape, or `dtype` is not a dtype.
        ValueError: A size is negative.
    """
    samples = batch_size if batch_size > 0 else _DEFAULT_SAMPLES
    shape = shape.tolist() if isinstance(shape, np.ndarray) else shape
    dtypes: Any
    if isinstance(shape, Mapping):
        dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(shape, dtype)
        batch: Any = {key: _generated(net, shape[key], dtypes.get(key), samples) for key in shape}
    elif _is_shape(shape):
        batch = _generated(net, shape, dtype, samples)
    else:
        shapes = _shape_sequence(shape)
        dtypes = dtype if isinstance(dtype, (tuple, list)) else [dtype] * len(shapes)
        pairs = zip(shapes, dtypes, strict=True)
        batch = tuple(_generated(net, size, input_dtype, samples) for size, input_dtype in pairs)
    return _match_net(net, batch)


def _generated(net: nn.Module, shape: object, dtype: object, samples: int) -> Tensor:
    if not _is_shape(shape):
        raise TypeError(_invalid_shape_message(shape))
    if any(size < 0 for size in shape):
        message = f"input_shape={tuple(shape)} has a negative size; omit the batch dimension"
        raise ValueError(message)
    dtype = _as_dtype(dtype) if dtype is not None else _precision(net) or torch.get_default_dtype()
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.zeros(
            (samples, *shape), dtype=dtype, device=HOST
        )  # 0 is a valid class or index
    # The batch has its own generator, so that the global one does not change.
    generator = torch.Generator(HOST).manual_seed(0)
    return torch.rand((samples, *shape), generator=generator, device=HOST).to(dtype)


def _as_dtype(dtype: object) -> torch.dtype:
    """Return torch.float32 for torch.float32, torch.FloatTensor, "float32", np.float32."""
    result = dtype if isinstance(dtype, torch.dtype) else getattr(dtype, "dtype", None)
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", "")
    result = result if isinstance(result, torch.dtype) else getattr(torch, name, None)
    if not isinstance(result, torch.dtype):
        message = f"input_dtype={dtype!r}; expected a dtype of torch, such as torch.long"
        raise TypeError(message)
    return result


def _is_shape(shape: object) -> TypeGuard[Sequence[int]]:
    return isinstance(shape, Sequence) and all(isinstance(size, Integral) for size in shape)


def _shape_sequence(shape: object) -> Sequence[Any]:
    if not isinstance(shape, (tuple, list)):
        raise TypeError(_invalid_shape_message(shape))
    return shape


def _invalid_shape_message(shape: object) -> str:
    return (
        f"input_shape has {shape!r}; expected sizes without the batch dimension, such as "
        "(3, 32, 32), or a list of shapes for several inputs"
    )


def _is_batch(features: object) -> bool:
    if isinstance(features, Mapping):
        return bool(features)
    if isinstance(features, (tuple, list)):
        return bool(features) and not isinstance(features[0], (int, float, str))
    return is_array(features) or is_sparse(features)


def _is_hugging_face(features: object) -> bool:
    """Return whether `features` is a map-style dataset that is not a subclass of Dataset."""
    sized = hasattr(features, "__getitem__") and hasattr(features, "__len__")
    return sized and not _is_batch(features) and not isinstance(features, (tuple, list, str))


def _first_batch(data: Any, floating: torch.dtype) -> Any:
    """Return the features of the first batch; random generators are restored afterwards."""
    # The order of the next fit must be the one without this look.
    with undisturbed_randomness(), undisturbed_order(data):
        # One batch is read, so that a warning about a list of batches would not matter.
        has_batches = _is_list_of_batches(data)
        batching = Batching(None if has_batches else 32, floating=floating)
        source = as_source(data, "features", batching)
        try:
            return features_of(next(iter(source.batches(0))))
        finally:
            source.close()


def _is_list_of_batches(data: Any) -> bool:
    return is_list(data) and any(map(may_be_batch, data)) and not looks_like_samples(data)


def _match_net(net: nn.Module, features: Any) -> Any:
    """Return features on the net's device, with floats in its precision if that is unique."""
    device, precision = _device(net), _precision(net)

    def fit(tensor: Tensor) -> Tensor:
        # Integers stay as they are: they may be indices.
        dtype = precision if precision is not None and tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=device, dtype=dtype)

    return map_tensors(fit, features)


def _device(net: nn.Module) -> torch.device | None:
    """Return the device of a net; None if it has no parameters, or is on several devices."""
    devices = {tensor.device for tensor in _tensors(net)}
    return devices.pop() if len(devices) == 1 else None


def _precision(net: nn.Module) -> torch.dtype | None:
    """Return the dtype of a net's floating parameters; None if there is none, or several."""
    dtypes = {parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def _tensors(net: nn.Module) -> Iterable[Tensor]:
    yield from net.parameters()
    yield from (buffer for buffer in net.buffers() if not is_lazy(buffer))


def features_for(
    net: nn.Module, batches: Sequence[Any], shape: Any, dtype: Any, batch_size: int
) -> Any:
    """Return a batch of features, from a batch or from a shape.

    Args:
        net: The net.
        batches: The batches that the user passed; at most one is allowed.
        shape: The shape of an input, or None.
        dtype: The dtype for `shape`.
        batch_size: The number of samples for `shape`, or -1.

    Raises:
        ValueError: Not exactly one of batch and shape is passed.
    """
    if len(batches) + (shape is not None) != 1:
        what = "both" if batches and shape is not None else "several" if batches else "neither"
        message = (
            f"summary expects either features or input_shape, but got {what}; pass a batch, "
            "summary(net, x), or a shape, summary(net, input_shape=(3, 32, 32))"
        )
        raise ValueError(message)
    if shape is None:
        return features_from_data(net, batches[0])
    return generated_features(net, shape, dtype, batch_size)
