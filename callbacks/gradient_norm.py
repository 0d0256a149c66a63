"""GradientNorm: a callback that adds the norm of the gradients to the logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.checks import plain
from fitorch.distributed.dtensor import full_tensor, is_split
from fitorch.internals.torch import foreach_norm

from .base import Callback, Logs
from .learning_rate import groups_of

_HALF_DTYPES = (torch.float16, torch.bfloat16)


class GradientNorm(Callback):
    """Add the norm of the gradients to the logs of each epoch: `grad_norm` and `grad_norm_max`.

    They are the mean and the maximum, over the updates of the epoch, of the norm of all gradients
    as one vector. These are the gradients that the optimizer gets: after clipping, from all batches
    of an update, with penalties. Only the end of an epoch synchronizes with the device. Updates
    that the fp16 scaler skips because of infinite gradients do not count.

    Both columns can be monitored, with a mode: `EarlyStopping("grad_norm", mode="min")`.

    Args:
        norm_type: The p of the p-norm, above 0; `float("inf")` is the largest absolute value.

    Raises:
        ValueError: `norm_type` is not above 0.
    """

    adds: tuple[str, ...] = ("grad_norm", "grad_norm_max")

    def __init__(self, norm_type: float = 2.0) -> None:
        norm_type = plain(norm_type)
        if isinstance(norm_type, bool) or not norm_type > 0:
            message = f"norm_type is {norm_type!r}; expected a number > 0, such as 2 or inf"
            raise ValueError(message)
        self.norm_type = float(norm_type)
        self._epoch = -1
        self._sums: Tensor | None = None
        self._restored = False
        self._scaled = False
        self._last_update = 0
        self._parameters: list[Tensor] = []
        self._sharded = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Discard the state of an earlier fit.

        Raises:
            ValueError: DeepSpeed partitions the gradients and frees them in an update.
        """
        if self.model.placement.zero is not None:
            message = (
                "GradientNorm cannot read gradients that DeepSpeed partitions; remove it, or use "
                "fsdp=True instead of deepspeed"
            )
            raise ValueError(message)
        if not self._restored:
            self._epoch = -1
            self._sums = None
        self._restored = False
        self._last_update = self.model.updates
        self._scaled = self.model.placement.scaler is not None
        groups = groups_of(self.model)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._sharded = any(map(is_split, self._parameters))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Reset the sums, unless a resumed epoch continues."""
        if epoch != self._epoch:
            self._epoch, self._sums = epoch, None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Add the norm of the gradients if the batch made an update."""
        updates = self.model.updates
        if updates == self._last_update:
            return
        self._last_update = updates
        # The gradients stay until the next batch. With a sharded net this is a collective.
        norm = total_norm(self._parameters, self.norm_type, split=self._sharded)
        if norm is not None:
            self._accumulate(norm)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the two columns to the logs."""
        columns: Any = logs
        if self._sums is not None and columns is not None:
            # The only synchronization with the device, once per epoch.
            total, count, largest = self._sums.tolist()
            columns["grad_norm"] = total / count if count else float("nan")
            columns["grad_norm_max"] = largest if count else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Return the sum, the count and the maximum of the epoch."""
        return {"epoch": self._epoch, "total": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state for the next fit."""
        total = state["total"]
        self._epoch, self._sums = state["epoch"], None if total is None else total.clone()
        self._restored = True

    @torch.no_grad()
    def _accumulate(self, norm: Tensor) -> None:
        total = norm.new_zeros(3) if self._sums is None else self._sums.to(norm.device)
        one = torch.ones_like(norm)
        # This stays on the device: a branch on the value would wait for it.
        if self._scaled:
            one = norm.isfinite().to(norm)
            norm = norm.nan_to_num(0.0, 0.0, 0.0)
        sums = total[:2] + torch.stack([norm, one])
        # One vector on the device holds sum, count and maximum, so that they are read together.
        self._sums = torch.cat([sums, torch.maximum(total[2], norm).reshape(1)])


@torch.no_grad()
def total_norm(parameters: list[Tensor], norm_type: float, *, split: bool = False) -> Tensor | None:
    """Return the norm of all gradients as one vector, None if there are none.

    Args:
        parameters: The parameters whose `.grad` is read.
        norm_type: The p of the p-norm.
        split: Whether the parameters are sharded; then this is a collective call.
    """
    gradients = [_dense_values(p.grad) for p in parameters if p.grad is not None]
    if not gradients:
        return None
    if split:
        return full_tensor(torch.nn.utils.get_total_norm(gradients, norm_type))
    # The norm of the norms is the norm of all gradients, without a copy of them. Those of gradients
    # in half precision may be larger than it can hold.
    wide = torch.float32 if all(each.dtype in _HALF_DTYPES for each in gradients) else None
    norms = torch.stack(foreach_norm(gradients, norm_type, wide))
    # The sum is float32 at least, because a sum of squares overflows fp16.
    dtype = torch.promote_types(norms.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(norms, norm_type, dtype=dtype)
    return norm


def _dense_values(gradient: Tensor) -> Tensor:
    """Return the gradient, or the values of a sparse one, whose other elements are 0."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient
