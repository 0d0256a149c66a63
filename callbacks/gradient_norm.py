"""How large the gradients are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.distributed.dtensor import full_tensor, is_split
from fitorch.internals.torch import foreach_norm

from .base import Callback, Logs
from .learning_rate import groups_of


class GradientNorm(Callback):
    """Add the norm of the gradients to each epoch's figures: `grad_norm` and `grad_norm_max`.

    They are mean and maximum over the epoch's updates of the norm of all gradients together. It is
    taken of what the optimizer got: after clipping, of all batches of an update, with penalties.
    Nothing is read from the device before the epoch ends. Updates that the scaler of fp16 skips,
    since gradients are not finite, do not count.

    Both can be monitored, with a mode: `EarlyStopping("grad_norm", mode="min")`.

    Args:
        norm_type: The p of the p-norm, above 0; `float("inf")` is the largest absolute value.

    Raises:
        ValueError: `norm_type` is not above 0.
    """

    adds: tuple[str, ...] = ("grad_norm", "grad_norm_max")

    def __init__(self, norm_type: float = 2.0) -> None:
        if isinstance(norm_type, bool) or not norm_type > 0:
            message = f"norm_type is {norm_type!r}; expected a number > 0, as 2 or inf"
            raise ValueError(message)
        self.norm_type = float(norm_type)
        self._epoch = -1
        self._total: Tensor | None = None
        self._restored = False
        self._scaled = False
        self._seen = 0
        self._parameters: list[Tensor] = []
        self._split = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier fit.

        Raises:
            ValueError: DeepSpeed spreads the gradients, and has let go of them after an update.
        """
        if self.model.placement.zero is not None:
            message = (
                "GradientNorm can't see gradients that DeepSpeed spreads over the processes; leave "
                "it out, or use fsdp=True in the place of deepspeed"
            )
            raise ValueError(message)
        if not self._restored:
            self._epoch = -1
            self._total = None
        self._restored = False
        self._seen = self.model.updates
        self._scaled = self.model.placement.scaler is not None
        groups = groups_of(self.model)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._split = any(map(is_split, self._parameters))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Begin anew, unless it is an epoch that goes on."""
        if epoch != self._epoch:
            self._epoch, self._total = epoch, None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count the gradients in, where the batch made an update."""
        updates = self.model.updates
        if updates == self._seen:
            return
        self._seen = updates
        norm = total_norm(self._parameters, self.norm_type, split=self._split)
        if norm is not None:
            self._add(norm)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the figures to the epoch's."""
        figures: Any = logs
        if self._total is not None and figures is not None:
            total, count, largest = self._total.tolist()
            figures["grad_norm"] = total / count if count else float("nan")
            figures["grad_norm_max"] = largest if count else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's sum, count and maximum."""
        return {"epoch": self._epoch, "total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back, for the fit that begins next."""
        total = state["total"]
        self._epoch, self._total = state["epoch"], None if total is None else total.clone()
        self._restored = True

    @torch.no_grad()
    def _add(self, norm: Tensor) -> None:
        total = norm.new_zeros(3) if self._total is None else self._total.to(norm.device)
        one = torch.ones_like(norm)
        if self._scaled:
            one = norm.isfinite().to(norm)
            norm = norm.nan_to_num(0.0, 0.0, 0.0)
        sums = total[:2] + torch.stack([norm, one])
        self._total = torch.cat([sums, torch.maximum(total[2], norm).reshape(1)])


@torch.no_grad()
def total_norm(parameters: list[Tensor], norm_type: float, *, split: bool = False) -> Tensor | None:
    """Return the norm of all gradients as one vector, None where there are none.

    Args:
        parameters: Those with the gradients.
        norm_type: The p of the p-norm.
        split: Whether each process holds a part of them; then all must call this.
    """
    gradients = [_values(p.grad) for p in parameters if p.grad is not None]
    if not gradients:
        return None
    if split:
        return full_tensor(torch.nn.utils.get_total_norm(gradients, norm_type))
    norms = torch.stack(foreach_norm(gradients, norm_type))
    dtype = torch.promote_types(norms.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(norms, norm_type, dtype=dtype)
    return norm


def _values(gradient: Tensor) -> Tensor:
    """Return a tensor with the elements of a gradient that are not 0."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient
