"""Batch normalization over the batches of all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from fitorch.internals.torch import BatchNorm, check_input_dim


class SyncedNorms:
    """The batch norms of a net, where they take the batches of all processes for one.

    torch's `SyncBatchNorm` does so on GPUs alone, and replaces the modules. Here they stay the
    objects they are, and each sample counts alike, however unequal the batches are.

    Args:
        net: The net.

    Attributes:
        counts: Whether the samples of this process count at all; a batch that stands in for one
            that is not there does not.
    """

    def __init__(self, net: nn.Module) -> None:
        self._norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
        self.counts = True

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the norms do so within."""
        for norm in self._norms:
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
            _remember(norm, mean.detach(), variance.detach(), count)
        normal = (features - _along(mean, features)) * _along(
            torch.rsqrt(variance + norm.eps), features
        )
        if not norm.affine:
            return normal
        return normal * _along(norm.weight, features) + _along(norm.bias, features)

    def _moments(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and variance of each channel over all processes, and what they are over."""
        rows = features.transpose(0, 1).flatten(1)  # (C, N * ...)
        counts = float(self.counts)
        own = rows.new_tensor([rows.shape[1] * counts])
        sums = all_reduce(torch.cat([rows.sum(1) * counts, own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        squares = (rows - mean[:, None]).square().sum(1) * counts
        return mean, all_reduce(squares) / count, count


@torch.no_grad()
def _remember(norm: BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Go on with the running statistics, as torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = norm.momentum
    if share is None:
        share = 1.0 / float(norm.num_batches_tracked)
    unbiased = variance * (count / (count - 1).clamp_min(1))
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), share)


def _along(values: Tensor, features: Tensor) -> Tensor:
    """Return one value for each channel in a shape that goes with (N, C, ...)."""
    return values.reshape(1, -1, *[1] * (features.dim() - 2))
