"""What would make training faster, said once in a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from .optimizers import can_fuse

if TYPE_CHECKING:
    from .base_model import BaseModel

_IMAGES = (nn.Conv2d, nn.ConvTranspose2d)
_given: set[str] = set()


def new_hints(model: BaseModel) -> list[str]:
    """Return what was not said before in this process."""
    found = [hint for hint in (_about_optimizer(model), _about_layout(model)) if hint]
    fresh = [hint for hint in found if hint not in _given]
    _given.update(fresh)
    return fresh


def _about_optimizer(model: BaseModel) -> str:
    optimizer: Any = model.optimizer
    chosen = ("fused", "foreach", "capturable", "differentiable")
    if any(group.get(name) for group in optimizer.param_groups for name in chosen):
        return ""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if model.compilation is not None or not can_fuse(type(optimizer), model.net, parameters):
        return ""
    return f"{type(optimizer).__name__}(..., fused=True) takes less time for an update"


def _about_layout(model: BaseModel) -> str:
    if model.channels_last or not any(isinstance(m, _IMAGES) for m in model.net.modules()):
        return ""
    return "KerasModel(..., channels_last=True) is often faster for a net with convolutions"
