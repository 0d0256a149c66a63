"""Batch normalization over the batches of all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from fitorch.internals.torch import BatchNorm, check_input_dim


class SyncedNorms:
    """Makes the batch norms of a net normalize over the batches of all processes.

    torch's `SyncBatchNorm` works only on GPUs and replaces the modules. Here the modules are kept,
    and each sample has the same weight even if the processes have batches of different sizes.

    Args:
        net: The net.

    Attributes:
        counts: Whether the samples of this process count. A process whose data has ended repeats a
            batch that does not count, because the others wait for it in the collectives.
    """

    def __init__(self, net: nn.Module) -> None:
        self._norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
        self.counts = True

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Return a context in which the batch norms normalize over all processes."""
        for norm in self._norms:
            # The method is set on the instance, so that other nets are unchanged; hooks still run,
            # because `__call__` looks up `forward` there.
            norm.__dict__["forward"] = partial(self._forward, norm)
        try:
            yield
        finally:
            for norm in self._norms:
                del norm.__dict__["forward"]

    def _forward(self, norm: BatchNorm, features: Tensor) -> Tensor:
        if not norm.training:
            return type(norm).forward(norm, features)
        check_input_dim(norm, features)
        mean, variance, count = self._moments(features)
        if norm.track_running_stats:
            _update_statistics(norm, mean.detach(), variance.detach(), count)
        normal = (features - _along(mean, features)) * _along(
            torch.rsqrt(variance + norm.eps), features
        )
        if norm.affine:
            normal = normal * _along(norm.weight, features) + _along(norm.bias, features)
        # Statistics and weights are float32 at least, and the result has the type of the features.
        return normal.to(features.dtype)

    def _moments(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and variance of each channel over all processes, and the number of values."""
        rows = features.transpose(0, 1).flatten(1)  # (C, N * ...)
        # Sums of half precision overflow: a thousand values of 10 do in fp16.
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        counts = float(self.counts)
        # The number is written on the device, because a copy of it would wait.
        local_count = rows.new_full((1,), rows.shape[1] * counts)
        # The processes wait for each other in both sums, in the forward and in the backward pass.
        sums = all_reduce(torch.cat([rows.sum(1) * counts, local_count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        # A second collective with the mean of all processes: the variance as a difference of
        # E[x^2] and E[x]^2 would need only one, but cancels digits.
        squares = (rows - mean[:, None]).square().sum(1) * counts
        return mean, all_reduce(squares) / count, count


@torch.no_grad()
def _update_statistics(norm: BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Update the running statistics as torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    # Running variances are unbiased, although the variance of the batch is not, as in torch.
    unbiased = variance * (count / (count - 1).clamp_min(1))
    for running, latest in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        # A cumulative average has a weight that stays on the device.
        weight: Any = norm.momentum
        if weight is None:
            weight = norm.num_batches_tracked.to(running.dtype).reciprocal()
        running.lerp_(latest.to(running.dtype), weight)


def _along(values: Tensor, features: Tensor) -> Tensor:
    """Return one value for each channel, in a shape that broadcasts with (N, C, ...)."""
    return values.reshape(1, -1, *[1] * (features.dim() - 2))
