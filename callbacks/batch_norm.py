"""Batch norm's statistics computed anew, for weights that training never saw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import swa_utils

from fitorch.internals.torch import BatchNorm

if TYPE_CHECKING:
    from .trained_model import TrainedModel


def norms_of(net: nn.Module) -> list[BatchNorm]:
    """Return the batch norms that keep statistics, without those that are frozen in eval mode."""
    return [
        module
        for module in net.modules()
        if isinstance(module, BatchNorm)
        and module.running_mean is not None
        and (module.training or not net.training)
    ]


def renew_statistics(
    model: TrainedModel, norms: list[BatchNorm], data: Any, batch_size: int
) -> None:
    """Compute the statistics of batch norm over `data`, the mean over its batches.

    All else stays as it is: the net's modes, which are those of training, and random generators. An
    error puts the statistics back. A last batch of one sample, which has no variance, is left out.

    Args:
        model: The model.
        norms: Those of its batch norms whose statistics to compute.
        data: Anything that `predict` takes.
        batch_size: Samples in a batch, where batches are ours to make.
    """
    from fitorch.data.sources import Batching, as_source
    from fitorch.nets.precision import floating_dtype
    from fitorch.randomness import undisturbed_randomness

    before = [(copy.deepcopy(norm.state_dict()), norm.momentum) for norm in norms]
    floating = floating_dtype(model.net.parameters())
    batching = Batching(batch_size, False, 0, floating, "auto")
    source = as_source(data, "SWA's data", batching).to(model.placement.device)
    try:
        with undisturbed_randomness():
            batches = ([batch] for batch in _without_last_sample(source.batches(0)))
            swa_utils.update_bn(batches, _Pass(model, norms))
    except BaseException:
        for norm, (state, momentum) in zip(norms, before, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum
        raise
    finally:
        source.close()


def _without_last_sample(batches: Iterable[Any]) -> Iterator[Any]:
    """Leave out batches of one sample, unless all are of one."""
    from fitorch.tree import sample_count

    several = False
    for batch in batches:
        if sample_count(batch) > 1 or not several:
            yield batch
        several = several or sample_count(batch) > 1


class _Pass(nn.Module):
    """What torch takes for a net: the batch norms to renew, and how to run them."""

    def __init__(self, model: TrainedModel, norms: list[BatchNorm]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        spec = model.measurement_spec()
        net, cast, hook = spec.net, spec.placement.cast, spec.forward
        self._hooked = hook is not None
        self._call: Callable[..., Any] = cast(net) if hook is None else partial(cast(hook), net)

    def forward(self, batch: Any) -> None:
        from fitorch.nets.forward import choose_call, features_of

        if self._hooked:
            self._call(batch)
        else:
            features = features_of(batch)
            choose_call(self._call, features)(features)
