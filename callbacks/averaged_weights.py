"""Means of a model's weights, kept beside them, that can take their place for a while."""

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

Slot = tuple[dict[str, Any], str]  # a module's own table of tensors, and a name in it


class AveragedWeights:
    """Means of the weights of a model's net and loss.

    Weights are all floating-point parameters, shared ones once, and on request buffers. All happens
    in place: parameters stay the objects that optimizers and compiled steps hold. Means of weights
    in half precision have single precision, in which small shares are not rounded away.

    Args:
        buffers: Whether to average floating-point buffers too, as the statistics of batch norm.
            Those that no state dict holds are left out, and those that are not finite, as masks.

    Attributes:
        count: How often the means were moved.
    """

    def __init__(self, *, buffers: bool) -> None:
        self.count = 0
        self._buffers = buffers
        self._slots: dict[str, Slot] = {}
        self._means: dict[str, Tensor] = {}
        self._held: dict[str, Tensor] = {}  # the weights, while the means are in their place
        self._split = False  # whether each process holds a part of them

    @property
    def applied(self) -> bool:
        """Whether the means are in the place of the weights."""
        return bool(self._held)

    def bind(self, model: TrainedModel) -> None:
        """Find the weights of a model.

        Raises:
            ValueError: There are means of other weights already.
        """
        found = dict(_slots(model, buffers=self._buffers))
        self._split = any(is_split(store[key]) for store, key in found.values())
        if not self._means:
            self._slots = found
            return
        for name, mean in self._means.items():
            store, key = found.get(name, ({}, ""))
            weight = store.get(key)
            if weight is None or weight.shape != mean.shape:
                has = "lacks it" if weight is None else f"has {tuple(weight.shape)}"
                message = (
                    f"the averaged weights hold {name!r} of shape {tuple(mean.shape)}, but the "
                    f"model {has}; average the weights of one model only"
                )
                raise ValueError(message)
        self._slots = {name: found[name] for name in self._means}
        self._means = _beside(self._means, self._weights())
        self._held = _beside(self._held, self._weights())

    @torch.no_grad()
    def add(self, share: float) -> None:
        """Move the means towards the weights.

        Args:
            share: Of the way from the means to the weights, in [0, 1]; the first time it is all.
        """
        weights = self._weights()
        if self._means:
            means = list(self._means.values())
            near = [w.to(m.dtype) for w, m in zip(weights.values(), means, strict=True)]
            foreach_lerp_(self._parts(means), self._parts(near), share)
        else:
            self._means = {name: _copy(weight) for name, weight in weights.items()}
        self.count += 1

    @torch.no_grad()
    def put_in(self) -> None:
        """Put the means in the place of the weights, which are held; where it is so, do nothing."""
        if self._means and not self._held:
            weights = self._weights()
            self._held = {name: weight.detach().clone() for name, weight in weights.items()}
            means = self._parts(self._means.values())
            foreach_copy_(self._parts(weights.values()), means)

    @torch.no_grad()
    def put_back(self) -> None:
        """Put the weights back that are held; where there are none, do nothing."""
        if self._held:
            held = self._parts(self._held.values())
            foreach_copy_(self._parts(self._weights().values()), held)
            self._held = {}

    def settle(self) -> None:
        """Put the means in for good."""
        self.put_in()
        self._held = {}

    @contextmanager
    def applied_to(self, model: TrainedModel) -> Iterator[None]:
        """Have the means in the place of the model's weights, also where they are there already."""
        self.bind(model)
        before = self.applied
        try:
            self.put_in()
            yield
        finally:
            if not before:
                self.put_back()

    def forget(self) -> None:
        """Begin anew, with the weights as they are."""
        self.count, self._means, self._held = 0, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the means, how many weights they are of, and the weights that are held."""
        return {"count": self.count, "means": dict(self._means), "held": dict(self._held)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put a copy of them back; the model's own state tells which of them are in its place."""
        self.count = state["count"]
        self._means = {name: mean.clone() for name, mean in state["means"].items()}
        self._held = {name: weight.clone() for name, weight in state["held"].items()}

    def _parts(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return what this process holds of each tensor."""
        return [local_tensor(tensor) for tensor in tensors] if self._split else list(tensors)

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights, which a module may have replaced by other tensors."""
        if not self._means:
            self._slots = {n: (s, k) for n, (s, k) in self._slots.items() if _averages(s[k])}
        return {name: store[key] for name, (store, key) in self._slots.items()}


def _slots(model: TrainedModel, *, buffers: bool) -> Iterator[tuple[str, Slot]]:
    """Give each weight once, with its name."""
    seen: set[int] = set()
    for owner, module in (("net", model.net), ("loss", model.objective.module)):
        for path, part in module.named_modules(prefix=owner):
            for store, key in _stored(part, buffers=buffers):
                tensor = store[key]
                if id(tensor) not in seen and (tensor.is_floating_point() or tensor.is_complex()):
                    seen.add(id(tensor))
                    yield f"{path}.{key}", (store, key)


def _stored(module: nn.Module, *, buffers: bool) -> Iterator[Slot]:
    stores: Any = [module._parameters, module._buffers] if buffers else [module._parameters]
    for store in stores:
        for key, tensor in store.items():
            if tensor is not None and key not in non_persistent_buffers(module):
                yield store, key


def _averages(tensor: Tensor) -> bool:
    """Say whether a tensor is a weight, or a buffer that is finite."""
    return isinstance(tensor, nn.Parameter) or bool(tensor.isfinite().all())


def _copy(weight: Tensor) -> Tensor:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(dtype, copy=True)


def _beside(tensors: dict[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the devices of the weights."""
    return {name: tensor.to(weights[name].device) for name, tensor in tensors.items()}
