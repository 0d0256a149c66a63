"""Averaged weights of a model, and their temporary use in place of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fitorch.distributed.dtensor import is_split, local_tensor
from fitorch.internals.torch import foreach_copy_, foreach_lerp_, non_persistent_buffers

if TYPE_CHECKING:
    from .trained_model import TrainedModel

Slot = tuple[dict[str, Any], str]  # a module's dict of parameters or buffers, and a key in it


class AveragedWeights:
    """Means of the weights of a model's net and loss.

    Weights are all floating-point parameters, shared ones once, and optionally buffers. All changes
    are in place: parameters stay the same objects, because optimizers and compiled steps hold them.
    Means of weights in half precision are float32, which does not round small updates to 0.

    Args:
        buffers: Whether to average floating-point buffers too, such as the statistics of batch
            norm. Non-persistent buffers are left out, and buffers that are not finite, such as
            masks.

    Attributes:
        count: The number of updates of the means.
    """

    def __init__(self, *, buffers: bool) -> None:
        self.count = 0
        self._buffers = buffers
        self._slots: dict[str, Slot] = {}
        self._means: dict[str, Tensor] = {}
        self._saved: dict[str, Tensor] = {}  # the weights while the means are applied
        self._sharded = False  # whether the weights are DTensors, sharded over the processes

    @property
    def applied(self) -> bool:
        """Whether the net holds the means instead of the weights."""
        return bool(self._saved)

    def bind(self, model: TrainedModel) -> None:
        """Bind to the weights of a model.

        Raises:
            ValueError: The means belong to different weights.
        """
        slots = dict(_weight_slots(model, buffers=self._buffers))
        # This is decided once, not in each update.
        self._sharded = any(is_split(store[key]) for store, key in slots.values())
        if not self._means:
            self._slots = slots
            return
        for name, mean in self._means.items():
            store, key = slots.get(name, ({}, ""))
            weight = store.get(key)
            if weight is None or weight.shape != mean.shape:
                has = "lacks it" if weight is None else f"has {tuple(weight.shape)}"
                message = (
                    f"the averaged weights hold {name!r} of shape {tuple(mean.shape)}, but the "
                    f"model {has}; average the weights of one model only"
                )
                raise ValueError(message)
        # The model may have gained parameters since, which have no mean.
        self._slots = {name: slots[name] for name in self._means}
        self._means = _to_devices_of(self._means, self._weights())
        self._saved = _to_devices_of(self._saved, self._weights())

    @torch.no_grad()
    def add(self, fraction: float) -> None:
        """Update the means: `mean += fraction * (weight - mean)`.

        Args:
            fraction: A number in [0, 1]; the first call ignores it and copies the weights.
        """
        weights = self._weights()
        if self._means:
            means = list(self._means.values())
            # The means may be wider than the weights, and lerp needs one dtype.
            cast_weights = [w.to(m.dtype) for w, m in zip(weights.values(), means, strict=True)]
            # The update is in place, by one kernel for all tensors, without a read from the device.
            foreach_lerp_(self._local_tensors(means), self._local_tensors(cast_weights), fraction)
        else:
            self._means = {name: _initial_mean(weight) for name, weight in weights.items()}
        self.count += 1

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights by the means and save the weights, unless this was done before."""
        if self._means and not self._saved:
            weights = self._weights()
            # The weights are cloned, because the next line overwrites them in place.
            self._saved = {name: weight.detach().clone() for name, weight in weights.items()}
            means = self._local_tensors(self._means.values())
            foreach_copy_(self._local_tensors(weights.values()), means)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the saved weights, if there are any."""
        if self._saved:
            saved = self._local_tensors(self._saved.values())
            foreach_copy_(self._local_tensors(self._weights().values()), saved)
            self._saved = {}

    def make_permanent(self) -> None:
        """Replace the weights by the means and discard the weights."""
        self.apply()
        self._saved = {}

    @contextmanager
    def applied_to(self, model: TrainedModel) -> Iterator[None]:
        """Apply the means to a model in a context; nested contexts do nothing."""
        self.bind(model)
        before = self.applied
        try:
            self.apply()
            yield
        finally:
            # The outermost context restores the weights.
            if not before:
                self.restore()

    def reset(self) -> None:
        """Discard the means and the saved weights."""
        self.count, self._means, self._saved = 0, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the means, their number of updates, and the saved weights."""
        return {"count": self.count, "means": dict(self._means), "held": dict(self._saved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a copy of the state; the model's own state holds what was in the net."""
        self.count = state["count"]
        # The checkpoint's tensors may be shared with other parts that are restored from it.
        self._means = {name: mean.clone() for name, mean in state["means"].items()}
        self._saved = {name: weight.clone() for name, weight in state["held"].items()}

    def _local_tensors(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return the shards of this process if the weights are sharded, else the tensors."""
        return [local_tensor(tensor) for tensor in tensors] if self._sharded else list(tensors)

    def _weights(self) -> dict[str, Tensor]:
        """Return the current weights, read from the modules: a module may replace its tensors."""
        # Buffers are chosen once, with the first mean: masks of -inf must not be averaged.
        if not self._means:
            self._slots = {n: (s, k) for n, (s, k) in self._slots.items() if _can_be_averaged(s[k])}
        return {name: store[key] for name, (store, key) in self._slots.items()}


def _weight_slots(model: TrainedModel, *, buffers: bool) -> Iterator[tuple[str, Slot]]:
    """Yield the name and the slot of each weight, shared ones once."""
    seen: set[int] = set()
    for owner, module in (("net", model.net), ("loss", model.objective.module)):
        for path, part in module.named_modules(prefix=owner):
            for store, key in _tensor_slots(part, buffers=buffers):
                tensor = store[key]
                # Tied weights are one tensor; a second lerp would move their mean twice.
                if id(tensor) not in seen and (tensor.is_floating_point() or tensor.is_complex()):
                    seen.add(id(tensor))
                    yield f"{path}.{key}", (store, key)


def _tensor_slots(module: nn.Module, *, buffers: bool) -> Iterator[Slot]:
    stores: Any = [module._parameters, module._buffers] if buffers else [module._parameters]
    for store in stores:
        for key, tensor in store.items():
            if tensor is not None and key not in non_persistent_buffers(module):
                yield store, key


def _can_be_averaged(tensor: Tensor) -> bool:
    """Return whether a tensor is a parameter or a finite buffer; this synchronizes for buffers."""
    return isinstance(tensor, nn.Parameter) or bool(tensor.isfinite().all())


def _initial_mean(weight: Tensor) -> Tensor:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(dtype, copy=True)


def _to_devices_of(tensors: dict[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the devices of the weights of the same names."""
    return {name: tensor.to(weights[name].device) for name, tensor in tensors.items()}
